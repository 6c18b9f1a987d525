"""Right KL code in styles that people have: other libraries, objects, batches, layouts, shapes; nothing is found."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from wrong_code import METRIC, REWARD, Case, masked

import kullback as kb

LOSS = {"placement": "loss"}
BONUS = {"placement": "bonus"}
JAX_REWARD = {"placement": "reward", "arrays": "jax"}
NUMPY_REWARD = {"placement": "reward", "arrays": "numpy"}


def jax_where(logprobs, ref_logprobs, mask):
    return jnp.where(mask, logprobs - ref_logprobs, 0.0).sum(-1)


def jax_kl_loss(logprobs, ref_logprobs, mask):
    return kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)


def numpy_loop(logprobs, ref_logprobs, mask):
    total = np.zeros(len(logprobs))
    for i, (q, p, counted) in enumerate(zip(logprobs, ref_logprobs, mask, strict=True)):
        total[i] = (q[counted] - p[counted]).sum()
    return total


def numpy_einsum(logprobs, ref_logprobs, mask):
    return np.einsum("bt,bt->b", logprobs - ref_logprobs, mask.astype(float))


def by_vmap(logprobs, ref_logprobs, mask):
    return torch.vmap(lambda q, p, m: torch.where(m, q - p, 0.0).sum())(logprobs, ref_logprobs, mask)


@torch.compile(backend="eager")
def compiled(logprobs, ref_logprobs, mask):
    return torch.where(mask, logprobs - ref_logprobs, 0.0).sum(-1)


def in_place_on_its_own(logprobs, ref_logprobs, mask):
    x = logprobs.clone()
    x -= ref_logprobs
    x.masked_fill_(~mask, 0.0)
    return x.sum(-1)


class _Difference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return q - p

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0], -grads[0]


def own_autograd(new_logps, ref_logps, completion_mask):
    return masked(_Difference.apply(new_logps, ref_logps), completion_mask.bool()).sum(-1)


class Penalty:
    scale = 1.0

    def __call__(self, log_prob, ref_log_prob, response_mask):
        return self.scale * masked(self._k1(log_prob, ref_log_prob), response_mask).sum(-1)

    def _k1(self, a, b):
        return a - b


class Module(torch.nn.Module):
    def forward(self, policy_logprobs, reference_logprobs, action_mask):
        return (policy_logprobs - reference_logprobs) * action_mask


def _kinds(logprobs, ref_logprobs, mask, kind):
    return {"k1": logprobs - ref_logprobs}[kind]


def generator_of_rows(logprobs, ref_logprobs, mask):
    for q, p, counted in zip(logprobs, ref_logprobs, mask, strict=True):
        yield (q - p)[counted].sum()


def list_of_rows(logprobs, ref_logprobs, mask):
    return [(q - p)[m].sum() for q, p, m in zip(logprobs, ref_logprobs, mask, strict=True)]


def of_a_batch(batch):
    return masked(batch["log_probs"] - batch["ref_log_probs"], batch["response_mask"]).sum(-1)


def of_an_object(batch):
    return masked(batch.logprobs - batch.ref_logprobs, batch.mask).sum(-1)


def of_a_model(model, inputs):
    ids = inputs["input_ids"]
    logits = model(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[:, :-1]
    q = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return masked(q - inputs["ref_per_token_logps"], inputs["completion_mask"].bool()).sum(-1)


def of_two_models(model, ref_model, inputs):
    ids = inputs["input_ids"]
    q, p = (
        one(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        for one in (model, ref_model)
    )
    return masked(q - p, inputs["completion_mask"].bool()).sum(-1)


def ragged_rows(logprobs, ref_logprobs):
    return [q - p for q, p in zip(logprobs, ref_logprobs, strict=True)]


def packed_tokens(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


def float_mask(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * (1.0 - (1.0 - mask))).sum(-1)


def integer_mask(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask.long()).sum(-1)


def indexed_by_rows(logprobs, ref_logprobs, mask):
    rows = torch.arange(len(mask)).unsqueeze(1).expand(mask.shape)[mask]
    return torch.zeros(len(mask), dtype=logprobs.dtype).index_add(0, rows, (logprobs - ref_logprobs)[mask])


def student_of_a_teacher(student_logprobs, teacher_logprobs, mask):
    return student_logprobs - teacher_logprobs


def teacher_minus_student(teacher_logprobs, student_logprobs, mask):
    return teacher_logprobs - student_logprobs


def reference_first(ref_logprobs, logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1)


def shaped_reward(logq, logp, score, beta=0.1):
    return -beta * (logq - logp) + score


def shaped_advantage(advantages, new_logps, ref_logps, completion_mask, kl_coef):
    return advantages.unsqueeze(1) - kl_coef * (new_logps - ref_logps) * completion_mask


def surrogate(logprobs, ref_logprobs, mask):
    kl = masked(logprobs - ref_logprobs, mask).sum(-1)
    return (kl.detach() * masked(logprobs, mask).sum(-1)).mean()


def k2_loss(logprobs, ref_logprobs, mask):
    return masked(0.5 * (logprobs - ref_logprobs) ** 2, mask).sum(-1).mean()


def leave_one_out(logprobs, ref_logprobs, mask):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    return x - (x.sum() - x) / (len(x) - 1)


def leave_one_out_of_groups(logprobs, ref_logprobs, mask, group_ids):
    x = masked(logprobs - ref_logprobs, mask).sum(-1)
    same = (group_ids[:, None] == group_ids[None]).to(x.dtype)
    return x - (same @ x - x) / (same.sum(-1) - 1)


def whole_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta):
    rho, gain = torch.exp(masked(logprobs - old_logprobs.detach(), mask)), advantages.unsqueeze(1)
    policy = masked(-torch.minimum(rho * gain, rho.clamp(0.8, 1.2) * gain), mask).sum(-1).mean()
    return policy + beta * kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)


def whole_loss_with_entropy(logprobs, ref_logprobs, mask, cfg):
    term = kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)
    return cfg.algorithm.kl_coef * term + 0.01 * masked(logprobs, mask).sum(-1).mean()


def kl_in_the_return(logp, ref_logp, rewards, mask, beta=0.05):
    kl = masked(logp - ref_logp, mask).detach()
    returns = rewards[:, None] - beta * kl.flip(-1).cumsum(-1).flip(-1)
    return -masked(returns * logp, mask).sum(-1).mean()


def kl_in_the_advantage(new_logps, ref_logps, advantages, response_mask, kl_coef=0.1):
    penalty = masked(new_logps - ref_logps, response_mask).detach().sum(-1)
    shaped = advantages - kl_coef * penalty
    return -(shaped * masked(new_logps, response_mask).sum(-1)).mean()


def exact_of_distributions(log_distributions, ref_log_distributions, mask):
    possible = torch.isfinite(log_distributions)
    q, p = (torch.where(possible, x, torch.zeros_like(x)) for x in (log_distributions, ref_log_distributions))
    return torch.where(possible, q.exp() * (q - p), torch.zeros_like(q)).sum(-1)


def of_probabilities(probs, ref_probs, mask):
    return torch.where(probs > 0, probs * (probs / ref_probs).log(), torch.zeros_like(probs)).sum(-1)


def engine_k3(trainer_logprobs, rollout_logprobs, mask):
    x = masked(trainer_logprobs - rollout_logprobs, mask)
    return masked(kb.K3(-x), mask).sum(-1)


def end_kept_by_padding_id(logprobs, ref_logprobs, tokens, pad_token_id):
    return masked(logprobs - ref_logprobs, tokens != pad_token_id).sum(-1)


@dataclass(frozen=True)
class Report:
    kl: torch.Tensor
    tokens: int


def in_a_dataclass(logprobs, ref_logprobs, mask):
    return Report(masked(logprobs - ref_logprobs, mask), int(mask.sum()))


def column_of_rows(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1, keepdim=True)


def squared_with_everything(logprobs, ref_logprobs, mask, **options):
    return masked(logprobs - ref_logprobs, mask)


STYLES = (
    Case(jax_where, options=JAX_REWARD),
    Case(jax_kl_loss, options={"placement": "loss", "arrays": "jax"}),
    Case(numpy_loop, options=NUMPY_REWARD),
    Case(numpy_einsum, options=NUMPY_REWARD),
    Case(by_vmap, options=REWARD),
    Case(compiled, options=REWARD),
    Case(in_place_on_its_own, options=REWARD),
    Case(own_autograd, options=REWARD),
    Case(Penalty(), options=REWARD),
    Case(Module(), options=REWARD),
    Case(functools.partial(_kinds, kind="k1"), options=REWARD),
    Case(_kinds, options={"placement": "reward", "settings": {"kind": "k1"}}),
    Case(generator_of_rows, options=REWARD),
    Case(list_of_rows, options=REWARD),
    Case(of_a_batch, options=REWARD),
    Case(of_an_object, options=REWARD),
    Case(of_a_model, options=REWARD),
    Case(of_two_models, options=REWARD),
    Case(ragged_rows, options={"placement": "reward", "layout": "ragged"}),
    Case(packed_tokens, options={"placement": "reward", "layout": "packed"}),
    Case(float_mask, options=REWARD),
    Case(integer_mask, options=REWARD),
    Case(indexed_by_rows, options=REWARD),
    Case(student_of_a_teacher, options=REWARD),
    Case(teacher_minus_student, options=BONUS),
    Case(reference_first, options=REWARD),
    Case(shaped_reward, options=BONUS),
    Case(shaped_advantage, options=BONUS),
    Case(surrogate, options={"placement": "loss", "role": "surrogate"}),
    Case(surrogate, options={"placement": "loss", "objective": kb.REVERSE_KL}),
    Case(k2_loss, options={"placement": "loss", "objective": kb.STATEWISE_REVERSE_KL}),
    Case(leave_one_out, options=REWARD),
    Case(leave_one_out_of_groups, options=REWARD),
    Case(whole_loss, options=LOSS),
    Case(whole_loss, options={"placement": "loss", "settings": {"advantages": "signs", "beta": 0.04}}),
    Case(whole_loss_with_entropy, options={"placement": "loss", "settings": {"cfg.algorithm.kl_coef": 0.04}}),
    Case(kl_in_the_return, options=LOSS),
    Case(kl_in_the_advantage, options=LOSS),
    Case(exact_of_distributions, options={"placement": "loss", "objective": kb.STATEWISE_REVERSE_KL}),
    Case(of_probabilities, options=METRIC),
    Case(engine_k3, options=METRIC),
    Case(end_kept_by_padding_id, options=REWARD),
    Case(in_a_dataclass, options={"placement": "reward", "output": "kl"}),
    Case(column_of_rows, options=REWARD),
    Case(squared_with_everything, options=REWARD),
)
"""Beside those of wrong_code.RIGHT."""


def ours(objective: kb.targets.Target, baseline: str | None, estimator: Any, behavior: bool) -> Any:
    """kb.kl_loss with what it can be given."""

    def on_policy(logprobs, ref_logprobs, mask):
        return kb.kl_loss(logprobs, ref_logprobs, mask, objective=objective, baseline=baseline, estimator=estimator)

    def off_policy(logprobs, ref_logprobs, mask, behavior_logprobs):
        return kb.kl_loss(
            logprobs,
            ref_logprobs,
            mask,
            objective=objective,
            baseline=baseline,
            estimator=estimator,
            behavior_logprobs=behavior_logprobs,
        )

    return off_policy if behavior else on_policy


OURS = tuple(
    (
        f"{objective.name}-{baseline}-{estimator.name}-{'off' if behavior else 'on'}",
        objective,
        baseline,
        estimator,
        behavior,
    )
    for objective in (kb.REVERSE_KL, kb.FORWARD_KL, kb.STATEWISE_REVERSE_KL, kb.STATEWISE_FORWARD_KL)
    for baseline in (None, "leave_one_out")
    for estimator in ((kb.K1, kb.K3) if "reverse" in objective.name else (kb.K1,))
    for behavior in (False, True)
)
