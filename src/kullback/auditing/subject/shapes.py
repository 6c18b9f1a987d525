"""What a function returns: one number, one a row, or one a token."""

from __future__ import annotations

from math import prod
from typing import Literal

from kullback.auditing.subject.failures import CallFailed

Kind = Literal["scalar", "row", "token"]
KINDS: tuple[Kind, ...] = ("scalar", "row", "token")
Shape = tuple[int, ...]


def fits(kind: Kind, got: Shape, batch: Shape) -> bool:
    """Whether a result of shape `got`, of a call on (batch, time) arrays, is of a kind."""
    if kind == "scalar":
        return prod(got) == 1
    return got in ((batch[0],), (batch[0], 1)) if kind == "row" else got == batch


def kind_of(got: Shape, batch: Shape) -> Kind:
    """The first kind that a result fits.

    Raises:
        CallFailed: it fits none.
    """
    for kind in KINDS:
        if fits(kind, got, batch):
            return kind
    raise wrong_shape(got, batch)


def wrong_shape(got: Shape, batch: Shape) -> CallFailed:
    """What is wrong with a result that fits no kind, or not the one that it had before."""
    return CallFailed(
        "KB002",
        f"for arrays of shape {batch} the function returned shape {got}: "
        f"a scalar, one number a row {(batch[0],)} or one a token {batch} is needed",
    )
