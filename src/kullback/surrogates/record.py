"""What a surrogate is, and what it promises for which samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from kullback.arrays import Array
from kullback.estimators import Promise
from kullback.targets import Target


@dataclass(frozen=True)
class BySampler(Promise):
    """A promise for rows drawn from the policy, from any other policy μ, and from the reference."""

    on_policy: Target | None
    off_policy: Target | None = None
    from_reference: Target | None = None


NEVER = BySampler(None)


@dataclass(frozen=True)
class Surrogate:
    """A loss as trainers write it, together with everything it promises.

    Attributes:
        name: what tables call it.
        fn: (logprobs, ref_logprobs, mask, further columns by name) → one number a row, (batch,).
        placement: "loss", or "reward" where the KL is detached and the log-prob of the sequence carries it.
        level: whether tokens are summed, or the whole sequence is one outcome.
        value_of: the target its expectation equals, by what drew the rows.
        gradient_of: the target whose gradient the expectation of its derivative equals.
        source: where it is found.
        nonnegative: whether a row's value is never below zero.

    Example:
        >>> import kullback as kb
        >>> loss = kb.SURROGATES["k3_loss"]
        >>> loss.formula, loss.value_of["on_policy"], loss.gradient_of["on_policy"]
        ('Σ_t k3(ℓ_t)', REVERSE_KL, STATEWISE_FORWARD_KL)
    """

    name: str
    fn: Callable[..., Array]
    placement: Literal["loss", "reward"]
    level: Literal["token", "sequence"]
    value_of: BySampler
    gradient_of: BySampler
    source: str
    nonnegative: bool = False

    def __call__(self, logprobs: Array, ref_logprobs: Array, mask: Array, **columns: Array) -> Array:
        """One number a row, (batch,), whose mean is the loss."""
        return self.fn(logprobs, ref_logprobs, mask, **columns)

    @property
    def formula(self) -> str:
        """The first line of the function's documentation, its kernel named."""
        function: object = self.fn.func if isinstance(self.fn, partial) else self.fn
        kernel = self.fn.keywords.get("kernel") if isinstance(self.fn, partial) else None
        text = str(function.__doc__).splitlines()[0]
        return text.replace("k(", f"{kernel.__name__}(") if kernel else text

    def __repr__(self) -> str:
        return f"<surrogate {self.name}>"
