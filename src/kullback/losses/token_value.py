"""A baseline that knows the token: what a critic says of every next token, and its mean under the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np

from kullback.arrays import A, Array, Bounds, Numbers, at_least_float32, check, is_torch, namespace, stop_gradient
from kullback.errors import InputError, ShapeError
from kullback.losses.rows import Rows, beside, same_shape

FINITE = Bounds(-np.inf, np.finfo(np.float64).max, None, "number")


@dataclass(frozen=True, eq=False)
class TokenValue(Generic[A]):
    """g(x_<t, x_t) and Σ_v q(v|x_<t) g(x_<t, v), for `kl_loss(..., baseline=…)`.

    For any g, −g(x_t) ∇log q(x_t) + Σ_v q(v) g(v) ∇log q(v) has mean zero given the prefix, so that the gradient stays
    unbiased whatever the critic says, as long as it does not see what came after the prefix. The best g for REVERSE_KL
    with `token_kl` is the KL still to come after v. A baseline of the prefix alone is the g that is the same for all v.

    Attributes:
        drawn: g of the token that was drawn, (batch, time). No gradient flows.
        expected: Σ_v q_t(v) g(v), (batch, time), differentiable through q and never through g.

    Reference: docs/variance.md; Williams 1992 for baselines; Gu et al. 2017, arXiv 1611.02247, for critics as controls.

    Example:
        >>> import torch, kullback as kb
        >>> logits = torch.zeros(1, 1, 2, requires_grad=True)
        >>> q = torch.log_softmax(logits, -1)
        >>> value = kb.TokenValue.of(torch.tensor([[[1.0, 3.0]]]), q, torch.tensor([[1]]))
        >>> value.drawn.tolist(), value.expected.tolist()
        ([[3.0]], [[2.0]])
        >>> p = torch.tensor([[-1.0]])
        >>> kb.kl_loss(q[..., 1], p, objective=kb.REVERSE_KL, baseline=value).item() > 0
        True
    """

    drawn: Numbers
    expected: A

    @classmethod
    def of(cls, values: Numbers, logprobs: A, tokens: Numbers) -> TokenValue[A]:
        """Of a critic's values of the whole vocabulary.

        Args:
            values: g, (batch, time, vocab); no gradient flows.
            logprobs: log q of the whole vocabulary, (batch, time, vocab), torch or JAX, differentiable.
            tokens: the drawn ones, (batch, time); where masked, any token of the vocabulary.

        Raises:
            ShapeError: shapes that do not go together.
        """
        live = at_least_float32(logprobs, "logprobs")
        xp = namespace(live)
        g = stop_gradient(at_least_float32(beside(values, live), "values"))
        place = beside(tokens, live)
        shapes = (tuple(g.shape), tuple(place.shape))
        if live.ndim != 3 or shapes != (tuple(live.shape), tuple(live.shape[:2])):
            raise ShapeError(
                f"logprobs has shape {tuple(live.shape)}, values {shapes[0]} and tokens {shapes[1]}, but they are "
                "(batch, time, vocab) twice and (batch, time)"
            )
        mass = xp.exp(live)
        # What the policy excludes counts nothing, and has no gradient.
        expected = xp.sum(xp.where(mass > 0, mass * g, 0.0), axis=-1)
        return cls(xp.take_along_axis(g, place[..., None], axis=-1)[..., 0], expected)

    def terms(self, rows: Rows[A]) -> tuple[A, A]:
        """What is subtracted from c_t, and 0 with the gradient that gives its mean back.

        Raises:
            InputError: a number that is not finite, or an expectation without gradient.
            ShapeError: arrays that are not (batch, time).
        """
        shape = tuple(rows.policy.shape)
        drawn = stop_gradient(at_least_float32(beside(self.drawn, rows.policy), "drawn"))
        expected = at_least_float32(beside(self.expected, rows.policy), "expected")
        for name, x in (("drawn", drawn), ("expected", expected)):
            if tuple(x.shape) != shape:
                same_shape(name, x, shape)
                raise ShapeError(f"{name} has shape {tuple(x.shape)}, but it is one number a token, {shape}")
        if _held(rows.live, expected):
            raise InputError(
                "expected came without gradient, which makes the gradient of the loss biased: "
                "compute Σ_v q(v) g(v) of log-probs that are not detached, as TokenValue.of does"
            )
        drawn, expected = rows.kept(drawn), rows.kept(expected)
        if rows.poison is None:
            check("drawn", drawn, rows.mask, FINITE)
            check("expected", stop_gradient(expected), rows.mask, FINITE)
        before = rows.ratio() / rows.xp.exp(rows.log_ratio(rows.policy)) if rows.behavior is not None else None
        return rows.ratio() * drawn, rows.gradient(before, expected, stop_gradient(expected))


def _held(live: Array, expected: Array) -> bool:
    """Whether torch would give a gradient to the log-probs and none to the expectation."""
    return is_torch(live) and is_torch(expected) and live.requires_grad and not expected.requires_grad
