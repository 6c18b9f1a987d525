"""To what log-probs were rounded, found in the numbers themselves, and what a KL of that rounding alone would be.

A grid is reported only where float32 numbers that were not rounded would lie on it with a probability below 2⁻⁶⁴: a
number between 2^e and 2^(e+1) lies on a grid of step s by chance with probability 2^(e−23)/s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kullback.arrays import Float64
from kullback.rollouts.metadata import Law

BITS = 64.0 + 6.0
"""−log₂ of the probability by chance that is asked for; six bits for the 40 grids that are tried."""

FEWEST = 4
"""Different numbers that a verdict needs."""

LOOKED_AT = 1 << 17
"""Numbers that are looked at: a grid that more are needed for is finer than float32's own."""

Kind = Literal["bfloat16", "float16", "decimals", "binary", "logits"]


@dataclass(frozen=True)
class Rounding:
    """A grid on which numbers lie.

    Attributes:
        kind: "bfloat16" and "float16" are their dtypes; "decimals" a number of digits after the point; "binary"
            multiples of a power of two; "logits" that the differences inside a position are.
        step: of the grid, nats; the root of its mean square over the numbers where the step depends on their size.
    """

    kind: Kind
    step: float

    @property
    def words(self) -> str:
        """For people."""
        power = f"1/{1 / self.step:g}" if self.step < 1 else f"{self.step:g}"
        return {
            "decimals": f"{(digits := round(-np.log10(self.step)))} decimal{'s' * (digits != 1)}",
            "binary": f"multiples of {power}",
            "logits": f"logits that are multiples of {power}",
        }.get(self.kind, self.kind)


def floor(step: float, other: float = 0.0) -> float:
    """(s² + t²)/24: the k2 or k3 of two log-probs that differ by their rounding alone, in nats a token.

    Errors uniform on a step s have variance s²/12, and half the variance of their difference is what remains.

    Args:
        step: of one law's log-probs.
        other: of the other's; 0 where they are not rounded.
    """
    return (step**2 + other**2) / 24.0


def rounding_of(values: np.ndarray) -> Rounding | None:
    """The grid on which all of some log-probs lie; None where chance can have put them there.

    Args:
        values: counted log-probs, in any order; infinite ones and zeros tell nothing.
    """
    looked = np.asarray(values, dtype=np.float64).ravel()[:LOOKED_AT]
    looked = np.abs(looked[np.isfinite(looked) & (looked != 0)])
    different = np.unique(looked)
    if len(different) < FEWEST:
        return None
    found = [one for one in (_of_dtypes(different), _of_decimals(different), _of_binary(different)) if one is not None]
    if not found:
        return None
    kind, step, bits = max(found, key=lambda one: one[2])
    if bits < BITS:
        return None
    return Rounding(kind, step if step is not None else _typical_step(looked, kind))


def rounding_within(places: Sequence[Mapping[int, float] | Mapping[str, float]]) -> Rounding | None:
    """The grid of the differences between log-probs of one position, which is that of the logits.

    The normaliser, which is no multiple of anything, is the same for all of a position and falls out.

    Args:
        places: for each position, log-probs of several tokens.
    """
    gaps, slack = _gaps(places)
    if len(gaps) < FEWEST:
        return None
    for power in range(1, 11):
        step = 2.0**-power
        off = np.abs(gaps - np.round(gaps / step) * step)
        if (off <= slack).all():
            chance = np.minimum(1.0, 2 * slack / step)
            return Rounding("logits", step) if -np.log2(chance).sum() >= BITS else None
    return None


def _gaps(places: Sequence[Mapping[int, float] | Mapping[str, float]]) -> tuple[Float64, Float64]:
    """Differences to the largest of a position, one of each size, and what float32 may have made of each."""
    found: dict[float, float] = {}
    for place in places[:LOOKED_AT]:
        values = np.asarray([value for value in place.values() if np.isfinite(value)], dtype=np.float64)
        if len(values) > 1:
            top = float(values.max())
            ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(values), 2.0**-20))) - 23)
            # Each was rounded once or twice: as a logit less the normaliser, and as it was written.
            found |= {round(float(top - v), 6): 4.0 * float(u) for v, u in zip(values, ulp, strict=True) if v != top}
    sizes = [gap for gap in found if gap > 0]
    return np.asarray(sizes, dtype=np.float64), np.asarray([found[gap] + 1e-6 for gap in sizes], dtype=np.float64)


