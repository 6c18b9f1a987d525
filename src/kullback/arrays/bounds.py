"""What numbers can be: bounds of each column, and what is wrong with a number outside them, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

if TYPE_CHECKING:
    import torch

from kullback.arrays.library import A, Array, can_look, equals, is_torch, namespace, to_numpy
from kullback.errors import InputError

POSITIVE_ALLOWED = 1e-3
"""Log-probs up to this are taken as rounding of 0, which half precision and servers do produce."""

SENTINEL = -9000.0
"""Log-probs this low are what servers and frameworks write where they know none: −9999, −1e10, the dtype's least."""

HALF_STEP = 0.25
"""A head in half precision rounds log-probs near 0 to as much above it."""


NEEDED = {
    "log-prob": "log-probs in nats are needed",
    "KL": "a KL in nats is needed",
    "mass": "a probability is needed",
    "number": "a number is needed",
}
"""What is asked for where nan came, by kind."""


@dataclass(frozen=True)
class Bounds:
    """The numbers x with above < x ≤ most, and `also`.

    Attributes:
        above, most: the range.
        also: an infinity that means something, or None.
        kind: what the numbers are, a key of `NEEDED`.
    """

    above: float
    most: float
    also: float | None
    kind: str

    def hold(self, x: A) -> Array:
        """Where x is within, elementwise; False for nan."""
        inside = (x > self.above) & (x <= self.most)
        return inside if self.also is None else inside | equals(x, self.also)


LOGPROBS = Bounds(SENTINEL, POSITIVE_ALLOWED, None, "log-prob")
"""Of what drew the tokens: none of them can have probability 0."""

REF_LOGPROBS = Bounds(SENTINEL, POSITIVE_ALLOWED, -np.inf, "log-prob")
"""Of any other law, which may exclude a token."""

TOKEN_KL = Bounds(-1e-3, np.inf, None, "KL")

REF_MASS = Bounds(-1e-6, 1.0 + 1e-3, None, "mass")


def check(name: str, x: Array, counts: Array | None, bounds: Bounds) -> None:
    """Refuse the first counted number that is out of bounds; looks at the extremes alone where they are fine.

    Args:
        name: of the column.
        x: (batch, time), of any library, its values at hand.
        counts: where a token counts, of the same library; None where all do.
        bounds: of the column.

    Raises:
        InputError: such a number, with its row, its position and its likely cause.
    """
    low, high = extremes(x)
    if low > bounds.above and high <= bounds.most:
        return
    bad = wrong(x, counts, bounds)
    if bool(namespace(bad).any(bad)):
        everything = np.ones(tuple(x.shape), dtype=bool)
        raise InputError(_sentence(name, to_numpy(x), everything if counts is None else to_numpy(counts), bounds))


Look = Literal["whole", "finite", "right", "blind"]
"""What a look at columns gave: all numbers are finite, masked ones too; all counted ones are finite; are right,
infinite ones among them; nothing, for a library traces and holds no numbers yet."""


def check_all(columns: Mapping[str, tuple[A, Bounds]], counts: Array | None) -> Look:
    """`check` of several columns of torch or JAX, whose extremes come to the host in one transfer.

    Raises:
        InputError: a counted number that is out of bounds.
    """
    arrays = [x for x, _ in columns.values()]
    if not all(can_look(x) for x in (*arrays, *(() if counts is None else (counts,)))):
        return "blind"
    try:
        ends = _all_extremes(arrays)
    except RuntimeError:  # torch's vmap and fake tensors hold no numbers either, and have no public test
        return "blind"
    whole = finite = True
    for (name, (x, bounds)), (low, high) in zip(columns.items(), ends, strict=True):
        if not (low > bounds.above and high <= bounds.most):
            check(name, x, counts, bounds)
            whole = False
            finite &= bounds.also is None and bounds.most < np.inf
        else:
            finite &= high < np.inf
    return "right" if not finite else "whole" if whole else "finite"


def _all_extremes(arrays: Sequence[Array]) -> list[tuple[float, float]]:
    if not is_torch(arrays[0]):
        return [extremes(x) for x in arrays]
    import torch

    ends = torch.stack([end.float() for x in arrays for end in torch.aminmax(cast("torch.Tensor", x))]).tolist()
    return list(zip(ends[::2], ends[1::2], strict=True))


def extremes(x: Array) -> tuple[float, float]:
    """The least and the largest number; nan where there is one."""
    if is_torch(x):
        low, high = x.aminmax()
        return float(low), float(high)
    if isinstance(x, np.ndarray):
        return _extremes(x)
    xp: Any = namespace(x)
    return float(xp.min(x)), float(xp.max(x))


LOOKED_AT = 1 << 16
"""Numbers of which both extremes are taken before the next come, while they are in the processor's cache."""


