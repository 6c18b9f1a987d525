"""Claims as people read them: in a list, one by one, and as a page of the docs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite

from kullback.claims.family import CLAIMS
from kullback.claims.record import Claim, Evidence, Source, Verdict
from kullback.documents import (
    Block,
    Cell,
    Code,
    Document,
    Facts,
    Heading,
    Note,
    Number,
    Record,
    Table,
    Tone,
    text_of,
)
from kullback.documents import Verdict as Answer

ROUNDING = 1e-8
"""Below this a number is shown as 0."""

TONES: dict[Verdict, Tone] = {
    Verdict.HOLDS: "good",
    Verdict.CONDITION: "warning",
    Verdict.FAILS: "bad",
    Verdict.UNDECIDED: "hint",
}


@dataclass(frozen=True)
class ClaimList:
    """Some of the claims."""

    claims: tuple[Claim, ...]

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        return {"claims": [record(claim) for claim in self.claims]}

    def document(self) -> Document:
        """One line a claim."""
        table = Table(
            title="Claims",
            note="`kullback claims ID` shows one, its numbers computed on the spot.",
            columns=("claim", "statement", "verdict"),
            rows=tuple((claim.id, claim.statement, claim.verdict.name.lower()) for claim in self.claims),
        )
        return Document("", (table,))


@dataclass(frozen=True)
class DecidedClaim:
    """A claim with its numbers, of one random world where it is about all."""

    claim: Claim
    seed: int
    evidence: tuple[Evidence, ...]

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        return record(self.claim, self.evidence)

    def document(self) -> Document:
        """What it says, what is so, and the code to see it."""
        drawn = f"about all worlds; these numbers are of the random world {self.seed} (--seed)"
        numbers = Table(
            title="",
            note="",
            columns=("", "what", "computed", "claimed", "so?"),
            rows=tuple(
                (f.role.value, f.what, computed(f), f"{f.relation} {f.claimed:.6g}", said(f)) for f in self.evidence
            ),
        )
        return Document(
            title=self.claim.id,
            blocks=(
                Answer(self.claim.verdict.value, TONES[self.claim.verdict]),
                Facts(paragraphs(self.claim)),
                *([Note(drawn, tone="quiet")] if self.claim.general else []),
                numbers,
                Code(self.claim.code),
            ),
        )


def decided(claim: Claim, seed: int = 0) -> DecidedClaim:
    """A claim with its numbers, computed now."""
    return DecidedClaim(claim, seed, claim.evidence(seed))


def paragraphs(claim: Claim) -> tuple[tuple[str, str], ...]:
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
    return tuple((heading, text) for heading, text in parts if text)


def record(claim: Claim, evidence: Iterable[Evidence] | None = None) -> Record:
    """A claim as plain data, with its numbers where they were computed."""
    shown: Record = {
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
    if evidence is not None:
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
            for f in evidence
        ]
    return shown


def _plain(value: float) -> float | str:
    """JSON has no infinity."""
    return value if isfinite(value) else str(value)


def computed(piece: Evidence) -> Cell:
    """A computed number, with its sampling error if it has one."""
    if piece.error or not isfinite(piece.computed):
        return _rounded(piece.computed) + (f" ± {piece.error:.2g}" if piece.error else "")
    return Number(0.0 if abs(piece.computed) < ROUNDING else piece.computed, ".6g")


def claimed(piece: Evidence) -> str:
    """What it is held against, and how far it may be from that."""
    allowed = f" ± {piece.tolerance:.2g}" if piece.tolerance > ROUNDING else ""
    return f"{piece.relation} {_rounded(piece.claimed)}{allowed}"


def _rounded(value: float) -> str:
    # Rounding errors differ by machine, and the page must not.
    return "0" if abs(value) < ROUNDING else f"{value:.6g}"


def said(piece: Evidence) -> str:
    """Whether a number is as claimed; of a size in a realistic world the number itself is the message."""
    return "yes" if piece.holds else "no"


def output(claim: Claim) -> str:
    """What the five lines print."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        exec(claim.code, {})
    return written.getvalue().rstrip("\n")


def page() -> Document:
    """All claims by source, their numbers and outputs computed; in Markdown, it is a page of the docs."""
    sources = list(dict.fromkeys(claim.source.source for claim in CLAIMS))
    blocks = (*_head(sources), _index(), *(block for source in sources for block in _section(source)))
    return Document("Claims", blocks)


def _index() -> Table:
    rows = tuple((f"[{c.id}](#{c.id.lower()})", c.statement, c.verdict.value) for c in CLAIMS)
    return Table("All of them", "", ("claim", "statement", "verdict"), rows)


def _head(sources: list[Source]) -> Iterator[Block]:
    counts = {verdict: sum(claim.verdict is verdict for claim in CLAIMS) for verdict in Verdict}
    totals = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    yield Note(
        "Written by `make docs` from `kb.CLAIMS`: published statements about estimating a KL divergence, each with the "
        "computation that decides it. `kullback claims` lists them, `kullback claims ID` shows one. "
        f"Of {len(CLAIMS)}: {totals}."
    )
    yield Note(
        "Samples come from the policy q, p is the reference, r = p/q, ℓ = log q − log p, J = KL(q‖p) + KL(p‖q), "
        "χ² = χ²(p‖q); s = ∇log q. A statement about all worlds is tested in ten random ones; the numbers shown are of "
        "the first. The realistic world is a pair of Markov models with 64 tokens and at most 48 steps, "
        "1.47 nats a sequence apart."
    )
    yield Facts(
        tuple(
            (f"[{s.title}](#{s.key})", f"{sum(c.source.source is s for c in CLAIMS)}; read in {s.read}")
            for s in sources
        )
    )


def _section(source: Source) -> Iterator[Block]:
    yield Heading(source.title, anchor=source.key)
    for claim in CLAIMS:
        if claim.source.source is source:
            yield from _entry(claim)


def _entry(claim: Claim) -> Iterator[Block]:
    where = "; ".join([claim.source.where, *(f"{p.source.key}: {p.where}" for p in claim.also)])
    yield Heading(claim.id, level=3)
    yield Note(f"**{claim.verdict.value}** ({where})")
    yield Facts(paragraphs(claim)[1:])
    yield Note("Numbers:")
    yield Facts(
        tuple(
            (f.role.value, f"{f.what} is {text_of(computed(f))}; said to be {claimed(f)}: {said(f)}")
            for f in claim.evidence()
        )
    )
    yield Code(claim.code)
    yield Note("prints")
    yield Code(output(claim), language="")
