"""Two models' logits of one block: those of both, or, where they share the head, one's and the difference of both.

With one head W, z_q − z_p = (h_q − h_p)Wᵀ: as many products, and an error in proportion to the difference instead of
the logits, which are a thousand times as large where two models are 1e-5 nats apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kullback.vocab.heads import Head, HeadPlan
from kullback.vocab.products import slices

# Of two biases: where a word's are farther apart, as where one model alone bans it, p = q·e^−d keeps no digit.
MODERATE = 100.0

# Of a block, whose differences are capped at a time: five temporaries of a megabyte.
CAPPED_NUMBERS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class HeadPair:
    """A policy's head and a reference's.

    Attributes:
        q, p: the heads, each with its hidden states.
        d: a head whose logits before the cap are z_q − z_p, or None.
        rest: what ``d`` lacks where the heads differ, h_p(W_q − W_p)ᵀ, as a head; or None.
    """

    q: Head
    p: Head
    d: Head | None = None
    rest: Head | None = None

    @property
    def difference(self) -> bool:
        """Whether the second block that ``block`` gives is a difference."""
        return self.d is not None

    def block(self, z: Tensor, rows: slice, columns: slice, slope: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """The logits of q, from ``q.uncapped``, which they overwrite; of p, or the difference; and p's slope."""
        if self.d is None:
            x = self.p.uncapped(rows, columns)
            of_p = self.p.slope(x) if slope else None
            return self.q.capped(z), self.p.capped(x), of_p
        x = self.d.uncapped(rows, columns)
        if self.rest is not None:
            x += self.rest.uncapped(rows, columns)
        if not self.q.softcap:
            return z, x, self.p.slope(x) if slope else None
        of_p = self.p.slope(z - x) if slope else None
        x = capped_difference(z, x, self.q.softcap)
        return self.q.capped(z), x, of_p


def head_pair(q: Head, p: Head, plan: HeadPlan, weight_difference: Tensor | None) -> HeadPair:
    """The pair by difference products where the biases allow it, else by one product a model.

    Args:
        q, p: two heads of one scale and cap, with hidden states of one size.
        plan: with the precision, and with the sign of the difference.
        weight_difference: plus or minus W_q − W_p, or None where that is 0.
    """
    bias, moderate = _difference_of_biases(q.bias, p.bias)
    if not moderate:
        return HeadPair(q=q, p=p)
    exact = torch.promote_types(q.hidden.dtype, torch.float32)
    moved = q.hidden.to(exact) - p.hidden.to(exact)
    half = plan.precision != "float32"
    d = Head(hidden=moved, weight=q.weight, bias=bias, scale=q.scale, half=half)
    if weight_difference is None:
        return HeadPair(q=q, p=p, d=d)
    return HeadPair(
        q=q, p=p, d=d, rest=Head(hidden=p.hidden, weight=weight_difference, scale=plan.difference * q.scale, half=half)
    )


def _difference_of_biases(bias: Tensor | None, ref_bias: Tensor | None) -> tuple[Tensor | None, bool]:
    """The biases' difference, None for 0, and whether every word's is moderate."""
    if bias is ref_bias:
        return None, True
    of_q, of_p = (0.0 if x is None else x.to(torch.promote_types(x.dtype, torch.float32)) for x in (bias, ref_bias))
    difference = torch.as_tensor(of_q - of_p)
    return difference, bool((difference.abs() < MODERATE).all())


def capped_difference(z: Tensor, x: Tensor, cap: float) -> Tensor:
    """cap·(tanh a − tanh b), a = z/cap, b = (z − x)/cap, of the logits before the cap, in the memory of x.

    tanh a − tanh b = sinh(a − b)/(cosh a·cosh b), in exponentials that do not overflow: with e = a − b,
    2 sign(e)(1 − exp(−2|e|)) exp(|e| − |a| − |b|) / ((1 + exp(−2|a|))(1 + exp(−2|b|))).
    """
    for at in slices(len(x), CAPPED_NUMBERS // max(1, x.shape[1])):
        x[at] = _capped_difference(z[at], x[at], cap)
    return x


def _capped_difference(z: Tensor, x: Tensor, cap: float) -> Tensor:
    exact = torch.promote_types(z.dtype, torch.float32)
    a, e = z.to(exact) / cap, x.to(exact) / cap
    b = (a - e).abs_()
    size = e.abs()
    # |e| − |a| − |b|, whose parts cancel where e is large: 0 or −2(|a| − |e|) where a and e have one sign, else −2|a|
    rest = torch.where(a * e > 0, (size - a.abs()).clamp_(max=0.0), -a.abs()).mul_(2.0).exp_()
    for factor in (a.abs_(), b):
        rest.div_(factor.mul_(-2.0).exp_().add_(1.0))
    return rest.mul_(size.mul_(-2.0).expm1_()).mul_(e.sign_()).mul_(-2.0 * cap)
