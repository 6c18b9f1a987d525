"""Drawing completions from a transformers model, step by step with a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kullback.models.evaluation import evaluating
from kullback.models.protocols import Completion, Tokens
from kullback.models.sampling import Sampling

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel


def sample(
    model: LanguageModel,
    prompts: Sequence[Tokens],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """One completion for each prompt, ended by an end token (which is part of it) or after max_new_tokens.

    Args:
        model: what to sample from.
        prompts: token ids, none empty.
        sampling: the distribution.
        max_new_tokens: the most tokens of a completion.
        generator: torch's source of randomness, on the CPU.
        on_tokens: told after every step how many tokens were drawn.

    Example:
        >>> import torch
        >>> from kullback.models import Sampling, load, sample
        >>> model = load("builtin:base")
        >>> prompts = [model.encode("The small dog")]
        >>> drawn = sample(model, prompts, Sampling(), max_new_tokens=3, generator=torch.Generator().manual_seed(0))
        >>> len(drawn[0])
        3
    """
    uniforms = uniforms_of(generator, len(prompts))
    completions = draw(model, prompts, sampling, max_new_tokens=max_new_tokens, uniforms=uniforms, on_tokens=on_tokens)
    return [completion.tokens for completion in completions]


def draw(
    model: LanguageModel,
    prompts: Sequence[Tokens],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    uniforms: Iterator[np.ndarray],
    on_tokens: Callable[[int], None],
) -> list[Completion]:
    """As `sample`, with the log-probs that the tokens had when they were drawn.

    Prompts of different lengths are padded on the left, masked, and numbered from their own first token.

    Args:
        model, prompts, sampling, max_new_tokens, on_tokens: as of `sample`.
        uniforms: step after step a number from [0, 1) for each row, (rows,).
    """
    step, mask = _left_padded(model, prompts)
    # Counted from a row's first real token: models with absolute positions would else see the padding's length.
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    ends = torch.tensor(model.end_tokens, device=model.device)
    going = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    cache: Any = None
    drawn: list[torch.Tensor] = []
    logprobs: list[torch.Tensor] = []
    with torch.inference_mode(), evaluating(model.model):
        for _ in range(max_new_tokens):
            logits, cache = _next_logits(model, step, mask, positions=positions, cache=cache)
            law = sampling.logprobs(logits)
            token = _token(law, next(uniforms))
            drawn.append(torch.where(going[:, None], token, model.pad_token))
            logprobs.append(law.gather(-1, token))
            on_tokens(int(going.sum()))
            going = going & ~torch.isin(token[:, 0], ends)
            if not going.any():
                break
            # Without a cache every step reads the whole row again.
            step = token if cache is not None else torch.cat([step, token], dim=-1)
            following = positions[:, -1:] + 1
            positions = following if cache is not None else torch.cat([positions, following], dim=-1)
            mask = torch.cat([mask, torch.ones_like(token)], dim=-1)
    rows = zip(torch.cat(drawn, dim=-1).tolist(), torch.cat(logprobs, dim=-1).cpu(), strict=True)
    return [_completion(row, chances, model.end_tokens) for row, chances in rows]


def uniforms_of(generator: torch.Generator, rows: int) -> Iterator[np.ndarray]:
    """Step after step a number from [0, 1) for each row, (rows,), of one stream for all rows."""
    while True:
        yield torch.rand(rows, generator=generator, dtype=torch.float64).numpy()


def _token(law: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
    """One token a row, (rows, 1), where the sum of probabilities passes the row's number.

    A row's token depends on its own law and number alone, wherever the model runs and whatever is drawn beside it, but
    for the rounding of the law.
    """
    # In float64, which MPS lacks: in float32 the sum over a large vocabulary loses the rare tokens at its end.
    mass = (law.cpu() if law.device.type == "mps" else law).double().exp().cumsum(dim=-1)
    whole = mass[:, -1:]
    goal = torch.as_tensor(uniforms, dtype=mass.dtype).to(mass.device)[:, None] * whole
    goal = torch.minimum(goal, torch.nextafter(whole, torch.zeros_like(whole)))  # a product rounded up to the whole
    # A law that is nan passes no number; scoring refuses it.
    return torch.searchsorted(mass, goal, right=True).clamp(max=law.shape[-1] - 1).to(law.device)


def _left_padded(model: LanguageModel, prompts: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask, (rows, longest)."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), model.pad_token, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(model.device), mask.to(model.device)


def _next_logits(
    model: LanguageModel, step: torch.Tensor, mask: torch.Tensor, *, positions: torch.Tensor, cache: Any
) -> tuple[torch.Tensor, Any]:
    options: dict[str, object] = {"position_ids": positions, "logits_to_keep": 1}
    if model.mixes_lengths:
        # Rows that are not padded need none, and Mamba multiplies one state by the mask of the whole row: its
        # log-probs are then off by 0.7 nats from the second step on.
        options["attention_mask"] = mask
    options = {name: value for name, value in options.items() if name in model.accepts}
    return model.step(step, cache, **options)


def _completion(tokens: list[int], logprobs: torch.Tensor, ends: Sequence[int]) -> Completion:
    """A row up to its first end token."""
    length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
    ended = tokens[length - 1] in ends
    return Completion(tokens[:length], logprobs[:length].double().numpy(), "end" if ended else "length")
