"""One sampled token, or a few, whose log-probs are set by hand: what a function does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from kullback.arrays import Float64
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import Rows, differentiate, masked

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

Mask = npt.NDArray[np.bool_]
Precision = Literal["float64", "float32", "bfloat16"]

FLOAT64 = 5e-8
"""What counts as equal in float64: rounding, and an epsilon of 1e-8 that a mean divides by."""

HALF = 0.01
"""From this relative error on a function's arithmetic is half precision."""


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
    dtype: Precision = "float64"

    @property
    def possible(self) -> bool:
        """Whether log-probs of sampled tokens are all that the function reads."""
        return not self.subject.full

    @property
    def works(self) -> bool:
        """Whether the function takes a single token at all."""
        if not self.possible:
            return False
        try:
            return bool(np.isfinite(self.ratio(np.array([0.5]))[0]).all())
        except CallFailed:
            return False

    def at(
        self, q: Float64, p: Float64, mu: Float64 | None = None, mask: Mask | None = None
    ) -> tuple[Float64, Float64]:
        """Value of each row, and its derivative in each log q; arrays (rows, tokens)."""
        import torch

        dtype = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]
        count = len(q)
        live = torch.tensor(q, dtype=dtype, requires_grad=True)
        given = _columns(live, torch.tensor(p, dtype=dtype), mu, mask)
        if self.separable and self.subject.kind != "scalar":
            rows = [*range(count), *[count - 1] * self.subject.spare(count)]
            result = self.subject(given, rows)[:count]
            values = masked(result, given["mask"]).sum(-1) if result.ndim == 2 else result
        else:
            values = self._alone(given)
        slope = differentiate(values.sum(), [live])[0].double().numpy()
        return values.detach().double().numpy(), slope

    def _alone(self, given: Columns) -> Tensor:
        """The value of each row, as a batch of its own."""
        rows = len(given["logprobs"])
        result = self.subject.each(given, [[i] for i in range(rows)])
        if self.subject.kind == "token":
            return masked(result[:, 0], given["mask"]).sum(-1)
        return result.reshape(rows)

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


def _columns(live: Tensor, p: Tensor, mu: Float64 | None, mask: Mask | None) -> Columns:
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


def precision(subject: Subject, given: Columns, rows: Rows) -> float:
    """The relative error that the function's own arithmetic makes: float64, float32 or half precision."""
    floating = [name for name in subject.columns if name in given and given[name].is_floating_point()]
    return max((_precision(subject, given, rows, name) for name in floating), default=FLOAT64)


def _precision(subject: Subject, given: Columns, rows: Rows, column: str) -> float:
    """The same for one column: the smallest nudge that it notices."""
    import torch

    def nudged(by: float) -> Tensor:
        return subject({**given, column: given[column] * (1.0 + by)}, rows).detach().double()

    still = nudged(0.0)
    for step, error in ((1e-11, FLOAT64), (1e-5, 1e-4)):
        if not torch.equal(nudged(step), still):
            return error
    return 0.05 if not torch.equal(nudged(0.05), still) else FLOAT64


def half_error(rounded: Subject, wide: Subject, given: Columns, rows: Rows) -> float:
    """What half precision does to a function's result: the largest relative error over some rows."""
    got, want = (subject(given, rows).detach().double().numpy() for subject in (rounded, wide))
    size = np.abs(want).max()
    return float(np.abs(got - want).max() / size) if size > 0 else 0.0


def rounding_step(probe: Probe) -> float:
    """The steps in which the result moves where a token's log-ratio grows evenly; 0 where it has none of one size."""
    if not probe.works:
        return 0.0
    reference = -1.0 - np.linspace(0.1, 2.1, 101)[:, None]
    policy = np.full_like(reference, -1.0)
    seen = np.unique(probe.at(policy, reference, policy)[0])
    steps = np.diff(seen)
    even = len(seen) < 60 and len(steps) > 0 and bool(np.allclose(steps, steps.min(), rtol=1e-3))
    return float(steps.min()) if even else 0.0


def same(a: float, b: float) -> bool:
    """Whether two results differ by rounding at most."""
    return bool(np.isclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
