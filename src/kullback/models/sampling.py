"""The law that is sampled: what a model's logits become before a token is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kullback.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """The distribution a model is sampled from: softmax(logits/T), cut to its top k, then to its nucleus.

    Log-probs of this distribution are called processed; with the default settings they are the raw ones.

    Raises:
        InputError: a temperature that is not positive, a top_p outside (0, 1], a negative top_k.

    Example:
        >>> from kullback.models import Sampling
        >>> Sampling().raw, Sampling(temperature=0.7).raw
        (True, False)
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(
                f"temperature={self.temperature:g} came, but it must be positive (for greedy decoding use top_k=1)"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p:g} came, but it lies in (0, 1]; 1 keeps every token")
        if self.top_k < 0:
            raise InputError(f"top_k={self.top_k} came, but it is 0 (every token) or the number of tokens to keep")

    @property
    def raw(self) -> bool:
        """Whether this is the model's own distribution."""
        return (self.temperature, self.top_p, self.top_k) == (1.0, 1.0, 0)

    @property
    def truncates(self) -> bool:
        """Whether some tokens get probability 0."""
        return self.top_p < 1 or self.top_k > 0

    def logprobs(self, logits: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probs (rows, vocab) in float32 of the distribution that is sampled; −inf where it is cut off.

        Args:
            logits: (rows, vocab), any dtype.
            keep: (rows,) a token of each row that is kept whatever its rank: what was in fact drawn, where
                two forward passes round the edge of the nucleus differently.
        """
        import torch

        x = logits.float() / self.temperature
        drop = torch.zeros_like(x, dtype=torch.bool)
        if 0 < self.top_k < x.shape[-1]:
            drop |= x < torch.topk(x, self.top_k).values[:, -1:]
        if self.top_p < 1:
            ordered, order = torch.sort(x.masked_fill(drop, -torch.inf), descending=True)
            mass = torch.softmax(ordered, dim=-1)
            # The mass before a token: the one that crosses top_p is kept, as transformers keeps it.
            beyond = mass.cumsum(dim=-1) - mass >= self.top_p
            drop |= torch.zeros_like(drop).scatter(-1, order, beyond)
        if keep is not None:
            drop = drop.scatter(-1, keep[:, None], False)
        return torch.log_softmax(x.masked_fill(drop, -torch.inf), dim=-1)


RAW = Sampling()
"""A model's own distribution."""
