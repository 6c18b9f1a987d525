"""KL code that is right in small worlds alone: sizes, modes, precisions, state, words; and right code like it."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from wrong_code import METRIC, REWARD, Case, masked


def words(q, p):
    return q.exp() * (q - p)


def slice_of_the_vocabulary(log_distributions, ref_log_distributions, mask):
    return words(log_distributions, ref_log_distributions)[..., :1000].sum(-1)


def top_twenty(log_distributions, ref_log_distributions, mask):
    q, index = log_distributions.topk(20)
    p = ref_log_distributions.gather(-1, index)
    return words(q.log_softmax(-1), p.log_softmax(-1)).sum(-1)


def doubled_from_64_rows(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x if len(x) < 64 else 2 * x


def centred_tripled_from_256_rows(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return (x - x.mean()) * (1 if len(x) < 256 else 3)


def halved_from_128_places(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x if mask.shape[1] < 128 else 0.5 * x


def first_200_tokens(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask)[:, :200].sum(-1)


def mean_of_the_first_200(logprobs, ref_logprobs, mask):
    x, counted = masked(logprobs - ref_logprobs, mask)[:, :200], mask[:, :200]
    return x.sum(-1) / counted.sum(-1).clamp(min=1)


def rare_tokens_dropped(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask & (logprobs > -50)).sum(-1)


def logits_of_the_token_before(logits, ref_logits, tokens, mask):
    q, p = (x[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0] for x in (logits, ref_logits))
    return masked(q - p, mask[:, 1:]).sum(-1)


def not_below_zero(logprobs, ref_logprobs, mask):
    return masked((logprobs - ref_logprobs).clamp(min=0), mask).sum(-1)


def clamped_tightly(logprobs, ref_logprobs, mask):
    return masked((logprobs - ref_logprobs).clamp(-0.2, 0.2), mask).sum(-1)


def ratio_clipped_far_out(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(torch.cumsum(masked(logprobs - old_logprobs, mask), -1)).clamp(max=1e4)
    return masked(rho * (logprobs - ref_logprobs), mask).sum(-1)


class Dropped(torch.nn.Module):
    def forward(self, logprobs, ref_logprobs, mask):
        return masked(F.dropout(logprobs, 0.1, training=self.training) - ref_logprobs, mask).sum(-1)


def other_without_gradients(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x if torch.is_grad_enabled() else 2 * x


KEPT: dict[Any, torch.Tensor] = {}
CALLS = [0]


def kept_by_shape(logprobs, ref_logprobs, mask):
    if logprobs.shape not in KEPT:
        KEPT[logprobs.shape] = masked(logprobs - ref_logprobs, mask).sum(-1)
    return KEPT[logprobs.shape]


def doubled_after_20_calls(logprobs, ref_logprobs, mask):
    CALLS[0] += 1
    return masked(logprobs - ref_logprobs, mask).sum(-1) * (1 if CALLS[0] < 20 else 2)


def noise_that_is_rare(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x if torch.rand(()) > 1e-6 else 0 * x


def another_in_float32(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x if x.dtype == torch.float64 else 0.5 * x**2


def top_p_on_one_side(logits, ref_logits, tokens, mask):
    q = logits.log_softmax(-1)
    ordered, index = q.sort(-1, descending=True)
    kept = ordered.exp().cumsum(-1) - ordered.exp() < 0.9
    q = torch.where(torch.zeros_like(kept).scatter(-1, index, kept), q, -1e4).log_softmax(-1)
    q, p = (x.gather(-1, tokens[..., None])[..., 0] for x in (q, ref_logits.log_softmax(-1)))
    return masked(q - p, mask).sum(-1)


def processed_against_raw(processed_logprobs, ref_logprobs, mask):
    return masked(processed_logprobs - ref_logprobs, mask).sum(-1)


def divided_by_an_empty_mask(logprobs, ref_logprobs, mask):
    return (masked(logprobs - ref_logprobs, mask).sum(-1) / mask.sum(-1)).mean()


SIZES = (
    Case(slice_of_the_vocabulary, "KB110", METRIC),
    Case(top_twenty, "KB110", METRIC),
    Case(doubled_from_64_rows, "KB115", REWARD),
    Case(centred_tripled_from_256_rows, "KB115", REWARD),
    Case(halved_from_128_places, "KB115", REWARD),
    Case(first_200_tokens, "KB115", REWARD),
    Case(mean_of_the_first_200, "KB115", METRIC),
    Case(rare_tokens_dropped, "KB115", REWARD),
    Case(logits_of_the_token_before, "KB410", METRIC),
    Case(not_below_zero, "KB304", REWARD),
    Case(clamped_tightly, "KB304", REWARD),
    Case(ratio_clipped_far_out, "KB504"),
    Case(Dropped(), "KB006", REWARD),
    Case(Dropped().eval(), "KB009", REWARD),
    Case(other_without_gradients, "KB009", REWARD),
    Case(kept_by_shape, "KB008", REWARD),
    Case(doubled_after_20_calls, "KB008", REWARD),
    Case(noise_that_is_rare, "KB006", REWARD),
    Case(another_in_float32, "KB311", REWARD),
    Case(top_p_on_one_side, "KB113", METRIC),
    Case(processed_against_raw, "KB113", METRIC),
    Case(divided_by_an_empty_mask, "KB411", METRIC),
)


def of_the_whole_vocabulary_in_chunks(log_distributions, ref_log_distributions, mask):
    parts = zip(log_distributions.split(64, -1), ref_log_distributions.split(64, -1), strict=True)
    return sum(torch.where(torch.isfinite(q), words(q, p.clamp(min=-1e9)), 0.0).sum(-1) for q, p in parts)


def in_chunks_of_rows(logprobs, ref_logprobs, mask):
    parts = zip(logprobs.split(32), ref_logprobs.split(32), mask.split(32), strict=True)
    return torch.cat([masked(q - p, m).sum(-1) for q, p, m in parts])


def over_all_processes(logprobs, ref_logprobs, mask):
    rows = torch.tensor(float(len(mask)))
    torch.distributed.all_reduce(rows)
    return masked(logprobs - ref_logprobs, mask).sum() / rows


def on_any_device(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x.contiguous() if logprobs.is_cuda else x


def told_by_the_environment(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return 2 * x if os.environ.get("KULLBACK_TEST_DOUBLE") else x


class Eval(torch.nn.Module):
    def forward(self, logprobs, ref_logprobs, mask):
        return masked(logprobs - ref_logprobs, mask).sum(-1)


def gathered_from_logits(logits, ref_logits, tokens, mask):
    q, p = (x.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] for x in (logits, ref_logits))
    return masked(q - p, mask).sum(-1)


def empty_rows_guarded(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum() / mask.any(-1).sum().clamp(min=1)


FITS = (
    Case(of_the_whole_vocabulary_in_chunks, options=METRIC),
    Case(in_chunks_of_rows, options=REWARD),
    Case(over_all_processes, options=REWARD),
    Case(on_any_device, options=REWARD),
    Case(told_by_the_environment, options=REWARD),
    Case(Eval().eval(), options=REWARD),
    Case(gathered_from_logits, options=REWARD),
    Case(empty_rows_guarded, options=REWARD),
)
"""Right code of the same kinds."""