def _extremes(x: np.ndarray) -> tuple[float, float]:
    if x.ndim != 1 or x.size <= LOOKED_AT:
        return float(x.min()), float(x.max())
    parts = [x[start : start + LOOKED_AT] for start in range(0, x.size, LOOKED_AT)]
    ends = np.array([(part.min(), part.max()) for part in parts])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def wrong(x: A, counts: Array | None, bounds: Bounds) -> Array:
    """Where a counted number is out of bounds."""
    outside = ~bounds.hold(x)
    return outside if counts is None else counts & outside


def place(bad: np.ndarray) -> tuple[int, ...]:
    """Row and position (or every index) of the first True."""
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _sentence(name: str, x: np.ndarray, counts: np.ndarray, bounds: Bounds) -> str:
    bad = np.asarray(counts & ~bounds.hold(x))
    at = place(bad)
    alike = _alike(x, x[at], bounds) & bad
    more = int(alike.sum()) - 1
    also = "" if more == 0 else f" (and {more} more)"
    where = f"[{', '.join(map(str, at))}]" if at else ""
    return f"{name}{where} is {x[at]:g}{also}: {_cause(x, counts, at, bounds)}"


def _alike(x: np.ndarray, found: Any, bounds: Bounds) -> np.ndarray:
    """Where x is wrong in the way `found` is."""
    if np.isnan(found):
        return np.asarray(np.isnan(x))
    if np.isinf(found):
        return np.asarray(x == found)
    return np.asarray(np.isfinite(x) & ((x > bounds.most) if found > bounds.most else (x <= bounds.above)))


def _cause(x: np.ndarray, counts: np.ndarray, at: tuple[int, ...], bounds: Bounds) -> str:
    found = x[at]
    if np.isnan(found):
        return _of_nan(x, counts, at, bounds)
    if bounds.kind == "number":
        return "a finite number is needed"
    if bounds.kind == "KL":
        return "a KL over the whole vocabulary is at least 0"
    if bounds.kind == "mass":
        if found < 0 and (x[counts] <= 0).all():
            return "these look like log-probs, but probabilities in [0, 1] are needed: take exp of them"
        return "the reference's probability of some tokens lies in [0, 1]"
    if np.isneginf(found):
        return (
            "a token that was drawn cannot have probability 0 under what drew it: "
            "score with the sampling settings it was drawn with, or mask the token if it is padding"
        )
    if found <= bounds.above:
        return (
            "so low a number is written where a log-prob is not known (outside a server's top-k, greedy decoding, "
            "padding): score the token, or mask it"
        )
    if np.isposinf(found):
        return "a log-prob is at most 0, and +inf comes of an overflow or a division by 0: mend its forward pass"
    return "a log-prob is at most 0: " + _of_positive(x[counts & np.isfinite(x)])


def _of_nan(x: np.ndarray, counts: np.ndarray, at: tuple[int, ...], bounds: Bounds) -> str:
    sentence = NEEDED[bounds.kind] + ": "
    missing = np.isnan(x)
    if x.ndim < 2:
        return sentence + "leave the token out, or mend its forward pass"
    if missing[at[0]][counts[at[0]]].all():
        return sentence + (
            "all of the row is nan, as after an overflow in half precision or a row of attention without a key: "
            "mask the tokens or mend its forward pass"
        )
    if _at_an_end(missing, counts):
        return sentence + "nan at the ends of rows looks like padding: mask the token or mend its forward pass"
    return sentence + "mask the token or mend its forward pass"


def _at_an_end(odd: np.ndarray, counts: np.ndarray) -> bool:
    """Whether the odd counted numbers are the first or the last of their rows, with nothing else beyond them."""
    odd = odd & counts
    if odd[counts].all():
        return False
    fine = ~odd & counts
    before = np.cumsum(fine, axis=-1) > 0
    after = np.cumsum(fine[..., ::-1], axis=-1)[..., ::-1] > 0
    return not bool((odd & before & after).any())


def _of_positive(values: np.ndarray) -> str:
    positive = values[values > POSITIVE_ALLOWED]
    whole = bool((values == values.round()).all())
    if (values >= 0).all():
        if whole and values.max() > 1:
            return "these look like token ids, in the place of log-probs"
        if (values <= 1).all():
            return "these look like probabilities (take their log) or negated log-probs (change their sign)"
        return "these look like negated log-probs (a cross-entropy a token): change their sign"
    if (positive == 1).all():
        return "1 wherever one is positive looks like what fills padding: mask those tokens"
    if positive.max() <= HALF_STEP:
        return _of_rounding(values)
    return "numbers of both signs look like logits, probabilities or advantages: take log_softmax of logits"


def _of_rounding(values: np.ndarray) -> str:
    single = values.astype(np.float32)
    grids = {
        "bfloat16": not bool((single.view(np.uint32) & 0xFFFF).any()),
        "float16": bool((single.astype(np.float16).astype(np.float32) == single).all()),
    }
    found = [name for name, on in grids.items() if on and len(values) > 1]
    grid = f"all numbers lie on the grid of {found[0]}, so " if found else ""
    return (
        f"{grid}this looks like the rounding of a head in half precision (bfloat16 or float16): "
        "compute logits and log_softmax in float32"
    )
