"""Prompts and completions as one padded batch, and where in it each token is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kullback.models.evaluation import evaluating
from kullback.models.protocols import Tokens

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel

SHARED = 2
"""So many completions a distinct prompt, at least, for the prompts to be read once for all of them."""

APART = 1e-3
"""Total variation of two next-token distributions from which they are not one; that of readings in float32 is 1e-6."""


@dataclass(frozen=True)
class Prefix:
    """What is read once for several rows: distinct prompts but for their last tokens, padded on the left.

    Attributes:
        tokens, mask: (prompts, longest).
        copies: which of them each row goes on from, (rows,).
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    copies: torch.Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded on the right, which a causal model cannot see.

    Attributes:
        tokens, mask: (rows, longest).
        row, place: where each token of the completions is predicted, (tokens,).
        prefix: what was read before; None where the rows hold their prompts.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor
    prefix: Prefix | None = None

    def run(self, model: LanguageModel) -> Any:
        """What the model returns."""
        if self.prefix is not None:
            return self._go_on(model, self.prefix)
        options = {"attention_mask": self.mask} if "attention_mask" in model.accepts else {}
        return model.model(input_ids=self.tokens, use_cache=False, **options)

    def _go_on(self, model: LanguageModel, prefix: Prefix) -> Any:
        before = (prefix.mask.cumsum(dim=-1) - 1).clamp(min=0)
        first: dict[str, object] = {"attention_mask": prefix.mask, "position_ids": before}
        _, cache = model.step(prefix.tokens, None, **first, **_kept(model))
        cache.batch_select_indices(prefix.copies)
        places = before[prefix.copies, -1:] + 1 + torch.arange(self.tokens.shape[1], device=before.device)
        whole = torch.cat([prefix.mask[prefix.copies], self.mask], dim=-1)
        options = {str(model.cache): cache, "attention_mask": whole, "position_ids": places}
        return model.model(input_ids=self.tokens, use_cache=True, **options)


def _kept(model: LanguageModel) -> dict[str, object]:
    return {"logits_to_keep": 1} if "logits_to_keep" in model.accepts else {}


def token_batch(
    model: LanguageModel, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, shared: bool | None = None
) -> TokenBatch:
    """The batch on the model's device.

    Args:
        model, prompts, completions: what is read.
        shared: whether distinct prompts are read once; None where that pays and the model reads alike then.
    """
    distinct = dict.fromkeys(map(tuple, prompts))
    if shared is None:
        pays = SHARED * len(distinct) <= len(prompts) and min(map(len, distinct)) > 1
        shared = pays and model.shares_prompts
    kept = [prompt[-1:] for prompt in prompts] if shared else prompts
    rows = [[*prompt, *completion] for prompt, completion in zip(kept, completions, strict=True)]
    longest = max(map(len, rows))
    places = [len(prompt) - 1 + t for prompt, c in zip(kept, completions, strict=True) for t in range(len(c))]
    columns = (
        [[*row, *[model.pad_token] * (longest - len(row))] for row in rows],
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        [i for i, c in enumerate(completions) for _ in c],
        places,
    )
    tokens, mask, row, place = (torch.tensor(column, device=model.device, dtype=torch.long) for column in columns)
    return TokenBatch(tokens, mask, row, place, _prefix(model, prompts, [*distinct]) if shared else None)


def _prefix(model: LanguageModel, prompts: Sequence[Tokens], distinct: Sequence[Tokens]) -> Prefix:
    number = {tuple(prompt): at for at, prompt in enumerate(distinct)}
    copies = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=model.device)
    return Prefix(*left_padded(model, [prompt[:-1] for prompt in distinct]), copies)


def left_padded(model: LanguageModel, prompts: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask, (rows, longest)."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), model.pad_token, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(model.device), mask.to(model.device)


def sharing_holds(model: LanguageModel) -> bool:
    """Whether rows that go on from a prompt that was read once are read as whole rows are."""
    prompts, completions = [[0, 1, 2, 3], [4, 5], [4, 5]], [[1, 2, 3], [3, 2], [5]]
    laws = []
    with torch.inference_mode(), evaluating(model.model):
        for shared in (False, True):
            batch = token_batch(model, prompts, completions, shared=shared)
            laws.append(batch.run(model).logits[batch.row, batch.place].float().softmax(dim=-1))
    apart = float((laws[0] - laws[1]).abs().sum(dim=-1).max()) / 2
    return apart <= max(APART, 6 * torch.finfo(model.model.dtype).eps)
