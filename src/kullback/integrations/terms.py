"""What a KL adds to the loss of a micro-batch, where trainers divide by the tokens or sequences of a whole step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kullback.arrays import A
from kullback.integrations.options import Options
from kullback.integrations.units import BetaUnit
from kullback.losses import kl_loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What a step's sums are divided by.

    Attributes:
        tokens: counted tokens of the step.
        sequences: sequences of the step that have one.
        scale: what the trainer multiplies by to undo an average of its own, data-parallel ranks say.
    """

    tokens: Tensor | float
    sequences: Tensor | float
    scale: float = 1.0

    def of(self, total: Tensor, unit: BetaUnit) -> Tensor:
        """Nats summed over a micro-batch, as its part of the step's nats a token or a sequence; 0 where none counts."""
        count = self.tokens if unit == "token" else self.sequences
        return total * self.scale / max(float(count), 1.0)


def nats(
    wanted: Options,
    logprobs: A,
    ref_logprobs: A,
    mask: A,
    *,
    behavior_logprobs: A | None = None,
    token_kl: A | None = None,
) -> A:
    """Σ_i of `kullback.kl_loss`'s rows: a scalar in nats, to be divided by what the whole step has.

    Sums of micro-batches add up to the sum of the step, whatever its split, unless weights are self-normalised or a
    baseline is the other rows': both know the micro-batch alone.

    Args:
        wanted: whose gradient, by what estimate.
        logprobs: log q of the sampled tokens, (batch, time), differentiable.
        ref_logprobs: log p of the same.
        mask: True where a token counts.
        behavior_logprobs: of what drew them.
        token_kl: exact KL at each prefix, for `RAO_BLACKWELL`.

    Example:
        >>> import torch, kullback as kb
        >>> from kullback.integrations.options import options
        >>> from kullback.integrations.terms import Shares, nats
        >>> wanted = options(0.1, objective=kb.REVERSE_KL, unit="token")
        >>> total = nats(wanted, torch.tensor([[-0.5, -1.0]]), torch.tensor([[-0.7, -1.5]]), torch.ones(1, 2).bool())
        >>> round(float(total), 4), round(float(Shares(tokens=2, sequences=1).of(total, "token")), 4)
        (0.7, 0.35)
    """
    found = kl_loss(
        logprobs,
        ref_logprobs,
        mask,
        objective=wanted.objective,
        estimator=wanted.estimator,
        behavior_logprobs=behavior_logprobs,
        token_kl=token_kl,
        baseline=wanted.baseline,
        truncate=wanted.truncate,
    )
    return found * logprobs.shape[0]


def coefficients(wanted: Options, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """c_t of Σ_i Σ_t c_t ∇log q_t, the gradient of `nats`: what advantages are less by where a loss is −Σ A_t log q_t.

    Args:
        wanted: whose gradient, by what estimate.
        logprobs: log q of the sampled tokens, (batch, time), of the policy that drew them.
        ref_logprobs: log p of the same.
        mask: True where a token counts.

    Example:
        >>> import torch, kullback as kb
        >>> from kullback.integrations.options import options
        >>> from kullback.integrations.terms import coefficients
        >>> wanted = options(0.1, objective=kb.REVERSE_KL, unit="sequence")
        >>> q, p = torch.tensor([[-0.5, -1.0]]), torch.tensor([[-0.7, -1.5]])
        >>> coefficients(wanted, q, p, torch.ones(1, 2).bool())
        tensor([[0.7000, 0.5000]])
    """
    import torch

    with torch.enable_grad():
        live = logprobs.detach().requires_grad_()
        found: Tensor = torch.autograd.grad(nats(wanted, live, ref_logprobs, mask), live)[0]
    return found


def over_tokens(total: Tensor, mask: Tensor) -> Tensor:
    """A total as an array whose sum over the counted tokens it is, for trainers that sum an array of their own.

    Args:
        total: a scalar, in nats.
        mask: True where a token counts, (batch, time).

    Example:
        >>> import torch
        >>> from kullback.integrations.terms import over_tokens
        >>> over_tokens(torch.tensor(3.0), torch.tensor([[True, True], [True, False]]))
        tensor([[1., 1.],
                [1., 0.]])
    """
    return total * mask / mask.sum().clamp(min=1)


def over_rows(total: Tensor, mask: Tensor) -> Tensor:
    """A total as an array whose means over each row's counted tokens sum to it, for trainers that sum such means.

    Args:
        total: a scalar, in nats.
        mask: True where a token counts, (batch, time).

    Example:
        >>> import torch
        >>> from kullback.integrations.terms import over_rows
        >>> over_rows(torch.tensor(3.0), torch.tensor([[True, True], [True, False], [False, False]]))
        tensor([[1.5000, 1.5000],
                [1.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    return total * mask / mask.any(-1).sum().clamp(min=1)
