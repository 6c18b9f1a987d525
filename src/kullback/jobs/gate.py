"""Whether a KL keeps a limit: below, above, or not known yet, and then the samples that it would take to know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, inf, isfinite, isinf, isnan, nan
from typing import Literal

from kullback.documents import Block, Document, Interval, Outcome, Record, Tone, Verdict, plain, text_of
from kullback.errors import InputError
from kullback.estimation.result import Estimate, Exact

Side = Literal["below", "above", "undecided"]

POWER = 0.84
"""Standard errors beyond the interval's end: so many samples decide in four of five runs, and without it in every
second one, if the KL is what was estimated."""

MOST = 1e9
"""Times as much data, from which on there is no telling a KL from its limit."""

TONES: dict[Side, Tone] = {"below": "good", "above": "bad", "undecided": "warning"}


@dataclass(frozen=True)
class Gate:
    """A KL beside the limit that it is to keep.

    Attributes:
        side: "below" where the whole 95% interval is at most the limit, "above" where all of it is more, and
            "undecided" where it holds the limit or is not known.
        limit: in nats, and in the estimate's unit.
        found: the number that was held against it.
        low, high: its interval; twice the number where it is exact, nan where no error is known.
        times: how many times as much data would decide it in four of five runs, if the KL is what was estimated; 1
            where it is decided, nan where that is not known.
        these_prompts: whether the interval is for the prompts at hand, and not for prompts drawn anew.
        of: which KL it is.
        clusters: what the interval counts, such as prompts, where they are not the sequences themselves.
    """

    side: Side
    limit: float
    found: Estimate | Exact
    low: float
    high: float
    times: float
    these_prompts: bool
    of: str
    clusters: str

    @property
    def sequences_needed(self) -> float:
        """How many sequences would decide it, with as many of each prompt; inf where none would, nan if not known."""
        return _rounded_up(self.times * self.found.n) if isinstance(self.found, Estimate) else nan

    @property
    def clusters_needed(self) -> float:
        """How many prompts, with as many sequences of each; those at hand where the interval is for these prompts."""
        if not isinstance(self.found, Estimate):
            return nan
        return float(self.found.clusters) if self.these_prompts else _rounded_up(self.times * self.found.clusters)

    @property
    def sentence(self) -> str:
        """The answer for people."""
        return f"{self.side}: {self.of} is {self._number()}, and the limit is {self.limit:g}{self._more()}"

    def _number(self) -> str:
        if isinstance(self.found, Exact):
            return str(self.found)
        population = " for these prompts" if self.these_prompts else ""
        interval = f"{text_of(Interval(self.low, self.high))} (95%{population})"
        value = f"{self.found.value:.4g} nats/{self.found.unit} by {self.found.estimator}"
        return f"{value}, its error not known" if isnan(self.low) else f"{value}, {interval}"

    def _more(self) -> str:
        if not isinstance(self.found, Estimate):
            return ""
        if self.side != "undecided":
            return "; its warnings come first" if self.found.warnings else ""
        return f": {self._wanted(self.found)}"

    def _wanted(self, found: Estimate) -> str:
        if isnan(self.times):
            few = self.these_prompts or found.clusters == found.n
            return f"an error takes two {'sequences of a prompt' if few else self.clusters} at least"
        if isinf(self.times):
            return "no number of samples tells them apart"
        if self.these_prompts:
            return (
                f"about {_about(self.sequences_needed)} sequences of these prompts would decide, where {found.n:,} came"
            )
        if found.clusters == found.n:
            return f"about {_about(self.sequences_needed)} sequences would decide, where {found.n:,} came"
        return f"about {_about(self.clusters_needed)} {self.clusters} would decide, where {found.clusters:,} came"

    def to_dict(self) -> Record:
        """The record that ``--json`` prints; numbers that are not finite come as None."""
        estimator = self.found.estimator if isinstance(self.found, Estimate) else "exact"
        record = {
            "verdict": self.side,
            "limit": self.limit,
            "of": self.of,
            "estimator": estimator,
            "unit": self.found.unit.removeprefix("nats/"),
            "value": self.found.value,
            "low": self.low,
            "high": self.high,
            "these_prompts": self.these_prompts,
            "sequences_needed": self.sequences_needed,
            "clusters": self.clusters,
            "clusters_needed": self.clusters_needed,
            "sentence": self.sentence,
        }
        return dict(plain(record))


def gate(
    found: Estimate | Exact,
    limit: float,
    *,
    these_prompts: bool = False,
    of: str = "KL(policy‖reference)",
    clusters: str = "prompts",
) -> Gate:
    """Hold a KL against a limit, by its 95% interval.

    Args:
        found: what was estimated or computed.
        limit: nats, in the same unit.
        these_prompts: judge by the interval for the prompts at hand, not by the one for prompts drawn anew.
        of: which KL it is, for the sentence.
        clusters: what the error is clustered by.

    Raises:
        InputError: a limit that no KL can be held against.

    Example:
        >>> import kullback as kb
        >>> found = kb.estimate([[-0.5], [-0.7], [-0.1]], [[-0.7], [-0.6], [-0.3]], estimator="k1")
        >>> gate(found, 2.0).side, gate(found, 0.2).side, gate(found, 0.2).sequences_needed
        ('below', 'undecided', 22.0)
    """
    if not (isfinite(limit) and limit >= 0):
        raise InputError(f"a limit of {limit:g} came, but it is a number of nats, at least 0")
    low, high = _interval(found, these_prompts=these_prompts)
    side: Side = "below" if high <= limit else "above" if low > limit or found.value == inf else "undecided"
    unjudged = Gate(side, limit, found, low, high, 1.0, these_prompts, of, clusters)
    return unjudged if side != "undecided" else replace(unjudged, times=_times(unjudged))


def _interval(found: Estimate | Exact, *, these_prompts: bool) -> tuple[float, float]:
    if isinstance(found, Exact):
        return found.value, found.value
    if not these_prompts:
        return found.interval()
    return (nan, nan) if found.given_prompts is None else found.given_prompts.interval()


def _times(undecided: Gate) -> float:
    """How many times as much data brings the end of the interval to the limit, and `POWER` standard errors beyond."""
    found = undecided.found
    given = found.given_prompts if undecided.these_prompts and isinstance(found, Estimate) else found
    if not isinstance(found, Estimate) or given is None or isinstance(given, Exact) or isnan(undecided.low):
        return nan
    distance = abs(found.value - undecided.limit)
    half = undecided.high - found.value if found.value < undecided.limit else found.value - undecided.low
    times = ((half + POWER * given.stderr) / distance) ** 2 if distance > 0 else inf
    return times if times < MOST else inf


def _rounded_up(number: float) -> float:
    return float(ceil(number)) if isfinite(number) else number


def _about(number: float) -> str:
    """Two digits, and no more are known."""
    return f"{float(f'{number:.1e}'):,.0f}"


@dataclass(frozen=True)
class Gated:
    """What a job found, with the gate's answer before everything else."""

    outcome: Outcome
    gate: Gate

    def to_dict(self) -> Record:
        """The outcome's record with a field ``gate``."""
        return {**self.outcome.to_dict(), "gate": self.gate.to_dict()}

    def document(self) -> Document:
        """The outcome's document with the answer at its head."""
        return self._answered(self.outcome.document())

    def page(self) -> Document:
        """The outcome's page with the answer at its head."""
        return self._answered(getattr(self.outcome, "page", self.outcome.document)())

    def _answered(self, document: Document) -> Document:
        answer: Block = Verdict(self.gate.sentence, TONES[self.gate.side])
        return replace(document, blocks=(answer, *document.blocks))
