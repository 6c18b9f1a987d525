"""Claims as people read them on a terminal: in a list, by question, by document, and one by one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import isfinite

from kullback.claims.family import CLAIMS
from kullback.claims.questions import QUESTIONS, Question
from kullback.claims.record import Claim, Evidence, Verdict, decisive
from kullback.claims.statements import STATEMENTS, Statement
from kullback.documents import (
    Cell,
    Code,
    Document,
    Facts,
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
    """Some of the claims, in answer to a question if there is one."""

    claims: tuple[Claim, ...]
    question: Question | None = None

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        shown: Record = {"claims": [record(claim) for claim in self.claims]}
        if self.question is not None:
            shown["question"] = {
                "name": self.question.name,
                "title": self.question.title,
                "answer": self.question.answer,
            }
        return shown

    def document(self) -> Document:
        """One line a claim, below the question and its answer."""
        names = ", ".join(question.name for question in QUESTIONS)
        note = f"`kullback claims ID` shows one, its numbers computed on the spot. Questions, for --question: {names}."
        table = Table(
            title="" if self.question else "Claims",
            note=note,
            columns=("claim", "statement", "verdict"),
            rows=tuple((claim.id, claim.statement, claim.verdict.name.lower()) for claim in self.claims),
        )
        if self.question is None:
            return Document("", (table,))
        return Document(self.question.title, (Note(self.question.answer), table))


@dataclass(frozen=True)
class StatementList:
    """What a document says, in its own order, each statement with what became of it."""

    document_key: str
    title: str
    seed: int = 0

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Its statements."""
        return tuple(statement for statement in STATEMENTS if self.document_key in statement.documents)

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        return {"document": self.document_key, "title": self.title, "statements": [*map(self._record, self.statements)]}

    def _record(self, statement: Statement) -> Record:
        return {
            "number": statement.number,
            "says": statement.says,
            "quote": statement.quote(self.document_key),
            "reason": statement.reason,
            "claims": [
                {"id": claim.id, "verdict": claim.verdict.value, "number": resting(claim, self.seed)}
                for claim in deciding(statement)
            ],
        }

    def document(self) -> Document:
        """One line a statement and claim."""
        rows = []
        for statement in self.statements:
            found = deciding(statement)
            rows += [
                (
                    statement.number if i == 0 else "",
                    statement.says if i == 0 else "",
                    claim.verdict.name.lower(),
                    resting(claim, self.seed),
                    claim.id,
                )
                for i, claim in enumerate(found)
            ]
            if not found:
                rows.append((statement.number, statement.says, "no claim", statement.reason, ""))
        columns = ("no.", "says", "verdict", "by the number", "claim")
        note = "`kullback claims ID` shows a claim with all of its numbers."
        return Document("", (Table(self.title, note, columns, tuple(rows), wide=("by the number",)),))


def deciding(statement: Statement) -> tuple[Claim, ...]:
    """The claims that decide a statement, the one that does so most directly first."""
    return tuple(CLAIMS[name] for name in statement.claims)


def resting(claim: Claim, seed: int = 0) -> str:
    """The first number that a verdict rests on, in words."""
    first = decisive(numbers(claim.id, seed))[0]
    return f"{first.what}: {text_of(computed(first))}, said to be {claimed(first)}"


@cache
def numbers(claim_id: str, seed: int = 0) -> tuple[Evidence, ...]:
    """The numbers of a claim, computed once."""
    return CLAIMS[claim_id].evidence(seed)


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
