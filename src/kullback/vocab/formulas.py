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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kullback.families import Family

# |x| below which e^x − 1 − x is taken from its series. Up to x⁷ that errs by 1.2e-8 of the value at 0.25, less than
# float32 rounds; as it stands, e^x − 1 − x loses 6 of its 24 bits there, and all of them at 1e-4.
SERIES_BELOW = 0.25

LOG2_E = math.log2(math.e)

# Of two normalisers: where they are no farther apart, log q/p = (z_q − z_p) − (lse_q − lse_p) rounds less in this
# order. Farther apart the first difference is itself large: near 1e4 the numbers of float32 are 1e-3 apart.
FAR_APART = 16.0

# The one sweep makes a KL as F/S less an excess, and rounds by what it subtracts: an excess of 8 KLs costs three bits
# of float32. A block that loses more is swept again, unless its excess is below 1e-10 nats, which no use of a KL
# resolves.
WORST_EXCESS, NEGLIGIBLE_EXCESS = 8.0, 1e-10

# Nats of a block up to which its KL is made around the mean of the logits' differences; beyond, around the reference's
# normaliser, for e^−c of words far from the mean overflows float32 at 88, and nothing is left to be gained.
NEAR = 30.0

Terms = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def gap(a: Tensor, b: Tensor, log_ratio: Tensor | None = None) -> Tensor:
    """e^b − e^a + e^a(a − b) ≥ 0, whose sum over normalised a and b is KL(e^a‖e^b); 0 where both are −inf.

    ``log_ratio`` is a − b where it is known to more digits than the difference of two rounded logs has.
    """
    mass = a.exp()
    log_ratio = a - b if log_ratio is None else log_ratio
    near = log_ratio > -1.0
    other = torch.where(near, -log_ratio, b).exp()  # one exponential serves both branches
    close = torch.where(log_ratio.abs() < SERIES_BELOW, _series(-log_ratio), other - 1.0 + log_ratio)
    return torch.where(near, mass * close, other - mass + _mass_times(mass, log_ratio))


def _series(x: Tensor) -> Tensor:
    """e^x − 1 − x for |x| < ``SERIES_BELOW``."""
    # Not expm1(x) − x, which cancels: at 1e-3 it keeps four digits of seven, and e^x − 1 − x, which torch.compile makes
    # of it, keeps one.
    terms = 15 if x.dtype == torch.float64 else 7
    series = torch.full_like(x, 1 / math.factorial(terms))
    for number in range(terms - 1, 1, -1):
        series = series * x + 1 / math.factorial(number)
    return series * (x * x)


def _expm1(x: Tensor) -> Tensor:
    """e^x − 1, to the last digit also in compiled code."""
    return torch.where(x.abs() < SERIES_BELOW, x + _series(x), x.exp() - 1.0)


def _power(x: Tensor) -> Tensor:
    """e^x for x near 0 or below: x·log₂e rounds by 1e-7 of the value for each unit of |x|."""
    return (x * LOG2_E).exp2()  # compiled, torch's exp2 takes two thirds of the time of its exp


def _mass_times(mass: Tensor, x: Tensor) -> Tensor:
    """mass·x, and 0 where there is no mass."""
    return torch.where(mass > 0, mass * x, 0.0)


