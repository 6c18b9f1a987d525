"""A forward pass up to the LM head: last hidden states of given tokens, without the logits of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from kullback.models.batches import TokenBatch, token_batch
from kullback.models.evaluation import evaluating
from kullback.models.heads import LMHead, head_of
from kullback.models.memory import out_of_memory
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling
from kullback.vocab import linear_token_logprobs

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel
    from kullback.models.steps import Steps

STANDING = 8
"""Tokens of a batch whose logits the model makes itself, to hold the head against."""

TRIAL = [[0, 1], [2, 3]], [[2, 3, 4], [0, 4, 1]]
"""Prompts and completions on which it is first seen whether a model's logits are its head's."""


@dataclass(frozen=True)
class HiddenStates:
    """Last hidden states at every token of a batch of completions, in their order, and the head that reads them.

    A slice of it is the logits of those tokens, as `NextLogits` has it.

    Attributes:
        hidden: (tokens, hidden), at the place that predicts the token.
        head: what makes logits of them.
    """

    hidden: Tensor
    head: LMHead

    def __getitem__(self, at: slice, /) -> Tensor:
        return self.head.rounded_logits(self.hidden[at])

    def logprobs(self, tokens: Tensor, sampling: Sampling) -> Tensor:
        """Log-probs of given tokens, (tokens,), under a law that cuts no token off but for those after `vocab`."""
        head = self.head.with_hidden(self.hidden, slice(0, min(sampling.vocab or self.head.vocab, self.head.vocab)))
        found = linear_token_logprobs(
            head.hidden,
            head.weight,
            tokens,
            bias=head.bias,
            temperature=sampling.temperature,
            scale=head.scale,
            softcap=head.softcap or None,
        )
        return cast(Tensor, found)


def hidden_states(
    model: LanguageModel, prompts: Sequence[Tokens], completions: Sequence[Tokens]
) -> HiddenStates | None:
    """One forward pass over all rows; None where the model's logits are not seen to be its head's.

    The head is given a few of the batch's tokens instead of all: the logits that the model makes of those are its own,
    whatever it does to them, and are what the head is held against, with every batch.
    """
    found = head_of(model.model)
    if found is None:
        return None
    module, head = found
    batch = token_batch(model, prompts, completions)
    seen = _diverted(model, module, batch)
    if seen is None:
        return None
    hidden, few, logits = seen
    same = logits.shape[0] == 1 and head.agrees(hidden[few], logits[0])
    return HiddenStates(hidden, head) if same else None


@contextmanager
def heard_states(model: LanguageModel) -> Iterator[Callable[[Tensor, Steps], Tensor | None]]:
    """While steps are read: what gives the states, (rows, hidden), of which the logits of the last step were made.

    None where the model does not keep its precision in them, or where the logits are not seen to be its head's.
    """
    said = head_of(model.model) if model.keeps_states else None
    if said is None:
        yield lambda logits, rows: None
        return
    module, head = said
    taken: list[Tensor] = []

    def last(logits: Tensor, rows: Steps) -> Tensor | None:
        found = [*taken]
        taken.clear()
        if len(found) != 1:
            return None
        states = rows.of_rows(found[0])
        return states if head.agrees(states[:1], logits[:1]) else None

    handle = module.register_forward_pre_hook(lambda _, given: taken.append(given[0][:, -1]))
    try:
        yield last
    finally:
        handle.remove()


def reads_head(model: LanguageModel) -> bool:
    """Whether a model's logits are its head's, on a few tokens of two rows.

    Of two rows, so that what a model does to its logits by row or by place does not fit those few, and is noticed.
    """
    prompts, completions = TRIAL
    with torch.inference_mode():
        return hidden_states(model, prompts, completions) is not None


def _diverted(model: LanguageModel, module: torch.nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor, Any] | None:
    """Hidden states of all tokens, which few of them the head was given, and what the model returned for these."""
    count = len(batch.row)
    few = torch.linspace(0, count - 1, min(count, STANDING), device=batch.row.device).long()
    taken: list[Tensor] = []

    def divert(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(given) != 1 or given[0].shape[:-1] != batch.tokens.shape:
            return given
        taken.append(given[0][batch.row, batch.place])
        return (taken[-1][None, few],)

    handle = module.register_forward_pre_hook(divert)
    try:
        with torch.inference_mode(), evaluating(model.model):
            logits = batch.run(model).logits
    except Exception as error:  # of what the model does to logits of the shape it expects: it is asked for them as ever
        if out_of_memory(error):
            raise
        return None
    finally:
        handle.remove()
    return (taken[0], few, logits) if len(taken) == 1 else None
