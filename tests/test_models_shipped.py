"""The built-in pair without transformers: its forward pass and its tokens are those of transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import kullback as kb
from kullback.models import LanguageModel, Randomness, Sampling, load
from kullback.models.opening import opened
from kullback.models.shipped import BUILTIN

PROMPTS = ["One", "The small dog went to the", "In the quiet", "Grace said that she was very"]
TEXTS = ["", " ", "The small dog.\n\nTabs\tand  spaces ", "<s>mark</s><pad> up", "émue 日本 🙂 \x00\x1b[0m"]


@pytest.fixture(scope="module", params=["base", "tuned"])
def both(request: pytest.FixtureRequest) -> tuple[LanguageModel, LanguageModel]:
    """A model of the pair in torch alone, and as transformers has it."""
    name = f"builtin:{request.param}"
    return opened(name, device="cpu", dtype="auto"), load(name)


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_log_probs_are_those_of_transformers(name: str) -> None:
    """In float64, but for the norms, which are float32 in both."""
    plain = opened(f"builtin:{name}", device="cpu", dtype="float64")
    whole = load(f"builtin:{name}", dtype="float64")
    prompts = [whole.encode(prompt) for prompt in PROMPTS]
    drawn = whole.sample(prompts, Sampling(), max_new_tokens=30, randomness=Randomness(1))
    completions = [completion.tokens for completion in drawn]
    for mine, theirs in zip(plain.logprobs(prompts, completions), whole.logprobs(prompts, completions), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-6)
    # Drawn step by step, from rows that are padded on the left.
    again = plain.sample(prompts, Sampling(), max_new_tokens=30, randomness=Randomness(1))
    assert [completion.tokens for completion in again] == completions
    for mine, theirs in zip(again, drawn, strict=True):
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, rtol=0, atol=5e-6)


def test_logits_are_those_of_transformers_over_the_whole_context(both: tuple[LanguageModel, LanguageModel]) -> None:
    tokens = torch.randint(0, both[1].vocab, (2, both[1].context), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mine, theirs = (model.model(input_ids=tokens).logits.double().softmax(-1) for model in both)
    assert float((mine - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(dtype: str) -> None:
    plain, whole = opened("builtin:base", device="cpu", dtype=dtype), load("builtin:base", dtype=dtype)
    assert plain.dtype == whole.dtype == dtype
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode():
        mine, theirs = (model.model(input_ids=tokens).logits.double().log_softmax(-1) for model in (plain, whole))
    assert float((mine - theirs).abs().max()) < (0.1 if dtype == "bfloat16" else 1e-6)


def test_tokens_are_those_of_transformers(both: tuple[LanguageModel, LanguageModel]) -> None:
    plain, whole = both
    assert plain.vocabulary == whole.vocabulary
    assert (plain.end_tokens, plain.pad_token, plain.context) == (whole.end_tokens, whole.pad_token, whole.context)
    for text in TEXTS:
        tokens = whole.encode(text)
        assert plain.encode(text) == tokens
        for special in (True, False):
            assert plain.decode(tokens, special=special) == whole.decode(tokens, special=special)
    chat = [{"role": "user", "content": "Tell me of the dog."}]
    assert plain.encode(chat) == whole.encode(chat)


def test_a_folder_with_the_same_weights_gives_the_same_numbers() -> None:
    named = kb.compare("builtin:tuned", "builtin:base", samples=2, max_new_tokens=8)
    folders = kb.compare(str(BUILTIN / "tuned"), str(BUILTIN / "base"), samples=2, max_new_tokens=8)
    for mine, theirs in zip(named.rows, folders.rows, strict=True):
        assert mine.per_sequence.value == pytest.approx(theirs.per_sequence.value, abs=1e-4)


def test_a_comparison_of_the_pair_imports_neither_transformers_nor_the_compiler(tmp_path: Path) -> None:
    code = (
        "import sys, kullback as kb\n"
        "kb.compare(samples=1, max_new_tokens=2, top_p=0.9, both=True, output=sys.argv[1])\n"
        "kb.compare_text('builtin:tuned', 'builtin:base', ['The small dog went home.'])\n"
        "print({'transformers', 'torch._dynamo'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
    assert transformers.__version__  # it is there
