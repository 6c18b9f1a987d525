"""Claims as people read them: in a list, one by one, and as a page of the docs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from math import isfinite
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kullback.claims import CLAIMS, Claim, Finding, Source, Verdict
from kullback.documents import Table as Exhibit

ROUNDING = 1e-8
"""Below this a number is shown as 0."""

COLOURS = {
    Verdict.HOLDS: "green",
    Verdict.CONDITION: "yellow",
    Verdict.FAILS: "red",
    Verdict.UNDECIDED: "cyan",
}


def claim_table(claims: Iterable[Claim]) -> Exhibit:
    """One line a claim."""
    rows = tuple((claim.id, claim.statement, claim.verdict.name.lower()) for claim in claims)
    return Exhibit(
        title="Claims",
        note="`kullback claims ID` shows one, its numbers computed on the spot.",
        columns=("claim", "statement", "verdict"),
        rows=rows,
    )


def paragraphs(claim: Claim) -> list[tuple[str, str]]:
    """What there is to say about a claim, each with its heading."""
    fails = claim.verdict is Verdict.FAILS
    parts = [
        ("Source", "; ".join(map(str, (claim.source, *claim.also)))),
        ("Says", claim.statement),
        ("Counterexample" if fails else "Why", claim.why),
        ("By hand", claim.by_hand),
        ("Repaired by" if fails else "Condition", claim.condition),
        ("In fairness", claim.meant),
    ]
    return [(heading, text) for heading, text in parts if text]


def record(claim: Claim, findings: Iterable[Finding] | None = None) -> dict[str, Any]:
    """A claim as plain data, with its numbers where they were computed."""
    shown: dict[str, Any] = {
        "id": claim.id,
        "source": claim.source.source.key,
        "where": str(claim.source),
        "also": [str(place) for place in claim.also],
        "statement": claim.statement,
        "verdict": claim.verdict.value,
        "why": claim.why,
        "condition": claim.condition,
        "meant": claim.meant,
        "by_hand": claim.by_hand,
        "general": claim.general,
        "code": claim.code,
    }
    if findings is not None:
        shown["findings"] = [
            {
                "role": f.role.value,
                "what": f.what,
                "computed": _plain(f.computed),
                "relation": f.relation,
                "claimed": _plain(f.claimed),
                "error": f.error,
                "holds": f.holds,
            }
            for f in findings
        ]
    return shown


def _plain(value: float) -> float | str:
    """JSON has no infinity."""
    return value if isfinite(value) else str(value)


def shown(claim: Claim, seed: int = 0) -> RenderableType:
    """One claim on a terminal, its numbers computed now; its code is to be printed below, unwrapped."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("", "what", "computed", "claimed", "so?"):
        table.add_column(name, overflow="fold")
    for finding in claim.findings(seed):
        table.add_row(*map(escape, _cells(finding)))
    told = Table.grid(padding=(0, 2))
    told.add_column(style="dim", no_wrap=True)
    told.add_column(overflow="fold")
    for heading, text in paragraphs(claim):
        told.add_row(heading, escape(text))
    head = Text.assemble((claim.id, "bold"), "  ", (claim.verdict.value, f"bold {COLOURS[claim.verdict]}"))
    drawn = f"about all worlds; these numbers are of the random world {seed} (--seed)" if claim.general else ""
    parts: list[RenderableType] = [
        head,
        told,
        Text(drawn, style="dim"),
        table,
        Text(),
    ]
    return Group(*parts)


def _cells(finding: Finding) -> tuple[str, ...]:
    return (
        finding.role.value,
        finding.what,
        number(finding),
        f"{finding.relation} {finding.claimed:.6g}",
        said(finding),
    )


def number(finding: Finding) -> str:
    """A computed number with its sampling error, if any."""
    return _rounded(finding.computed) + (f" ± {finding.error:.2g}" if finding.error else "")


def claimed(finding: Finding) -> str:
    """What it is held against, and how far it may be from that."""
    allowed = f" ± {finding.tolerance:.2g}" if finding.tolerance > ROUNDING else ""
    return f"{finding.relation} {_rounded(finding.claimed)}{allowed}"


def _rounded(value: float) -> str:
    # Rounding errors differ by machine, and the page must not.
    return "0" if abs(value) < ROUNDING else f"{value:.6g}"


def said(finding: Finding) -> str:
    """Whether a number is as claimed; of a size in a realistic world the number itself is the message."""
    return "yes" if finding.holds else "no"


def output(claim: Claim) -> str:
    """What the five lines print."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        exec(claim.code, {})
    return written.getvalue().rstrip("\n")


def page() -> str:
    """All claims as Markdown, by source, their numbers and outputs computed."""
    sources = list(dict.fromkeys(claim.source.source for claim in CLAIMS))
    return "\n\n".join([_head(sources), _index(), *(_section(source) for source in sources)]) + "\n"


def _index() -> str:
    rows = tuple((f"[{c.id}](#{c.id.lower()})", c.statement, c.verdict.value) for c in CLAIMS)
    return Exhibit("All of them", "", ("claim", "statement", "verdict"), rows).markdown()


def _head(sources: list[Source]) -> str:
    counts = {verdict: sum(claim.verdict is verdict for claim in CLAIMS) for verdict in Verdict}
    totals = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    contents = "\n".join(
        f"- [{source.title}](#{source.key}): {sum(c.source.source is source for c in CLAIMS)}; read in {source.read}"
        for source in sources
    )
    return (
        "# Claims\n\n"
        "Written by `make docs` from `kb.CLAIMS`: published statements about estimating a KL divergence, each with the "
        "computation that decides it. `kullback claims` lists them, `kullback claims ID` shows one. "
        f"Of {len(CLAIMS)}: {totals}.\n\n"
        "Samples come from the policy q, p is the reference, r = p/q, ℓ = log q − log p, J = KL(q‖p) + KL(p‖q), "
        "χ² = χ²(p‖q); s = ∇log q. A statement about all worlds is tested in ten random ones; the numbers shown are of "
        "the first. The realistic world is a pair of Markov models with 64 tokens and at most 48 steps, "
        f"1.47 nats a sequence apart.\n\n{contents}"
    )


def _section(source: Source) -> str:
    own = [claim for claim in CLAIMS if claim.source.source is source]
    head = f'<a id="{source.key}"></a>\n\n## {source.title}'
    return "\n\n".join([head, *map(_entry, own)])


def _entry(claim: Claim) -> str:
    told = "\n".join(f"- {heading}: {text}" for heading, text in paragraphs(claim)[1:])
    rows = "\n".join(
        f"- {f.role.value}: {f.what} is {number(f)}; said to be {claimed(f)}: {said(f)}" for f in claim.findings()
    )
    where = "; ".join([claim.source.where, *(f"{p.source.key}: {p.where}" for p in claim.also)])
    return (
        f"### {claim.id}\n\n**{claim.verdict.value}** ({where})\n\n{told}\n\nNumbers:\n\n{rows}\n\n"
        f"```python\n{claim.code}\n```\n\nprints\n\n```\n{output(claim)}\n```"
    )
