"""KL code as it is found in the wild: one mistake a function, the code that must name it; and ten right ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

import kullback as kb

Tensor = torch.Tensor


@dataclass(frozen=True)
class Case:
    """A function, how it is meant, and the finding that names what is wrong with it; none for right code."""

    fn: Callable[..., Any]
    code: str = ""
    options: dict[str, Any] = field(default_factory=lambda: {"placement": "loss"})

    def __str__(self) -> str:
        return str(getattr(self.fn, "__name__", type(self.fn).__name__))


REWARD = {"placement": "reward"}
METRIC = {"placement": "metric"}


def masked(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, torch.zeros_like(x))


def exact_k3(x: Tensor) -> Tensor:
    return kb.K3(x)


def ratio_flipped(logprobs, ref_logprobs, mask):
    x = logprobs - ref_logprobs
    return masked(torch.expm1(x) - x, mask).sum(-1).mean()


def weighted_by_p_again(logprobs, ref_logprobs, mask):
    return F.kl_div(ref_logprobs, logprobs, log_target=True, reduction="none")


def weighted_by_q_over_p(logprobs, ref_logprobs, mask):
    x = logprobs - ref_logprobs
    return torch.exp(x) * x


def forward_from_policy_samples(logprobs, ref_logprobs, mask):
    """KL(p‖q) needs samples of p for this one."""
    x = ref_logprobs - logprobs
    return torch.exp(-x) + x - 1 - torch.exp(-x) * 0


def policy_log_ratio_on_reference_samples(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs


def padding_counted(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(-1).mean()


def padding_in_the_mean(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).mean()


def missing_half(logprobs, ref_logprobs, mask):
    return masked((logprobs - ref_logprobs) ** 2, mask).sum(-1).mean()


def k3_clamped(logprobs, ref_logprobs, mask):
    x = (ref_logprobs - logprobs).clamp(-20, 20)
    return (torch.expm1(x) - x).clamp(-10, 10)


def log_ratio_clamped(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).clamp(-5, 5)


def k1_in_the_loss(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1).mean()


def k3_in_the_loss(logprobs, ref_logprobs, mask):
    return masked(exact_k3(logprobs - ref_logprobs), mask).sum(-1).mean()


def k2_token_by_token(logprobs, ref_logprobs, mask):
    return masked(0.5 * (logprobs - ref_logprobs) ** 2, mask).sum(-1).mean()


def k3_in_the_reward(logprobs, ref_logprobs, mask):
    return exact_k3(logprobs - ref_logprobs)


def k2_logged(logprobs, ref_logprobs, mask):
    return masked(0.5 * (logprobs - ref_logprobs) ** 2, mask).sum(-1)


def absolute(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).abs()


def no_reward_to_go(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs


def sign_flipped_reward(logprobs, ref_logprobs, mask):
    return ref_logprobs - logprobs


def sign_flipped_metric(logprobs, ref_logprobs, mask):
    return masked(ref_logprobs - logprobs, mask).sum(-1)


def batch_mean_baseline(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x - x.mean()


def whitened(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return (x - x.mean()) / (x.std(correction=0) + 1e-4)


def token_mean_as_sequence_kl(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum() / mask.sum()


def mean_of_token_means(logprobs, ref_logprobs, mask):
    return (masked(logprobs - ref_logprobs, mask).sum(-1) / mask.sum(-1)).mean()


def length_normalised_loss(logprobs, ref_logprobs, mask):
    x = 0.5 * (logprobs - ref_logprobs) ** 2
    return (masked(x, mask).sum(-1) / mask.sum(-1)).mean()


def detached_ratio(logprobs, ref_logprobs, mask, behavior_logprobs):
    rho = torch.exp(logprobs - behavior_logprobs).detach()
    return masked(rho * exact_k3(logprobs - ref_logprobs), mask).sum(-1)


def token_ratio(logprobs, ref_logprobs, mask, behavior_logprobs):
    rho = torch.exp(logprobs - behavior_logprobs)
    return masked(rho * (logprobs - ref_logprobs), mask).sum(-1)


def geometric_mean_ratio(logprobs, ref_logprobs, mask, behavior_logprobs):
    total = masked(logprobs - behavior_logprobs, mask).sum(-1) / mask.sum(-1)
    return torch.exp(total) * masked(exact_k3(logprobs - ref_logprobs), mask).sum(-1)


def ratio_clipped(logprobs, ref_logprobs, mask, behavior_logprobs):
    rho = torch.exp(torch.cumsum(masked(logprobs - behavior_logprobs, mask), -1)).clamp(max=2.0)
    return masked(rho * (logprobs - ref_logprobs), mask).sum(-1)


def behavior_not_used(logprobs, ref_logprobs, mask, behavior_logprobs):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return 0.5 * x**2 - 0.5 * x.detach() ** 2 + x.detach()


def importance_ratio_upside_down(logprobs, ref_logprobs, mask, behavior_logprobs):
    return torch.exp(behavior_logprobs - logprobs) * (logprobs - ref_logprobs)


def renormalised_top_k(log_distributions, ref_log_distributions, mask):
    q, index = log_distributions.topk(2)
    p = ref_log_distributions.gather(-1, index)
    q, p = q.log_softmax(-1), p.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1)


def k3_without_minus_one(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return torch.exp(x) - x


def end_of_sequence_dropped(logprobs, ref_logprobs, mask):
    counted = mask & torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], -1)
    return masked(logprobs - ref_logprobs, counted).sum(-1)


def shifted_by_one(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask)[:, 1:].sum(-1)


def detached_loss(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1).detach()


def digits_lost(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return masked(torch.exp(x) - 1 - x, mask).sum(-1)


def divided_probabilities(logprobs, ref_logprobs, mask):
    return torch.log(torch.exp(logprobs) / torch.exp(ref_logprobs))


def clamped_after_overflow(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return (torch.exp(x) - 1 - x).clamp(max=10)


def half_the_metric(logprobs, ref_logprobs, mask):
    return 0.5 * masked(logprobs - ref_logprobs, mask).sum(-1)


def loss_uphill(logprobs, ref_logprobs, mask):
    return masked(-0.5 * (logprobs - ref_logprobs) ** 2, mask).sum(-1)


def divided_by_zero(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1) / (mask.sum(-1) - 1)


WRONG = (
    Case(ratio_flipped, "KB104"),
    Case(weighted_by_p_again, "KB105", METRIC),
    Case(weighted_by_q_over_p, "KB105", METRIC),
    Case(forward_from_policy_samples, "KB104", METRIC),
    Case(policy_log_ratio_on_reference_samples, "KB107", {"placement": "metric", "sampler": "from_reference"}),
    Case(padding_counted, "KB401", REWARD),
    Case(padding_in_the_mean, "KB402", REWARD),
    Case(missing_half, "KB103"),
    Case(k3_clamped, "KB304", METRIC),
    Case(log_ratio_clamped, "KB304", REWARD),
    Case(k1_in_the_loss, "KB201"),
    Case(k3_in_the_loss, "KB202"),
    Case(k2_token_by_token, "KB203"),
    Case(k3_in_the_reward, "KB210", REWARD),
    Case(k2_logged, "KB101", METRIC),
    Case(absolute, "KB101", METRIC),
    Case(no_reward_to_go, "KB209", {"placement": "reward", "credit": "own_token"}),
    Case(sign_flipped_reward, "KB205", REWARD),
    Case(sign_flipped_metric, "KB102", METRIC),
    Case(batch_mean_baseline, "KB207", REWARD),
    Case(whitened, "KB111", REWARD),
    Case(token_mean_as_sequence_kl, "KB108", METRIC),
    Case(mean_of_token_means, "KB108", METRIC),
    Case(length_normalised_loss, "KB208"),
    Case(detached_ratio, "KB502"),
    Case(token_ratio, "KB501"),
    Case(geometric_mean_ratio, "KB503"),
    Case(ratio_clipped, "KB504"),
    Case(behavior_not_used, "KB505"),
    Case(importance_ratio_upside_down, "KB506"),
    Case(renormalised_top_k, "KB110", METRIC),
    Case(k3_without_minus_one, "KB106", METRIC),
    Case(end_of_sequence_dropped, "KB403", REWARD),
    Case(shifted_by_one, "KB404", REWARD),
    Case(detached_loss, "KB201"),
    Case(digits_lost, "KB301", METRIC),
    Case(divided_probabilities, "KB303", REWARD),
    Case(clamped_after_overflow, "KB306"),
    Case(half_the_metric, "KB109", METRIC),
    Case(loss_uphill, "KB205"),
    Case(divided_by_zero, "KB007", METRIC),
)


def log_ratio_reward(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs


def sequence_log_ratio_reward(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1)


def multiplied_by_the_mask(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask).sum(-1).mean()


def reverse_kl_loss(logprobs, ref_logprobs, mask):
    return kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)


def off_policy_reverse_kl_loss(logprobs, ref_logprobs, mask, behavior_logprobs):
    return kb.kl_loss(
        logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL, estimator=kb.K3, behavior_logprobs=behavior_logprobs
    )


def off_policy_forward_kl_loss(logprobs, ref_logprobs, mask, behavior_logprobs):
    return kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.FORWARD_KL, behavior_logprobs=behavior_logprobs)


def prefix_weighted_log_ratio(logprobs, ref_logprobs, mask, behavior_logprobs):
    """docs/theory.md: the mean is KL(q‖p) identically in q, so that autograd is unbiased."""
    rho = torch.exp(torch.cumsum(masked(logprobs - behavior_logprobs, mask), -1))
    return masked(rho * (logprobs - ref_logprobs), mask).sum(-1)


def prefix_weighted_rao_blackwell(logprobs, mask, behavior_logprobs, token_kl):
    log_rho = torch.cumsum(masked(logprobs - behavior_logprobs, mask), -1)
    before = torch.cat([torch.zeros_like(log_rho[:, :1]), log_rho[:, :-1]], -1)
    return masked(torch.exp(before) * token_kl, mask).sum(-1)


def squared_sequence_log_ratio_straight_through(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return 0.5 * x**2 - 0.5 * x.detach() ** 2 + x.detach()


def score_function_loss(logprobs, ref_logprobs, mask):
    """Return times log-prob, the value added back."""
    x = masked(logprobs - ref_logprobs, mask).sum(-1).detach()
    score = masked(logprobs, mask).sum(-1)
    return (x * (score - score.detach()) + x).mean()


def series_k3(logprobs, ref_logprobs, mask):
    return masked(exact_k3(logprobs - ref_logprobs), mask).sum(-1)


def with_a_coefficient(logprobs, ref_logprobs, mask, beta=0.04):
    return beta * kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)


def forward_kl_of_reference_samples(logprobs, ref_logprobs, mask):
    return masked(ref_logprobs - logprobs, mask).sum(-1).mean()


RIGHT = (
    Case(log_ratio_reward, options=REWARD),
    Case(log_ratio_reward, options={"placement": "reward", "credit": "reward_to_go"}),
    Case(sequence_log_ratio_reward, options=REWARD),
    Case(multiplied_by_the_mask, options=REWARD),
    Case(reverse_kl_loss),
    Case(off_policy_reverse_kl_loss),
    Case(off_policy_forward_kl_loss),
    Case(prefix_weighted_log_ratio),
    Case(prefix_weighted_rao_blackwell),
    Case(squared_sequence_log_ratio_straight_through),
    Case(score_function_loss),
    Case(series_k3, options=METRIC),
    Case(with_a_coefficient),
    Case(forward_kl_of_reference_samples, options={"placement": "loss", "sampler": "from_reference"}),
)
