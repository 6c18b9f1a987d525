"""Models: what is sampled is what is scored, padding is invisible, bad folders are refused in a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kullback.errors import ModelError
from kullback.models import (
    DistributionScorer,
    LanguageModel,
    Randomness,
    Sampler,
    Sampling,
    Scorer,
    check_vocabulary,
    load,
    sample,
    score,
)
from kullback.models.shipped import BUILTIN

PROMPTS = ["One", "The small dog went to the", "In the quiet", "Grace said that she was very"]


@pytest.fixture(scope="module")
def base() -> LanguageModel:
    return load("builtin:base")


@pytest.fixture(scope="module")
def tuned() -> LanguageModel:
    return load("builtin:tuned")


def gpt2(tokenizer: Any) -> LanguageModel:
    """A model of another architecture, with absolute positions and random weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2)
    return LanguageModel("gpt2", transformers.GPT2LMHeadModel(config).eval(), tokenizer)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, base: LanguageModel) -> LanguageModel:
    return base if request.param == "llama" else gpt2(base.tokenizer)


def draw(model: LanguageModel, prompts: list[list[int]], sampling: Sampling, seed: int = 0, new: int = 12) -> Any:
    return sample(model, prompts, sampling, max_new_tokens=new, generator=torch.Generator().manual_seed(seed))


def test_the_built_in_pair_is_small_and_shares_a_vocabulary(base: LanguageModel, tuned: LanguageModel) -> None:
    assert check_vocabulary(tuned, base) == base.vocab
    for name in ("base", "tuned"):
        files = list((BUILTIN / name).iterdir())
        assert sum(file.stat().st_size for file in files) <= 1 << 20
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}


def test_left_padding_does_not_change_a_log_prob(model: LanguageModel) -> None:
    """The batch's next-token distributions, step by step with a cache, are those of each prompt alone."""
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    assert len({len(prompt) for prompt in prompts}) > 2
    seen: list[torch.Tensor] = []

    class Spy(Sampling):
        def logprobs(self, logits: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
            seen.append(super().logprobs(logits, keep))
            return seen[-1]

    completions = draw(model, prompts, Spy())
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([prompt + completion])).logits[0]
        alone = torch.log_softmax(logits.float(), dim=-1)
        for t in range(len(completion)):
            going = [number for number, other in enumerate(completions) if len(other) > t]  # ended rows are dropped
            assert (seen[t][going.index(row)] - alone[len(prompt) - 1 + t]).abs().max() < 1e-5


