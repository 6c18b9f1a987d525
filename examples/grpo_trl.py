"""Reward against KL under GRPO, with TRL and `KLMixin`: ``python examples/grpo_trl.py`` (two minutes on two cores).

The built-in model learns to write words with an “s”. Its completions have two tokens, so that every one of them can be
written out: the exact KL(policy‖reference) stands beside the estimates, with their intervals, on-policy and with three
epochs a batch. Needs ``pip install 'kullback[trl,report]'``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from curves import EVERY, MODEL, PROMPTS, TOKENS, Step, exact_kl, report
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import kullback as kb
from kullback.integrations.trl import KLMixin

MONITORED = "kullback/policy/"


class Trainer(KLMixin, GRPOTrainer):
    """GRPO with the gradient of the sequence KL."""


def with_an_s(completions: list[str], **_: Any) -> list[float]:
    """1 for every completion with the letter."""
    return [float("s" in completion) for completion in completions]


@dataclass
class Curve(TrainerCallback):  # type: ignore[misc]
    """What a run logged, with the exact KL of the policy that drew each batch."""

    reference: Any
    tokenizer: Any
    steps: list[Step] = field(default_factory=list)
    exact: float = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Before the batch is drawn."""
        if state.global_step % (EVERY * args.num_iterations) == 0:
            self.exact = exact_kl(model, self.reference, self.tokenizer)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the numbers of a fresh batch."""
        if f"{MONITORED}rao_blackwell" in logs:
            fresh = len(self.steps) % EVERY == 0
            said = {name: logs[f"{MONITORED}{name}"] for name in ("low", "high")}
            kl, exact = logs[f"{MONITORED}rao_blackwell"], self.exact if fresh else nan
            self.steps.append({**said, "reward": logs["reward"], "kl": kl, "exact": exact})


def run(iterations: int, batches: int) -> list[Step]:
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


def main() -> None:
    """Two runs and their picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("grpo_trl.svg"))
    given = parser.parse_args()
    runs = {"on-policy": run(1, given.batches), "three epochs a batch": run(3, given.batches)}
    report(runs, given.output)


if __name__ == "__main__":
    main()
