"""KL code that real batches break: masks, padding, places, temperatures, rounding, ratios; the code that names each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from wrong_code import METRIC, REWARD, Case, exact_k3, masked

OWN = {"placement": "reward", "credit": "own_token"}
BONUS = {"placement": "bonus"}


def no_mask_at_all(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).sum(1).mean()


def no_mask_k3(new, ref):
    return exact_k3(new - ref).sum(-1)


def mask_never_read(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(1).mean()


def mask_never_read_of_distributions(log_distributions, ref_log_distributions, mask):
    return (log_distributions.exp() * (log_distributions - ref_log_distributions)).sum((-1, -2))


def mask_as_a_length(logprobs, ref_logprobs, mask):
    keep = torch.arange(mask.shape[1]) < mask.sum(-1, keepdim=True)
    return masked(logprobs - ref_logprobs, keep).sum(-1)


def lengths_from_the_mask_in_a_loop(logprobs, ref_logprobs, mask):
    lengths = mask.sum(-1).tolist()
    return torch.stack([(logprobs[i, :n] - ref_logprobs[i, :n]).sum() for i, n in enumerate(map(int, lengths))])


def first_of_the_mask_to_the_end(logprobs, ref_logprobs, mask):
    last = mask.shape[1] - 1 - mask.int().flip(-1).argmax(-1, keepdim=True)
    return masked(logprobs - ref_logprobs, torch.arange(mask.shape[1]) <= last).sum(-1)


def leaking_reward_to_go(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).flip(-1).cumsum(-1).flip(-1)


def leaking_centring(logprobs, ref_logprobs, mask):
    x = logprobs - ref_logprobs
    return x - x.mean() + masked(x, mask).mean() * 0


def exponential_before_the_mask(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return ((torch.expm1(x) - x) * mask).sum(-1)


def ratio_before_the_mask(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(logprobs - old_logprobs)
    return (rho * (logprobs - ref_logprobs) * mask).sum(-1)


def indexed_by_integers(logprobs, ref_logprobs, completion_mask):
    pairs = zip(logprobs - ref_logprobs, completion_mask, strict=True)
    return torch.stack([row[counted].sum() for row, counted in pairs])


def late_by_one(logprobs, ref_logprobs, mask):
    return masked(logprobs[:, 1:] - ref_logprobs[:, :-1], mask[:, 1:]).sum(-1)


def early_by_one(logprobs, ref_logprobs, mask):
    return masked(exact_k3(logprobs[:, :-1] - ref_logprobs[:, 1:]), mask[:, 1:]).sum(-1)


def rolled(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs.roll(1, -1), mask).sum(-1)


def temperature_of_logprobs(logprobs, ref_logprobs, mask):
    return logprobs / 0.7 - ref_logprobs


def temperature_of_the_reference(logprobs, ref_logprobs, mask):
    return masked(exact_k3(logprobs - 0.8 * ref_logprobs), mask).sum(-1)


def temperature_of_logits(logits, ref_logits, mask):
    q, p = (logits / 0.6).log_softmax(-1), ref_logits.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1)


def temperature_of_teacher_logits(student_logits, teacher_logits, mask):
    q, p = student_logits.log_softmax(-1), (teacher_logits / 2.0).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def last_token_twice(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask)
    last = mask.sum(-1, keepdim=True).long() - 1
    return x.sum(-1) + x.gather(-1, last)[:, 0]


def chunk_borders_twice(logprobs, ref_logprobs, mask, chunk=8):
    x = masked(logprobs - ref_logprobs, mask)
    return sum(x[:, max(0, start - 1) : start + chunk].sum(-1) for start in range(0, x.shape[1], chunk))


def truncated_at_32_tokens(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask)[:, :32].sum(-1)


def length_bonus(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs - 0.01


def rounded_to_a_tenth(logprobs, ref_logprobs, mask):
    return torch.round(masked(logprobs - ref_logprobs, mask).sum(-1), decimals=1)


def computes_in_bfloat16(logprobs, ref_logprobs, mask):
    x = (ref_logprobs - logprobs).bfloat16()
    return (x.exp() - x - 1).float()


def computes_in_float16(logprobs, ref_logprobs, mask):
    return masked(logprobs.half() - ref_logprobs.half(), mask).sum(-1).double()


def casts_with_to(logprobs, ref_logprobs, mask):
    return logprobs.to(torch.bfloat16) - ref_logprobs.to(torch.bfloat16)


def infinities_to_zero(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return torch.nan_to_num(torch.expm1(x) - x, posinf=0.0)


def kl_div_of_excluded_words(log_distributions, ref_log_distributions, mask):
    return F.kl_div(ref_log_distributions, log_distributions, log_target=True, reduction="none").sum(-1)


def zero_coefficient_keeps_nan(logprobs, ref_logprobs, mask, beta=0.1):
    x = ref_logprobs - logprobs
    return beta * masked(torch.expm1(x) - x, mask).sum(-1)


def old_policy_for_the_reference(logprobs, old_logprobs, ref_logprobs, mask):
    return masked(logprobs - old_logprobs, mask).sum(-1)


def reference_is_not_read(logprobs, ref_logprobs, mask):
    return masked(0.5 * logprobs**2, mask).sum(-1)


def compared_with_itself(logprobs, ref_logprobs, mask):
    return masked(logprobs - logprobs.detach(), mask).sum(-1)


def rejection_band(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(logprobs - old_logprobs)
    return rho * ((rho > 0.5) & (rho < 2)) * (logprobs - ref_logprobs)


def inverted_clip(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(logprobs - old_logprobs).clamp(min=2.0, max=0.5)
    return rho * (logprobs - ref_logprobs)


def inverted_band(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(logprobs - old_logprobs)
    return rho * ((rho < 0.5) | (rho > 2)) * (logprobs - ref_logprobs)


def own_token_k3(logprobs, ref_logprobs, mask):
    return exact_k3(logprobs - ref_logprobs)


def own_token_abs(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).abs()


def penalty_as_a_bonus(logq, logp, score, beta=0.1):
    return beta * (logq - logp) + score


def wired_by_place_it_was_right(logprobs_ref, logprobs_current, mask):
    return ((logprobs_ref - logprobs_current) * mask).sum(-1)


def end_dropped_by_id(logprobs, ref_logprobs, mask, tokens, eos_token_id):
    return masked(logprobs - ref_logprobs, mask & (tokens != eos_token_id)).sum(-1)


def whole_loss_with_k3(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta):
    rho, gain = torch.exp(logprobs - old_logprobs.detach()), advantages.unsqueeze(1)
    policy = -torch.minimum(rho * gain, rho.clamp(0.8, 1.2) * gain)
    return masked(policy + beta * exact_k3(logprobs - ref_logprobs), mask).sum(-1).mean()


def whole_loss_with_an_entropy(logprobs, ref_logprobs, mask, cfg):
    x = logprobs - ref_logprobs
    return masked(cfg.beta * x + 0.01 * logprobs, mask).sum(-1).mean()


def engine_metric_squared(trainer_logprobs, inference_logprobs, mask):
    return masked(0.5 * (trainer_logprobs - inference_logprobs) ** 2, mask).sum(-1)


BATCHES = (
    Case(no_mask_at_all, "KB407", METRIC),
    Case(no_mask_k3, "KB407", METRIC),
    Case(mask_never_read, "KB401", METRIC),
    Case(mask_never_read_of_distributions, "KB401", METRIC),
    Case(mask_as_a_length, "KB405", REWARD),
    Case(lengths_from_the_mask_in_a_loop, "KB405", REWARD),
    Case(first_of_the_mask_to_the_end, "KB405", REWARD),
    Case(leaking_reward_to_go, "KB401", OWN),
    Case(leaking_centring, "KB401", REWARD),
    Case(exponential_before_the_mask, "KB406", METRIC),
    Case(ratio_before_the_mask, "KB406"),
    Case(indexed_by_integers, "KB408", REWARD),
    Case(late_by_one, "KB410", REWARD),
    Case(early_by_one, "KB410", METRIC),
    Case(rolled, "KB410", REWARD),
    Case(temperature_of_logprobs, "KB114", REWARD),
    Case(temperature_of_the_reference, "KB114", METRIC),
    Case(temperature_of_logits, "KB114", METRIC),
    Case(temperature_of_teacher_logits, "KB114"),
    Case(last_token_twice, "KB409", REWARD),
    Case(chunk_borders_twice, "KB409", REWARD),
    Case(truncated_at_32_tokens, "KB409", REWARD),
    Case(length_bonus, "KB106", REWARD),
    Case(rounded_to_a_tenth, "KB310", METRIC),
    Case(computes_in_bfloat16, "KB305"),
    Case(computes_in_float16, "KB305", METRIC),
    Case(casts_with_to, "KB305", REWARD),
    Case(infinities_to_zero, "KB308", METRIC),
    Case(kl_div_of_excluded_words, "KB307"),
    Case(zero_coefficient_keeps_nan, "KB309"),
    Case(old_policy_for_the_reference, "KB112", REWARD),
    Case(reference_is_not_read, "KB112"),
    Case(compared_with_itself, "KB112"),
    Case(rejection_band, "KB508"),
    Case(inverted_clip, "KB509"),
    Case(inverted_band, "KB509"),
    Case(own_token_k3, "KB209", OWN),
    Case(own_token_abs, "KB209", OWN),
    Case(penalty_as_a_bonus, "KB102", BONUS),
    Case(penalty_as_a_bonus, "KB205", BONUS),
    Case(wired_by_place_it_was_right, "KB102", REWARD),
    Case(end_dropped_by_id, "KB403", REWARD),
    Case(whole_loss_with_k3, "KB202"),
    Case(whole_loss_with_k3, "KB202", {"placement": "loss", "settings": {"advantages": "ones"}}),
    Case(whole_loss_with_an_entropy, "KB201", {"placement": "loss", "settings": {"cfg.beta": 0.04}}),
    Case(engine_metric_squared, "KB101", METRIC),
    Case(own_token_k3, "KB101", {"placement": "metric", "sampler": "off_policy"}),
    Case(own_token_k3, "KB107", {"placement": "metric", "sampler": "from_reference"}),
)
