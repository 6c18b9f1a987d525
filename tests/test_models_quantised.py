"""Checkpoints quantised by torchao and bitsandbytes, made here, where these packages are installed and run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import kullback as kb
from kullback.models import LanguageModel, load
from kullback.models.shipped import BUILTIN

pytestmark = pytest.mark.peers

TEXT = "The small dog went to the lake, and Grace was very tired of it. One day the fox ran home. "


def _config(method: str) -> Any:
    transformers = importlib.import_module("transformers")
    if method.startswith("torchao"):
        quantization = pytest.importorskip("torchao.quantization")
        return transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
    pytest.importorskip("bitsandbytes")
    eight = method.endswith("8-bit")
    return transformers.BitsAndBytesConfig(load_in_8bit=eight, load_in_4bit=not eight)


@pytest.fixture(scope="module", params=["torchao int8", "bitsandbytes 8-bit", "bitsandbytes 4-bit"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in base model, quantised and saved."""
    folder = tmp_path_factory.mktemp("quantised")
    models = importlib.import_module("transformers").AutoModelForCausalLM
    config = _config(request.param)
    model = models.from_pretrained(BUILTIN / "base", quantization_config=config, device_map={"": "cpu"})
    model.save_pretrained(folder)
    load("builtin:base").tokenizer.save_pretrained(folder)
    return folder


def plain(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: Any = model.model(input_ids=torch.tensor([tokens])).logits[0, :-1]
    return torch.log_softmax(logits.double(), dim=-1)


@pytest.mark.filterwarnings("ignore")  # of the packages that quantise
def test_a_quantised_checkpoint_is_compared_with_its_original(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    quantised, original = load(str(checkpoint)), load("builtin:base")
    assert "is quantised (" in quantised.notes[0]
    found = kb.compare_text(quantised, original, [TEXT])
    assert capfd.readouterr() == ("", "")
    tokens = original.encode(TEXT)
    q, p = plain(quantised, tokens), plain(original, tokens)
    want = float((p.exp() * (p - q)).sum(dim=-1).mean())
    assert found.forward.value == pytest.approx(want, rel=1e-3, abs=1e-7)
    assert 1e-7 < want < 0.2
    drawn = kb.compare(quantised, original, ["One day"], samples=2, max_new_tokens=8)
    assert quantised.notes[0] in drawn.notes
