"""Writes the generated pages of docs/ from the records: ``make docs``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kullback.auditing.rules import RULES
from kullback.auditing.rules.record import Rule
from kullback.claims import pages as claims
from kullback.jobs.catalogue import estimator_table, surrogate_table, target_table

DOCS = Path(__file__).resolve().parents[1] / "docs"

GROUPS = {
    "call": "The call",
    "biased-value": "The value",
    "biased-gradient": "The gradient",
    "numerics": "Numerics",
    "masking": "Masks, lengths and ends",
    "off-policy": "Behaviour log-probs",
}


def estimators() -> str:
    """Estimators, surrogates and targets."""
    head = (
        "# Estimators and surrogates\n\n"
        "Written by `make docs` from the records of `kb.ESTIMATORS` and `kb.SURROGATES`, whose every promise the "
        'tests hold against enumeration; `kullback estimators` prints it. "none" means none of the named '
        "targets. The notation is that of [the mathematics](theory.md)."
    )
    tables = (estimator_table(), surrogate_table(), target_table())
    return "\n\n".join([head, *(table.markdown() for table in tables)]) + "\n"


def rules() -> str:
    """What the audit looks for."""
    parts = [
        "# What the audit looks for\n\n"
        "Written by `make docs` from `kullback.auditing.rules`, one file a rule. Codes are stable; `--fail-on` takes a "
        "code, a name or a group. q is the policy, p the reference, μ what drew the samples. "
        "How to audit is in [audit.md](audit.md).",
        "| code | name | what is wrong |\n| --- | --- | --- |\n"
        + "\n".join(f"| [{r.code}](#{r.code.lower()}) | {r.slug} | {r.title} |" for r in RULES),
    ]
    for group, title in GROUPS.items():
        parts.append(f"## {title} (`{group}`)")
        parts += [_rule(rule) for rule in RULES if rule.group == group]
    return "\n\n".join(parts) + "\n"


def _rule(rule: Rule) -> str:
    references = "; ".join(rule.references)
    return (
        f'<a id="{rule.code.lower()}"></a>\n\n### {rule.code} {rule.slug}\n\n{rule.title}.\n\n'
        f"**Checks.** {rule.checks}\n\n**Why.** {rule.why}\n\n```python\n{rule.example.strip()}\n```\n\n"
        f"**Instead.** {rule.instead}\n\n**See** {references}."
    )


PAGES: dict[str, Callable[[], str]] = {
    "estimators.md": estimators,
    "claims.md": claims.page,
    "rules.md": rules,
}
"""What writes each generated page."""


if __name__ == "__main__":
    for name, written in PAGES.items():
        (DOCS / name).write_text(written(), encoding="utf-8")
