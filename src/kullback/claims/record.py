"""What a claim is: a published statement, a verdict, and the computation that the verdict follows from."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Literal

RELATIVE = 1e-9
"""Rounding that every comparison allows, relative to the number it is held against."""

Relation = Literal["=", "≠", "<", "≤", ">", "≥"]


class Verdict(StrEnum):
    """What a computation makes of a statement."""

    HOLDS = "holds"
    CONDITION = "holds under a condition"
    FAILS = "fails"
    UNDECIDED = "cannot be decided by computation"


class Role(StrEnum):
    """What a number says about a statement."""

    STATED = "as stated"
    SMALLEST = "by hand"
    WITHIN = "under the condition"
    INSTEAD = "what holds"
    REALISTIC = "realistic"


@dataclass(frozen=True)
class Sampled:
    """A mean of samples and the half-width of its interval, which the relations of `Evidence` allow for."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One number that was computed, and what it is held against.

    Attributes:
        role: as the statement has it (in a random world or in one that a hand can check), under the
            condition, what holds besides or instead, or its size in a realistic world.
        what: what was computed.
        computed: the number.
        relation: how the one is said to stand to the other.
        claimed: what the statement makes of it.
        tolerance: absolute error allowed, for numbers printed with few digits.
        error: half-width of the interval of a sampled number; 0 for an exact one.
    """

    role: Role
    what: str
    computed: float
    relation: Relation
    claimed: float
    tolerance: float = RELATIVE
    error: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the relation holds, beyond rounding and sampling error for the strict ones."""
        if math.isinf(self.claimed) or math.isinf(self.computed):  # inf − inf has no slack
            return _EXACTLY[self.relation](self.computed, self.claimed)
        slack = max(self.tolerance, RELATIVE * abs(self.claimed)) + self.error
        gap = self.computed - self.claimed
        return {
            "=": abs(gap) <= slack,
            "≠": abs(gap) > slack,
            "<": gap < -slack,
            "≤": gap <= slack,
            ">": gap > slack,
            "≥": gap >= -slack,
        }[self.relation]

    def __str__(self) -> str:
        shown = f"{self.computed:.6g}" + (f" ± {self.error:.2g}" if self.error else "")
        return f"{self.what}: {shown} {self.relation} {self.claimed:.6g}{'' if self.holds else ', which is not so'}"


_EXACTLY: dict[Relation, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "≠": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "≤": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "≥": lambda a, b: a >= b,
}


def _evidence(
    role: Role,
    what: str,
    computed: float | Sampled,
    relation: Relation,
    claimed: float,
    *,
    tolerance: float = RELATIVE,
    error: float = 0.0,
) -> Evidence:
    number = computed if isinstance(computed, Sampled) else Sampled(computed, error)
    return Evidence(
        role=role,
        what=what,
        computed=number.value,
        relation=relation,
        claimed=claimed,
        tolerance=tolerance,
        error=number.error,
    )


# So that evidence reads as a sentence: stated("E[k1]", computed, "=", claimed).
stated = partial(_evidence, Role.STATED)
smallest = partial(_evidence, Role.SMALLEST)
within = partial(_evidence, Role.WITHIN)
instead = partial(_evidence, Role.INSTEAD)
realistic = partial(_evidence, Role.REALISTIC)


def judged(evidence: Iterable[Evidence]) -> Verdict:
    """The verdict that numbers lead to.

    A statement holds if every number about it as stated does; holds under a condition if not, but every number
    under the condition does; fails otherwise. Without a number about the statement itself it is undecided.

    Example:
        >>> from kullback.claims.record import judged, stated, within
        >>> judged([stated("1 + 1", 2, "=", 2)]).value
        'holds'
        >>> judged([stated("2 + 2", 4, "=", 5), within("2 + 2", 4, "=", 4)]).value
        'holds under a condition'
    """
    found = list(evidence)
    as_stated = [f.holds for f in found if f.role in (Role.STATED, Role.SMALLEST)]
    under_condition = [f.holds for f in found if f.role is Role.WITHIN]
    if not as_stated:
        return Verdict.UNDECIDED
    if all(as_stated):
        return Verdict.HOLDS
    return Verdict.CONDITION if under_condition and all(under_condition) else Verdict.FAILS


