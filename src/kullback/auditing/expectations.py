"""Exact expectations of what a function returns, and of the gradient it gives where it is placed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kullback.arrays import Array, Float64
from kullback.auditing.subject.arrays import differentiate
from kullback.auditing.subject.wiring import Subject
from kullback.auditing.worlds import Setting, columns, possible, probability, world

Placement = Literal["loss", "reward", "metric"]
Credit = Literal["return", "reward_to_go", "own_token"]
Weight = Literal["sequence", "length", "width"]

CREDITS: dict[str, Callable[[Array], Array]] = {
    "return": lambda c: c.sum(-1, keepdim=True).expand(c.shape),
    "reward_to_go": lambda c: c.flip(-1).cumsum(-1).flip(-1),
    "own_token": lambda c: c,
}
"""What each token's log-prob is credited with, from the penalties of a sequence's tokens."""

WEIGHTS: dict[Weight, str] = {
    "sequence": "a sequence",
    "length": "a token (each sequence divided by its own length)",
    "width": "a padded position",
}


@dataclass(frozen=True)
class Moments:
    """E of the value and of the gradient in one world.

    Attributes:
        value: E of the result, one number.
        gradient: E of ∇, flattened, in the policy's logits.
        spread: E|result|, what rounding errors are relative to.
    """

    value: Float64
    gradient: Float64
    spread: float


def moments(
    subject: Subject, setting: Setting, sampler: str, placement: Placement, credit: Credit, weight: Weight = "sequence"
) -> Moments:
    """E over every sequence of a world, each a batch of its own.

    With `weight` each sequence's result is multiplied by its length, or by the padded width, which undoes a
    division by it.
    """
    given = columns(setting, sampler)
    chance = probability(setting, sampler)
    tokens = _by_token(subject, given, len(chance))
    factor = {"sequence": 1.0, "length": given["mask"].sum(-1), "width": given["mask"].shape[1]}[weight]
    results = tokens.sum(-1) * factor
    carried = results
    if placement == "reward":
        credited = CREDITS[credit](tokens.detach()) * given["mask"]
        carried = (credited * given["logprobs"]).sum(-1) * factor
    return _moments(setting, sampler, chance, results, carried)


def _by_token(subject: Subject, given: dict[str, Array], count: int) -> Array:
    """(sequences, time) where the function returns a number a token, else (sequences, 1)."""
    import torch

    if subject.kind == "token":
        result = subject(given)
        mask = given["mask"][:, : result.shape[1]]
        return torch.where(mask, result, torch.zeros_like(result)).double()
    if subject.kind == "row":
        return subject(given)[:, None].double()
    return torch.stack([subject(given, slice(i, i + 1)) for i in range(count)])[:, None].double()


def batch_moments(
    subject: Subject, setting: Setting, sampler: str, placement: Placement, credit: Credit, rows: int
) -> Moments:
    """E over every batch of `rows` independent sequences, for functions that couple them."""
    import torch

    given, chance = columns(setting, sampler), probability(setting, sampler)
    results, carried, weights = [], [], []
    for batch in itertools.product(range(len(chance)), repeat=rows):
        index = list(batch)
        weights.append(chance[index].prod())
        result = subject(given, index).double()
        mask = given["mask"][index]
        if subject.kind == "token":
            result = torch.where(mask[:, : result.shape[1]], result, torch.zeros_like(result))
        tokens = result if subject.kind == "token" else result.reshape(-1, 1).expand(rows, 1)
        results.append(tokens.sum(-1).mean())
        if placement == "reward":
            credited = CREDITS[credit](tokens.detach()) * mask
            carried.append((credited * given["logprobs"][index]).sum(-1).mean())
    values = torch.stack(results)
    return _moments(
        setting, sampler, torch.stack(weights), values, torch.stack(carried) if placement == "reward" else values
    )


def _moments(setting: Setting, sampler: str, chance: Array, results: Array, carried: Array) -> Moments:
    logits = world(setting, sampler).policy.logits
    value = float((chance * results.detach()).sum())
    spread = float((chance * results.detach().abs()).sum())
    gradient = differentiate((chance * carried).sum(), [logits])[0]
    return Moments(np.array([value]), gradient.numpy().ravel(), spread)


Coupling = Literal["mean", "sum", "token mean", "coupled"]


def coupling(subject: Subject, setting: Setting) -> Coupling:
    """How the rows of a batch are put together, from batches of two sequences of different lengths."""
    import torch

    given = {name: array.detach() for name, array in columns(setting).items()}
    votes = set(_couplings(subject, given, torch))
    for kind in ("mean", "sum", "token mean"):
        if votes and all(kind in vote for vote in votes):
            return kind
    return "coupled"


def _couplings(subject: Subject, given: dict[str, Array], torch: object) -> Iterator[frozenset[str]]:
    lengths = given["mask"].sum(-1)
    count = len(lengths)
    for a, b in ((0, count - 1), (count // 2, 1), (count - 1, count // 2)):
        one, other, both = (subject(given, rows).double() for rows in ([a], [b], [a, b]))
        if subject.kind != "scalar":
            alone = np.concatenate([one.detach().numpy(), other.detach().numpy()])
            yield frozenset({"mean"} if _close(both.detach().numpy(), alone) else {"coupled"})
            continue
        x, y, got = (float(v.detach()) for v in (one, other, both))
        share = float(lengths[a] / (lengths[a] + lengths[b]))
        forms = {"mean": (x + y) / 2, "sum": x + y, "token mean": share * x + (1 - share) * y}
        yield frozenset(name for name, expected in forms.items() if _close(np.array(got), np.array(expected)))


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True))


def sequences(setting: Setting, sampler: str) -> int:
    """How many sequences a world's sampler can draw."""
    return len(possible(setting, sampler))
