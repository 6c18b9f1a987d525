"""How a function puts the rows of a batch together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject
from kullback.auditing.worlds import Setting, columns

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns

Coupling = Literal["mean", "sum", "token mean", "coupled"]
SEPARABLE: tuple[Coupling, ...] = ("mean", "sum", "token mean")
"""Where each row's result can be had from a batch of its own."""


def coupling(subject: Subject, setting: Setting) -> Coupling:
    """How rows are put together, from batches of two sequences of different lengths."""
    given = {name: array.detach() for name, array in columns(setting).items()}
    try:
        seen = list(_possible(subject, given))
    except CallFailed:
        # A baseline that leaves the row out needs another row.
        return "coupled"
    return next((kind for kind in SEPARABLE if all(kind in fitting for fitting in seen)), "coupled")


def _possible(subject: Subject, given: Columns) -> Iterator[frozenset[Coupling]]:
    """What each batch of two leaves possible."""
    lengths = given["mask"].sum(-1)
    count = len(lengths)
    for a, b in ((0, count - 1), (count // 2, 1), (count - 1, count // 2)):
        one, other, both = (subject(given, rows).double().detach().numpy() for rows in ([a], [b], [a, b]))
        if subject.kind != "scalar":
            yield frozenset({"mean"}) if _close(both, np.concatenate([one, other])) else frozenset({"coupled"})
            continue
        share = float(lengths[a] / (lengths[a] + lengths[b]))
        expected: dict[Coupling, np.ndarray] = {
            "mean": (one + other) / 2,
            "sum": one + other,
            "token mean": share * one + (1 - share) * other,
        }
        yield frozenset(kind for kind, value in expected.items() if _close(both, np.asarray(value)))


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True))
