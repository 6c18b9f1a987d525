"""What it costs to score given tokens under two models, from hidden states and heads and from whole logits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import nan
from typing import Any, cast

import numpy as np
import torch
import transformers

from benchmarks.measure import MB, Contender, in_a_fork, markdown, side_by_side
from kullback.models import LanguageModel, NextLogits, score

VOCAB = 151_936
HIDDEN = 256
LENGTHS = (16, 48)
"""Tokens of a prompt and of what is scored after it."""
ROWS = 2
SEED = 0
APART = (3e-3, 3e-4)
"""How far the second model's weights are moved, but those of the head, relative to their size."""


class _NoTokenizer:
    """All that scoring asks of one."""

    pad_token_id = eos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        """Nothing: the words have no names."""
        return {}


class WholeLogits(LanguageModel):
    """A model that is asked for the logits of all tokens, as before heads were read."""

    def next_logits(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> NextLogits:
        """As ever."""
        return super().next_logits(prompts, completions)


def _module(apart: float, dtype: torch.dtype) -> Any:
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    model = cast(Any, transformers.LlamaForCausalLM(config))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.15)
        for weight in model.model.layers.parameters():
            weight.add_(torch.randn_like(weight) * weight.std(correction=0), alpha=apart)
    return model.to(dtype).eval()


def _tokens() -> tuple[list[list[int]], list[list[int]]]:
    drawn = np.random.default_rng(SEED).integers(0, VOCAB, (ROWS, sum(LENGTHS))).tolist()
    return [row[: LENGTHS[0]] for row in drawn], [row[LENGTHS[0] :] for row in drawn]


def _contender(kind: type[LanguageModel], modules: Sequence[Any]) -> Contender:
    q, p = (kind(str(i), module, _NoTokenizer()) for i, module in enumerate(modules))

    def work() -> tuple[Any, float]:
        found = score(q, p, *_tokens(), vocab=VOCAB, drawn=False)
        return None, float(np.mean(np.concatenate([s.column("token_kl") for s in found])))

    return work


def _exact(modules: Sequence[Any]) -> Callable[[], float]:
    """The mean KL by the heads' float64 logits of the models' own hidden states, a few tokens at a time."""

    def work() -> float:
        prompts, completions = _tokens()
        rows = torch.tensor([a + b for a, b in zip(prompts, completions, strict=True)])
        with torch.no_grad():
            hidden = [module.model(input_ids=rows).last_hidden_state[:, LENGTHS[0] - 1 : -1] for module in modules]
            heads = [module.lm_head.weight.double() for module in modules]
            kls = []
            for part in zip(*(x.flatten(0, 1).split(32) for x in hidden), strict=True):
                a, b = (torch.log_softmax(h.double() @ head.T, -1) for h, head in zip(part, heads, strict=True))
                kls.append((a.exp() * (a - b)).sum(-1))
        return float(torch.cat(kls).mean())

    return work


def table(runs: int = 2) -> str:
    """Time, peak memory and the mean token KL's error of both ways, as Markdown."""
    rows = []
    torch.set_num_threads(1)  # or this process makes threads, which its forks would wait for
    for dtype in (torch.float32, torch.bfloat16):
        for apart in APART:
            modules = _module(0.0, dtype), _module(apart, dtype)
            exact = in_a_fork(_exact(modules), 1)
            found = side_by_side(
                {"whole logits": _contender(WholeLogits, modules), "heads": _contender(LanguageModel, modules)},
                runs,
                extra=0,
                threads=1,
            )
            before = found["whole logits"]
            for way, x in found.items():
                low, high = x.spread
                error = (x.value if x.runs else nan) / exact - 1
                rows.append(
                    [
                        f"{str(dtype).removeprefix('torch.')}, KL {exact:.1e}: {way}",
                        f"{x.seconds:.2f}" + (" ~" if x.disturbed else ""),
                        f"{low:.2f} – {high:.2f}",
                        f"{before.seconds / x.seconds:.2f}",
                        f"{x.own:.2f}",
                        f"{before.own / x.own:.2f}",
                        f"{x.peak / MB:.0f}",
                        f"{before.peak / x.peak:.1f}",
                        f"{error:+.2%}",
                    ]
                )
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    said = (
        f"{ROWS} rows of {LENGTHS[1]} tokens after {LENGTHS[0]}, {VOCAB:,} words, hidden {HIDDEN}, 2 layers, 1 thread"
    )
    columns = ("", "s", "from – to", "× whole", "CPU s", "× whole", "peak, MB", "whole / peak", "mean KL's error")
    return f"{said}; ~ marks times that other processes disturbed.\n\n{markdown(columns, rows)}"
