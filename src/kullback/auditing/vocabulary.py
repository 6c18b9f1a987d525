"""How much of the vocabulary a function of whole distributions sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import differentiate

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

SIZE = 8


def seen_vocabulary(subject: Subject) -> tuple[int, int] | None:
    """(tokens of the vocabulary that have an effect, vocabulary), for a function of whole distributions."""
    import torch

    if not {"log_distributions", "ref_log_distributions"} & subject.columns:
        return None
    index = torch.arange(SIZE, dtype=torch.float64)
    q = (-0.55 * index).log_softmax(-1).expand(1, 1, SIZE).clone().requires_grad_()
    p = (-0.4 * index + 0.1 * torch.sin(index)).log_softmax(-1).expand(1, 1, SIZE).clone().requires_grad_()
    result = subject(_columns(q, p)).sum()
    if not result.requires_grad:
        return None
    by_q, by_p = (gradient.reshape(-1).abs() for gradient in differentiate(result, (q, p)))
    return int((by_q + by_p > 1e-12).sum()), SIZE


def _columns(q: Tensor, p: Tensor) -> Columns:
    """One token, the first of the vocabulary, under two distributions."""
    import torch

    return {
        "logprobs": q[..., 0],
        "ref_logprobs": p[..., 0],
        "behavior_logprobs": q[..., 0].detach(),
        "mask": torch.ones((1, 1), dtype=torch.bool),
        "tokens": torch.zeros((1, 1), dtype=torch.int64),
        "token_kl": (q.exp() * (q - p)).sum(-1),
        "reverse_token_kl": (p.exp() * (p - q)).sum(-1),
        "log_distributions": q,
        "ref_log_distributions": p,
        "log_ratio": (q - p)[..., 0],
        "ratio": torch.ones((1, 1), dtype=torch.float64),
    }
