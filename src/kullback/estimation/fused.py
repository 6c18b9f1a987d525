"""Sums of many tokens by compiled code in one pass, where numba is installed (the extra `fast`) and repays its loading.

Loading numba takes a second, compiling another five once (the result is kept on disk); a token then costs 4 ns, where
NumPy takes 13 by a pass for each step. Both ways agree to 1e-13.
Weights of tokens that another law drew are summed so too, as long as nothing caps them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.gaps import MOST, polynomial

WORTH = 1 << 25
"""Tokens of a process from which on compiled code is used: NumPy has then taken half a second for them."""

BLOCK = 1 << 20
"""Tokens handed to compiled code at a time: nothing of their size is held, and what is done once a block is spared."""

WEIGHTED_BLOCK = 1 << 18
"""The same where tokens carry weights, which are held: 2 MB."""

KINDS = (np.float32, np.float64)
"""Numbers that there is compiled code for; others are cast to the second."""


@dataclass(frozen=True, eq=False)
class FusedSums:
    """Of each sequence, (rows,), with x = log p − log q.

    Attributes:
        x, gap: Σ x and Σ (e^x − 1 − x).
        squares, excess_squares: Σ x² and Σ (e^x − 1)².
        most, least: the largest and the smallest x.
    """

    x: Float64
    gap: Float64
    squares: Float64
    excess_squares: Float64
    most: Float64
    least: Float64


@dataclass(frozen=True, eq=False)
class WeightedSums:
    """Of each sequence, (rows,), with x = log p − log q and w_t = Π_{i≤t} q/μ.

    Attributes:
        x: Σ x.
        most: the largest x.
        weighted_x, gap, squares: Σ w x, Σ w (e^x − 1 − x) and Σ w x².
        ratio: Σ w_t e^x − w_{t−1}, what Σ(r − 1) is of weighted tokens.
        weight: Σ w.
        whole, log_weight: w of the whole sequence, and its log.
        largest: the largest log w.
    """

    x: Float64
    most: Float64
    weighted_x: Float64
    gap: Float64
    squares: Float64
    ratio: Float64
    weight: Float64
    whole: Float64
    log_weight: Float64
    largest: Float64


class _Seen:
    """Tokens that were summed up in this process."""

    def __init__(self) -> None:
        self.tokens = 0
        self.lock = Lock()

    def add(self, tokens: int) -> int:
        with self.lock:
            self.tokens += tokens
            return self.tokens


_SEEN = _Seen()


def ready(more: int = 0) -> bool:
    """Whether there is compiled code, and so many more tokens of this process repay it."""
    return _SEEN.add(more) >= WORTH and _compiled() is not None


def fused_sums(q: np.ndarray, p: np.ndarray, starts: np.ndarray) -> FusedSums | None:
    """The sums of sequences that lie end to end from each start to the next; None where NumPy is to make them."""
    if not ready() or (compiled := _compiled()) is None:
        return None
    found = np.empty((6, len(starts)))
    compiled.sums(_plain(q), _plain(p), np.append(starts, len(q)), found)
    return FusedSums(*found)


def weighted_sums(q: np.ndarray, p: np.ndarray, mu: np.ndarray, starts: np.ndarray) -> WeightedSums | None:
    """The same of sequences that μ drew, each token with the weight of what is known with it; None as above.

    Weights are right as far as `largest` is within what floats hold.
    """
    if not ready() or (compiled := _compiled()) is None:
        return None
    q, bounds = _plain(q), np.append(starts, len(q))
    found, weight = np.empty((10, len(starts))), np.empty(len(q))
    with np.errstate(all="ignore"):
        compiled.weights(q, _plain(mu), bounds, weight, found[8:])
        compiled.weighted(q, _plain(p), weight, bounds, found)
    return WeightedSums(*found)


def beyond(q: np.ndarray, p: np.ndarray, starts: np.ndarray, rows: np.ndarray, floor: float) -> Float64:
    """Every log p − log q of some sequences that is larger than a number."""
    bounds = np.append(starts, len(q))
    found = np.empty(int(np.sum(bounds[rows + 1] - bounds[rows])))
    compiled = _compiled()
    assert compiled is not None
    return found[: compiled.beyond(_plain(q), _plain(p), np.stack([bounds[rows], bounds[rows + 1]]), floor, found)]


def _plain(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=None if values.dtype in KINDS else KINDS[-1])


def first_places(q: np.ndarray, p: np.ndarray, starts: np.ndarray, wanted: Float64) -> np.ndarray:
    """Where in each sequence log p − log q first is a number that it is known to reach, counted from its start.

    Nan is wanted where nobody asks: what is found there is 0.
    """
    found = np.empty(len(starts), dtype=np.intp)
    compiled = _compiled()
    assert compiled is not None
    compiled.places(_plain(q), _plain(p), np.append(starts, len(q)), wanted, found)
    return found


@dataclass(frozen=True)
class _Loops:
    """Compiled."""

    sums: Callable[..., None]
    places: Callable[..., None]
    beyond: Callable[..., int]
    weights: Callable[..., None]
    weighted: Callable[..., None]

    @classmethod
    def of(cls, made: Callable[..., Callable[..., Any]]) -> _Loops:
        """Each loop as it is made of Python's; sums may be taken in any order, but not the parts of an exponential."""
        any_order, as_written = {"reassoc", "contract", "nsz"}, {"contract", "nsz"}
        return cls(
            sums=made(_sums, any_order),
            places=made(_places, any_order),
            beyond=made(_beyond, any_order),
            weights=made(_weights, as_written),
            weighted=made(_weighted, any_order),
        )


