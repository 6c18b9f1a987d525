"""Whether a function stays the same one as batches grow: more rows, longer rows, wider padding, rarer tokens.

The exact worlds are small. What code does from 64 rows, 200 tokens or 1000 words on is looked at here: the same rows
many times over, one row of equal tokens, more padding, the same log-ratio of ever rarer tokens, a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.coupling import Coupling
from kullback.auditing.formula import Form
from kullback.auditing.handling import WIDTH, Arrangement, outcome, rows_of_every_length
from kullback.auditing.probes import FLOAT64, Probe
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import differentiate, masked

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

ROWS = (1, 3, 9, 70, 600, 2100)
WIDTHS = (WIDTH, 9, 72, 600, 4200)
LENGTHS = (1, 2, 4, 8, 72, 600, 4200)
LEVELS = (1.0, 2.0, 5.0, 12.0, 30.0, 80.0, 200.0, 600.0)
"""How far below 0 the likelier of two log-probs is, nats."""

SURE = (1.0, 2.0, 10.0, 100.0, 1e4, 1e8)
"""One by how far below 0 it is."""

ROUNDING = 1e-10
"""A slope below which there is none: those of models 1e-4 nats apart are larger."""

COUPLED_ROWS = (72, 600, 2400)

SAID = {
    "length": "rows of 4,000 tokens",
    "width": "rows padded to 4,000 places",
    "level": "tokens of a log-prob of −600 nats",
    "sure": "tokens of a probability near 1",
}
"""What is not examined where it cannot be run."""

Outcome = Sequence[Float64]


@dataclass(frozen=True)
class Change:
    """Where a function becomes another one as something grows.

    Attributes:
        at: the smallest size at which it does.
        times: how many times the result is what it should be at `size`; nan where that differs from place to place.
        size: a larger one, at which that was seen.
    """

    at: float
    times: float = np.nan
    size: float = np.nan

    @property
    def cut(self) -> bool:
        """Whether everything from there on has no effect at all."""
        return bool(abs(self.times * self.size - (self.at - 1)) < 1e-3 * self.size)


@dataclass(frozen=True)
class Sizes:
    """Facts; None where nothing changes.

    Attributes:
        rows: of a batch.
        length: tokens of one row.
        width: places of a row, of which the rest is masked.
        level: nats below 0 of a token's log-prob, at one log-ratio.
        sure: one by the nats below 0, towards a probability of 1.
        unexamined: of what larger ones could not be run.
    """

    rows: Change | None = None
    length: Change | None = None
    width: Change | None = None
    level: Change | None = None
    sure: Change | None = None
    unexamined: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Growing:
    """One thing that grows.

    Attributes:
        sizes: small ones first, which have to agree before a larger one is held against them.
        outcome: what should be the same at every size.
        agree: how many of the sizes are the small ones.
        tolerance: relative.
    """

    sizes: Sequence[float]
    outcome: Callable[[float], Outcome]
    agree: int
    tolerance: float

    def change(self) -> Change | None:
        """The first size at which it is another one, or None.

        Raises:
            CallFailed: one of the sizes cannot be run.
        """
        plain = self.outcome(self.sizes[0])
        if not all(self._same(plain, self.outcome(size)) for size in self.sizes[1 : self.agree]):
            # Then it grows from the start, of which other rules speak.
            return None
        good = self.sizes[self.agree - 1]
        for size in self.sizes[self.agree :]:
            if not self._same(plain, self.outcome(size)):
                return self._between(plain, good, size)
            good = size
        return None

    def _between(self, plain: Outcome, good: float, bad: float) -> Change:
        size, times = bad, _times(plain, self.outcome(bad))
        whole = all(float(size).is_integer() for size in self.sizes)
        while bad - good > (1 if whole else 0.01 * bad):
            middle = (good + bad) // 2 if whole else 0.5 * (good + bad)
            if self._same(plain, self.outcome(middle)):
                good = middle
            else:
                bad = middle
        return Change(bad, times, size)

    def _same(self, plain: Outcome, other: Outcome) -> bool:
        scale = max(1e-12, *(float(np.abs(a).max(initial=0.0)) for a in plain))
        if not np.isfinite(scale):
            return all(
                a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(plain, other, strict=True)
            )
        return all(
            a.shape == b.shape and np.allclose(a, b, rtol=self.tolerance, atol=self.tolerance * scale, equal_nan=True)
            for a, b in zip(plain, other, strict=True)
        )


def _times(plain: Outcome, got: Outcome) -> float:
    a, b = plain[0].reshape(-1), got[0].reshape(-1)
    if a.shape != b.shape or not np.isfinite(b).all() or not (kept := np.abs(a) > 1e-12).any():
        return float("nan")
    shares = b[kept] / a[kept]
    times = float(shares.mean())
    # Once what it was: it is another result that changed.
    return times if np.allclose(shares, times, rtol=1e-3) and abs(times - 1) > 1e-3 else float("nan")


def rows_change(subject: Subject, coupling: Coupling, tolerance: float) -> Change | None:
    """The number of rows from which on a function is another one."""
    growing = _rows(subject, coupling, max(1e-6, 10 * tolerance))
    return None if growing is None else growing.change()


def sizes(probe: Probe, coupling: Coupling, form: Form | None, tolerance: float) -> Sizes:
    """Let one thing at a time grow, but the rows of a batch, which `rows_change` is for."""
    subject, close = probe.subject, max(1e-6, 10 * tolerance)
    padded = subject.level != "sequence" and subject.layout == "padded"
    growing: dict[str, _Growing | None] = {
        "length": _Growing(LENGTHS, _length(subject), 3, close) if subject.level != "sequence" else None,
        "width": _width(subject, close) if padded and coupling != "coupled" else None,
        "level": _level(probe, form, tolerance, LEVELS, lambda nats: -nats),
        "sure": _level(probe, form, tolerance, SURE, lambda part: -1 / part),
    }
    found: dict[str, Change] = {}
    unexamined = []
    for name, one in growing.items():
        try:
            if one is not None and (change := one.change()) is not None:
                found[name] = change
        except CallFailed as failed:
            unexamined.append(f"{SAID[name]}, on which {failed.message}")
    kink = None if "length" in found or subject.level == "sequence" else _kink(subject)
    if kink is not None:
        found["length"] = Change(kink)
    return Sizes(**found, unexamined=tuple(unexamined))


def _rows(subject: Subject, coupling: Coupling, close: float) -> _Growing | None:
    """The same row many times over; of a function that couples rows four of them, whose results become constant."""
    if coupling != "coupled":
        return _Growing(ROWS, lambda n: _repeated(subject, [3] * int(n), 1, coupling), 1, close)
    if subject.kind == "scalar":
        return None
    return _Growing(COUPLED_ROWS, lambda n: _repeated(subject, [i % 4 for i in range(int(n))], 4, coupling), 1, 0.1)


def _repeated(subject: Subject, rows: list[int], period: int, coupling: Coupling) -> Outcome:
    """The least and the largest result of each copy of the rows, and the slopes of a copy."""
    base = rows_of_every_length()
    live = base["logprobs"].clone().requires_grad_()
    result = subject({**base, "logprobs": live, "log_ratio": live - base["ref_logprobs"]}, rows).double()
    count = len(rows) // period
    if subject.kind == "scalar":
        per = 1 / count if coupling == "sum" else 1.0
        values = (per * result.detach()).reshape(1, 1)
    else:
        per = 1 / count
        if subject.kind == "token":
            result = masked(result, base["mask"][rows])
        whole = result[: count * period].detach()
        values = whole.reshape(count, -1)
    slopes = [] if coupling == "coupled" else [per * differentiate(result.sum(), [live])[0].numpy()]
    return [values.amin(0).numpy(), values.amax(0).numpy(), *slopes]


def _width(subject: Subject, close: float) -> _Growing | None:
    if "mask" not in subject.columns and subject.kind != "token":
        return None
    return _Growing(WIDTHS, lambda width: outcome(subject, Arrangement(width=int(width))), 2, close)


def equal_tokens(count: int) -> dict[str, Tensor]:
    """Columns of one row of equal tokens."""
    base = rows_of_every_length()
    return {name: array[3:4, :1].expand(1, count, *array.shape[2:]).clone() for name, array in base.items()}


def _length(subject: Subject) -> Callable[[float], Outcome]:
    """The result of a row of equal tokens by its length, divided by what it grows with: their number, or nothing."""

    def total(count: int) -> float:
        result = subject(equal_tokens(count)).detach().double()
        return float(result.sum())

    def outcome_of(n: float) -> Outcome:
        one, two = total(1), total(2)
        per_token = abs(two - one) > 1e-9 * max(abs(one), 1e-30)
        return [np.array([total(int(n)) / (n if per_token else 1)])]

    return outcome_of


def _kink(subject: Subject) -> float | None:
    """The token of a long row of equal ones from which on they have another effect than those before."""
    given = equal_tokens(LENGTHS[-1])
    names = ("logprobs", "log_distributions")
    leaves: dict[str, Tensor] = {name: given[name].clone().requires_grad_() for name in names}
    # Nearly equal models and a ratio of 1: nothing then grows or falls by itself along a row.
    live: dict[str, Tensor] = {**given, **leaves}
    live |= {"ref_logprobs": given["logprobs"] - 1e-4, "behavior_logprobs": given["logprobs"]}
    live["log_ratio"] = live["logprobs"] - live["ref_logprobs"]
    live["ratio"] = (live["logprobs"] - live["behavior_logprobs"]).exp()
    try:
        slopes = differentiate(subject(live).double().sum(), list(leaves.values()))
    except CallFailed:
        return None
    # Of what normalises its logits the slopes of a place add up to 0, but for rounding: each word has its own weight.
    profile = np.sum([_weighted(slope.reshape(LENGTHS[-1], -1).numpy()) for slope in slopes], axis=0)
    largest = float(np.abs(profile).max())
    if not np.isfinite(largest) or largest < ROUNDING:
        return None
    # The first and the last token have rules of their own.
    jumps = np.flatnonzero(np.abs(np.diff(profile))[2:-3] > 0.2 * largest) + 2
    return float(jumps[0] + 2) if len(jumps) else None


def _weighted(slopes: Float64) -> Float64:
    found: Float64 = slopes @ np.arange(1.0, 1 + slopes.shape[1])
    return found


def _level(
    probe: Probe, form: Form | None, tolerance: float, sizes: Sequence[float], at: Callable[[float], float]
) -> _Growing | None:
    """The same log-ratios of other log-probs, of what takes them alone and does not weigh by their probability."""
    if form is None or form.weighted_by or tolerance > FLOAT64:
        return None
    grid = np.array([-0.5, -0.1, 0.1, 0.5, 2.0])
    single = replace(probe, dtype="float64")
    return _Growing(sizes, lambda size: list(single.ratio(grid, at(size))), 2, 1e-4)
