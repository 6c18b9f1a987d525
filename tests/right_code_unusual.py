"""Right KL code in further styles: loops of JAX, arrays of NumPy, packed rows, models, objects; nothing is found."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from wrong_code import METRIC, REWARD, Case, exact_k3, masked

import kullback as kb

STATEWISE = {"placement": "loss", "objective": kb.STATEWISE_REVERSE_KL}
JAX_STATEWISE = {**STATEWISE, "arrays": "jax"}
JAX_REWARD = {"placement": "reward", "arrays": "jax"}
NUMPY_REWARD = {"placement": "reward", "arrays": "numpy"}


def jax_scan(logprobs, ref_logprobs, mask):
    x = jnp.where(mask, logprobs - ref_logprobs, 0.0).T
    return jax.lax.scan(lambda a, r: (a + r, None), jnp.zeros_like(x[0]), x)[0]


@functools.partial(jax.jit, static_argnames=("kind",))
def jax_static(logprobs, ref_logprobs, mask, kind="k1"):
    return jnp.where(mask, logprobs - ref_logprobs, 0.0).sum(-1)


def jax_fori(logprobs, ref_logprobs, mask):
    x = jnp.where(mask, logprobs - ref_logprobs, 0.0)
    return jax.lax.fori_loop(0, x.shape[1], lambda t, a: a + x[:, t], jnp.zeros(len(x), x.dtype))


def jax_while(logprobs, ref_logprobs, mask):
    x = jnp.where(mask, logprobs - ref_logprobs, 0.0)
    return jax.lax.while_loop(
        lambda c: c[0] < x.shape[1], lambda c: (c[0] + 1, c[1] + x[:, c[0]]), (0, jnp.zeros(len(x), x.dtype))
    )[1]


def jax_vmapped(logprobs, ref_logprobs, mask):
    return jax.vmap(lambda q, p, m: jnp.vdot(jnp.where(m, q - p, 0.0), jnp.ones_like(q)))(logprobs, ref_logprobs, mask)


@jax.custom_vjp
def _ident(x):
    return x


_ident.defvjp(lambda x: (x, None), lambda _, g: (g,))


def jax_custom(logprobs, ref_logprobs, mask):
    return jnp.where(mask, 0.5 * (_ident(logprobs) - ref_logprobs) ** 2, 0).sum(-1).mean()


def jax_segments(logprobs, ref_logprobs, mask):
    x = jnp.where(mask, logprobs - ref_logprobs, 0.0)
    ids = jnp.repeat(jnp.arange(x.shape[0]), x.shape[1])
    return jax.ops.segment_sum(x.ravel(), ids, num_segments=x.shape[0])


def numpy_masked_array(logprobs, ref_logprobs, mask):
    return np.ma.masked_array(logprobs - ref_logprobs, mask=~mask.astype(bool)).sum(-1).filled(0.0)


def numpy_reduceat(logprobs, ref_logprobs, mask):
    flat = np.where(mask, logprobs - ref_logprobs, 0.0).ravel()
    return np.add.reduceat(flat, np.arange(0, flat.size, mask.shape[1]))


def numpy_bincount(logprobs, ref_logprobs, mask):
    r, t = np.nonzero(mask)
    return np.bincount(r, weights=(logprobs - ref_logprobs)[r, t], minlength=len(mask))


def python_fsum(logprobs, ref_logprobs, mask):
    return np.array(
        [
            math.fsum(float(a - b) for a, b, c in zip(q, p, m, strict=False) if c)
            for q, p, m in zip(logprobs, ref_logprobs, mask, strict=False)
        ]
    )


def by_cross_entropy(logits, ref_logits, tokens, mask):
    q, p = (-F.cross_entropy(x.transpose(1, 2), tokens, reduction="none") for x in (logits, ref_logits))
    return masked(q - p, mask).sum(-1)


def by_logsumexp(logits, ref_logits, tokens, mask):
    def lp(x):
        return x.gather(-1, tokens[..., None])[..., 0] - torch.logsumexp(x, -1)

    return masked(lp(logits) - lp(ref_logits), mask).sum(-1)


@torch.jit.script
def scripted(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor):
    return torch.where(mask, logprobs - ref_logprobs, torch.zeros_like(logprobs)).sum(-1)


def keyword_only(*, new_logps, ref_logps, completion_mask):
    return masked(new_logps - ref_logps, completion_mask.bool()).sum(-1)


def positional_only(logprobs, ref_logprobs, mask, /):
    return masked(logprobs - ref_logprobs, mask).sum(-1)


def matched(logprobs, ref_logprobs, mask, kl_penalty_type="kl"):
    match kl_penalty_type:
        case "kl":
            return masked(logprobs - ref_logprobs, mask)
        case _:
            raise ValueError


def decorated(f):
    @functools.wraps(f)
    def inner(*a, **k):
        return f(*a, **k)

    return inner


@decorated
def wrapped(logprobs, ref_logprobs, mask):
    return masked(logprobs - ref_logprobs, mask).sum(-1)


class Trainer:
    @staticmethod
    def stat(logprobs, ref_logprobs, mask):
        return masked(logprobs - ref_logprobs, mask).sum(-1)

    @classmethod
    def cls(cls, logprobs, ref_logprobs, mask):
        return cls.stat(logprobs, ref_logprobs, mask)

    def bound(self, logprobs, ref_logprobs, mask):
        return self.cls(logprobs, ref_logprobs, mask)


def nested_vmap(logprobs, ref_logprobs, mask):
    return torch.func.vmap(torch.func.vmap(lambda q, p, m: torch.where(m, q - p, 0.0)))(
        logprobs, ref_logprobs, mask
    ).sum(-1)


def func_value(logprobs, ref_logprobs, mask):
    g = torch.func.vmap(torch.func.grad(lambda q, p: 0.5 * (q - p) ** 2))
    return torch.where(mask, g(logprobs.flatten(), ref_logprobs.flatten()).view(mask.shape), 0).sum(-1)


def einops_like(logprobs, ref_logprobs, mask):
    b, t = mask.shape
    x = masked(logprobs - ref_logprobs, mask).reshape(b, t, 1).permute(1, 2, 0).reshape(t, b)
    return x.sum(0)


def segment_reduced(logprobs, ref_logprobs, mask):
    flat = (logprobs - ref_logprobs)[mask.bool()]
    return torch.segment_reduce(flat, "sum", lengths=mask.sum(-1).long())


def unpadded(logprobs, ref_logprobs, mask):
    rows = [r[m.bool()] for r, m in zip(logprobs - ref_logprobs, mask, strict=False)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).sum(-1)


def packed_sequence(logprobs, ref_logprobs, mask):
    return torch.stack(
        [r.sum() for r in torch.split((logprobs - ref_logprobs)[mask.bool()], mask.sum(-1).long().tolist())]
    )


def minibatches(logprobs, ref_logprobs, mask):
    for i in range(0, len(mask), 2):
        yield from masked(logprobs - ref_logprobs, mask)[i : i + 2].sum(-1)


def float32_upcast(logprobs, ref_logprobs, mask):
    return masked(logprobs.float() - ref_logprobs.float(), mask).sum(-1)


def straight_through(logprobs, ref_logprobs, mask):
    x = logprobs - ref_logprobs
    k2 = 0.5 * x**2
    k3 = exact_k3(x)
    return masked(k3.detach() + k2 - k2.detach(), mask).sum(-1).mean()


def sequence_weighted(logprobs, ref_logprobs, mask, old_logprobs):
    rho = masked(logprobs - old_logprobs, mask).sum(-1).exp()
    return rho * masked(logprobs - ref_logprobs, mask).sum(-1)


class Obj:
    def __init__(self):
        self.cfg = {"kl": 1.0}

    def __call__(self, batch):
        return self.cfg["kl"] * masked(batch.old_log_probs - batch["ref_log_prob"], batch["response_mask"]).sum(-1)


def accumulated_in_chunks(logits, ref_logits, tokens, mask):
    total = torch.zeros(len(mask), dtype=logits.dtype)
    for s in range(0, mask.shape[1], 3):
        a, b, t, m = (x[:, s : s + 3] for x in (logits, ref_logits, tokens, mask))
        q, p = (x.log_softmax(-1).gather(-1, t[..., None])[..., 0] for x in (a, b))
        total = total + masked(q - p, m).sum(-1)
    return total


def model_flat(model, ref_model, batch):
    ids, am = batch["input_ids"], batch["attention_mask"]

    def lp(mod):
        lg = mod(ids, attention_mask=am).logits[:, :-1]
        return torch.log_softmax(lg.float().double(), -1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)

    return (lp(model) - lp(ref_model)).mul(batch["completion_mask"]).sum(-1)


def addcmul(logprobs, ref_logprobs, mask):
    m = mask.to(logprobs.dtype)
    return torch.addcmul(logprobs * m, m, ref_logprobs, value=-1).sum(-1)


def bmm(logprobs, ref_logprobs, mask):
    return torch.bmm((logprobs - ref_logprobs)[:, None], mask.to(logprobs.dtype)[..., None]).flatten()


def scattered(logprobs, ref_logprobs, mask):
    seg = torch.arange(len(mask))[:, None].expand_as(mask)
    return torch.zeros(len(mask), dtype=logprobs.dtype).scatter_add(
        0, seg[mask.bool()], (logprobs - ref_logprobs)[mask.bool()]
    )


def running_mean(logprobs, ref_logprobs, mask):
    mean = 0.0
    for n, x in enumerate(masked(logprobs - ref_logprobs, mask).sum(-1), start=1):
        mean = mean + (x - mean) / n
    return mean


UNUSUAL_STYLES = (
    Case(jax_scan, options=JAX_REWARD),
    Case(jax_static, options=JAX_REWARD),
    Case(jax_fori, options=JAX_REWARD),
    Case(jax_while, options=JAX_REWARD),
    Case(jax_vmapped, options=JAX_REWARD),
    Case(jax_custom, options=JAX_STATEWISE),
    Case(jax_segments, options=JAX_REWARD),
    Case(numpy_masked_array, options=NUMPY_REWARD),
    Case(numpy_reduceat, options=NUMPY_REWARD),
    Case(numpy_bincount, options=NUMPY_REWARD),
    Case(python_fsum, options=NUMPY_REWARD),
    Case(by_cross_entropy, options=REWARD),
    Case(by_logsumexp, options=REWARD),
    Case(scripted, options=REWARD),
    Case(keyword_only, options=REWARD),
    Case(positional_only, options=REWARD),
    Case(matched, options=REWARD),
    Case(wrapped, options=REWARD),
    Case(Trainer.cls, options=REWARD),
    Case(Trainer().bound, options=REWARD),
    Case(nested_vmap, options=REWARD),
    Case(func_value, options=REWARD),
    Case(einops_like, options=REWARD),
    Case(segment_reduced, options=REWARD),
    Case(unpadded, options=REWARD),
    Case(packed_sequence, options=REWARD),
    Case(minibatches, options=REWARD),
    Case(float32_upcast, options=REWARD),
    Case(straight_through, options=STATEWISE),
    Case(sequence_weighted, options={"placement": "metric", "sampler": "off_policy"}),
    Case(Obj(), options=REWARD),
    Case(accumulated_in_chunks, options=REWARD),
    Case(model_flat, options=REWARD),
    Case(addcmul, options=REWARD),
    Case(bmm, options=REWARD),
    Case(scattered, options=REWARD),
    Case(running_mean, options=METRIC),
)
"""Beside those of right_code_styles."""
