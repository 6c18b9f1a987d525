"""What counts: a mask is bool, or exactly 0 and 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from kullback.arrays.columns import Column
from kullback.arrays.library import Array, can_look, equals, namespace, to_numpy
from kullback.errors import InputError, ShapeError

ADDITIVE = -1e4
"""A mask value this low is meant to be added to attention scores."""


def counted(mask: Column, shape: tuple[int, ...]) -> np.ndarray:
    """True where the mask counts a token.

    Raises:
        InputError: an entry that is neither True nor False, 1 nor 0.
        ShapeError: a mask of another shape.
    """
    if mask.values.shape != shape:
        raise ShapeError(_shape_sentence(mask.values, shape))
    if mask.absent is not None and mask.absent.any():
        row, token = (int(i) for i in np.argwhere(mask.absent)[0])
        raise InputError(f"mask[{row}, {token}] is None, but a mask is bool, or exactly 0 and 1")
    if mask.values.dtype == bool:
        return mask.values
    shown = np.ones(shape, dtype=bool) if mask.hidden is None else ~mask.hidden
    check_mask(mask.values, shown)
    return np.asarray((mask.values == 1) & shown)


def check_mask(mask: Array, shown: np.ndarray | None = None, name: str = "mask") -> None:
    """Hold that the values of a mask (of any library, at hand) are exactly 0 and 1.

    Raises:
        InputError: they are not.
    """
    if not can_look(mask):
        return
    odd = ~(equals(mask, 0) | equals(mask, 1))
    if not bool(namespace(odd).any(odd)):
        return
    values = to_numpy(mask)
    bad = to_numpy(odd) if shown is None else to_numpy(odd) & shown
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        found, at = values[place], ", ".join(map(str, place))
        raise InputError(f"{name}[{at}] is {found:g}, but a mask is bool, or exactly 0 and 1: {_cause(values, found)}")


def _cause(values: np.ndarray, found: Any) -> str:
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if np.isnan(found):
        return "pass True where a token counts"
    if (known == -100).any():
        return "labels with -100 where a token is ignored give the mask labels != -100"
    if (known <= ADDITIVE).any() and (known <= 0).all():
        return "a mask that is added to attention scores, 0 where a token counts, gives the mask mask == 0"
    if (known >= 0).all() and (known <= 1).all():
        return "weights of tokens are no mask; pass mask > 0 if every token with a weight counts once"
    if (known == known.round()).all() and (known >= 0).all():
        return "numbers of tokens, positions or segments are no mask; pass mask > 0 if all above 0 count"
    return "pass True where a token counts"


def _shape_sentence(mask: np.ndarray, shape: tuple[int, ...]) -> str:
    sentence = f"mask has shape {tuple(mask.shape)} and logprobs {shape}: "
    if mask.shape == shape[:1] and mask.dtype.kind in "iu":
        return sentence + "lengths of rows give the mask np.arange(time) < lengths[:, None]"
    if mask.ndim == 2 and len(shape) == 2 and mask.shape[0] == shape[0] and mask.shape[1] == shape[1] + 1:
        return sentence + "log-probs of a shifted sequence have no first token, which gives mask[:, 1:]"
    return sentence + "all token arrays share one (batch, time) shape, and none is broadcast"
