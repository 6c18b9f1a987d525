"""Sampling from a model, and the distribution that is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kullback.errors import InputError

if TYPE_CHECKING:
    from kullback.models.loading import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """The distribution a model is sampled from: softmax(logits/T), cut to its top k, then to its nucleus.

    Log-probs of this distribution are called processed; with the default settings they are the raw ones.

    Raises:
        InputError: a temperature that is not positive, a top_p outside (0, 1], a negative top_k.
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
        x = logits.float() / self.temperature
        drop = torch.zeros_like(x, dtype=torch.bool)
        if 0 < self.top_k < x.shape[-1]:
            drop |= x < torch.topk(x, self.top_k).values[:, -1:]
        if self.top_p < 1:
            ordered, order = torch.sort(x.masked_fill(drop, -torch.inf), descending=True)
            mass = torch.softmax(ordered, dim=-1)
            beyond = mass.cumsum(dim=-1) - mass >= self.top_p
            drop |= torch.zeros_like(drop).scatter(-1, order, beyond)
        if keep is not None:
            drop = drop.scatter(-1, keep[:, None], False)
        return torch.log_softmax(x.masked_fill(drop, -torch.inf), dim=-1)


RAW = Sampling()
"""A model's own distribution."""


def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """One completion for each prompt, ended by an end token (which is part of it) or after max_new_tokens.

    Prompts of different lengths are padded on the left, masked, and numbered from their own first token.

    Args:
        model: what to sample from.
        prompts: token ids, none empty.
        sampling: the distribution.
        max_new_tokens: the most tokens of a completion.
        generator: torch's source of randomness, on the CPU.
        on_tokens: told after every step how many tokens were drawn.
    """
    longest = max(map(len, prompts))
    step = torch.full((len(prompts), longest), model.pad_token, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        step[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    step, mask = step.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    ends = torch.tensor(model.end_tokens, device=model.device)
    going = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    cache: Any = None
    drawn: list[torch.Tensor] = []
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            logits, cache = _next_logits(model, step, mask, positions, cache)
            chances = sampling.logprobs(logits).exp()
            token = torch.multinomial(chances.cpu(), 1, generator=generator).to(model.device)
            drawn.append(torch.where(going[:, None], token, model.pad_token))
            on_tokens(int(going.sum()))
            going = going & ~torch.isin(token[:, 0], ends)
            if not going.any():
                break
            step, positions = token, positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(token)], dim=-1)
    return [_until_end(row, model.end_tokens) for row in torch.cat(drawn, dim=-1).tolist()]


def _next_logits(
    model: LanguageModel, step: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> tuple[torch.Tensor, Any]:
    options: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
    options = {name: value for name, value in options.items() if name in model.accepts}
    out = model.model(input_ids=step, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
    return out.logits[:, -1], out.past_key_values


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens
