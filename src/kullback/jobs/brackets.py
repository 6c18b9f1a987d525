"""From the lists of likely words of two files: between what bounds the KL of their laws lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kullback.errors import InputError
from kullback.rollouts.joining import Pair
from kullback.rollouts.record import LOGPROB_COLUMNS, Rollout

if TYPE_CHECKING:
    from torch import Tensor

Word = int | str


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What two laws' lists of words say of KL(first‖second) of the next token, at the places that both list.

    Attributes:
        lower, upper: bounds on the sum over those places, in nats; upper is inf where the lists allow none.
        positions: places that both list words of.
        without: counted places that one of them lists none of; they are in neither bound.
        missing, ref_missing: the mean probability outside the words that both list, under the first and the second.
        most_missing: the largest of the first's.
    """

    lower: float
    upper: float
    positions: int
    without: int
    missing: float
    ref_missing: float
    most_missing: float

    def __add__(self, other: Bracket) -> Bracket:
        """Both, with their means weighted by their places."""
        total = max(1, self.positions + other.positions)
        means = {
            name: (self.positions * getattr(self, name) + other.positions * getattr(other, name)) / total
            for name in ("missing", "ref_missing")
        }
        return Bracket(
            lower=self.lower + other.lower,
            upper=self.upper + other.upper,
            positions=self.positions + other.positions,
            without=self.without + other.without,
            most_missing=max(self.most_missing, other.most_missing),
            **means,
        )


NOTHING = Bracket(lower=0.0, upper=0.0, positions=0, without=0, missing=0.0, ref_missing=0.0, most_missing=0.0)


def topk_bracket(first: Rollout, second: Rollout, *, max_log_ratio: float | None = None) -> Bracket:
    """Bounds on KL(first‖second), summed over the places of a sequence at which both files list words.

    At each place S is the words that both list, and the drawn token, whose log-prob both give: lower is the KL of S and
    all other words taken as one, upper is known only where log(first/second) ≤ B outside S. Missing mass is what S
    leaves out. There is no estimate: servers put the drawn token into the list, so that S depends on it.

    Args:
        first, second: the same tokens, as `kullback.rollouts.joining.pairs` gives them, each of one law with `top`.
        max_log_ratio: B, known from elsewhere; None for no upper bound.

    Raises:
        InputError: words by id in one and by text in the other, masses above 1, a bound that the masses exceed.
        MissingPackageError: torch is not installed.

    Source:
        `kullback.vocab.topk_kl`, which says more.
    """
    sides = [_lists(one) for one in (first, second)]
    counted = np.flatnonzero(first.counted & second.counted)
    both = [place for place in counted if sides[0][place] and sides[1][place]]
    if not both:
        return Bracket(**{**vars(NOTHING), "without": len(counted)})
    lists = [[side[place] for place in both] for side in sides]
    bounds = _bounds(lists[0], lists[1], max_log_ratio)
    lower, upper = (float(one.double().sum()) for one in bounds)
    outside, ref_outside = (_outside(mine, other) for mine, other in (lists, reversed(lists)))
    return Bracket(
        lower=lower,
        upper=upper,
        positions=len(both),
        without=len(counted) - len(both),
        missing=float(np.mean(outside)),
        ref_missing=float(np.mean(ref_outside)),
        most_missing=float(np.max(outside)),
    )


def topk_brackets(pairs: Iterable[Pair], *, max_log_ratio: float | None = None) -> Bracket:
    """`topk_bracket` of many sequences, added up."""
    found = (topk_bracket(first, second, max_log_ratio=max_log_ratio) for first, second in pairs)
    return sum(found, NOTHING)


def _bounds(
    first: Sequence[Mapping[Word, float]], second: Sequence[Mapping[Word, float]], max_log_ratio: float | None
) -> tuple[Tensor, Tensor]:
    from kullback.vocab import topk_kl  # torch

    lower, upper, _ = topk_kl(list(first), list(second), max_log_ratio=max_log_ratio)
    return lower, upper


def _lists(rollout: Rollout) -> list[dict[Word, float]]:
    """The words of every place, with the drawn token among them where words are named as it is."""
    if rollout.top is None:
        return [{}] * rollout.length
    laws = [one for name in LOGPROB_COLUMNS if (one := getattr(rollout, name)) is not None]
    if len(laws) != 1:
        raise InputError("a side of a bracket is a rollout of one law, the one that its lists are of")
    places: list[dict[Word, float]] = [{**words} for words in rollout.top]  # type: ignore[dict-item]
    for place, words in enumerate(places):
        if rollout.tokens is not None and words and all(isinstance(word, int) for word in words):
            words.setdefault(int(rollout.tokens[place]), float(laws[0][place]))
    return places


def _outside(mine: Sequence[Mapping[Word, float]], other: Sequence[Mapping[Word, float]]) -> list[float]:
    """The probability outside the words that both list, at each place."""
    kept = ([value for word, value in a.items() if word in b] for a, b in zip(mine, other, strict=True))
    return [max(0.0, 1.0 - float(np.exp(values).sum())) for values in kept]
