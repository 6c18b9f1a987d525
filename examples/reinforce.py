"""KL-regularised RL in a hand-written loop: ``python examples/reinforce.py`` (two minutes on two cores).

The built-in model learns to write words with an “s”, by the advantage of a completion over the others of its prompt and
a KL term whose gradient is that of KL(policy‖reference) of sequences, by Rao-Blackwell over the whole vocabulary: once
with fresh samples for every step, and once with three steps (epochs) a batch, where the samples are weighted.
Completions have two tokens, so that the exact KL can be written out beside the estimates. Needs
``pip install 'kullback[hf,report]'``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch
from curves import EVERY, MODEL, PROMPTS, TOKENS, Step, exact_kl, report
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import kullback as kb

SAMPLES = 8
"""Completions of a prompt."""

BETA = 0.1
"""Of nats a sequence."""


@dataclass(frozen=True)
class Batch:
    """Completions as they were drawn.

    Attributes:
        ids, seen: prompt and completion, padded on the left, and what of it is there.
        tokens, mask: of the completions, (rows, TOKENS); True up to the token that ends one.
        logprobs: under the policy that drew them.
        ref_logits: of the reference at every place, (rows, TOKENS, words).
        rewards, advantages: of each row.
    """

    ids: Tensor
    seen: Tensor
    tokens: Tensor
    mask: Tensor
    logprobs: Tensor
    ref_logits: Tensor
    rewards: Tensor
    advantages: Tensor


def logits_of(model: Any, ids: Tensor, seen: Tensor) -> Tensor:
    """Of the places that the completion's tokens are drawn from."""
    places = (seen.cumsum(1) - 1).clamp(min=0)
    found: Tensor = model(input_ids=ids, attention_mask=seen, position_ids=places, logits_to_keep=TOKENS + 1).logits
    return found[:, :-1]


@torch.no_grad()
def drawn(policy: Any, reference: Any, tokenizer: Any) -> Batch:
    """A batch from the policy as it is: SAMPLES completions of every prompt, with their rewards."""
    prompts = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    ids = prompts["input_ids"].repeat_interleave(SAMPLES, 0)
    seen = prompts["attention_mask"].repeat_interleave(SAMPLES, 0)
    ended = torch.zeros(len(ids), dtype=torch.bool)
    masks = []
    for _ in range(TOKENS):
        places = (seen.cumsum(1) - 1).clamp(min=0)
        logits = policy(input_ids=ids, attention_mask=seen, position_ids=places, logits_to_keep=1).logits[:, -1]
        token = torch.multinomial(logits.softmax(-1), 1)
        masks.append(~ended)
        ids = torch.cat([ids, token], 1)
        seen = torch.cat([seen, (~ended).long()[:, None]], 1)
        ended = ended | (token[:, 0] == tokenizer.eos_token_id)
    tokens, mask = ids[:, -TOKENS:], torch.stack(masks, 1)
    texts = [tokenizer.decode(row[there], skip_special_tokens=True) for row, there in zip(tokens, mask, strict=True)]
    rewards = torch.tensor([float("s" in text) for text in texts])
    groups = rewards.view(-1, SAMPLES)
    advantages = (groups - groups.mean(1, keepdim=True)).view(-1) * SAMPLES / (SAMPLES - 1)
    logprobs = kb.vocab.token_logprobs(logits_of(policy, ids, seen), tokens)
    return Batch(ids, seen, tokens, mask, logprobs, logits_of(reference, ids, seen), rewards, advantages)


def loss_of(policy: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """−E[advantage] + β·KL, weighted by what the policy has become since the batch was drawn; and the KL's columns."""
    logits = logits_of(policy, batch.ids, batch.seen)
    logprobs = kb.vocab.token_logprobs(logits, batch.tokens)
    token_kl = kb.vocab.token_kl(logits, batch.ref_logits)
    columns = {
        "logprobs": logprobs,
        "ref_logprobs": kb.vocab.token_logprobs(batch.ref_logits, batch.tokens),
        "mask": batch.mask,
        "behavior_logprobs": batch.logprobs,
        "token_kl": token_kl,
    }
    kl = kb.kl_loss(**columns, objective=kb.REVERSE_KL, estimator=kb.RAO_BLACKWELL)
    ratio = torch.where(batch.mask, logprobs - batch.logprobs, 0.0).sum(1).exp()
    return BETA * kl - (ratio * batch.advantages).mean(), columns


def run(epochs: int, batches: int) -> list[Step]:
    """Train, and keep what the monitor says of every batch, with the exact KL of some."""
    torch.manual_seed(0)
    policy, reference = (AutoModelForCausalLM.from_pretrained(MODEL).eval() for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3 / epochs, weight_decay=0.0)
    monitor, steps = kb.KLMonitor(), []
    groups = [prompt for prompt in range(len(PROMPTS)) for _ in range(SAMPLES)]
    for number in range(batches):
        exact = exact_kl(policy, reference, tokenizer) if number % EVERY == 0 else nan
        batch = drawn(policy, reference, tokenizer)
        for epoch in range(epochs):
            loss, columns = loss_of(policy, batch)
            if epoch == 0:  # the batch is the policy's own
                given = {name: value.detach() for name, value in columns.items() if name != "behavior_logprobs"}
                monitor.update(**given, groups=groups, step=number)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = monitor.estimate()
        low, high = found.interval()
        steps.append(
            {"reward": float(batch.rewards.mean()), "kl": found.value, "low": low, "high": high, "exact": exact}
        )
    return steps


def main() -> None:
    """Two runs and their picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("reinforce.svg"))
    given = parser.parse_args()
    runs = {"on-policy": run(1, given.batches), "three epochs a batch": run(3, given.batches)}
    report(runs, given.output)


if __name__ == "__main__":
    main()
