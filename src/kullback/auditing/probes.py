"""One sampled token, or two, whose log-probs are set by hand: what a function does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kullback.arrays import Array, Float64
from kullback.auditing.subject.arrays import CallFailed, differentiate
from kullback.auditing.subject.wiring import Subject

FLOAT64 = 5e-8
"""What counts as equal in float64: rounding, and an epsilon of 1e-8 that a mean divides by."""

FULL = frozenset({"token_kl", "reverse_token_kl", "log_distributions", "ref_log_distributions"})
"""Columns that a hand-set log-prob of one token does not determine."""


@dataclass(frozen=True)
class Probe:
    """Calls a function on rows of tokens with given log-probs, each row a batch of its own where rows couple.

    Attributes:
        subject: the function.
        separable: whether rows may share a call.
        dtype: of the arrays it gets.
    """

    subject: Subject
    separable: bool
    dtype: str = "float64"

    @property
    def possible(self) -> bool:
        """Whether log-probs of sampled tokens are all that the function reads."""
        return not self.subject.columns & FULL

    def at(self, q: Float64, p: Float64, mu: Float64 | None = None, mask: Any = None) -> tuple[Float64, Float64]:
        """Value of each row, and its derivative in each log q; arrays (rows, tokens)."""
        import torch

        dtype = getattr(torch, self.dtype)
        live = torch.tensor(q, dtype=dtype, requires_grad=True)
        given = _columns(live, torch.tensor(p, dtype=dtype), mu, mask)
        counted = given["mask"]
        if self.separable and self.subject.kind != "scalar":
            result = self.subject(given)
            values = torch.where(counted, result, torch.zeros_like(result)).sum(-1) if result.ndim == 2 else result
        else:
            values = torch.stack([self._one(given, i) for i in range(len(q))])
        slope = differentiate(values.sum(), [live])[0].double().numpy()
        return values.detach().double().numpy(), slope

    def _one(self, given: dict[str, Array], row: int) -> Array:
        result = self.subject(given, slice(row, row + 1))
        return (
            result.reshape(-1)[0]
            if result.ndim == 0 or result.numel() == 1
            else (result * given["mask"][row : row + 1]).sum()
        )

    def ratio(self, log_ratio: Float64, level: float = 0.0) -> tuple[Float64, Float64]:
        """One token of each log-ratio; the likelier of its two log-probs is `level`."""
        q = np.minimum(log_ratio, 0.0) + level
        p = np.minimum(-log_ratio, 0.0) + level
        values, slope = self.at(q[:, None], p[:, None])
        return values, slope[:, 0]

    def tokens(self, log_ratios: list[float], log_weights: list[float]) -> float:
        """The value of one row of tokens with these log-ratios and these log q/μ."""
        x, s = np.array([log_ratios]), np.array([log_weights])
        q = -1.0 + np.minimum(x, 0.0)
        return float(self.at(q, q - x, q - s)[0][0])


def _columns(live: Array, p: Array, mu: Float64 | None, mask: Any) -> dict[str, Array]:
    import torch

    behavior = live.detach().clone() if mu is None else torch.tensor(mu, dtype=live.dtype)
    return {
        "logprobs": live,
        "ref_logprobs": p,
        "behavior_logprobs": behavior,
        "mask": torch.ones(live.shape, dtype=torch.bool) if mask is None else torch.tensor(mask),
        "tokens": torch.ones(live.shape, dtype=torch.int64),
        "log_ratio": live - p,
        "ratio": (live - behavior).exp(),
    }


def precision(subject: Subject, given: dict[str, Array], rows: Any) -> float:
    """The relative error that the function's own arithmetic makes: float64, float32 or half precision."""
    floating = [name for name in subject.columns if given[name].is_floating_point()]
    return max((_precision(subject, given, rows, name) for name in floating), default=FLOAT64)


def _precision(subject: Subject, given: dict[str, Array], rows: Any, column: str) -> float:
    """The same for one column: the smallest nudge that it notices."""
    import torch

    def nudged(by: float) -> Array:
        return subject({**given, column: given[column] * (1.0 + by)}, rows).detach().double()

    still = nudged(0.0)
    for step, error in ((1e-11, FLOAT64), (1e-5, 1e-4)):
        if not torch.equal(nudged(step), still):
            return error
    return 0.05 if not torch.equal(nudged(0.05), still) else FLOAT64


def calls(probe: Probe) -> bool:
    """Whether the function takes a single token at all."""
    try:
        probe.ratio(np.array([0.5]))
    except CallFailed:
        return False
    return True
