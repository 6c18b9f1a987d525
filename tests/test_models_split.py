"""A model whose layers lie on several devices says what it says on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kullback.models import LanguageModel, Randomness, Sampling, load, score

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as somebody else's."""
    place = tmp_path_factory.mktemp("model")
    model = load("builtin:tuned")
    model.model.save_pretrained(place)
    model.tokenizer.save_pretrained(place)
    return place


def apart(folder: Path, offload: Path) -> LanguageModel:
    """The model with some layers in memory, and the others on a disk: the two devices that every machine has."""
    from transformers import AutoModelForCausalLM

    whole = load(str(folder))
    count = whole.model.config.num_hidden_layers
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "disk", "lm_head": "cpu"}
    places |= {f"model.layers.{layer}": "cpu" if layer % 2 == 0 else "disk" for layer in range(count)}
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=str(offload))
    return LanguageModel("apart", model.eval(), whole.tokenizer)


def test_layers_on_two_devices_draw_and_score_as_on_one(folder: Path, tmp_path: Path) -> None:
    whole, split = load(str(folder)), apart(folder, tmp_path)
    assert (whole.split, split.split) == (False, True)
    assert not split.reads_head
    rows = [(0, 0, 0), (0, 1, 0)]
    prompts = [whole.encode("One day"), whole.encode("The small dog")]
    one, two = (
        model.sample(prompts, Sampling(), max_new_tokens=6, randomness=Randomness(0).of(rows))
        for model in (whole, split)
    )
    drawn = [completion.tokens for completion in one]
    assert drawn == [completion.tokens for completion in two]
    base = load("builtin:base")
    for mine, theirs in zip(score(whole, base, prompts, drawn), score(split, base, prompts, drawn), strict=True):
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, atol=1e-5)
        np.testing.assert_allclose(mine.column("token_kl"), theirs.column("token_kl"), atol=1e-5)


def test_a_model_that_fits_one_device_is_not_split(folder: Path) -> None:
    found = load(str(folder), device="split")
    assert not found.split
    assert found.dtype == "float32"
    assert load("builtin:tuned", device="split").device == load("builtin:tuned").device
