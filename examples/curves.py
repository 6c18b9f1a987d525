"""What the worked runs share: the model they begin with, its exact KL, and the picture of reward against KL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import kullback as kb

MODEL = str(kb.models.BUILTIN_PROMPTS.parent / "base")
PROMPTS = kb.models.BUILTIN_PROMPTS.read_text(encoding="utf-8").splitlines()
TOKENS = 2
"""Of a completion: so few that all can be written out."""

EVERY = 5
"""Batches between two exact values."""

Step = dict[str, float]
"""Of a batch: `reward`, `kl` with `low` and `high`, and `exact` (nan where it was not computed)."""


@torch.no_grad()
def exact_kl(policy: Any, reference: Any, tokenizer: Any) -> float:
    """KL(policy‖reference) in nats a sequence, the mean over the prompts, by writing out all that can follow."""
    total = 0.0
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        words = torch.arange(policy.config.vocab_size)
        after = torch.cat([torch.tensor([ids]).expand(len(words), -1), words[:, None]], dim=1)
        q, p = (m(after, logits_to_keep=2).logits.double().log_softmax(-1) for m in (policy, reference))
        first, going_on = q[0, 0].exp(), words != tokenizer.eos_token_id
        kl = (q.exp() * (q - p)).sum(-1)
        total += float(kl[0, 0] + (first * kl[:, 1])[going_on].sum())
    return total / len(PROMPTS)


def report(runs: dict[str, list[Step]], path: Path) -> None:
    """Say in a line a run what came of it, and draw reward against KL: estimates with intervals, exact KLs beside."""
    for name, steps in runs.items():
        known = [step for step in steps if step["exact"] == step["exact"]]
        inside = sum(step["low"] <= step["exact"] <= step["high"] for step in known)
        print(
            f"{name}: reward {steps[0]['reward']:.2f} to {steps[-1]['reward']:.2f}, KL {known[-1]['kl']:.3f}, exact "
            f"{known[-1]['exact']:.3f} nats a sequence; the exact KL lies in {inside} of {len(known)} intervals"
        )
    draw(runs, path)
    print(f"{path} shows reward against KL")


def draw(runs: dict[str, list[Step]], path: Path) -> None:
    """A panel a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(11, 4.5), sharey=True, squeeze=False)
    for axis, (name, steps) in zip(axes[0], runs.items(), strict=True):
        kl, low, high, reward, exact = (
            np.array([step[key] for step in steps]) for key in ("kl", "low", "high", "reward", "exact")
        )
        axis.errorbar(kl, reward, xerr=[kl - low, high - kl], fmt="o", ms=3, lw=0.8, label="estimate, 95% interval")
        axis.plot(exact, reward, "kx", ms=6, label="exact", zorder=3)
        axis.set(title=name, xlabel="KL(policy‖reference), nats a sequence")
        axis.legend(loc="lower right")
    axes[0][0].set_ylabel("share of completions with an s")
    figure.tight_layout()
    figure.savefig(path)
