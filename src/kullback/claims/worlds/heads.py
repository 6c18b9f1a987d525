"""Two models that share a head, and what rounding its logits to bfloat16 makes of their KL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.claims.worlds.pairs import softmax

MANTISSA = 7
"""Bits of bfloat16 behind the leading one."""


def bfloat16(values: Float64) -> Float64:
    """The nearest bfloat16, ties to even."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return upper.view(np.float32).astype(np.float64)


def steps(logits: Float64) -> Float64:
    """The distance of neighbouring bfloat16 numbers at each logit: 2^(⌊log₂|z|⌋ − 7)."""
    size = np.maximum(np.abs(logits), np.finfo(np.float32).tiny)
    return np.asarray(2.0 ** (np.floor(np.log2(size)) - MANTISSA))


def floor(logits: Float64, difference: Float64) -> Float64:
    """The KL that rounding two models' logits to bfloat16 adds: ½ Σ_v q(v)(1 − q(v)) δ(step − δ) a row, (rows,).

    δ = |d| mod step. Two logits d apart come out whole steps apart, one more with chance δ/step: the error of
    their difference has the variance δ(step − δ), on average step²/6, and a KL is half the variance of the difference
    under q. So equal models add nothing, and models a step apart or more about Σ q(1 − q) step²/12.

    Args:
        logits: of the policy, (rows, vocab), before rounding.
        difference: policy's less the reference's, (rows, vocab).
    """
    q, step = softmax(logits), steps(logits)
    rest = np.abs(difference) % step
    return np.asarray(np.sum(q * (1 - q) * rest * (step - rest), axis=-1) / 2)


def token_kl(logits: Float64, ref_logits: Float64) -> Float64:
    """KL(q‖p) a row from logits, in float64."""
    return difference_kl(logits, logits - ref_logits)


def difference_kl(logits: Float64, difference: Float64) -> Float64:
    """KL(q‖p) a row from q's logits and the difference d of both: log1p Σ q(expm1(−c) + c), c = d − Σ q d."""
    q = softmax(logits)
    c = difference - np.sum(q * difference, axis=-1, keepdims=True)
    return np.asarray(np.log1p(np.sum(q * (np.expm1(-c) + c), axis=-1)))


@dataclass(frozen=True)
class Heads:
    """Hidden states of a policy and its reference, (rows, width), and the head they share, (vocab, width)."""

    hidden: Float64
    ref_hidden: Float64
    weight: Float64

    @property
    def logits(self) -> Float64:
        """Of the policy, not rounded."""
        return np.asarray(self.hidden @ self.weight.T)

    @property
    def kl(self) -> float:
        """Mean exact KL a row."""
        return float(token_kl(self.logits, self.ref_hidden @ self.weight.T).mean())

    @property
    def logged(self) -> float:
        """The same from logits that come out of the head in bfloat16."""
        return float(token_kl(bfloat16(self.logits), bfloat16(self.ref_hidden @ self.weight.T)).mean())

    @property
    def by_difference(self) -> float:
        """The same with the hidden states subtracted first, and only then the head, both products in bfloat16."""
        difference = bfloat16(bfloat16(self.hidden - self.ref_hidden) @ self.weight.T)
        return float(difference_kl(bfloat16(self.logits), difference).mean())

    @property
    def floor(self) -> float:
        """Mean KL that the rounding of two logits adds."""
        return float(floor(self.logits, (self.hidden - self.ref_hidden) @ self.weight.T).mean())


def heads(seed: int, size: float, kl: float = 1e-4) -> Heads:
    """A random head whose logits have the standard deviation `size`, and a policy `kl` from its reference."""
    rng = np.random.default_rng(seed)
    width, vocab, rows = 32, 2048, 64
    weight = bfloat16(size * rng.normal(size=(vocab, width)) / np.sqrt(width))
    reference, step = rng.normal(size=(2, rows, width))
    moved = 1e-3
    for _ in range(4):  # the KL is quadratic in the distance
        made = Heads(reference + moved * step, reference, weight)
        moved *= float(np.sqrt(kl / made.kl))
    return Heads(reference + moved * step, reference, weight)
