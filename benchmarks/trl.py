"""What the mixin costs in a step of GRPO, and TRL's log beside ours: ``python -m benchmarks trl`` (needs TRL).

The built-in model, 64 rows of up to 32 tokens, on-policy. Runs alternate in blocks of steps, so that a busy machine
slows all of them; a step is TRL's own `step_time`, its generation included.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

import kullback as kb

MODEL = str(kb.models.BUILTIN_PROMPTS.parent / "base")
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "TRL as it is (k3)": None,
    "mixin, K1": {"kl_estimator": kb.K1},
    "mixin, RAO_BLACKWELL": {"kl_estimator": kb.RAO_BLACKWELL},
}
LOGGED = (
    "kl",
    "kl/sequence",
    "kl/coefficient",
    "kullback/policy/low",
    "kullback/policy/high",
    "completions/mean_length",
)


def vowels(completions: list[str], **_: Any) -> list[float]:
    """A reward that a model can learn: the share of vowels."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]


def run(options: Mapping[str, Any] | None, steps: int, seed: int = 0) -> list[dict[str, float]]:
    """The logs of a run's steps."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from kullback.integrations.trl import KLMixin

    made: Any = GRPOTrainer if options is None else type("Mixed", (KLMixin, GRPOTrainer), {})
    own = {} if options is None else {"kl_objective": kb.REVERSE_KL, "kl_beta_unit": "token", **options}
    prompts = kb.models.BUILTIN_PROMPTS.read_text(encoding="utf-8").splitlines()[:16]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder,
            beta=0.04,
            max_steps=steps,
            per_device_train_batch_size=64,
            num_generations=4,
            max_completion_length=32,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
            seed=seed,
        )
        data = Dataset.from_dict({"prompt": prompts})
        trainer = made(model=MODEL, reward_funcs=vowels, args=config, train_dataset=data, **own)
        trainer.train()
        return [entry for entry in trainer.state.log_history if "step_time" in entry]


def table(steps: int, rounds: int) -> str:
    """Markdown: a row a kind, then the log of the last step."""
    times: dict[str, list[float]] = {name: [] for name in KINDS}
    last: dict[str, dict[str, float]] = {}
    for seed in range(rounds):
        for name, options in KINDS.items():
            logs = run(options, steps, seed)
            times[name] += [entry["step_time"] for entry in logs[1:]]
            last[name] = logs[-1]
    base = float(np.median(times["TRL as it is (k3)"]))
    lines = ["| trainer | ms a step, median | more than TRL's own |", "|---|---:|---:|"]
    for name, seconds in times.items():
        more = float(np.median(seconds)) - base
        lines.append(f"| {name} | {1000 * float(np.median(seconds)):.0f} | {1000 * more:.0f} ms, {more / base:.1%} |")
    lines += ["", f"| in the log of step {steps} | {' | '.join(KINDS)} |", f"|---|{'---:|' * len(KINDS)}"]
    for key in LOGGED:
        cells = [f"{last[name][key]:.4g}" if key in last[name] else "–" for name in KINDS]
        lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks trl", description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    print(table(given.steps, given.rounds))
