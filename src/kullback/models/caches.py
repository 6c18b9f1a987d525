"""What a model keeps of the tokens it has read, and whether it goes on from it as from the tokens themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kullback.models.evaluation import evaluating

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel

CACHES = ("cache", "past_key_values", "cache_params")
"""What forward passes call it, the newest name first."""

TRIAL = (1, 5)
"""Tokens that are read at once, and in all, to see whether the steps say what one pass says."""

APART = 0.05
"""Total variation of two next-token distributions from which they are not one; bfloat16 rounds by about 0.01."""


def cached_step(
    model: Any, tokens: torch.Tensor, cache: tuple[str, Any], **options: object
) -> tuple[torch.Tensor, Any]:
    """Logits after the last of some tokens that follow those in the cache, (rows, vocab), and the cache with them."""
    name, kept = cache
    out = model(input_ids=tokens, use_cache=True, **{name: kept}, **options)
    return out.logits[:, -1], getattr(out, name, None)


def cache_holds(model: LanguageModel, name: str) -> bool:
    """Whether reading token by token with this cache gives the distributions of one pass over all of them.

    What is wrong here would draw from one law and score under another, silently. Architectures with a state have had
    it wrong, and the way it is to be asked for changes from version to version of transformers.
    """
    first, last = TRIAL
    tokens = torch.arange(last, device=model.device)[None]
    with torch.inference_mode(), evaluating(model.model):
        whole = model.model(input_ids=tokens, use_cache=False).logits[0].float().softmax(dim=-1)
        logits, cache = cached_step(model.model, tokens[:, :first], (name, None))
        for place in range(first, last):
            if cache is None:
                return False
            logits, cache = cached_step(model.model, tokens[:, place : place + 1], (name, cache))
            if (logits[0].float().softmax(dim=-1) - whole[place]).abs().sum() / 2 > APART:
                return False
    return True


def picks_rows(model: LanguageModel) -> bool:
    """Whether rows of what the model keeps can be picked, in any order, and are then gone on from as before."""
    if model.cache is None:
        return False
    tokens = torch.tensor([[0, 1, 2], [3, 4, 0]], device=model.device)
    order = torch.tensor([1, 1, 0], device=model.device)
    with torch.inference_mode(), evaluating(model.model):
        whole = model.model(input_ids=tokens, use_cache=False).logits[:, -1].float().softmax(dim=-1)
        _, cache = cached_step(model.model, tokens[:, :2], (model.cache, None))
        try:
            cache.batch_select_indices(order)
        except (AttributeError, NotImplementedError):  # of what is no cache of keys and values
            return False
        logits, _ = cached_step(model.model, tokens[order, 2:], (model.cache, cache))
    return bool(((logits.float().softmax(dim=-1) - whole[order]).abs().sum(dim=-1) / 2).max() <= APART)


def padding_holds(model: LanguageModel) -> bool:
    """Whether a row that is padded on the left, masked and numbered from its own first token is read as without.

    Architectures with a state read the padding, and not all of them say that they have one: RecurrentGemma in
    transformers 5.0 drew with log-probs 0.02 nats from those of scoring. In float32 all that read it right differ by
    less than 1e-6, and those that do not by 0.008 and more.
    """
    _, last = TRIAL
    tokens = torch.arange(last, device=model.device)[None]
    padded = torch.cat([tokens.new_full((1, 2), last), tokens], dim=-1)
    mask = torch.ones_like(padded)
    mask[:, :2] = 0
    options = {"attention_mask": mask, "position_ids": (mask.cumsum(dim=-1) - 1).clamp(min=0)}
    options = {name: value for name, value in options.items() if name in model.accepts}
    with torch.inference_mode(), evaluating(model.model):
        alone = model.model(input_ids=tokens, use_cache=False).logits[0, -1].float().softmax(dim=-1)
        after = model.model(input_ids=padded, use_cache=False, **options).logits[0, -1].float().softmax(dim=-1)
    return bool((alone - after).abs().sum() / 2 <= min(APART, max(1e-3, 6 * torch.finfo(model.model.dtype).eps)))
