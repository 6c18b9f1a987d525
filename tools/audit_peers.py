"""Audits trainers, installed or checked out under a folder, into docs/trainers.md: ``make audit-peers``."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path

from kullback.auditing import AuditReport
from kullback.auditing.assignments import Request, assignments
from kullback.auditing.pages import audit_table
from kullback.auditing.rules import RULES
from kullback.auditing.trainers import TRAINERS, Trainer
from kullback.errors import KullbackError
from kullback.report import markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trainers.md"

HEAD = """\
# The KL terms of today's trainers, audited

Written by `make audit-peers`, which runs `kullback audit TRAINER` on each trainer's own functions, as installed
or from a checkout, on exact worlds. Nothing here is sampled, and nothing is an opinion about a training
run: it says what the code computes, in which world, and by how much that differs. What a code means is in
[rules.md](rules.md). A term that is none of the named targets may still train well.

- *verdict*: `ok`: nothing was found. `warn`: what was found holds under conditions, such as half precision, a clamp
  that binds, or single tokens. `wrong`: the number or the gradient is not what it is taken for. The finding that
  matters most comes first.
- *(default)*: what the trainer does where nobody says otherwise.
- *value*: the target that the expectation of the term equals, for samples of the policy unless said otherwise.
- *gradient*: the target whose gradient the expectation of its gradient equals, where the trainer puts it: in the
  loss with the samples held fixed, or in the reward with the credit that is named.
- `≈`: equal where the models are close; where log-ratios go beyond a clamp, not.
- `/ its length`: equal once each sequence is multiplied back by its own length, which the function divides by.
- *off by … near, … far*: the relative error in the world “near”, where KL(q‖p) is 0.04 nats a sequence, and the
  largest one over the exact worlds, in the farthest of which KL(q‖p) is 10 nats and log-ratios go beyond 20.

A function of log-probs alone is audited as it is, its tokens summed. Its parameters are handed to it by their names.
Where the KL is a few lines in a method, marked *, the method is driven by a stand-in for the trainer, with advantages
of 0 and a coefficient of 1. No function was changed; each was taken out of its file with the helpers that it calls.
"""

DRIVEN = ", driven with a stand-in"
LACKING = "Not in this version"


def page(sources: Path | None, before: str = "") -> str:
    """The page as Markdown; sections of what is not here now stay as they were `before`."""
    parts, codes = [HEAD.strip()], set[str]()
    old, missing = list[str](), list[str]()
    for trainer in TRAINERS:
        reports, lacking = _reports(trainer, sources)
        section, known = _section(trainer, reports, lacking) if reports else "", kept(before, trainer.name)
        # A release may lack what a checkout had.
        if known and (not reports or (lacking and LACKING not in known)):
            section = known
            old.append(trainer.name)
        if section:
            codes |= set(re.findall(r"\bKB\d{3}\b", section))
            parts.append(section)
        else:
            missing.append(trainer.name)
    parts += ["## The codes", "\n".join(f"- [{c}](rules.md#{c.lower()}) {RULES[c].title}" for c in sorted(codes))]
    for names, said in ((old, "Kept from an earlier run"), (missing, "Not installed or checked out")):
        if names:
            ways = [f"{name} ({TRAINERS[name].install})" for name in names]
            parts.append(f"{said} when this was written: {', '.join(ways)}.")
    return "\n\n".join(parts) + "\n"


def _section(trainer: Trainer, reports: list[AuditReport], lacking: list[str]) -> str:
    parts = [f"## {reports[0].origin.partition(': ')[0]}", _options(trainer), _table(reports)]
    if lacking:
        parts.append(f"{LACKING}: {', '.join(f'`{name}`' for name in lacking)}.")
    return "\n\n".join(parts)


def kept(page: str, name: str) -> str:
    """A trainer's section of a page; empty where it has none."""
    sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return next((section.strip() for section in sections if re.match(rf"## {re.escape(name)}\s", section)), "")


def _reports(trainer: Trainer, sources: Path | None) -> tuple[list[AuditReport], list[str]]:
    """The audits of a trainer's terms, and the terms that its version does not have."""
    folder = None if sources is None or not (sources / trainer.name).is_dir() else sources / trainer.name
    reports: list[AuditReport] = []
    lacking: list[str] = []
    try:
        made = list(assignments(trainer.name, folder, Request()))
    except KullbackError:
        return [], []
    for assignment in made:
        try:
            reports.append(assignment.report())
        except KullbackError:
            lacking.append(assignment.subject.partition(":")[2])
    return reports, lacking


def _options(trainer: Trainer) -> str:
    """The options that have a say, and what they are where nobody says otherwise."""
    said = [f"`{option.name}` ({option.default!r}: {option.about})" for option in trainer.names.options]
    return f"Options: {', '.join(said)}." if said else "No option has a say."


def _table(reports: list[AuditReport]) -> str:
    table = audit_table([replace(r, subject=r.subject.partition(":")[2]) for r in reports])
    options = [report.origin.partition(": ")[2].partition(";")[0] for report in reports]
    rows = [
        (_name(str(name)) + "*" * option.endswith(DRIVEN), option.removesuffix(DRIVEN), *rest)
        for (name, *rest), option in zip(table.rows, options, strict=True)
    ]
    columns = (table.columns[0], "options", *table.columns[1:])
    return markdown.grid(replace(table, columns=columns, rows=tuple(rows)))


def _name(name: str) -> str:
    """A term's name as code, and whether it is the trainer's default."""
    plain, default, _ = name.partition(" (default)")
    return f"`{plain}`{default}"


def main() -> None:
    """Write the page."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, help="a folder of checkouts, each named as its trainer")
    parser.add_argument("--output", type=Path, default=PAGE)
    given = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    given.output.write_text(page(given.sources, before), encoding="utf-8")


if __name__ == "__main__":
    main()
