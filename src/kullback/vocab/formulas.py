"""The mathematics of one block of logits, (rows, columns): what every backend computes, in plain torch.

A block is part of a vocabulary, or all of it. Everything is a function of the block's own log-distributions
a = log q and b = log p, and two identities carry blocks over to the whole:

- the chain rule of a partition, for the KL and the entropy (``partition``): one sweep over the logits;
- with normalisers known, any Σ_v f(log q_v, log p_v) is a plain sum: a second sweep, for the divergences
  to a mixture, whose terms know no such chain rule.

Each term of a divergence is written as a Bregman gap, which is ≥ 0 and in which an error of a normaliser
enters squared, so that small divergences keep their digits (float32 holds 1e-7).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kullback.families import Family

SMALL = 0.25
"""|x| below which the series of e^x − 1 − x is used; it has as many terms as it takes there."""
APART = 16.0
"""Of normalisers: below it the difference of two logits rounds less than the difference of their logs."""
WORTH, NOTHING = 8.0, 1e-10
"""What is taken off a KL may be that many times what is left of it, or as much as nobody asks after."""
Terms = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def gap(a: Tensor, b: Tensor, log_ratio: Tensor | None = None) -> Tensor:
    """e^b − e^a + e^a(a − b) ≥ 0, whose sum over normalised a and b is KL(e^a‖e^b); 0 where both are −inf.

    ``log_ratio`` is a − b where it is known to more digits than the difference of two rounded logs has.
    """
    mass = a.exp()
    log_ratio = a - b if log_ratio is None else log_ratio
    near = log_ratio > -1.0
    other = torch.where(near, -log_ratio, b).exp()  # one exponential for both branches
    close = torch.where(log_ratio.abs() < SMALL, _series(-log_ratio), other - 1.0 + log_ratio)
    return torch.where(near, mass * close, other - mass + _times(mass, log_ratio))


def exp_gap(x: Tensor) -> Tensor:
    """e^x − 1 − x, by its series near 0: expm1(x) − x would cancel there (and inductor's expm1 is e^x − 1)."""
    return torch.where(x.abs() < SMALL, _series(x), x.exp() - 1.0 - x)


def _series(x: Tensor) -> Tensor:
    terms = 15 if x.dtype == torch.float64 else 7
    series = torch.full_like(x, 1 / math.factorial(terms))
    for number in range(terms - 1, 1, -1):
        series = series * x + 1 / math.factorial(number)
    return series * (x * x)


def _expm1(x: Tensor) -> Tensor:
    return torch.where(x.abs() < SMALL, x + _series(x), x.exp() - 1.0)


def _times(mass: Tensor, x: Tensor) -> Tensor:
    """mass·x, and 0 where there is no mass."""
    return torch.where(mass > 0, mass * x, 0.0)


def _reverse(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    other = b.exp()
    below = torch.where(log_ratio.abs() < 1.0, other * _expm1(log_ratio), a.exp() - other)
    return gap(a, b, log_ratio), _times(a.exp(), log_ratio), -below


def _skewed(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    m, above = _mixture(a, b, log_ratio, skew)
    mass, other = a.exp(), b.exp()
    of_b = torch.where(log_ratio.abs() < 1.0, -log_ratio - above, b - m)
    share = _times(mass, skew * _expm1(of_b))
    return gap(a, m, -above), share - _times(mass, above), -skew * _times(other, _expm1(-above))


def _jensen_shannon(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    m, above = _mixture(a, b, log_ratio, 0.5)
    of_b = torch.where(log_ratio.abs() < 1.0, -log_ratio - above, b - m)
    return 0.5 * (gap(a, m, -above) + gap(b, m, of_b)), -0.5 * _times(a.exp(), above), 0.5 * _times(b.exp(), of_b)


def _mixture(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor]:
    """log m of m = (1−s)e^a + s·e^b, and log m − a."""
    near = torch.log1p(skew * _expm1(-log_ratio))
    m = torch.logaddexp(a + math.log1p(-skew), b + math.log(skew))
    return m, torch.where(log_ratio.abs() < 1.0, near, m - a)


@dataclass(frozen=True)
class Divergence:
    """A divergence D = Σ_v d(a_v, b_v) of two next-token distributions.

    Attributes:
        name: its name.
        formula: in q and p.
        terms: (a, b, a − b, skew) → d, ∂D/∂a and ∂D/∂b, elementwise and up to a constant times the own
            mass, which the softmax's gradient removes: chosen so that both vanish where a = b.
        chains: whether the chain rule of a partition holds, so that one sweep is enough.
    """

    name: str
    formula: str
    terms: Terms
    chains: bool = False


DIVERGENCES = Family(
    (
        Divergence("kl", "KL(q‖p)", _reverse, chains=True),
        Divergence("skewed", "KL(q‖(1−s)q + sp)", _skewed),
        Divergence("jensen_shannon", "½KL(q‖m) + ½KL(p‖m), m = ½(q + p)", _jensen_shannon),
    )
)


def normaliser(z: Tensor) -> Tensor:
    """log Σ_v e^z, (rows,), in float64: the maximum and the float32 sum lose nothing more in adding up."""
    largest = z.amax(dim=-1)
    shift = torch.where(largest.isinf(), 0.0, largest)
    return wide(shift) + wide((z - shift[:, None]).exp().sum(dim=-1)).log()


def wide(x: Tensor) -> Tensor:
    """x in the dtype of statistics: float64, or float32 where the device has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def pair_statistics(zq: Tensor, zp: Tensor) -> Tensor:
    """(rows, 3): the two normalisers, and KL of the two distributions within the block (0 if one is empty)."""
    lq, lp = normaliser(zq), normaliser(zp)
    inside = gap(*_logs(zq, zp, lq, lp)).sum(dim=-1)
    empty = lq.isneginf() | lp.isneginf()
    return torch.stack([lq, lp, wide(inside).masked_fill(empty, 0.0)], dim=-1)


def pair_sweep(zq: Tensor, zp: Tensor) -> Tensor:
    """``pair_statistics`` of (…, columns) with one exponential a logit, or nan where that would lose digits.

    With the largest logits for normalisers, A = e^(zq − max zq), B = e^(zp − max zp) and x = log A/B:

        KL = F/S − (δ − log(1 + δ)),    S = ΣA,    F = Σ(B − A + Ax),    δ = ΣB/ΣA − 1 = (F − ΣAx)/S.

    The bracket is ≥ 0 and at most F/S. The sweep says nan where it is nearly that, in a block whose largest words
    the models disagree about more than about the others; where a word is banned; and where the models place their
    logits far from each other.
    """
    top_q, top_p = zq.amax(dim=-1), zp.amax(dim=-1)
    apart = top_q - top_p
    mass, other = (zq - top_q[..., None]).exp(), (zp - top_p[..., None]).exp()
    x = (zq - zp) - apart[..., None]
    expected = mass * x
    gaps = torch.where(x.abs() < SMALL, mass * _series(-x), other - mass + expected)
    total, of_other, expected, gaps = (wide(part.sum(dim=-1)) for part in (mass, other, expected, gaps))
    inside, delta = gaps / total, (gaps - expected) / total
    log_other = torch.where(inside < SMALL, delta.log1p(), of_other.log() - total.log())
    excess = delta - log_other
    value = inside - excess
    lost = ~(excess <= WORTH * value + NOTHING) | (apart.abs() > APART)
    lq = wide(top_q) + total.log()
    found = torch.stack([lq, lq - wide(apart) + log_other, value.clamp(min=0.0)], dim=-1)
    return found.masked_fill(lost[..., None], math.nan)


def pair_sums(zq: Tensor, zp: Tensor, normalisers: Tensor, terms: Terms, skew: float) -> Tensor:
    """(rows, 3): Σ d, Σ ∂D/∂a and Σ ∂D/∂b over the block; the normalisers, (rows, 2), are the whole's."""
    parts = terms(*_logs(zq, zp, *normalisers.unbind(dim=-1)), skew)
    return torch.stack([part.sum(dim=-1, dtype=wide(part[:0]).dtype) for part in parts], dim=-1)


def pair_gradients(
    zq: Tensor, zp: Tensor, saved: Tensor, upstream: Tensor, terms: Terms, skew: float
) -> tuple[Tensor, Tensor]:
    """g·∂D/∂z of both: g(∂D/∂a − q Σ∂D/∂a) and its like; 0 for a row whose D is infinite.

    Args:
        zq, zp: the block, (rows, columns).
        saved: (rows, 5): the two normalisers, D, Σ∂D/∂a, Σ∂D/∂b over the whole vocabulary.
        upstream: g, (rows,).
        terms, skew: of the divergence.
    """
    lq, lp, value, sum_a, sum_b = saved.unbind(dim=-1)
    a, b, log_ratio = _logs(zq, zp, lq, lp)
    _, of_a, of_b = terms(a, b, log_ratio, skew)
    finite = (~value.isinf())[:, None]
    g = upstream.to(zq.dtype)[:, None]
    grad_q = torch.where(finite, g * (of_a - a.exp() * sum_a.to(zq.dtype)[:, None]), 0.0)
    grad_p = torch.where(finite, g * (of_b - b.exp() * sum_b.to(zq.dtype)[:, None]), 0.0)
    return grad_q, grad_p


def _logs(zq: Tensor, zp: Tensor, lq: Tensor, lp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log q, log p and log q/p of the block, the last from the logits' own difference, which rounds less.

    A normaliser of −inf leaves −inf. Logits far from 0 lose no digit: first the rounded normaliser, which
    leaves a difference without rounding (of the larger logits), then what was rounded away.
    """
    lq, lp = (torch.where(n.isneginf(), 0.0, n) for n in (lq, lp))
    coarse, fine = _parts(lq - lp, zq.dtype)
    close, larger = coarse.abs() < APART, (lq.abs() > lp.abs())[:, None]
    late = torch.where(close, coarse, 0.0)
    from_q, to_p = torch.where(close | ~larger, 0.0, coarse), torch.where(close | larger, 0.0, coarse)
    log_ratio = (((zq - from_q) - (zp + to_p)) - late) - fine
    return minus(zq, lq), minus(zp, lp), log_ratio


def minus(z: Tensor, normaliser: Tensor) -> Tensor:
    """z less the normaliser of its row, to the last digit also where both are large."""
    coarse, fine = _parts(normaliser, z.dtype)
    return (z - coarse) - fine


def _parts(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x as the sum of two columns of a narrower dtype."""
    coarse = x.to(dtype)
    return coarse[:, None], (x - coarse.to(x.dtype)).to(dtype)[:, None]


def token_statistics(z: Tensor, index: Tensor) -> Tensor:
    """(rows, 3): the normaliser, the entropy within the block, and the logit at index (0 where index is −1)."""
    return torch.cat([spread(z), wide(chosen(z, index))[:, None]], dim=-1)


def spread(z: Tensor) -> Tensor:
    """(…, 2) of (…, columns): the normaliser, and the entropy within the block."""
    largest = z.amax(dim=-1)
    shift = torch.where(largest.isinf(), 0.0, largest)
    below = z - shift[..., None]
    mass = below.exp()
    total = wide(mass.sum(dim=-1))
    entropy = total.log() - wide(_times(mass, below).sum(dim=-1)) / total
    return torch.stack([wide(shift) + total.log(), entropy.masked_fill(total == 0, 0.0)], dim=-1)


def chosen(z: Tensor, index: Tensor) -> Tensor:
    """(rows,): the logit at index, 0 where index is −1."""
    return z.gather(-1, index.clamp(min=0)[:, None])[:, 0].where(index >= 0, 0.0)


def token_gradients(z: Tensor, index: Tensor, saved: Tensor, of_logprob: Tensor, of_entropy: Tensor) -> Tensor:
    """g₁(1[v = index] − q) − g₂ q(log q + H), the gradient to the logits.

    Args:
        z: the block, (rows, columns).
        index: the token's column in the block, −1 where it is not there.
        saved: (rows, 2): the normaliser and the entropy over the whole vocabulary.
        of_logprob, of_entropy: the upstream gradients g₁ and g₂, (rows,).
    """
    of_chosen = torch.where(index >= 0, of_logprob, 0.0).to(z.dtype)
    grad = spread_gradients(z, saved, of_logprob, of_entropy)
    return grad.scatter_add(-1, index.clamp(min=0)[:, None], of_chosen[:, None])


def spread_gradients(z: Tensor, saved: Tensor, of_logprob: Tensor, of_entropy: Tensor) -> Tensor:
    """``token_gradients`` as if no word were the token."""
    total, entropy = saved.unbind(dim=-1)
    entropy, g1, g2 = (x.to(z.dtype)[:, None] for x in (entropy, of_logprob, of_entropy))
    logs = minus(z, total)
    return -_times(logs.exp(), g1 + g2 * (logs + entropy))