def law_of_values(values: np.ndarray) -> Law:
    """ "processed" where log-probs are exactly 0 at many places and none is nearly 0; else "unknown".

    What top-k, top-p or greedy decoding leave alone has probability 1. A model that is merely sure gives log-probs of
    all sizes on the way to 0.

    Args:
        values: counted log-probs.
    """
    zeros = int((values == 0).sum())
    nearly = int(((values < 0) & (values > -1e-3)).sum())
    return "processed" if zeros >= 8 and zeros >= 0.05 * values.size and nearly <= zeros / 20 else "unknown"


@dataclass(frozen=True)
class Copy:
    """How often one law's log-prob is the other's, rounded.

    Attributes:
        count: tokens at which it is.
        of: tokens that can tell.
        kind: to what.
    """

    count: int
    of: int
    kind: Kind


def rounded_copy(logprobs: np.ndarray, ref_logprobs: np.ndarray) -> Copy | None:
    """Whether a reference is the policy rounded to half precision at most tokens: its "KL" is then the rounding's.

    Tells nothing where the policy is on that grid itself.

    Args:
        logprobs, ref_logprobs: of the same tokens.
    """
    q = np.asarray(logprobs, dtype=np.float32).ravel()[:LOOKED_AT]
    p = np.asarray(ref_logprobs, dtype=np.float32).ravel()[:LOOKED_AT]
    for kind in ("bfloat16", "float16"):
        rounded = _rounded(q, kind)
        telling = np.isfinite(q) & (rounded != q)
        count, of = int((telling & (rounded == p)).sum()), int(telling.sum())
        if count >= FEWEST and count >= 0.5 * of and of >= 0.5 * q.size:
            return Copy(count, of, kind)
    return None


def _rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """float32 rounded to the nearest of half precision, ties to even."""
    with np.errstate(over="ignore"):
        if kind == "float16":
            return values.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _exponent(values: Float64) -> Float64:
    return np.floor(np.log2(values))


def _spacing(values: Float64, kind: str) -> Float64:
    """The step of half precision at each number."""
    if kind == "bfloat16":
        return 2.0 ** (np.maximum(_exponent(values), -126) - 7)
    return 2.0 ** (np.maximum(_exponent(values), -14) - 10)


def _typical_step(values: Float64, kind: str) -> float:
    return float(np.sqrt(np.mean(_spacing(values, kind) ** 2)))


_Found = tuple[Kind, float | None, float]


def _bits(values: Float64, step: Float64 | float) -> float:
    """−log₂ of the probability that float32 numbers of these sizes lie on a grid by chance."""
    return float(np.maximum(0.0, np.log2(step) - (_exponent(values) - 23)).sum())


def _of_dtypes(values: Float64) -> _Found | None:
    single = values.astype(np.float32)
    if not (single == values).all():
        return None
    kinds: tuple[Kind, ...] = ("bfloat16", "float16")
    for kind in kinds:
        if (_rounded(single, kind) == single).all():
            return kind, None, _bits(values, _spacing(values, kind)) + 1e-6  # before a grid that says no more
    return None


def _of_decimals(values: Float64) -> _Found | None:
    """The fewest digits after the point that all have, written as float32 or as float64."""
    single = bool((values.astype(np.float32) == values).all())
    for digits in range(1, 8):
        near = np.round(values * 10.0**digits) / 10.0**digits
        if ((near.astype(np.float32) if single else near) == values).all():
            return "decimals", 10.0**-digits, _bits(values, 10.0**-digits)
    return None


def _of_binary(values: Float64) -> _Found | None:
    """The largest power of two of which all are multiples, from 1 to 2⁻²⁰."""
    for power in range(21):
        scaled = values * 2.0**power
        if (scaled == np.round(scaled)).all():
            return "binary", 2.0**-power, _bits(values, 2.0**-power)
    return None
