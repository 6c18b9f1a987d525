"""KL code with one mistake in other libraries, on logits, of models; the finding that has to come first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from wrong_code import METRIC, REWARD, Case, exact_k3, masked

JAX_LOSS, JAX_REWARD, JAX_METRIC = ({"placement": place, "arrays": "jax"} for place in ("loss", "reward", "metric"))
NUMPY_REWARD, NUMPY_METRIC = ({"placement": place, "arrays": "numpy"} for place in ("reward", "metric"))


def jax_policy_stopped(logprobs, ref_logprobs, mask):
    x = jax.lax.stop_gradient(logprobs) - ref_logprobs
    return jnp.where(mask, 0.5 * x**2, 0.0).sum(-1).mean()


def jax_loop_one_short(logprobs, ref_logprobs, mask):
    x = jnp.where(mask, logprobs - ref_logprobs, 0.0)
    return jax.lax.fori_loop(0, x.shape[1] - 1, lambda t, a: a + x[:, t], jnp.zeros(len(x), x.dtype))


def jax_scan_discounted(logprobs, ref_logprobs, mask):
    x = jnp.where(mask, logprobs - ref_logprobs, 0.0).T
    total, _ = jax.lax.scan(lambda a, r: (r + 0.9 * a, a), jnp.zeros_like(x[0]), x, reverse=True)
    return total


def jax_k3_gradient(logprobs, ref_logprobs, mask):
    def k3(q, p):
        return jnp.expm1(p - q) - (p - q)

    rows = jax.vmap(jax.vmap(k3))(logprobs, ref_logprobs)
    return jnp.where(mask, rows, 0).sum(-1).mean()


@jax.jit
def jax_softmax_over_time(logits, ref_logits, mask):
    q, p = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(ref_logits, axis=1)
    return (jnp.exp(q) * (q - p)).sum(-1)


@jax.custom_vjp
def _halved(x):
    return x


_halved.defvjp(lambda x: (x, None), lambda _, g: (0.5 * g,))


def jax_custom_gradient_halved(logprobs, ref_logprobs, mask):
    x = _halved(logprobs) - ref_logprobs
    return jnp.where(mask, 0.5 * x**2, 0.0).sum(-1)


def jax_roll(logprobs, ref_logprobs, mask):
    return jnp.where(mask, logprobs - jnp.roll(ref_logprobs, 1, -1), 0.0).sum(-1)


def numpy_average(logprobs, ref_logprobs, mask):
    return np.average(logprobs - ref_logprobs, weights=mask, axis=-1)


def numpy_in_place(logprobs, ref_logprobs, mask):
    logprobs -= ref_logprobs
    return (logprobs * mask).sum(-1)


def numpy_reduceat(logprobs, ref_logprobs, mask):
    flat = (logprobs - ref_logprobs)[mask.astype(bool)]
    starts = np.concatenate([[0], np.cumsum(mask.sum(-1).astype(int))[:-1]])
    return np.add.reduceat(flat[1:], np.maximum(starts - 1, 0))


def numpy_float16(logprobs, ref_logprobs, mask):
    return ((logprobs.astype(np.float16) - ref_logprobs.astype(np.float16)) * mask).sum(-1)


def softmax_of_sampled(logprobs, ref_logprobs, mask):
    return F.kl_div(F.log_softmax(logprobs, -1), F.softmax(ref_logprobs, -1), reduction="batchmean")


def kl_div_of_probabilities(probs, ref_probs, mask):
    return F.kl_div(probs, ref_probs, reduction="none").sum(-1)


def kl_div_mean(log_distributions, ref_log_distributions, mask):
    ok = torch.isfinite(log_distributions)
    q, p = (torch.where(ok, x, 0.0) for x in (log_distributions, ref_log_distributions))
    x = torch.where(ok & mask[..., None], F.kl_div(p, q, log_target=True, reduction="none"), 0)
    return x.mean()


def batchmean_words(log_distributions, ref_log_distributions, mask):
    ok = torch.isfinite(log_distributions)
    q, p = (torch.where(ok, x, 0.0) for x in (log_distributions, ref_log_distributions))
    return torch.where(ok, q.exp() * (q - p), 0.0).mean(-1)


def kl_div_default(logits, ref_logits, mask):
    return F.kl_div(ref_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True)


def mask_unread_logits(logits, ref_logits, mask):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (q.exp() * (q - p)).sum((-1, -2))


def cross_entropy_as_kl(log_distributions, ref_log_distributions, mask):
    ok = torch.isfinite(log_distributions)
    return torch.where(ok, -log_distributions.exp() * torch.where(ok, ref_log_distributions, 0), 0).sum(-1)


def smoothed_reference(probs, ref_probs, mask):
    p = 0.9 * ref_probs + 0.1 / ref_probs.shape[-1]
    return torch.special.xlogy(probs, probs / p).sum(-1)


def both_tempered(logits, ref_logits, mask):
    q, p = (logits / 2).log_softmax(-1), (ref_logits / 2).log_softmax(-1)
    return 4 * (q.exp() * (q - p)).sum(-1)


def epsilon_in_the_log(logits, ref_logits, mask):
    q, p = logits.softmax(-1), ref_logits.softmax(-1)
    return (q * ((q + 1e-2).log() - (p + 1e-2).log())).sum(-1)


def logits_subtracted(logits, ref_logits, tokens, mask):
    q, p = (x.gather(-1, tokens[..., None])[..., 0] for x in (logits, ref_logits))
    return masked(q - p, mask).sum(-1)


def model_unnormalised(model, ref_model, inputs):
    ids = inputs["input_ids"]
    q, p = (m(input_ids=ids).logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] for m in (model, ref_model))
    return masked(q - p, inputs["completion_mask"].bool()).sum(-1)


def model_ref_is_policy(model, ref_model, inputs):
    ids = inputs["input_ids"]
    q, p = (
        m(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] for m in (model, model)
    )
    return masked(q - p.detach(), inputs["completion_mask"].bool()).sum(-1)


def model_no_grad(model, ref_model, inputs):
    ids = inputs["input_ids"]
    with torch.no_grad():
        q = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    p = ref_model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return masked(exact_k3(q - p), inputs["completion_mask"].bool()).sum(-1).mean()


def discounted(logprobs, ref_logprobs, mask):
    g = 0.95 ** torch.arange(mask.shape[1], dtype=logprobs.dtype)
    return masked(logprobs - ref_logprobs, mask) * g


def gamma_in_loop(logprobs, ref_logprobs, mask):
    total = 0.0
    x = masked(logprobs - ref_logprobs, mask)
    for t in reversed(range(x.shape[1])):
        total = x[:, t] + 0.99 * total
    return total


def exp_of_the_mean(logprobs, ref_logprobs, mask):
    x = masked(ref_logprobs - logprobs, mask).sum(-1) / mask.sum(-1)
    return torch.expm1(x) - x


def broadcast_bug(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return (x / mask.sum(-1, keepdim=True)).mean()


def max_token(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).masked_fill(~mask.bool(), -1e9).amax(-1)


def median_token(logprobs, ref_logprobs, mask):
    return torch.stack([(q - p)[m.bool()].median() for q, p, m in zip(logprobs, ref_logprobs, mask, strict=True)])


def huber(logprobs, ref_logprobs, mask):
    return masked(F.smooth_l1_loss(logprobs, ref_logprobs, reduction="none"), mask).sum(-1)


def abs_no_mask(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).abs().sum(-1)


def cut_by_entropy(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask & (logprobs < -0.2)).sum(-1)


def detached_ratio_in_k3(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return masked(x.detach().exp() - 1 - x, mask).sum(-1)


def no_grad_kl(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta):
    rho = torch.exp(masked(logprobs - old_logprobs, mask))
    with torch.no_grad():
        kl = masked(exact_k3(logprobs - ref_logprobs), mask)
    return masked(-rho * advantages[:, None] + beta * kl, mask).sum(-1).mean()


def hook_turned(logprobs, ref_logprobs, mask):
    x = logprobs - ref_logprobs
    y = x * 1.0
    if y.requires_grad:
        y.register_hook(lambda g: -g)
    return masked(0.5 * y**2, mask).sum(-1)


def data_of(logprobs, ref_logprobs, mask):
    return masked(0.5 * (logprobs.data - ref_logprobs) ** 2 + 0 * logprobs, mask).sum(-1)


def kl_to_old_in_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta):
    rho = torch.exp(masked(logprobs - old_logprobs, mask))
    return masked(-rho * advantages[:, None] + beta * exact_k3(logprobs - old_logprobs), mask).sum(-1).mean()


def suffix_weights(logprobs, ref_logprobs, mask, old_logprobs):
    s = masked(logprobs - old_logprobs, mask)
    rho = torch.exp(s.flip(-1).cumsum(-1).flip(-1))
    return masked(rho * (logprobs - ref_logprobs), mask).sum(-1)


def raised_to_one(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(torch.cumsum(masked(logprobs - old_logprobs, mask), -1)).clamp(min=1)
    return masked(rho * (logprobs - ref_logprobs), mask).sum(-1)


def verl_k3(data):
    x = data["ref_log_prob"] - data["old_log_probs"]
    return (x.exp() - x - 1) * data["response_mask"]


def ema(logprobs, ref_logprobs, mask, _state={}):  # noqa: B006
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    _state["m"] = 0.9 * _state.get("m", 0.0) + 0.1 * float(x.mean().detach())
    return x - _state["m"]


def penalty_in_places(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs + (1 - mask.to(logprobs.dtype)) * -1e9).sum(-1)


def mask_inverted(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).masked_fill(mask.bool(), 0).sum(-1)


def mask_changed_in_place(logprobs, ref_logprobs, mask):
    mask[:, 0] = 0
    return ((logprobs - ref_logprobs) * mask).sum(-1)


def transposed(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask)
    return x.T.reshape(x.shape).sum(-1)


def next_row_reference(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs.roll(1, 0), mask).sum(-1)


def shuffled_reference(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs[torch.randperm(len(mask))], mask).sum(-1)


UNUSUAL = (
    Case(jax_policy_stopped, "KB201", JAX_LOSS),
    Case(jax_loop_one_short, "KB403", JAX_REWARD),
    Case(jax_scan_discounted, "KB118", JAX_REWARD),
    Case(jax_k3_gradient, "KB202", JAX_LOSS),
    Case(jax_softmax_over_time, "KB117", JAX_METRIC),
    Case(jax_custom_gradient_halved, "KB101", JAX_LOSS),
    Case(jax_roll, "KB410", JAX_REWARD),
    Case(numpy_average, "KB108", NUMPY_METRIC),
    Case(numpy_in_place, "KB004", NUMPY_REWARD),
    Case(numpy_reduceat, "KB116", NUMPY_REWARD),
    Case(numpy_float16, "KB305", NUMPY_REWARD),
    Case(softmax_of_sampled, "KB401"),
    Case(kl_div_of_probabilities, "KB106", METRIC),
    Case(kl_div_mean, "KB119", METRIC),
    Case(batchmean_words, "KB119", METRIC),
    Case(kl_div_default, "KB401"),
    Case(mask_unread_logits, "KB401", METRIC),
    Case(cross_entropy_as_kl, "KB106", METRIC),
    Case(smoothed_reference, "KB106", METRIC),
    Case(both_tempered, "KB114", METRIC),
    Case(epsilon_in_the_log, "KB101", METRIC),
    Case(logits_subtracted, "KB117", METRIC),
    Case(model_unnormalised, "KB117", REWARD),
    Case(model_ref_is_policy, "KB112", REWARD),
    Case(model_no_grad, "KB201"),
    Case(discounted, "KB118", REWARD),
    Case(gamma_in_loop, "KB118", REWARD),
    Case(exp_of_the_mean, "KB101", METRIC),
    Case(broadcast_bug, "KB111", METRIC),
    Case(max_token, "KB101", METRIC),
    Case(median_token, "KB101", METRIC),
    Case(huber, "KB101"),
    Case(abs_no_mask, "KB101", METRIC),
    Case(cut_by_entropy, "KB115", REWARD),
    Case(detached_ratio_in_k3, "KB201"),
    Case(no_grad_kl, "KB201"),
    Case(hook_turned, "KB205"),
    Case(data_of, "KB201"),
    Case(kl_to_old_in_loss, "KB112"),
    Case(suffix_weights, "KB507"),
    Case(raised_to_one, "KB504"),
    Case(verl_k3, "KB210", REWARD),
    Case(ema, "KB008", REWARD),
    Case(penalty_in_places, "KB401", REWARD),
    Case(mask_inverted, "KB401", REWARD),
    Case(mask_changed_in_place, "KB004", REWARD),
    Case(transposed, "KB116", REWARD),
    Case(next_row_reference, "KB111", REWARD),
    Case(shuffled_reference, "KB006", REWARD),
)
