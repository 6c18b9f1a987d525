"""A causal language model of transformers, as what samples and what scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from kullback.arrays import Float64
from kullback.errors import InputError, ModelError
from kullback.models.batches import sharing_holds
from kullback.models.caches import CACHES, cache_holds, cached_step, padding_holds, picks_rows
from kullback.models.drawing import draw, uniforms_of
from kullback.models.evaluation import evaluating
from kullback.models.heads import head_of
from kullback.models.hidden import HiddenStates, hidden_states, reads_head
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
        notes: sentences on how it was loaded that a reader of its numbers should know.

    Example:
        >>> from kullback import models
        >>> model = models.load("builtin:base")
        >>> type(model).__name__, model.name
        ('LanguageModel', 'builtin:base')
    """

    name: str
    model: Any
    tokenizer: Any
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> str:
        """The dtype of its weights, such as ``float32``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def split(self) -> bool:
        """Whether its layers lie on several devices."""
        return len(set(getattr(self.model, "hf_device_map", {"": ""}).values())) > 1

    @cached_property
    def accepts(self) -> frozenset[str]:
        """The arguments that its forward pass takes by name."""
        # A peft model takes whatever its base takes, and its own signature names none of it.
        whole = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return frozenset(inspect.signature(whole.forward).parameters)

    @cached_property
    def cache(self) -> str | None:
        """What its forward pass calls what it keeps of the tokens it has read; None where every step reads them all."""
        # transformers 5.24 calls it cache, and until then past_key_values, or cache_params for Mamba and its like.
        # Some of those also wanted to be told places in their buffers, in a way that changed from version to version.
        name = next((name for name in CACHES if name in self.accepts), None)
        if name is None or {"cache_params", "cache_position"} <= self.accepts:
            return None
        return name if not self.stateful or cache_holds(self, name) else None

    @property
    def stateful(self) -> bool:
        """Whether a state runs through its tokens, as in Mamba, so that padding on the left would be read."""
        return bool(getattr(self.model, "_is_stateful", False)) or "cache_params" in self.accepts

    def step(self, tokens: torch.Tensor, cache: Any, **options: object) -> tuple[torch.Tensor, Any]:
        """Logits after the last of some tokens, (rows, vocab), and what is kept of them, or None.

        Args:
            tokens: (rows, tokens) that follow those in the cache, or all of them without one.
            cache: what the last step kept.
            options: other arguments of the forward pass.
        """
        if self.cache is None:
            return self.model(input_ids=tokens, use_cache=False, **options).logits[:, -1], None
        return cached_step(self.model, tokens, (self.cache, cache), **options)

    @cached_property
    def context(self) -> int:
        """The most tokens it can read, prompt and completion together."""
        config = self.model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        return int(getattr(config, "max_position_embeddings", None) or 1 << 30)

    @cached_property
    def vocab(self) -> int:
        """Logits it returns for a token; some are padding that the tokenizer never produces."""
        # Asked of the model itself: quantised and adapted heads have weights of other shapes.
        with torch.inference_mode(), evaluating(self.model):
            return int(self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device)).logits.shape[-1])

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
        for token in (self.tokenizer.pad_token_id, *self.end_tokens):
            if token is not None and token < self.vocab:
                return int(token)
        return 0

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token ids by token."""
        return dict(self.tokenizer.get_vocab())

    @cached_property
    def mixes_lengths(self) -> bool:
        """Whether rows can be padded on the left: where positions can be named, and no state runs through them."""
        return "position_ids" in self.accepts and not self.stateful and padding_holds(self)

    @cached_property
    def reads_head(self) -> bool:
        """Whether its logits are those of an LM head that can be read, so that they need not all be made."""
        # What changes the logits on their way out is asked for them, and so is a model whose head lies elsewhere.
        return not self.split and type(self).next_logits is LanguageModel.next_logits and reads_head(self)

    @cached_property
    def picks_rows(self) -> bool:
        """Whether rows of its cache can be copied and dropped while it draws."""
        return self.mixes_lengths and not self.split and picks_rows(self)

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether it can read a prompt once for several completions, and then all tokens of these at once."""
        return {"attention_mask", "position_ids"} <= self.accepts and self.picks_rows and sharing_holds(self)

    @property
    def keeps_states(self) -> bool:
        """Whether what it scores may be made of the states that it drew from, since these are the same but for float32.

        In half precision two ways to read the same tokens are 0.02 nats apart, of which a KL between models that are
        read in one way is free.
        """
        return self.reads_head and self.model.dtype in (torch.float32, torch.float64)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text as it is, or a list of messages through the chat template.

        Raises:
            ModelError: messages for a tokenizer without a chat template.
            InputError: what the tokenizer or its template refuses.
        """
        if not isinstance(prompt, str) and not self.tokenizer.chat_template:
            raise ModelError(f"the tokenizer of {self.name} has no chat template: give prompts as plain text")
        try:
            if isinstance(prompt, str):
                return [int(token) for token in self.tokenizer(prompt, verbose=False)["input_ids"]]
            encoded = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
            return [int(token) for token in encoded["input_ids"]]
        except Exception as error:  # templates are programs of their own, and raise what they like
            what = "this text" if isinstance(prompt, str) else "these messages"
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(f"the tokenizer of {self.name} cannot read {what} ({reason}): {prompt!r:.80}") from error

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
        rows = len(prompts)
        alone = randomness.rows is None
        uniforms = uniforms_of(randomness.torch, rows) if alone else randomness.uniforms(rows)
        return draw(
            self,
            prompts,
            sampling,
            max_new_tokens=max_new_tokens,
            uniforms=uniforms,
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

    def next_hidden(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> HiddenStates | None:
        """Hidden states before the LM head, of one forward pass; None where logits have to be asked for."""
        return hidden_states(self, prompts, completions) if self.reads_head else None

    def kept_hidden(self, completions: Sequence[Completion]) -> HiddenStates | None:
        """Hidden states of what it drew, as it drew them; None where it kept none."""
        states = [completion.states for completion in completions]
        head = head_of(self.model) if self.keeps_states else None
        if head is None or any(state is None for state in states):
            return None
        return HiddenStates(torch.cat([state for state in states if state is not None]), head[1])
