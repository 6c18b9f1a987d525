"""The law that is sampled: what a model's logits become before a token is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from kullback.errors import InputError, shown

if TYPE_CHECKING:
    import torch

COLDEST, HOTTEST = 1e-4, 1e4
"""Temperatures between which float32 logits still carry the log-probs."""

MOST_TOKENS = 1 << 31
"""More than any vocabulary has."""


@dataclass(frozen=True)
class Sampling:
    """The distribution a model is sampled from: softmax(logits/T), cut to its top k, then to its nucleus.

    Log-probs of this distribution are called processed; with the default settings they are the raw ones.

    Attributes:
        temperature, top_p, top_k: as above; 1, 1 and 0 leave the model's own distribution.
        vocab: only the first so many tokens are drawn, the model's law given that it is one of them; None for all.
            For a model with tokens that the other one of a pair lacks.

    Raises:
        InputError: a temperature outside [1e-4, 1e4], a top_p outside (0, 1], a top_k that is no number of tokens.

    Example:
        >>> from kullback.models import Sampling
        >>> Sampling().raw, Sampling(temperature=0.7).raw
        (True, False)
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    vocab: int | None = None

    def __post_init__(self) -> None:
        # A logit near 100 is exact to 8e-6 in float32: at a temperature of 1e-4 its log-prob is off by 0.08 nats.
        if not COLDEST <= self.temperature <= HOTTEST:
            raise InputError(
                f"temperature={self.temperature:g} came, but it must be positive, from {COLDEST:g} to {HOTTEST:g} "
                "(for greedy decoding use top_k=1)"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={shown(self.top_p)} came, but it lies in (0, 1]; 1 keeps every token")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, Integral) or not 0 <= self.top_k < MOST_TOKENS:
            raise InputError(
                f"top_k={shown(self.top_k)} came, but it is 0 (every token) or the number of tokens to keep"
            )

    @property
    def raw(self) -> bool:
        """Whether this is the model's own distribution, over the tokens that may be drawn."""
        return (self.temperature, self.top_p, self.top_k) == (1.0, 1.0, 0)

    @property
    def truncates(self) -> bool:
        """Whether some tokens get probability 0."""
        return self.top_p < 1 or self.top_k > 0

    @property
    def settings(self) -> dict[str, float]:
        """What differs from sampling to sampling, for people and machines; `vocab` only where it cuts."""
        found = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return found if self.vocab is None else {**found, "vocab": self.vocab}

    def logprobs(self, logits: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probs (rows, tokens that may be drawn), float32, of what is sampled; −inf where it is cut off.

        Args:
            logits: (rows, vocab), any dtype.
            keep: (rows,) a token of each row that is kept whatever its rank: what was in fact drawn, where
                two forward passes round the edge of the nucleus differently.
        """
        import torch

        x = logits[..., : self.vocab].float() / self.temperature
        drop = torch.zeros_like(x, dtype=torch.bool)
        if 0 < self.top_k < x.shape[-1]:
            drop |= x < torch.topk(x, self.top_k).values[:, -1:]
        if self.top_p < 1:
            ordered, order = torch.sort(x.masked_fill(drop, -torch.inf), descending=True)
            mass = torch.softmax(ordered, dim=-1)
            # The mass before a token: the one that crosses top_p is kept, as transformers keeps it.
            beyond = mass.cumsum(dim=-1) - mass >= self.top_p
            beyond[..., 0] = False  # a top_p below 1e-45 is 0 in float32, and 0 >= 0
            drop |= torch.zeros_like(drop).scatter(-1, order, beyond)
        if keep is not None:
            drop = drop.scatter(-1, keep[:, None], False)
        return torch.log_softmax(x.masked_fill(drop, -torch.inf), dim=-1)


RAW = Sampling()
"""A model's own distribution."""