def test_scores_do_not_depend_on_the_batch(model: LanguageModel) -> None:
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    completions = draw(model, prompts, Sampling())
    together = score(model, model, prompts, completions, vocab=model.vocab)
    for prompt, completion, found in zip(prompts, completions, together, strict=True):
        alone = score(model, model, [prompt], [completion], vocab=model.vocab)[0]
        np.testing.assert_allclose(found.logprobs, alone.logprobs, atol=1e-5)
        assert len(found.logprobs) == len(completion)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(0.7), Sampling(top_k=5), Sampling(top_p=0.8), Sampling(top_p=1e-50), Sampling(1.3, 0.9, 20)],
)
def test_the_distribution_is_that_of_transformers_warpers(sampling: Sampling) -> None:
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 3
    warpers = [transformers.TemperatureLogitsWarper(sampling.temperature)] if sampling.temperature != 1 else []
    warpers += [transformers.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    warpers += [transformers.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    want = logits
    for warper in warpers:
        want = warper(None, want)
    torch.testing.assert_close(sampling.logprobs(logits).exp(), torch.softmax(want, dim=-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 0.9, 30)])
def test_what_is_scored_is_what_was_sampled(base: LanguageModel, sampling: Sampling) -> None:
    """The first token's empirical distribution over 4,000 draws, against the scored probabilities."""
    prompt = base.encode("The small dog")
    completions = draw(base, [prompt] * 4000, sampling, new=1)
    counts = torch.bincount(torch.tensor([c[0] for c in completions]), minlength=base.vocab).double()
    with torch.inference_mode():
        logits = base.model(input_ids=torch.tensor([prompt])).logits[:, -1]
    chances = sampling.logprobs(logits)[0].exp().double()
    assert (counts[chances == 0] == 0).all()
    expected = 4000 * chances
    enough = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[enough].sum()
    freedom = int(enough.sum())
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5
    scores = score(base, base, [prompt] * 3, completions[:3], vocab=base.vocab, sampling=sampling)
    for found, completion in zip(scores, completions[:3], strict=True):
        assert np.exp(found.logprobs[0]) == pytest.approx(float(chances[completion[0]]), rel=1e-5)


def test_token_kl_is_the_sum_over_the_vocabulary(base: LanguageModel, tuned: LanguageModel) -> None:
    prompts = [base.encode(prompt) for prompt in PROMPTS]
    completions = draw(tuned, prompts, Sampling())
    for prompt, completion, found in zip(
        prompts, completions, score(tuned, base, prompts, completions, vocab=base.vocab), strict=True
    ):
        tokens = torch.tensor([prompt + completion])
        with torch.inference_mode():
            q, p = (
                torch.log_softmax(m.model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].double(), dim=-1)
                for m in (tuned, base)
            )
        np.testing.assert_allclose(found.token_kl, (q.exp() * (q - p)).sum(-1).numpy(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.reverse_token_kl, (p.exp() * (p - q)).sum(-1).numpy(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.ref_mass, 1.0, atol=1e-5)
        assert (found.top == q.argmax(-1).numpy()).all()


def test_token_kl_of_a_truncated_policy_counts_what_it_excludes(base: LanguageModel, tuned: LanguageModel) -> None:
    sampling = Sampling(0.8, 0.9, 10)
    prompts = [base.encode(prompt) for prompt in PROMPTS]
    completions = draw(tuned, prompts, sampling)
    scores = score(tuned, base, prompts, completions, vocab=base.vocab, sampling=sampling)
    for prompt, completion, found in zip(prompts, completions, scores, strict=True):
        tokens = torch.tensor([prompt + completion])
        with torch.inference_mode():
            q_logits, p_logits = (m.model(input_ids=tokens).logits[0, len(prompt) - 1 : -1] for m in (tuned, base))
        q, p = sampling.logprobs(q_logits).double(), torch.log_softmax(p_logits.double(), dim=-1)
        kept = ~q.isneginf()
        want = torch.where(kept, q.exp() * (q - p), 0.0).nansum(-1)
        np.testing.assert_allclose(found.token_kl, want.numpy(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.ref_mass, (p.exp() * kept).sum(-1).numpy(), atol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 0.9, 30)])
def test_the_log_probs_of_what_was_drawn_are_those_it_is_scored_with(model: LanguageModel, sampling: Sampling) -> None:
    prompts = [model.encode(prompt) for prompt in PROMPTS] * 4
    drawn = model.sample(prompts, sampling, max_new_tokens=12, randomness=Randomness(3))
    completions = [completion.tokens for completion in drawn]
    assert completions == draw(model, prompts, sampling, seed=3)
    alone = model.logprobs(prompts, completions, sampling, drawn=True)
    paired = score(model, model, prompts, completions, sampling=sampling)
    for completion, one, both in zip(drawn, alone, paired, strict=True):
        np.testing.assert_allclose(completion.logprobs, one, atol=2e-3 if sampling.truncates else 1e-4)
        np.testing.assert_allclose(one, both.logprobs, atol=1e-6)
        assert completion.finish == ("end" if completion.tokens[-1] in model.end_tokens else "length")


def test_a_token_beyond_the_nucleus_is_scored_only_where_it_was_drawn(base: LanguageModel) -> None:
    prompt, greedy = base.encode("One"), Sampling(top_k=1)
    unlikely = int(base.next_logits([prompt], [[0]])[slice(0, 1)].argmin())
    assert base.logprobs([prompt], [[unlikely]], greedy)[0] == -np.inf
    assert np.isfinite(base.logprobs([prompt], [[unlikely]], greedy, drawn=True)[0])


def test_a_language_model_is_what_samples_and_what_scores(base: LanguageModel) -> None:
    assert isinstance(base, Sampler)
    assert isinstance(base, Scorer)
    assert isinstance(base, DistributionScorer)


class LogprobsOnly:
    """A scorer that hides everything but log-probs, as a server does."""

    def __init__(self, model: LanguageModel) -> None:
        self.name, self.context, self.vocabulary = model.name, model.context, model.vocabulary
        self.encode, self.decode, self.logprobs = model.encode, model.decode, model.logprobs


def test_a_pair_with_one_that_gives_log_probs_only_has_the_same_log_probs(
    base: LanguageModel, tuned: LanguageModel
) -> None:
    prompts = [base.encode(prompt) for prompt in PROMPTS]
    completions = draw(tuned, prompts, Sampling())
    exact = score(tuned, base, prompts, completions)
    for pair in ((LogprobsOnly(tuned), base), (tuned, LogprobsOnly(base))):
        assert not isinstance(pair[0], DistributionScorer) or not isinstance(pair[1], DistributionScorer)
        for mine, theirs in zip(score(*pair, prompts, completions), exact, strict=True):
            np.testing.assert_allclose(mine.logprobs, theirs.logprobs, atol=1e-6)
            np.testing.assert_allclose(mine.ref_logprobs, theirs.ref_logprobs, atol=1e-6)
            assert mine.token_kl is None
            with pytest.raises(ModelError, match="there is no top"):
                mine.column("top")


def test_identical_models_have_no_token_kl(base: LanguageModel) -> None:
    prompts = [base.encode(prompt) for prompt in PROMPTS]
    for found in score(base, base, prompts, draw(base, prompts, Sampling()), vocab=base.vocab):
        assert (found.token_kl == 0).all()


def test_completions_end_with_the_end_token_or_the_limit(base: LanguageModel) -> None:
    completions = draw(base, [base.encode("One")] * 64, Sampling(), new=200)
    ended = [c for c in completions if c[-1] in base.end_tokens]
    assert len(ended) > 50
    assert all(token not in base.end_tokens for c in completions for token in c[:-1])
    assert all(len(c) == 200 for c in completions if c[-1] not in base.end_tokens)


def test_chat_messages_go_through_the_template(base: LanguageModel) -> None:
    encoded = base.encode([{"role": "user", "content": "tell me of a dog"}])
    assert "tell me of a dog" in base.decode(encoded)
    assert len(encoded) > len(base.encode("tell me of a dog"))


def copied(tmp_path: Path, **changes: str) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN / "base", folder)
    for name in changes.get("remove", "").split():
        (folder / name).unlink()
    return folder