def decisive(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """The numbers that a verdict rests on.

    Where a statement holds they are all that were computed of it as stated; where it fails, or needs a condition, the
    ones that are not as stated; where it is undecided, what can be said instead.

    Example:
        >>> from kullback.claims.record import decisive, instead, stated
        >>> [f.what for f in decisive([stated("2 + 2", 4, "=", 5), instead("1 + 1", 2, "=", 2)])]
        ['2 + 2']
    """
    found = list(evidence)
    about = [f for f in found if f.role in (Role.STATED, Role.SMALLEST)]
    if not about:
        return tuple(f for f in found if f.role is Role.INSTEAD)
    return tuple([f for f in about if not f.holds] or about)


@dataclass(frozen=True)
class Source:
    """A document, a paper or a trainer's documentation.

    Attributes:
        key: what ids begin with and ``--source`` takes.
        title: who wrote it and what it is called.
        read: what our record of it rests on.
    """

    key: str
    title: str
    read: str = "the text itself"

    def __call__(self, place: str) -> Place:
        """A place in it."""
        return Place(self, place)


@dataclass(frozen=True)
class Place:
    """Where in a source a statement is made."""

    source: Source
    where: str

    def __str__(self) -> str:
        return f"{self.source.title}, {self.where}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published statement and what a computation makes of it.

    Notation, here and in every statement: samples from the policy q, reference p, r = p/q, ℓ = log q − log p.

    Attributes:
        id: the key of its source and a few words.
        source: where it is made.
        statement: what it says, in a sentence of ours.
        verdict: what its computation makes of it; a test holds the two together.
        why: the proof or the counterexample, in two lines.
        computation: the numbers the verdict follows from. Where the statement is about all worlds, the
            computation takes the seed of a random one.
        code: five lines that print the number everything turns on.
        condition: what it needs; where it fails, what repairs it.
        meant: what the authors meant, or what stands although this does not.
        by_hand: the smallest counterexample, worked out.
        also: other places that say the same.
    """

    id: str
    source: Place
    statement: str
    verdict: Verdict
    why: str
    computation: Callable[..., Iterable[Evidence]]
    code: str
    condition: str = ""
    meant: str = ""
    by_hand: str = ""
    also: tuple[Place, ...] = ()

    @property
    def name(self) -> str:
        """Its id, by which a family finds it."""
        return self.id

    @property
    def sources(self) -> tuple[str, ...]:
        """Keys of the sources it is made in, its own first."""
        return tuple(place.source.key for place in (self.source, *self.also))

    @property
    def general(self) -> bool:
        """Whether it is about all worlds, so that its computation takes the seed of a random one."""
        return bool(inspect.signature(self.computation).parameters)

    def evidence(self, seed: int = 0) -> tuple[Evidence, ...]:
        """The numbers, computed now; `seed` draws the world where the claim is general.

        Raises:
            MissingPackageError: the computation differentiates and torch is not installed.

        Example:
            >>> import kullback as kb
            >>> [number] = kb.CLAIMS["schulman-k1-unbiased"].evidence(seed=7)
            >>> number.holds
            True
        """
        found = self.computation(seed) if self.general else self.computation()
        return tuple(found)

    findings = evidence
    """Its name before; the word is also what ``--json`` prints."""

    def decide(self, seed: int = 0) -> Verdict:
        """The verdict that the numbers lead to in one world."""
        return judged(self.evidence(seed))

    def __repr__(self) -> str:
        return f"<claim {self.id}: {self.verdict.value}>"


def lines(*code: str) -> str:
    """Code from its lines."""
    return "\n".join(code)
