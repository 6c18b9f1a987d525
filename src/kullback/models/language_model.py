"""A causal language model of transformers, as what samples and what scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from kullback.arrays import Float64
from kullback.errors import ModelError
from kullback.models.drawing import draw
from kullback.models.protocols import Completion, NextLogits, Prompt, Tokens
from kullback.models.randomness import Randomness
from kullback.models.sampling import RAW, Sampling
from kullback.models.scoring import completion_logprobs, padded_logits


@dataclass(frozen=True)
class LanguageModel:
    """A transformers model ready to sample and score.

    Attributes:
        name: what the user called it.
        model: a transformers causal language model in evaluation mode.
        tokenizer: its transformers tokenizer.
    """

    name: str
    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> str:
        """The dtype of its weights, such as ``float32``."""
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def accepts(self) -> frozenset[str]:
        """The arguments that its forward pass takes by name."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @cached_property
    def context(self) -> int:
        """The most tokens it can read, prompt and completion together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 30)

    @cached_property
    def vocab(self) -> int:
        """Logits it returns for a token; some are padding that the tokenizer never produces."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a sequence."""
        ids = getattr(self.model.generation_config, "eos_token_id", None)
        found = list(ids) if isinstance(ids, list | tuple) else [ids]
        found.append(self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(int(token) for token in found if token is not None))

    @cached_property
    def pad_token(self) -> int:
        """A token to fill rows with; what it is does not matter, since it is masked."""
        for token in (self.tokenizer.pad_token_id, *self.end_tokens, 0):
            if token is not None:
                return int(token)
        return 0

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token ids by token."""
        return dict(self.tokenizer.get_vocab())

    @property
    def mixes_lengths(self) -> bool:
        """Whether rows can be padded on the left: only where positions can be named."""
        return "position_ids" in self.accepts

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text as it is, or a list of messages through the chat template.

        Raises:
            ModelError: messages for a tokenizer without a chat template.
        """
        if isinstance(prompt, str):
            return [int(token) for token in self.tokenizer(prompt)["input_ids"]]
        if not self.tokenizer.chat_template:
            raise ModelError(f"the tokenizer of {self.name} has no chat template: give prompts as plain text")
        encoded = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        return [int(token) for token in encoded["input_ids"]]

    def decode(self, tokens: Tokens, *, special: bool = True) -> str:
        """The text of some tokens, with or without special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special))

    def sample(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        randomness: Randomness,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """One completion for each prompt; see `kullback.models.protocols.Sampler`."""
        return draw(
            self,
            prompts,
            sampling,
            max_new_tokens=max_new_tokens,
            generator=randomness.torch,
            on_tokens=on_tokens,
        )

    def logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling = RAW, *, drawn: bool = False
    ) -> list[Float64]:
        """Log-probs of the completions' tokens; see `kullback.models.protocols.Scorer`."""
        return completion_logprobs(self, prompts, completions, sampling, drawn=drawn)

    def next_logits(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> NextLogits:
        """Next-token logits; see `kullback.models.protocols.DistributionScorer`."""
        return padded_logits(self, prompts, completions)