@cache
def _compiled() -> _Loops | None:
    """The loops; None where numba is not installed."""
    if find_spec("numba") is None:
        return None
    import numba

    # Any order is what lets eight tokens be added at a time; nan and inf keep their meaning.
    def made(loop: Callable[..., Any], math: set[str], *, cache: bool = True) -> Callable[..., Any]:
        compiled: Callable[..., Any] = numba.njit(cache=cache, nogil=True, error_model="numpy", fastmath=math)(loop)
        return compiled

    try:
        return _Loops.of(made)
    except RuntimeError:  # no folder in which compiled code could be kept
        return _Loops.of(partial(made, cache=False))


_C = polynomial(MOST)

LOWEST = -708.0
"""Logs of weights below it are taken as those of 0: 2e-308 is the least that floats hold with all their digits."""

HIGHEST = 690.0
"""What is beyond it is beyond every weight that is taken."""

_LOG2_E = 1 / np.log(2)
_LN2_HIGH = 6.93147180369123816490e-01
"""log 2 to 33 bits, so that its product with a power's number is exact, and what is left of it."""
_LN2_LOW = 1.90821492927058770002e-10


def _sums(q: np.ndarray, p: np.ndarray, bounds: np.ndarray, out: np.ndarray) -> None:
    # Slices from 0 on, and the ends in a loop of their own: only so are four tokens taken at a time (1.8 ns, else 4.3).
    for row in range(len(bounds) - 1):
        ours, theirs = q[bounds[row] : bounds[row + 1]], p[bounds[row] : bounds[row + 1]]
        sum_x = sum_gap = sum_squares = sum_excess = 0.0
        for i in range(len(ours)):
            x = np.float64(theirs[i]) - np.float64(ours[i])
            near = x if abs(x) <= MOST else 0.0
            gap = _C[-1]
            for k in range(len(_C) - 2, -1, -1):
                gap = gap * near + _C[k]
            gap *= near * near
            sum_x += x
            sum_gap += gap
            sum_squares += x * x
            sum_excess += (near + gap) * (near + gap)
        high, low = -np.inf, np.inf
        for i in range(len(ours)):
            x = np.float64(theirs[i]) - np.float64(ours[i])
            high = x if x > high else high
            low = x if x < low else low
        if high > MOST or low < -MOST:
            for i in range(len(ours)):
                x = np.float64(theirs[i]) - np.float64(ours[i])
                if abs(x) > MOST:
                    excess = np.expm1(x)
                    sum_gap += excess - x
                    sum_excess += excess * excess
        out[0, row], out[1, row], out[2, row], out[3, row] = sum_x, sum_gap, sum_squares, sum_excess
        out[4, row], out[5, row] = high, low


STRETCH = 4096
"""Weights worked on at a time, which the first cache holds."""


def _weights(q: np.ndarray, mu: np.ndarray, bounds: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(bounds) - 1):
        ours, drew = q[bounds[row] : bounds[row + 1]], mu[bounds[row] : bounds[row + 1]]
        found = weight[bounds[row] : bounds[row + 1]]
        total, largest = 0.0, -np.inf
        for i in range(len(ours)):
            total += np.float64(ours[i]) - np.float64(drew[i])
            found[i] = total
            largest = total if total > largest else largest
        out[0, row], out[1, row] = total, largest
    # e^t = 2^k e^r, |r| ≤ log(2)/2; the exponent k is added to the bits of e^r (a table of powers takes 4 ns, this 1).
    powers = np.empty(STRETCH, dtype=np.int32)
    for start in range(0, len(weight), STRETCH):
        part = weight[start : start + STRETCH]
        bits = part.view(np.int64)
        for i in range(len(part)):
            t = part[i]
            some = t > LOWEST
            t = t if some else 0.0
            t = t if t < HIGHEST else HIGHEST
            power = np.rint(t * _LOG2_E)
            r = (t - power * _LN2_HIGH) - power * _LN2_LOW
            gap = _C[-1]
            for k in range(len(_C) - 2, -1, -1):
                gap = gap * r + _C[k]
            part[i] = 1.0 + (r + r * r * gap) if some else 0.0
            powers[i] = np.int32(power)
        for i in range(len(part)):
            bits[i] += np.int64(powers[i]) << 52


def _weighted(q: np.ndarray, p: np.ndarray, weight: np.ndarray, bounds: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(bounds) - 1):
        ours, theirs = q[bounds[row] : bounds[row + 1]], p[bounds[row] : bounds[row + 1]]
        w = weight[bounds[row] : bounds[row + 1]]
        sum_x = sum_wx = sum_gap = sum_squares = sum_w = 0.0
        for i in range(len(ours)):
            x = np.float64(theirs[i]) - np.float64(ours[i])
            near = x if abs(x) <= MOST else 0.0
            gap = _C[-1]
            for k in range(len(_C) - 2, -1, -1):
                gap = gap * near + _C[k]
            sum_x += x
            sum_wx += w[i] * x
            sum_gap += w[i] * (near * near * gap)
            sum_squares += w[i] * (x * x)
            sum_w += w[i]
        high, low = -np.inf, np.inf
        for i in range(len(ours)):
            x = np.float64(theirs[i]) - np.float64(ours[i])
            high = x if x > high else high
            low = x if x < low else low
        if high > MOST or low < -MOST:
            for i in range(len(ours)):
                x = np.float64(theirs[i]) - np.float64(ours[i])
                if abs(x) > MOST:
                    sum_gap += w[i] * (np.expm1(x) - x)
        whole = w[len(w) - 1]
        out[0, row], out[1, row], out[2, row], out[3, row], out[4, row] = sum_x, high, sum_wx, sum_gap, sum_squares
        # Σ w_t (e^x − 1) + w_t − w_{t−1}: what is added and taken back in turn leaves the last less the first, 1.
        out[5, row], out[6, row], out[7, row] = sum_gap + sum_wx + (whole - 1.0), sum_w, whole


STRIDE = 64
"""Tokens looked at before it is asked whether one of them was it."""


def _places(q: np.ndarray, p: np.ndarray, bounds: np.ndarray, wanted: np.ndarray, found: np.ndarray) -> None:
    for row in range(len(bounds) - 1):
        found[row] = 0
        if np.isnan(wanted[row]):
            continue
        ours, theirs = q[bounds[row] : bounds[row + 1]], p[bounds[row] : bounds[row + 1]]
        at = 0
        while at < len(ours):
            some, others = ours[at : at + STRIDE], theirs[at : at + STRIDE]
            hits = 0
            for i in range(len(some)):
                hits += 1 if np.float64(others[i]) - np.float64(some[i]) == wanted[row] else 0
            if hits:
                break
            at += STRIDE
        for i in range(at, len(ours)):
            if np.float64(theirs[i]) - np.float64(ours[i]) == wanted[row]:
                found[row] = i
                break


def _beyond(q: np.ndarray, p: np.ndarray, spans: np.ndarray, floor: float, found: np.ndarray) -> int:
    kept = 0
    for row in range(spans.shape[1]):
        for i in range(spans[0, row], spans[1, row]):
            x = np.float64(p[i]) - np.float64(q[i])
            if x > floor:
                found[kept] = x
                kept += 1
    return kept
