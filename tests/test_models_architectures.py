"""Every architecture: what is drawn, what is scored and what is scored on a text, against a plain forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from architectures import CONFIGS, tiny

import kullback as kb
from kullback.models import LanguageModel, Randomness, Sampling, load, score

PROMPTS = ["One", "The small dog went to the", "In the quiet"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load("builtin:base").tokenizer


def plain(model: LanguageModel, prompt: list[int], completion: list[int]) -> np.ndarray:
    """log p(· | prefix) at every token of the completion, (tokens, vocab), from one row without padding or cache."""
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1].double(), dim=-1).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_drawn_and_scored_is_what_a_plain_forward_pass_says(name: str, tokenizer: Any) -> None:
    q, p = (LanguageModel(f"{name} {seed}", tiny(name, len(tokenizer), seed=seed), tokenizer) for seed in (0, 1))
    prompts = [q.encode(prompt) for prompt in PROMPTS]
    assert len({len(prompt) for prompt in prompts}) == 3
    groups = [prompts] if q.mixes_lengths else [[prompt] * 2 for prompt in prompts]
    for rows in groups:
        drawn = q.sample(rows, Sampling(), max_new_tokens=7, randomness=Randomness(0))
        completions = [completion.tokens for completion in drawn]
        found = score(q, p, rows, completions)
        for prompt, completion, scores in zip(rows, drawn, found, strict=True):
            first, second = plain(q, prompt, completion.tokens), plain(p, prompt, completion.tokens)
            at = np.arange(len(completion.tokens)), completion.tokens
            np.testing.assert_allclose(completion.logprobs, first[at], atol=1e-4)
            np.testing.assert_allclose(scores.logprobs, first[at], atol=1e-4)
            np.testing.assert_allclose(scores.ref_logprobs, second[at], atol=1e-4)
            want = (np.exp(first) * (first - second)).sum(axis=-1)
            np.testing.assert_allclose(scores.token_kl, want, rtol=1e-3, atol=1e-5)
            assert want.max() > 0.01


@pytest.mark.parametrize("name", CONFIGS)
def test_a_text_is_scored_as_a_plain_forward_pass_scores_it(name: str, tokenizer: Any) -> None:
    q, p = (LanguageModel(f"{name} {seed}", tiny(name, len(tokenizer), seed=seed), tokenizer) for seed in (0, 1))
    texts = ["The small dog went to the lake.", "One day Grace was very tired."]
    found = kb.compare_text(q, p, texts)
    encoded = [q.encode(text) for text in texts]
    laws = [(plain(q, row[:1], row[1:]), plain(p, row[:1], row[1:])) for row in encoded]
    want = np.concatenate([(np.exp(second) * (second - first)).sum(axis=-1) for first, second in laws])
    assert found.forward.value == pytest.approx(want.mean(), rel=1e-3)
    assert found.tokens == len(want)


class Leaky(torch.nn.Module):
    """A model that says nothing of its state, and reads what stands before a row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config, self.generation_config = model, model.config, model.generation_config
        self.dtype, self.device = model.dtype, model.device

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **options: Any) -> Any:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)
        padding = 0 if attention_mask is None else (1 - attention_mask).sum(dim=-1)[:, None, None]
        out.logits = out.logits * (1 + 0.1 * padding)
        return out


def test_rows_are_padded_only_where_a_model_reads_them_as_without(tokenizer: Any) -> None:
    model = tiny("Llama", len(tokenizer))
    assert LanguageModel("sound", model, tokenizer).mixes_lengths
    assert not LanguageModel("leaky", Leaky(model), tokenizer).mixes_lengths
