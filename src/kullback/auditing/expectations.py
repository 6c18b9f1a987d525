"""Exact expectations of what a function returns, and of the gradient it gives where it is placed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.options import Credit, Placement, Sampler
from kullback.auditing.subject.columns import BEHAVIOR
from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import differentiate, masked
from kullback.auditing.worlds import Aspect, Setting, columns, logits, probability

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

Weight = Literal["sequence", "length", "width", "words", "cells"]
"""What each sequence's result is multiplied by: 1, its length, the padded width, the vocabulary, or the last two."""

WEIGHTS: tuple[Weight, ...] = ("sequence", "width", "length")
OF_WORDS: tuple[Weight, ...] = ("words", "cells")
"""Of functions of whole distributions alone."""

CREDITED: dict[Credit, Callable[[Tensor], Tensor]] = {
    "return": lambda c: c.sum(-1, keepdim=True).expand(c.shape),
    "reward_to_go": lambda c: c.flip(-1).cumsum(-1).flip(-1),
    "own_token": lambda c: c,
}
"""What each token's log-prob is credited with, from the penalties of a sequence's tokens."""


@dataclass(frozen=True)
class Expectation:
    """E of the value and of the gradient in one world.

    Attributes:
        value: E of the result, one number.
        spread: E|result|, what rounding errors are relative to.
        carried: E of what is minimised, which keeps its graph.
        logits: the policy's.
    """

    value: Float64
    spread: float
    carried: Tensor
    logits: Tensor

    @cached_property
    def gradient(self) -> Float64:
        """E of ∇, flattened, in the policy's logits: only where it is asked for, as a backward pass is most of a call.

        Raises:
            CallFailed: the function's own backward pass raised.
        """
        found: Float64 = differentiate(self.carried, [self.logits])[0].numpy().ravel()
        return found

    def of(self, aspect: Aspect) -> Float64:
        """One of the two, as a vector."""
        return self.value if aspect == "value" else self.gradient


@dataclass(frozen=True)
class Placed:
    """A function where it stands.

    Attributes:
        subject: the function.
        placement: where its result goes.
        credit: in the reward, what a token's log-prob is credited with.
    """

    subject: Subject
    placement: Placement
    credit: Credit

    def carried(self, tokens: Tensor, mask: Tensor, logprobs: Tensor) -> Tensor:
        """What is minimised, a number a row: the results, or in the reward what carries them as credit."""
        if self.placement not in ("reward", "bonus"):
            return tokens.sum(-1)
        sign = -1.0 if self.placement == "bonus" else 1.0
        credited = sign * CREDITED[self.credit](tokens.detach()) * mask
        return (credited * logprobs).sum(-1)


def expectation(
    placed: Placed,
    setting: Setting,
    sampler: Sampler,
    known: dict[tuple[Setting, Sampler], Tensor],
    weight: Weight = "sequence",
) -> Expectation:
    """E over every sequence of a world, each a batch of its own.

    With a weight each sequence's result is multiplied by its length, by the padded width or by the size of the
    vocabulary, which undoes a division by it. The function runs once for all of them, and once for all samplers
    where it reads nothing of what drew the samples: only the probabilities of the sequences are others then.
    """
    chance = probability(setting, sampler)
    source = source_of(placed.subject, setting, sampler)
    given = columns(setting, source)
    mask = given["mask"]
    if (setting, source) not in known:
        known[setting, source] = _by_token(placed.subject, given, len(chance))
    tokens = known[setting, source]
    carried = placed.carried(tokens, mask, given["logprobs"])
    factor = _factor(weight, mask, max(given["log_distributions"].shape[-1], placed.subject.words))
    return _expectation(setting, source, chance, tokens.sum(-1) * factor, carried * factor)


def _factor(weight: Weight, mask: Tensor, words: int) -> Tensor | float:
    """What undoes a division."""
    width = mask.shape[1]
    constant = {"sequence": 1.0, "width": width, "words": words, "cells": width * words}
    return mask.sum(-1) if weight == "length" else constant[weight]


def source_of(subject: Subject, setting: Setting, sampler: Sampler) -> Sampler:
    """The sampler whose columns a function may be run on: the policy's, where it cannot tell them apart."""
    same_rows = len(probability(setting, "on_policy")) == len(probability(setting, sampler))
    return "on_policy" if same_rows and not BEHAVIOR & subject.wires.wanted else sampler


def _by_token(subject: Subject, given: Columns, count: int) -> Tensor:
    """(sequences, time) where the function returns a number a token, else (sequences, 1)."""
    if subject.kind == "token":
        result = subject(given)
        return masked(result, given["mask"][:, : result.shape[1]]).double()
    if subject.kind == "row":
        return subject(given)[:, None].double()
    return subject.each(given, [[i] for i in range(count)])[:, None].double()


def batch_expectation(placed: Placed, setting: Setting, sampler: Sampler, rows: int) -> Expectation:
    """E over every batch of `rows` independent sequences, for functions that couple them."""
    import torch

    given, chance = columns(setting, sampler), probability(setting, sampler)
    batches = [list(batch) for batch in itertools.product(range(len(chance)), repeat=rows)]
    result = placed.subject.each(given, batches).double()
    index = torch.tensor(batches)
    mask, logprobs = given["mask"][index], given["logprobs"][index]
    if placed.subject.kind == "token":
        tokens = masked(result, mask[..., : result.shape[-1]])
    else:
        tokens = result.reshape(len(batches), -1, 1).expand(-1, rows, 1)
    carried = placed.carried(tokens, mask, logprobs).mean(-1)
    return _expectation(setting, sampler, chance[index].prod(-1), tokens.sum(-1).mean(-1), carried)


def _expectation(setting: Setting, sampler: Sampler, chance: Tensor, results: Tensor, carried: Tensor) -> Expectation:
    value = float((chance * results.detach()).sum())
    spread = float((chance * results.detach().abs()).sum())
    return Expectation(np.array([value]), spread, (chance * carried).sum(), logits(setting, sampler))