def test_a_local_folder_is_the_same_model(tmp_path: Path, base: LanguageModel) -> None:
    other = load(str(copied(tmp_path)))
    prompts = [base.encode("One day")]
    assert draw(other, prompts, Sampling()) == draw(base, prompts, Sampling())
    assert (other.dtype, str(other.device)) == ("float32", "cpu")
    assert load(str(tmp_path / "model"), dtype="bfloat16").dtype == "bfloat16"


def test_tokenizers_that_differ_are_refused(tmp_path: Path, base: LanguageModel) -> None:
    folder = copied(tmp_path)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<pad>"', '"<fill>"'))
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(config.replace("<pad>", "<fill>"))
    with pytest.raises(ModelError, match="have different vocabularies"):
        check_vocabulary(load(str(folder)), base)


def test_padded_output_heads_share_what_the_tokenizer_knows(base: LanguageModel) -> None:
    padded = load("builtin:base")
    padded.model.resize_token_embeddings(base.vocab + 64, mean_resizing=False)
    wide = LanguageModel("wide", padded.model, padded.tokenizer)
    assert check_vocabulary(wide, base) == base.vocab
    assert draw(wide, [base.encode("One")], Sampling(top_k=1), new=3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("builtin:big", "builtin:base and builtin:tuned"),
        ("./no/such/folder", "is no folder"),
        ("http://localhost:8000/v1", "is a server"),
    ],
)
def test_names_that_name_no_model(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load(name)


@pytest.mark.parametrize(
    ("remove", "words"), [("config.json", "has no config.json"), ("model.safetensors", r"no weights in \*.safetensors")]
)
def test_folders_that_lack_a_part(tmp_path: Path, remove: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load(str(copied(tmp_path, remove=remove)))


def test_a_dtype_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a dtype is float32"):
        load("builtin:base", dtype="float12")
