"""Writes the generated pages of docs/ from the records: ``make docs``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kullback.report import claims
from kullback.report.families import estimator_table, surrogate_table, target_table

DOCS = Path(__file__).resolve().parents[1] / "docs"


def estimators() -> str:
    """The page of estimators, surrogates and targets as Markdown."""
    head = (
        "# Estimators and surrogates\n\n"
        "Written by `make docs` from the records of `kb.ESTIMATORS` and `kb.SURROGATES`, whose every promise the "
        'tests hold against enumeration; `kullback estimators` prints it. "none" means none of the named '
        "targets. The notation is that of [the mathematics](theory.md)."
    )
    tables = (estimator_table(), surrogate_table(), target_table())
    return "\n\n".join([head, *(table.markdown() for table in tables)]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "estimators.md": estimators,
    "claims.md": claims.page,
}
"""What writes each generated page."""


if __name__ == "__main__":
    for name, written in PAGES.items():
        (DOCS / name).write_text(written(), encoding="utf-8")
