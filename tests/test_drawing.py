"""Drawing step by step: prompts that are read once, rows that are dropped and states that are kept change no draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import kullback as kb
from kullback.errors import ModelError
from kullback.models import LanguageModel, Randomness, Sampling, load
from kullback.models.batches import token_batch
from kullback.models.protocols import Completion

TEXTS = ["One", "The small dog went to the", "One", "In the quiet", "One", "In the quiet", "One"]
ROWS = [(0, prompt, sample) for prompt, sample in enumerate(range(len(TEXTS)))]


def made(name: str) -> LanguageModel:
    """The built-in Llama, and models of transformers with random weights whose sequences end within a few tokens."""
    base = load("builtin:base")
    if name == "builtin":
        return base
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    if name == "llama":
        config = transformers.LlamaConfig(**sizes, hidden_size=32, intermediate_size=64, max_position_embeddings=64)
        model: Any = transformers.LlamaForCausalLM(config)
    elif name == "mistral":
        mistral = transformers.MistralConfig(
            **sizes, num_key_value_heads=1, hidden_size=32, intermediate_size=64, sliding_window=4
        )
        model = transformers.MistralForCausalLM(mistral)
    elif name == "gpt2":
        gpt2 = transformers.GPT2Config(vocab_size=512, n_positions=64, n_embd=32, n_layer=2, n_head=2)
        model = transformers.GPT2LMHeadModel(gpt2)
    else:
        mamba = transformers.MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=2, state_size=4)
        model = transformers.MambaForCausalLM(mamba)
    # One token in six ends a sequence, so that rows are dropped at many steps.
    model.generation_config.eos_token_id = list(range(0, 512, 6))
    return LanguageModel(name, model.eval(), base.tokenizer)


def drawn(model: LanguageModel, rows: list[int], heard: Any = lambda count: None) -> list[Completion]:
    prompts = [model.encode(TEXTS[row]) for row in rows]
    randomness = Randomness(3).of([ROWS[row] for row in rows])
    return model.sample(prompts, Sampling(), max_new_tokens=40, randomness=randomness, on_tokens=heard)


@pytest.mark.parametrize("name", ["builtin", "llama", "gpt2", "mistral"])
def test_rows_are_drawn_as_if_each_were_alone(name: str) -> None:
    model = made(name)
    assert model.picks_rows
    together = drawn(model, list(range(len(TEXTS))))
    alone = [drawn(model, [row])[0] for row in range(len(TEXTS))]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.finish for one in together] == [one.finish for one in alone]
    assert len({len(one.tokens) for one in together}) > 2
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.logprobs - other.logprobs).max() < 1e-5


def test_every_token_is_told_once_and_none_after_the_end() -> None:
    counts: list[int] = []
    found = drawn(made("gpt2"), list(range(len(TEXTS))), counts.append)
    assert sum(counts) == sum(len(one.tokens) for one in found)
    assert counts[0] == len(TEXTS)
    assert sorted(counts, reverse=True) == counts


def test_a_prompt_that_comes_several_times_is_read_once_and_ended_rows_no_more() -> None:
    model, read = made("llama"), []
    forward = model.model.forward

    def counting(*args: Any, **options: Any) -> Any:
        read.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    assert model.picks_rows
    assert model.keeps_states
    counting.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    model.model.forward = counting
    found = drawn(model, list(range(len(TEXTS))))
    lengths = [len(one.tokens) for one in found]
    assert read[0][0] == len(set(TEXTS))
    assert read[1][0] <= len(TEXTS)
    assert sum(rows for rows, _ in read[1:]) <= sum(lengths) + len(TEXTS) * len(TEXTS) / 8
    assert len(read) == max(lengths)


def test_a_model_without_rows_to_pick_is_read_as_ever() -> None:
    model = made("mamba")
    assert not model.picks_rows
    same = [row for row, text in enumerate(TEXTS) if text == "One"]
    together = drawn(model, same)
    assert [one.tokens for one in together] == [drawn(model, [row])[0].tokens for row in same]


@pytest.mark.parametrize("name", ["builtin", "llama", "gpt2", "mistral"])
def test_the_states_that_are_kept_are_those_that_are_read(name: str) -> None:
    model = made(name)
    found = drawn(model, list(range(len(TEXTS))))
    kept = model.kept_hidden(found)
    read = model.next_hidden([model.encode(text) for text in TEXTS], [one.tokens for one in found])
    assert kept is not None
    assert read is not None
    assert float((kept.hidden - read.hidden).abs().max()) < 1e-4 * float(read.hidden.abs().max())


@pytest.mark.parametrize("name", ["builtin", "llama", "gpt2", "mistral"])
def test_completions_of_prompts_that_are_read_once_are_scored_as_whole_rows(name: str) -> None:
    """Prompts of different lengths, completions too: of a model, of pairs and of log-probs alone."""
    model = made(name)
    assert model.shares_prompts
    prompts = [model.encode(text) for text in ["The small dog went to the"] * 4 + ["In the quiet"] * 4]
    completions = [[5, 9, 7, 11, 300][: 1 + row % 5] for row in range(8)]
    shared, whole = (token_batch(model, prompts, completions, shared=shared) for shared in (None, False))
    assert shared.prefix is not None
    assert shared.prefix.tokens.shape[0] == 2
    assert shared.tokens.shape[1] == 1 + max(map(len, completions))
    with torch.inference_mode():
        laws = [batch.run(model).logits[batch.row, batch.place].log_softmax(dim=-1) for batch in (shared, whole)]
    assert float((laws[0] - laws[1]).abs().max()) < 1e-4
    for row, scored in enumerate(model.logprobs(prompts, completions)):
        assert np.abs(scored - model.logprobs([prompts[row]], [completions[row]])[0]).max() < 1e-4


def test_prompts_are_read_with_their_completions_where_that_is_not_dearer_or_cannot_be_otherwise() -> None:
    llama, mamba = made("llama"), made("mamba")
    assert not mamba.shares_prompts
    for model, prompts in ((llama, [[1, 2], [3, 4]]), (llama, [[1], [1], [1], [1]]), (mamba, [[1, 2]] * 4)):
        assert token_batch(model, prompts, [[5]] * len(prompts)).prefix is None


def test_in_half_precision_no_states_are_kept() -> None:
    model = made("llama")
    half = LanguageModel("half", model.model.to(torch.bfloat16), model.tokenizer)
    assert all(one.states is None for one in drawn(half, [0, 1, 2]))


def test_scores_from_kept_states_are_those_of_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"samples": 4, "max_new_tokens": 12, "prompts": TEXTS[:4]}
    kept = kb.compare(**asked)
    monkeypatch.setattr(LanguageModel, "keeps_states", False)
    read = kb.compare(**asked)
    for one, other in zip(kept.rollouts, read.rollouts, strict=True):
        assert one.tokens == other.tokens
        for name, close in (("logprobs", 1e-5), ("token_kl", 1e-5), ("deviation", 1e-4), ("ref_logprobs", 1e-6)):
            assert np.abs(getattr(one, name) - getattr(other, name)).max() < close, name


def test_states_that_are_rounded_otherwise_than_a_reading_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the products of one of the two are TF32: the policy then reads what it drew, as the reference does."""
    model, asked = load("builtin:tuned"), {"samples": 2, "max_new_tokens": 6, "prompts": TEXTS[:2]}
    right = kb.compare(model, "builtin:base", **asked)
    sample = LanguageModel.sample

    def off(self: LanguageModel, *args: Any, **options: Any) -> list[Completion]:
        found = sample(self, *args, **options)
        return [replace(one, logprobs=one.logprobs + 1e-3, states=one.states * 1.1) for one in found]

    monkeypatch.setattr(LanguageModel, "sample", off)
    found = kb.compare(model, "builtin:base", **asked)
    for one, other in zip(found.rows, right.rows, strict=True):
        assert one.per_sequence.value == pytest.approx(other.per_sequence.value, abs=1e-4)


def test_a_model_that_steps_otherwise_than_it_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its states are kept: a row of every batch is read at once."""
    sample = LanguageModel.sample

    def off(self: LanguageModel, *args: Any, **options: Any) -> list[Completion]:
        found = sample(self, *args, **options)
        assert all(one.states is not None for one in found)
        return [replace(one, logprobs=one.logprobs - 0.5) for one in found]

    monkeypatch.setattr(LanguageModel, "sample", off)
    with pytest.raises(ModelError, match="its step-by-step reading is not its forward pass"):
        kb.compare(samples=2, max_new_tokens=6, prompts=TEXTS[:2])


def test_a_model_against_itself_is_0_exactly() -> None:
    found = kb.compare("builtin:base", "builtin:base", samples=2, max_new_tokens=6)
    assert {row.per_sequence.value for row in found.rows} == {0.0}