def _reverse(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    other = b.exp()
    below = torch.where(log_ratio.abs() < 1.0, other * _expm1(log_ratio), a.exp() - other)
    return gap(a, b, log_ratio), _mass_times(a.exp(), log_ratio), -below


def _skewed(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    m, above = _mixture(a, b, log_ratio, skew)
    mass, other = a.exp(), b.exp()
    of_b = torch.where(log_ratio.abs() < 1.0, -log_ratio - above, b - m)
    share = _mass_times(mass, skew * _expm1(of_b))
    return gap(a, m, -above), share - _mass_times(mass, above), -skew * _mass_times(other, _expm1(-above))


def _jensen_shannon(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    m, above = _mixture(a, b, log_ratio, 0.5)
    of_b = torch.where(log_ratio.abs() < 1.0, -log_ratio - above, b - m)
    value = 0.5 * (gap(a, m, -above) + gap(b, m, of_b))
    return value, -0.5 * _mass_times(a.exp(), above), 0.5 * _mass_times(b.exp(), of_b)


def _mixture(a: Tensor, b: Tensor, log_ratio: Tensor, skew: float) -> tuple[Tensor, Tensor]:
    """log m of m = (1−s)e^a + s·e^b, and log m − a."""
    near = torch.log1p(skew * _expm1(-log_ratio))  # m − a would keep no digit that its two logs have in common
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
        skew: s, the share of p in the mixture; only the skewed divergence reads it.
    """

    name: str
    formula: str
    terms: Terms
    chains: bool = False
    skew: float = 1.0


DIVERGENCES = Family(
    (
        Divergence(name="kl", formula="KL(q‖p)", terms=_reverse, chains=True),
        Divergence(name="skewed", formula="KL(q‖(1−s)q + sp)", terms=_skewed),
        Divergence(name="jensen_shannon", formula="½KL(q‖m) + ½KL(p‖m), m = ½(q + p)", terms=_jensen_shannon),
    )
)


def divergence_of(name: str, skew: float) -> Divergence:
    """The divergence of a name at a skew: what an operator, which is told of both, computes."""
    return replace(DIVERGENCES[name], skew=skew)


def normaliser(z: Tensor) -> Tensor:
    """log Σ_v e^z, (rows,), in float64, so that adding up its two parts loses nothing."""
    largest = z.amax(dim=-1)
    shift = torch.where(largest.isinf(), 0.0, largest)
    return wide(shift) + wide((z - shift[:, None]).exp().sum(dim=-1)).log()


def wide(x: Tensor) -> Tensor:
    """x in the dtype of statistics: float64, or float32 where the device has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def pair_statistics(zq: Tensor, zp: Tensor, difference: bool = False) -> Tensor:
    """(rows, 3): the two normalisers, and KL of the two distributions within the block (0 if one is empty).

    ``zp`` holds the reference's logits; or, with ``difference``, what they are below the policy's: z_q − z_p.
    """
    lq, lp = normaliser(zq), normaliser(zq - zp if difference else zp)
    inside = wide(gap(*_log_distributions(zq, zp, lq, lp, difference)).sum(dim=-1))
    if difference:
        near = difference_statistics(zq, zp, lq)
        lp, inside = (torch.where(near[:, 1].isnan(), *pair) for pair in ((lp, near[:, 0]), (inside, near[:, 1])))
    empty = lq.isneginf() | lp.isneginf()
    return torch.stack([lq, lp, inside.masked_fill(empty, 0.0)], dim=-1)


def difference_statistics(z: Tensor, d: Tensor, lq: Tensor) -> Tensor:
    """(…, 2) of z and d = z_q − z_p: the reference's normaliser and the KL; nan where the models are far apart.

    With m = Σ q d and c = d − m: KL(q‖p) = log1p(F), F = Σ q(e^−c − 1 + c), and log Σe^z_q − log Σe^z_p = m − KL.
    Both err in proportion to d, however large the logits are that it is the difference of.
    """
    a = logprobs_of(z, torch.where(lq.isneginf(), 0.0, lq))
    mass = a.exp()
    mean = wide(_mass_times(mass, d).sum(dim=-1)) / wide(mass.sum(dim=-1))
    coarse, fine = _coarse_and_fine(mean, z.dtype)
    c = (d - coarse) - fine
    value = wide(gap(a, a - c, c).sum(dim=-1)).log1p()
    found = torch.stack([lq - (mean - value), value], dim=-1)
    return found.masked_fill(~(value < NEAR)[..., None], math.nan)


def pair_sweep(zq: Tensor, zp: Tensor) -> Tensor:
    """``pair_statistics`` of (…, columns) with one exponential a logit, or nan where that would lose digits.

    With the largest logits for normalisers, A = e^(zq − max zq), B = e^(zp − max zp) and x = log A/B:

        KL = F/S − (δ − log(1 + δ)),    S = ΣA,    F = Σ(B − A + Ax),    δ = ΣB/ΣA − 1 = (F − ΣAx)/S.

    The bracket is ≥ 0 and at most F/S. The sweep says nan where it is nearly that, in a block whose largest words
    the models disagree about more than about the others; where a word is banned; and where the models place their
    logits far from each other.
    """
    # The formulas as they stand need the normalisers first: four exponentials a logit and two sweeps, against two and
    # one.
    top_q, top_p = zq.amax(dim=-1), zp.amax(dim=-1)
    apart = top_q - top_p
    mass, other = _power(zq - top_q[..., None]), _power(zp - top_p[..., None])
    x = (zq - zp) - apart[..., None]
    expected = mass * x
    gaps = torch.where(x.abs() < SERIES_BELOW, mass * _series(-x), other - mass + expected)
    # What follows is of rows alone, so that float64 costs nothing.
    total, of_other, expected, gaps = (wide(part.sum(dim=-1)) for part in (mass, other, expected, gaps))
    inside, delta = gaps / total, (gaps - expected) / total
    log_other = torch.where(inside < SERIES_BELOW, delta.log1p(), of_other.log() - total.log())
    excess = delta - log_other
    value = inside - excess
    lost = ~(excess <= WORST_EXCESS * value + NEGLIGIBLE_EXCESS) | (apart.abs() > FAR_APART)
    lq = wide(top_q) + total.log()
    found = torch.stack([lq, lq - wide(apart) + log_other, value.clamp(min=0.0)], dim=-1)
    return found.masked_fill(lost[..., None], math.nan)


def difference_sweep(z: Tensor, d: Tensor) -> Tensor:
    """``pair_statistics`` of (…, columns) from z and d = z_q − z_p, or nan where ``difference_statistics`` says it."""
    top = z.amax(dim=-1)
    mass = _power(z - top[..., None])
    total = wide(mass.sum(dim=-1))
    mean = wide((mass * d).sum(dim=-1)) / total
    coarse = mean.to(z.dtype)
    x = coarse[..., None] - d
    gaps = torch.where(x.abs() < SERIES_BELOW, _series(x), _power(x) - 1.0 - x)
    value = (wide((mass * gaps).sum(dim=-1)) / total).log1p()
    lq = wide(top) + total.log()
    found = torch.stack([lq, lq - (mean - value), value], dim=-1)
    return found.masked_fill(~(value < NEAR)[..., None], math.nan)


def pair_sums(
    zq: Tensor, zp: Tensor, normalisers: Tensor, *, terms: Terms, skew: float, difference: bool = False
) -> Tensor:
    """(rows, 3): Σ d, Σ ∂D/∂a and Σ ∂D/∂b over the block; the normalisers, (rows, 2), are the whole's."""
    lq, lp = normalisers.unbind(dim=-1)
    parts = terms(*_log_distributions(zq, zp, lq, lp, difference), skew)
    return torch.stack([part.sum(dim=-1, dtype=wide(part[:0]).dtype) for part in parts], dim=-1)


def pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    terms: Terms,
    skew: float,
    difference: bool = False,
) -> tuple[Tensor, Tensor]:
    """g·∂D/∂z of both: g(∂D/∂a − q Σ∂D/∂a) and its like; 0 for a row whose D is infinite.

    Args:
        zq, zp: the block, (rows, columns); with ``difference``, zp is z_q − z_p.
        saved: (rows, 5): the two normalisers, D, Σ∂D/∂a, Σ∂D/∂b over the whole vocabulary.
        upstream: g, (rows,).
        terms, skew: of the divergence.
        difference: whether the second block holds differences.
    """
    lq, lp, value, sum_a, sum_b = saved.unbind(dim=-1)
    a, b, log_ratio = _log_distributions(zq, zp, lq, lp, difference)
    _, of_a, of_b = terms(a, b, log_ratio, skew)
    finite = (~value.isinf())[:, None]
    g = upstream.to(zq.dtype)[:, None]
    grad_q = torch.where(finite, g * (of_a - a.exp() * sum_a.to(zq.dtype)[:, None]), 0.0)
    grad_p = torch.where(finite, g * (of_b - b.exp() * sum_b.to(zq.dtype)[:, None]), 0.0)
    return grad_q, grad_p


@dataclass(frozen=True)
class KlColumns:
    """What ``kl_gradient`` knows of every row: columns in the dtype of the logits, made before any block is read.

    Attributes:
        coarse, fine: log Σe^z_q in two steps; inf where a row has no gradient.
        from_q, to_p, late: see ``_steps``; with a difference in place of z_p only the last is taken off.
        rest: what log q/p − KL is still less.
        weight: the upstream gradient.
    """

    coarse: Tensor
    fine: Tensor
    from_q: Tensor
    to_p: Tensor
    late: Tensor
    rest: Tensor
    weight: Tensor

    @classmethod
    def of(cls, saved: Tensor, upstream: Tensor, dtype: torch.dtype, difference: bool) -> KlColumns:
        """From what ``pair_gradients`` is given."""
        lq, lp, value = saved[:, :3].unbind(dim=-1)
        no_gradient = (value.isinf() | lq.isneginf())[:, None]
        lq, lp = (torch.where(n.isneginf(), 0.0, n) for n in (lq, lp))
        coarse, fine = _coarse_and_fine(lq, dtype)
        from_q, to_p, late, last = _steps(lq, lp, dtype)
        late = (lq - lp).to(dtype)[:, None] if difference else late
        rest = (last + value[:, None]).to(dtype)
        coarse = coarse.masked_fill(no_gradient, math.inf)
        return cls(coarse, fine, from_q, to_p, late, rest, upstream.to(dtype)[:, None])


def kl_gradient(zq: Tensor, zp: Tensor, of: KlColumns, difference: bool) -> Tensor:
    """g·q(log q/p − KL), the gradient to z_q, as ``pair_gradients`` has it for the KL."""
    mass = ((zq - of.coarse) - of.fine).exp()
    apart = zp if difference else (zq - of.from_q) - (zp + of.to_p)
    return torch.where(mass > 0, of.weight * mass * ((apart - of.late) - of.rest), 0.0)


def _log_distributions(
    zq: Tensor, zp: Tensor, lq: Tensor, lp: Tensor, difference: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """log q, log p and log q/p of the block; a normaliser of −inf leaves −inf."""
    # log q/p is made of the logits' own difference, which rounds less than that of two log-probs. A normaliser is taken
    # off in two steps, rounded and rest: the first difference is exact for the words that matter (their logits are near
    # the normaliser), and so logits near 1e4, where float32 has steps of 1e-3, lose no digit.
    lq, lp = (torch.where(n.isneginf(), 0.0, n) for n in (lq, lp))
    if difference:
        coarse, fine = _coarse_and_fine(lq - lp, zq.dtype)
        a, log_ratio = logprobs_of(zq, lq), (zp - coarse) - fine
        return a, a - log_ratio, log_ratio
    from_q, to_p, late, fine = _steps(lq, lp, zq.dtype)
    log_ratio = (((zq - from_q) - (zp + to_p)) - late) - fine
    return logprobs_of(zq, lq), logprobs_of(zp, lp), log_ratio


def _steps(lq: Tensor, lp: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is taken off z_q, added to z_p, and twice taken off their difference, so that log q/p is left."""
    coarse, fine = _coarse_and_fine(lq - lp, dtype)
    close, larger = coarse.abs() < FAR_APART, (lq.abs() > lp.abs())[:, None]
    late = torch.where(close, coarse, 0.0)
    from_q, to_p = torch.where(close | ~larger, 0.0, coarse), torch.where(close | larger, 0.0, coarse)
    return from_q, to_p, late, fine


def logprobs_of(z: Tensor, normaliser: Tensor) -> Tensor:
    """z less the normaliser of its row, to the last digit also where both are large."""
    coarse, fine = _coarse_and_fine(normaliser, z.dtype)
    return (z - coarse) - fine


def _coarse_and_fine(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x as the sum of two columns of a narrower dtype."""
    coarse = x.to(dtype)
    return coarse[:, None], (x - coarse.to(x.dtype)).to(dtype)[:, None]


def token_statistics(z: Tensor, index: Tensor) -> Tensor:
    """(rows, 3): the normaliser, the entropy within the block, and the logit at index (0 where index is −1)."""
    return torch.cat([entropy_statistics(z), wide(chosen_logits(z, index))[:, None]], dim=-1)


def entropy_statistics(z: Tensor) -> Tensor:
    """(…, 2) of (…, columns): the normaliser, and the entropy within the block."""
    largest = z.amax(dim=-1)
    shift = torch.where(largest.isinf(), 0.0, largest)  # a block without words has the normaliser −inf, not nan
    below = z - shift[..., None]
    mass = below.exp()
    total = wide(mass.sum(dim=-1))
    entropy = total.log() - wide(_mass_times(mass, below).sum(dim=-1)) / total
    return torch.stack([wide(shift) + total.log(), entropy.masked_fill(total == 0, 0.0)], dim=-1)


def chosen_logits(z: Tensor, index: Tensor) -> Tensor:
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
    grad = gradients_without_token(z, saved, of_logprob, of_entropy)
    return grad.scatter_add(-1, index.clamp(min=0)[:, None], of_chosen[:, None])


def gradients_without_token(z: Tensor, saved: Tensor, of_logprob: Tensor, of_entropy: Tensor) -> Tensor:
    """``token_gradients`` as if no word were the token."""
    total, entropy = saved.unbind(dim=-1)
    entropy, g1, g2 = (x.to(z.dtype)[:, None] for x in (entropy, of_logprob, of_entropy))
    logs = logprobs_of(z, total)
    return -_mass_times(logs.exp(), g1 + g2 * (logs + entropy))
