"""Reward against KL under GRPO, with TRL and `KLMixin`: ``python examples/grpo_trl.py`` (two minutes on two cores).

The built-in model learns to write words with an “s”. Its completions have two tokens, so that every one of them can be
written out: the exact KL(policy‖reference) stands beside the estimates, with their intervals, on-policy and with three
epochs a batch. Needs ``pip install 'kullback[trl,report]'``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import kullback as kb
from kullback.integrations.trl import KLMixin

MODEL = str(kb.models.BUILTIN_PROMPTS.parent / "base")
PROMPTS = kb.models.BUILTIN_PROMPTS.read_text(encoding="utf-8").splitlines()
TOKENS = 2
MONITORED = "kullback/policy/"
EVERY = 5
"""Batches between two exact values."""


class Trainer(KLMixin, GRPOTrainer):
    """GRPO with the gradient of the sequence KL."""


def with_an_s(completions: list[str], **_: Any) -> list[float]:
    """1 for every completion with the letter."""
    return [float("s" in completion) for completion in completions]


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


@dataclass
class Curve(TrainerCallback):  # type: ignore[misc]
    """What a run logged, with the exact KL of the policy that drew each batch."""

    reference: Any
    tokenizer: Any
    steps: list[dict[str, float]] = field(default_factory=list)
    exact: float = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Before the batch is drawn."""
        if state.global_step % (EVERY * args.num_iterations) == 0:
            self.exact = exact_kl(model, self.reference, self.tokenizer)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the numbers of a fresh batch."""
        if f"{MONITORED}rao_blackwell" in logs:
            fresh = len(self.steps) % EVERY == 0
            self.steps.append({**logs, "exact": self.exact if fresh else float("nan")})


def run(iterations: int, batches: int) -> list[dict[str, float]]:
    """Train, and return the log of every batch."""
    reference = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    curve = Curve(reference, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder,
            beta=0.1,
            num_iterations=iterations,
            max_steps=batches * iterations,
            per_device_train_batch_size=8 * len(PROMPTS),
            num_generations=8,
            max_completion_length=TOKENS,
            learning_rate=3e-3 / iterations,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=MODEL,
            reward_funcs=with_an_s,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            callbacks=[curve],
            kl_objective=kb.REVERSE_KL,
            kl_estimator=kb.RAO_BLACKWELL,
            kl_beta_unit="sequence",
        )
        trainer.train()
    return curve.steps


def draw(runs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Reward against KL: estimates with intervals, and the exact KL of the same policies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(11, 4.5), sharey=True, squeeze=False)
    for axis, (name, steps) in zip(axes[0], runs.items(), strict=True):
        columns = (f"{MONITORED}{key}" for key in ("rao_blackwell", "low", "high"))
        kl, low, high = (np.array([step[column] for step in steps]) for column in columns)
        reward, exact = (np.array([step[key] for step in steps]) for key in ("reward", "exact"))
        axis.errorbar(kl, reward, xerr=[kl - low, high - kl], fmt="o", ms=3, lw=0.8, label="estimate, 95% interval")
        axis.plot(exact, reward, "kx", ms=5, label="exact")
        axis.set(title=name, xlabel="KL(policy‖reference), nats a sequence")
        axis.legend()
    axes[0][0].set_ylabel("share of completions with an s")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Two runs and their picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("grpo_trl.svg"))
    given = parser.parse_args()
    runs = {"on-policy": run(1, given.batches), "three epochs a batch": run(3, given.batches)}
    for name, steps in runs.items():
        known = [step for step in steps if step["exact"] == step["exact"]]
        inside = [s[f"{MONITORED}low"] <= s["exact"] <= s[f"{MONITORED}high"] for s in known]
        first, last = known[0], known[-1]
        print(
            f"{name}: reward {first['reward']:.2f} to {last['reward']:.2f}, KL "
            f"{last[f'{MONITORED}rao_blackwell']:.3f}, "
            f"exact {last['exact']:.3f} nats a sequence; the exact KL lies in {sum(inside)} of {len(inside)} intervals"
        )
    draw(runs, given.output)
    print(f"{given.output} shows reward against KL")


if __name__ == "__main__":
    main()
