"""Drawing completions from a transformers model, step by step with a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from kullback.models.evaluation import evaluating
from kullback.models.hidden import heard_states
from kullback.models.protocols import Completion, Tokens
from kullback.models.sampling import Sampling
from kullback.models.steps import Steps

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
    """As `sample`, with the log-probs that the tokens had when they were drawn, and the states they were drawn from.

    Args:
        model, prompts, sampling, max_new_tokens, on_tokens: as of `sample`.
        uniforms: step after step a number from [0, 1) for each row, (rows,).
    """
    ends = torch.tensor(model.end_tokens, device=model.device)
    rows, drawn = Steps(model, prompts), []
    with torch.inference_mode(), evaluating(model.model), heard_states(model) as heard:
        for _ in range(max_new_tokens):
            logits = rows.read()
            law = sampling.logprobs(logits)
            token = _token(law, next(uniforms)[rows.at.cpu().numpy()])
            states = heard(logits, rows)
            drawn.append(_Step(rows.at, token[:, 0], law.gather(-1, token)[:, 0], states))
            on_tokens(int(rows.going.sum()))
            rows.going = rows.going & ~torch.isin(token[:, 0], ends)
            if not rows.going.any():
                break
            rows.follow(token)
    return _completions(drawn, len(prompts), model.end_tokens)


class _Step(NamedTuple):
    """What one step drew: for which rows, the tokens, their log-probs, and the states they were drawn from."""

    at: torch.Tensor
    tokens: torch.Tensor
    logprobs: torch.Tensor
    states: torch.Tensor | None


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


def _completions(drawn: Sequence[_Step], rows: int, ends: Sequence[int]) -> list[Completion]:
    """A completion for every prompt, up to its first end token."""
    tokens, logprobs = (_table(drawn, name, rows) for name in ("tokens", "logprobs"))
    states = None if any(step.states is None for step in drawn) else _table(drawn, "states", rows)
    found = []
    for row, (line, chances) in enumerate(zip(tokens.tolist(), logprobs.cpu().double().numpy(), strict=True)):
        length = next((place + 1 for place, token in enumerate(line) if token in ends), len(line))
        ended = line[length - 1] in ends
        said = None if states is None else states[row, :length]
        found.append(Completion(line[:length], chances[:length], "end" if ended else "length", said))
    return found


def _table(drawn: Sequence[_Step], name: str, rows: int) -> torch.Tensor:
    """A column of all steps, (rows, steps, …); zeros where a row had been dropped, which is after its end."""
    first: torch.Tensor = getattr(drawn[0], name)
    table = first.new_zeros((rows, len(drawn), *first.shape[1:]))
    for place, step in enumerate(drawn):
        table[step.at, place] = getattr(step, name)
    return table
