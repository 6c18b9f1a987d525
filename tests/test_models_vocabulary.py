"""Models of which one has tokens that the other lacks: one set of columns, and what lies outside is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.errors import InputError, ModelError
from kullback.models import LanguageModel, Randomness, Sampling, check_vocabulary, load

SMALL: dict[str, Any] = {"samples": 2, "max_new_tokens": 16, "allow_outside_mass": True}
SHARED = 512


def widened(name: str, factor: float, *, more: int = 64, word: str | None = None) -> LanguageModel:
    """A built-in model with more rows in its (tied) embedding: copies of its first ones, scaled."""
    model = load(name)
    model.model.resize_token_embeddings(SHARED + more, mean_resizing=False)
    with torch.no_grad():
        weight = model.model.get_input_embeddings().weight
        weight[SHARED:] = weight[:more] * factor
    if word is not None:
        model.tokenizer.add_tokens([word], special_tokens=True)
    return LanguageModel(f"wide {name}", model.model, model.tokenizer)


@pytest.fixture(scope="module")
def tuned() -> LanguageModel:
    return load("builtin:tuned")


@pytest.fixture(scope="module")
def wide() -> LanguageModel:
    return widened("builtin:tuned", 1.01)


def plain(model: LanguageModel, rollout: Any) -> torch.Tensor:
    """log p(· | prefix) over all its tokens at every token of a rollout, in float64."""
    row = torch.tensor([[*rollout.prompt_tokens, *rollout.tokens]])
    with torch.no_grad():
        logits = model.model(input_ids=row).logits[0, len(rollout.prompt_tokens) - 1 : -1]
    return torch.log_softmax(logits.double(), dim=-1)


def test_a_wide_reference_keeps_its_whole_law(tuned: LanguageModel, wide: LanguageModel) -> None:
    """KL(q‖p) with p over all its rows: renormalised over the shared ones it would be 0, since they are q's."""
    found = kb.compare(tuned, wide, **SMALL)
    want = []
    for rollout in found.rollouts:
        q, p = plain(tuned, rollout), plain(wide, rollout)[:, :SHARED]
        kl = (q.exp() * (q - p)).sum(dim=-1)
        np.testing.assert_allclose(rollout.token_kl, kl.numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(rollout.ref_mass, p.exp().sum(dim=-1).numpy(), atol=1e-5)
        np.testing.assert_allclose(rollout.ref_logprobs, p[range(len(p)), rollout.tokens].numpy(), atol=1e-4)
        want.append(float(kl.sum()))
    exact = next(row.per_sequence for row in found.rows if row.per_sequence.estimator == "rao_blackwell")
    assert exact.value == pytest.approx(np.mean(want), rel=1e-3)
    assert exact.value > 0.1
    assert any("of its probability a token" in note for note in found.notes)


def test_a_wide_policy_draws_and_scores_the_shared_tokens_only(tuned: LanguageModel, wide: LanguageModel) -> None:
    base = load("builtin:base")
    found = kb.compare(wide, base, both=True, **SMALL)
    assert found.settings["shared_vocab"] == SHARED
    for rollout in found.rollouts:
        assert max(rollout.tokens) < SHARED
        whole, p = plain(wide, rollout)[:, :SHARED], plain(base, rollout)
        at = range(len(p)), rollout.tokens
        q = torch.log_softmax(whole, dim=-1) if rollout.sampled_from == "policy" else whole
        np.testing.assert_allclose(rollout.logprobs, q[at].numpy(), atol=1e-4)
        kl = (q.exp() * (q - p)) if rollout.sampled_from == "policy" else (p.exp() * (p - q))
        np.testing.assert_allclose(rollout.token_kl, kl.sum(dim=-1).numpy(), rtol=1e-3, atol=1e-5)


def test_every_estimator_agrees_where_the_reference_has_more_tokens(tuned: LanguageModel) -> None:
    found = kb.compare(tuned, widened("builtin:base", 0.9), samples=24, max_new_tokens=12, allow_outside_mass=True)
    rows = {(row.per_sequence.estimator, row.per_sequence.level): row.per_sequence for row in found.rows}
    exact = rows["rao_blackwell", "token"]
    for (name, level), row in rows.items():
        biased = any("biased" in warning for warning in row.warnings)
        assert biased or abs(row.value - exact.value) < 5 * np.hypot(row.stderr, exact.stderr), (name, level)


@pytest.mark.parametrize("policy_is_wide", [False, True])
def test_more_than_rounding_outside_is_refused_before_anything_is_drawn(
    tuned: LanguageModel, wide: LanguageModel, policy_is_wide: bool
) -> None:
    pair = (wide, tuned) if policy_is_wide else (tuned, wide)
    heard: list[object] = []
    with pytest.raises(ModelError, match=r"wide builtin:tuned gives .* --allow-outside-mass"):
        kb.compare(*pair, samples=2, max_new_tokens=4, on_progress=heard.append)
    assert heard == []
    with pytest.raises(ModelError, match=r"576 logits against 512"):
        kb.compare_text(*pair, ["The small dog went to the lake."])


def test_padding_without_mass_is_nothing_to_speak_of(tuned: LanguageModel) -> None:
    padded = load("builtin:tuned")
    padded.model.resize_token_embeddings(SHARED + 64, mean_resizing=False)
    padded.model.tie_weights()
    head = torch.nn.Linear(64, SHARED + 64, bias=True)
    with torch.no_grad():
        head.weight.copy_(padded.model.get_input_embeddings().weight)
        head.bias.zero_()
        head.bias[SHARED:] = -60.0
    padded.model.set_output_embeddings(head)
    found = kb.compare(padded, tuned, ["One day"], samples=1, max_new_tokens=6)
    assert max(abs(e.value) for e in found.estimates) < 1e-5
    assert found.notes == ()


def test_an_added_word_is_said_and_left_out(tuned: LanguageModel) -> None:
    thinking = widened("builtin:tuned", 0.2, more=1, word="<think>")
    assert check_vocabulary(thinking, load("builtin:base")) == SHARED
    found = kb.compare(thinking, "builtin:base", **SMALL)
    assert any("has no name for: <think>" in note for note in found.notes)
    with pytest.raises(InputError, match=r"prompt 2 has the token 512"):
        kb.compare(thinking, "builtin:base", ["One", "go <think> now"], **SMALL)
    with pytest.raises(InputError, match=r"the text has the token 512"):
        kb.compare_text(thinking, "builtin:base", ["go <think> now"], allow_outside_mass=True)


def test_a_text_is_scored_under_both_whole_laws(tuned: LanguageModel, wide: LanguageModel) -> None:
    text = "The small dog went to the lake."
    found = kb.compare_text(wide, tuned, [text], allow_outside_mass=True)
    assert found.settings["shared_vocab"] == SHARED
    (table,) = found.document().tables
    assert "same most likely token, of the 512 that both have" in [row[0] for row in table.rows]
    row = torch.tensor([tuned.encode(text)])
    with torch.no_grad():
        q, p = (torch.log_softmax(m.model(input_ids=row).logits[0, :-1].double(), dim=-1) for m in (wide, tuned))
    q, at = q[:, :SHARED], (range(row.shape[1] - 1), row[0, 1:])
    assert found.forward.value == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found.perplexity == pytest.approx(float(torch.exp(-q[at].mean())), rel=1e-4)
    assert any("of its probability a token" in note for note in found.notes)


def test_a_sampler_that_draws_what_the_models_lack_is_refused(tuned: LanguageModel) -> None:
    class Strange:
        def __getattr__(self, name: str) -> Any:
            return getattr(tuned, name)

        name, end_tokens, mixes_lengths, context = "strange", (1,), True, 256
        vocabulary, encode, decode = tuned.vocabulary, tuned.encode, tuned.decode

        def sample(self, prompts: Any, sampling: Any, **options: Any) -> Any:
            return [kb.models.Completion([600], np.zeros(1), "length") for _ in prompts]

    with pytest.raises(InputError, match="strange has the token 600"):
        kb.compare(tuned, "builtin:base", ["One"], samples=1, max_new_tokens=1, sampler=Strange())


def test_a_law_kept_to_some_tokens_is_the_law_given_one_of_them() -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
    kept = Sampling(0.8, vocab=30).logprobs(logits)
    torch.testing.assert_close(kept, torch.log_softmax(logits[:, :30] / 0.8, dim=-1))
    assert Sampling(vocab=30).settings["vocab"] == 30


@pytest.mark.parametrize("seed", [-1, 1 << 64, 0.5, True])
def test_seeds_that_are_none(seed: Any) -> None:
    with pytest.raises(InputError, match="a seed is a whole number"):
        Randomness(seed)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": t} for t in (0, -1, 1e-40, 1e9, float("nan"), float("inf"))]
    + [{"top_p": p} for p in (0, 1.1, float("nan"))]
    + [{"top_k": k} for k in (-1, 10**20, 2.5, float("nan"))],
)
def test_sampling_that_is_none(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="came, but it"):
        Sampling(**settings)


def test_rollouts_say_that_a_law_was_kept_to_the_shared_tokens(
    tuned: LanguageModel, wide: LanguageModel, tmp_path: Path
) -> None:
    kb.compare(wide, tuned, ["One"], output=tmp_path / "out", **SMALL)
    rows = kb.read_rollouts(tmp_path / "out" / "rollouts.parquet")
    assert rows.metadata.policy is not None
    assert rows.metadata.policy.sampling["vocab"] == SHARED
