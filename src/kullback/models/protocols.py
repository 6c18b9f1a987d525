"""What compare asks of a model: a sampler draws, a scorer says how likely given tokens are.

A model may be both, and what sampled need not be what scored. Token ids are those of one vocabulary throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from kullback.arrays import Float64
from kullback.models.randomness import Randomness
from kullback.models.sampling import Sampling

if TYPE_CHECKING:
    import torch

Prompt = str | list[dict[str, str]]
"""Text, or a list of chat messages with "role" and "content"."""

Tokens = Sequence[int]
"""Token ids of one prompt or one completion."""


@dataclass(frozen=True)
class Completion:
    """What was drawn after one prompt.

    Attributes:
        tokens: token ids, the end token included.
        logprobs: log-probs of the law they were drawn from, as the sampler knew them, (tokens,), nats.
        finish: "end" by an end token, or "length" where it was cut.
        states: last hidden states that the tokens were drawn from, (tokens, hidden), for the model that drew them to be
            scored without reading them again; None elsewhere.

    Example:
        >>> import numpy as np
        >>> drawn = Completion(tokens=[5, 2], logprobs=np.array([-0.5, -0.1]), finish="end")
        >>> len(drawn.tokens) == len(drawn.logprobs)
        True
    """

    tokens: list[int]
    logprobs: Float64
    finish: Literal["end", "length"]
    states: torch.Tensor | None = None


class Reader(Protocol):
    """A model by what it reads."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def context(self) -> int:
        """The most tokens it can read, prompt and completion together."""
        ...

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Token ids by token; empty where it does not say, and then nothing is checked."""
        ...

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt."""
        ...

    def decode(self, tokens: Tokens, *, special: bool = True) -> str:
        """The text of some tokens, with or without special ones."""
        ...


@runtime_checkable
class Sampler(Reader, Protocol):
    """What draws completions.

    Example:
        >>> from kullback import models
        >>> isinstance(models.load("builtin:base"), models.Sampler)
        True
    """

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a sequence."""
        ...

    @property
    def mixes_lengths(self) -> bool:
        """Whether prompts of different lengths can be drawn from in one batch."""
        ...

    def sample(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        randomness: Randomness,
        on_tokens: Callable[[int], None],
    ) -> list[Completion]:
        """One completion for each prompt, ended by an end token (which is part of it) or after max_new_tokens.

        Args:
            prompts: token ids, none empty.
            sampling: the law to draw from.
            max_new_tokens: the most tokens of a completion.
            randomness: where random numbers come from; those of its `uniforms` are each row's own, whatever is drawn
                beside it.
            on_tokens: told as often as it can be how many tokens were drawn; may raise, to stop the job.
        """
        ...


@runtime_checkable
class Scorer(Reader, Protocol):
    """What says how likely given tokens are.

    Example:
        >>> from kullback import models
        >>> isinstance(models.load("builtin:base"), models.Scorer)
        True
    """

    def logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling, *, drawn: bool
    ) -> list[Float64]:
        """Log-probs of the completions' tokens, (tokens,) each, nats; −inf where the law cuts a token off.

        Args:
            prompts, completions: token ids, row by row; no prompt is empty.
            sampling: the law that is meant.
            drawn: whether the tokens were drawn from this very law, so that none of them can be cut off where two
                forward passes round the edge of the nucleus differently.
        """
        ...


class NextLogits(Protocol):
    """Next-token logits at every token of a batch of completions, in their order, read a slice at a time.

    Example:
        >>> from kullback import models
        >>> logits = models.load("builtin:base").next_logits([[1, 2]], [[3, 4, 5]])
        >>> tuple(logits[0:2].shape)
        (2, 512)
    """

    def __getitem__(self, at: slice, /) -> torch.Tensor:
        """(tokens of the slice, vocab), any float dtype."""
        ...


@runtime_checkable
class DistributionScorer(Scorer, Protocol):
    """A scorer that has the whole next-token distribution, so that exact token KLs come out of the same pass.

    Example:
        >>> from kullback import models
        >>> isinstance(models.load("builtin:base"), models.DistributionScorer)
        True
    """

    @property
    def vocab(self) -> int:
        """Logits it returns for a token; some may be padding that no token has."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype of its weights, such as ``float32``."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def next_logits(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> NextLogits:
        """One forward pass over all rows."""
        ...
