"""Scoring: log-probs and exact token KLs of given tokens under two models, one forward pass of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from kullback.arrays import Float64
from kullback.models.sampling import RAW, Sampling
from kullback.vocab import token_kl

if TYPE_CHECKING:
    from kullback.models.loading import LanguageModel

CHUNK_BYTES = 1 << 26
"""Float32 logits of one model that are worked on at a time."""


@dataclass(frozen=True)
class Scores:
    """What two models say of the tokens of one sequence, (tokens,), in nats.

    Attributes:
        logprobs: log q of the tokens under the first model's distribution.
        ref_logprobs: log p of the tokens under the second's.
        token_kl: exact KL(q_t‖p_t) over the vocabulary, at each token's prefix.
        reverse_token_kl: exact KL(p_t‖q_t).
        ref_mass: p_t of the tokens that q_t does not exclude; 1 unless q is truncated.
        top, ref_top: each model's most likely token.
    """

    logprobs: Float64
    ref_logprobs: Float64
    token_kl: Float64
    reverse_token_kl: Float64
    ref_mass: Float64
    top: np.ndarray
    ref_top: np.ndarray


def score(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    vocab: int,
    sampling: Sampling = RAW,
    ref_sampling: Sampling = RAW,
) -> list[Scores]:
    """Score completions, given their prompts, under two models.

    Rows are padded on the right, which a causal model cannot see; the Rao-Blackwellised KL comes from the
    same logits as the log-probs.

    Args:
        policy, reference: q and p.
        prompts, completions: token ids, row by row; no prompt is empty.
        vocab: logits that both models share.
        sampling, ref_sampling: the distributions that are meant, of q and of p.
    """
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    with torch.inference_mode():
        q = _logits(policy, rows, vocab)
        p = _logits(reference, rows, vocab).to(q.device)
        row = torch.tensor([i for i, c in enumerate(completions) for _ in c], device=q.device)
        place = torch.tensor(
            [len(prompt) - 1 + t for prompt, c in zip(prompts, completions, strict=True) for t in range(len(c))],
            device=q.device,
        )
        token = torch.tensor([t for c in completions for t in c], device=q.device)
        parts = [
            _compare(
                sampling.logprobs(q[row[at], place[at]], token[at]),
                ref_sampling.logprobs(p[row[at], place[at]]),
                token[at],
            )
            for at in _chunks(len(token), vocab)
        ]
    columns = [np.concatenate([part[i] for part in parts]) for i in range(7)]
    starts = np.cumsum([0, *map(len, completions)])
    return [Scores(*(column[a:b] for column in columns)) for a, b in pairwise(starts)]


def _logits(model: LanguageModel, rows: Sequence[Sequence[int]], vocab: int) -> torch.Tensor:
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[model.pad_token] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    out = model.model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    logits: torch.Tensor = out.logits[..., :vocab]
    return logits


def _chunks(tokens: int, vocab: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // (4 * vocab))
    for start in range(0, tokens, size):
        yield slice(start, start + size)


def _compare(q: torch.Tensor, p: torch.Tensor, token: torch.Tensor) -> list[np.ndarray]:
    chosen = token[:, None]
    numbers = (
        q.gather(-1, chosen)[:, 0],
        p.gather(-1, chosen)[:, 0],
        token_kl(q, p),
        token_kl(q, p, direction="forward"),
        p.exp().masked_fill(q.isneginf(), 0.0).sum(dim=-1),
    )
    tokens = (q.argmax(dim=-1), p.argmax(dim=-1))
    return [*(x.cpu().double().numpy() for x in numbers), *(x.cpu().numpy() for x in tokens)]
