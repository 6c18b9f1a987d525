"""Writes the generated pages of docs/ from the records: ``make docs``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from command_pages import commands

from kullback.auditing.rules import RULES
from kullback.auditing.rules.record import Rule
from kullback.claims import index as claims
from kullback.documents import Block, Code, Document, Heading, Note, Table
from kullback.jobs.catalogue import catalogued
from kullback.report import markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"

GROUPS = {
    "call": "The call",
    "biased-value": "The value",
    "biased-gradient": "The gradient",
    "numerics": "Numerics",
    "masking": "Masks, lengths and ends",
    "off-policy": "Behaviour log-probs",
}


def estimators() -> Document:
    """Estimators, surrogates and targets."""
    head = Note(
        "Written by `make docs` from the records of `kb.ESTIMATORS` and `kb.SURROGATES`, whose every promise the "
        'tests hold against enumeration; `kullback estimators` prints it. "none" means none of the named '
        "targets. The notation is that of [the mathematics](theory.md)."
    )
    found = catalogued().document()
    return replace(found, blocks=(head, *found.blocks))


def rules() -> Document:
    """What the audit looks for."""
    head = Note(
        "Written by `make docs` from `kullback.auditing.rules`, one file a rule. Codes are stable; `--fail-on` takes a "
        "code, a name or a group. q is the policy, p the reference, μ what drew the samples. "
        "How to audit is in [audit.md](audit.md)."
    )
    rows = tuple((f"[{r.code}](#{r.code.lower()})", r.slug, r.severity, r.title) for r in RULES)
    blocks: list[Block] = [head, Table("", "", ("code", "name", "verdict", "what is wrong"), rows)]
    for group, title in GROUPS.items():
        blocks.append(Heading(f"{title} (`{group}`)"))
        blocks += [block for rule in RULES if rule.group == group for block in _rule(rule)]
    return Document("What the audit looks for", tuple(blocks))


def _rule(rule: Rule) -> Iterator[Block]:
    yield Heading(f"{rule.code} {rule.slug}", level=3, anchor=rule.code.lower())
    yield Note(f"{rule.title}.")
    yield Note(f"**Checks.** {rule.checks}")
    yield Note(f"**Why.** {rule.why}")
    yield Code(rule.example.strip())
    yield Note(f"**Instead.** {rule.instead}")
    yield Note(f"**See** {'; '.join(rule.references)}.")


DOCUMENTS: dict[str, Callable[[], Document]] = {
    "estimators.md": estimators,
    **claims.PAGES,
    "rules.md": rules,
    "commands.md": commands,
}
"""What each generated page says."""


def _page(said: Callable[[], Document]) -> str:
    return markdown.render(said())


PAGES: dict[str, Callable[[], str]] = {name: partial(_page, said) for name, said in DOCUMENTS.items()}
"""What writes each generated page."""


if __name__ == "__main__":
    for name, written in PAGES.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(written(), encoding="utf-8")
