"""KL code that mixes rows up, and right code that moves them and puts them back."""

from __future__ import annotations

import math
from typing import Any

import torch
from wrong_code import METRIC, REWARD, Case, masked


def sorted_rows(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1).sort().values


def longest_first_and_left_so(logprobs, ref_logprobs, mask):
    order = mask.sum(-1).argsort(descending=True, stable=True)
    return masked(logprobs - ref_logprobs, mask)[order].sum(-1)


def last_row_lost(logprobs, ref_logprobs, mask):
    rows = [masked(q - p, m).sum() for q, p, m in zip(logprobs, ref_logprobs, mask, strict=True)]
    return torch.stack([*rows[:-1], 0 * rows[-1]])


def third_row_lost(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return torch.where(torch.arange(len(x)) == 2, 0 * x, x)


def first_row_twice(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return (x.sum() + x[0]) / (len(x) + 1)


def mask_of_the_row_before(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask.roll(1, 0)).sum(-1)


def mask_from_its_first_token_on(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask.cumsum(-1) > 0).sum(-1)


def up_to_the_first_hole(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask.cumprod(-1).bool()).sum(-1)


def probabilities_floored(logprobs, ref_logprobs, mask):
    q, p = (x.exp().clamp(min=0.3).log() for x in (logprobs, ref_logprobs))
    return masked(q - p, mask).sum(-1)


def square_of_the_sum(logprobs, ref_logprobs, mask):
    return 0.5 * masked(logprobs - ref_logprobs, mask).sum(-1) ** 2


class _Negated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return -grads[0]


def negated_backward(logprobs, ref_logprobs, mask):
    return masked(0.5 * (_Negated.apply(logprobs) - ref_logprobs) ** 2, mask).sum(-1)


def in_bits(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1) / math.log(2)


ROWS = (
    Case(sorted_rows, "KB116", REWARD),
    Case(longest_first_and_left_so, "KB116", REWARD),
    Case(last_row_lost, "KB116", REWARD),
    Case(first_row_twice, "KB116", METRIC),
    Case(third_row_lost, "KB115", REWARD),
    Case(mask_of_the_row_before, "KB401", REWARD),
    Case(mask_from_its_first_token_on, "KB401", REWARD),
    Case(up_to_the_first_hole, "KB405", REWARD),
    Case(probabilities_floored, "KB101", METRIC),
    Case(square_of_the_sum, "KB101", REWARD),
    Case(negated_backward, "KB205"),
    Case(in_bits, "KB109", METRIC),
)


def sorted_and_put_back(logprobs, ref_logprobs, mask):
    order = mask.sum(-1).argsort(descending=True)
    return masked(logprobs - ref_logprobs, mask)[order].sum(-1)[order.argsort()]


def by_buckets_of_length(logprobs, ref_logprobs, mask):
    lengths, found = mask.sum(-1), torch.zeros(len(mask), dtype=logprobs.dtype)
    for length in lengths.unique():
        rows = (lengths == length).nonzero()[:, 0]
        found = found.index_copy(0, rows, masked(logprobs[rows] - ref_logprobs[rows], mask[rows]).sum(-1))
    return found


def sorted_metric(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1).sort().values


def added_to_rows_by_index(logprobs, ref_logprobs, mask):
    row, place = mask.nonzero(as_tuple=True)
    return torch.zeros(len(mask), dtype=logprobs.dtype).index_add(0, row, (logprobs - ref_logprobs)[row, place])


def by_einsum(logprobs, ref_logprobs, mask):
    return torch.einsum("bt,bt->b", masked(logprobs - ref_logprobs, mask), mask.to(logprobs.dtype))


IN_PLACE = (
    Case(sorted_and_put_back, options=REWARD),
    Case(by_buckets_of_length, options=REWARD),
    Case(sorted_metric, options=METRIC),
    Case(added_to_rows_by_index, options=REWARD),
    Case(by_einsum, options=REWARD),
)
"""Right code of the same kinds."""
