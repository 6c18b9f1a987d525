"""Writes docs/estimators.md from the records: ``make docs``."""

from __future__ import annotations

from pathlib import Path

from kullback.report.families import estimator_table, surrogate_table, target_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "estimators.md"


def page() -> str:
    """The page as Markdown."""
    head = (
        "# Estimators and surrogates\n\n"
        "Written by `make docs` from the records of `kb.ESTIMATORS` and `kb.SURROGATES`, whose every promise the "
        'tests hold against enumeration; `kullback estimators` prints it. "none" means none of the named '
        "targets. The notation is that of [the mathematics](theory.md)."
    )
    tables = (estimator_table(), surrogate_table(), target_table())
    return "\n\n".join([head, *(table.markdown() for table in tables)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
