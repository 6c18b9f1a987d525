"""How well KL controllers hold a budget under k1's noise, with and without the interval.

``python -m benchmarks controllers``: a policy of four words and three tokens is trained by the exact gradient of
E[reward] − β·KL, so that nothing is noisy but the KL that the controller is fed: k1 of some sequences, drawn from the
policy. The exact KL says how well the budget is held.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

import kullback as kb
from kullback.monitoring.controllers import Adaptive, Controller, Dual, ProportionalIntegral
from kullback.oracle import TreeLM, World
from kullback.oracle.tree import prefix_count

WORDS, HORIZON, EOS = 4, 3, 0
TARGET = 0.5
"""Nats a sequence; the reward alone would go to about 3."""

RULES: Mapping[str, Callable[..., Controller]] = {
    "Adaptive": lambda **o: Adaptive(0.1, TARGET, "sequence", **o),
    "ProportionalIntegral": lambda **o: ProportionalIntegral(
        0.1, TARGET, "sequence", proportional=0.5, integral=0.05, **o
    ),
    "Dual": lambda **o: Dual(0.1, TARGET, "sequence", rate=0.05, **o),
}


@dataclass(frozen=True)
class Held:
    """The second half of a run.

    Attributes:
        error: √E[(KL − target)²] / target, of the exact KL.
        spread: the standard deviation of β over its mean.
        reward: the mean one.
        ignored: the share of estimates at which β stayed.
        noise: the standard error of a step's k1 / target, exact, at the last step.
    """

    error: float
    spread: float
    reward: float
    ignored: float
    noise: float


@cache
def _start() -> tuple[TreeLM, torch.Tensor]:
    """The reference, and a reward for each of its sequences."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(prefix_count(WORDS, HORIZON), WORDS)))
    reference = TreeLM(logits, EOS, HORIZON)
    return reference, torch.tensor(2.0 * rng.normal(size=len(reference.tokens)))


def closed_loop(rule: str, *, rows: int | None, steps: int, level: float | None = None, seed: int = 0) -> Held:
    """A run of training.

    Args:
        rule: the controller.
        rows: sequences a step that the KL is estimated from; None for the exact KL.
        steps: of training.
        level: as in `Controller`.
        seed: of the sequences.
    """
    reference, rewards = _start()
    logits = torch.as_tensor(reference.logits).clone().requires_grad_()
    controller = RULES[rule](level=level)
    rng = np.random.default_rng(seed)
    kls, coefficients, gained = [], [], []
    for _ in range(steps):
        world = World(TreeLM(logits, EOS, HORIZON), reference)
        logprobs = torch.as_tensor(world.policy.sequence_logprobs)
        chance, log_ratio = logprobs.exp(), logprobs - torch.as_tensor(world.reference.sequence_logprobs)
        kl = (chance * log_ratio).sum()
        reward = (chance * rewards).sum()
        beta = controller.update(_fed(chance.detach().numpy(), log_ratio.detach().numpy(), rows, rng))
        (slope,) = torch.autograd.grad(reward - beta * kl, logits)
        logits = (logits + 1.0 * slope).detach().requires_grad_()
        kls.append(float(kl.detach()))
        coefficients.append(beta)
        gained.append(float(reward.detach()))
    late = slice(steps // 2, None)
    error = float(np.sqrt(np.mean((np.array(kls[late]) / TARGET - 1) ** 2)))
    used = np.array(coefficients[late])
    variance = float((chance * (log_ratio - kl) ** 2).sum().detach())
    return Held(
        error=error,
        spread=float(used.std() / used.mean()),
        reward=float(np.mean(gained[late])),
        ignored=controller.held / steps,
        noise=0.0 if rows is None else (variance / rows) ** 0.5 / TARGET,
    )


def _fed(
    chance: np.ndarray, log_ratio: np.ndarray, rows: int | None, rng: np.random.Generator
) -> kb.Estimate | kb.Exact:
    if rows is None:
        return kb.Exact(float(chance @ log_ratio))
    drawn = log_ratio[rng.choice(len(chance), size=rows, p=chance / chance.sum())]
    q = np.minimum(drawn, 0.0)[:, None]
    return kb.estimate(q, q - drawn[:, None], estimator=kb.K1)


def table(steps: int, runs: int) -> str:
    """Markdown: a row a rule, number of sequences and level."""
    lines = [
        "| controller | sequences a step | error of k1 | follows | error of the KL | spread of β | reward "
        "| passed over |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for rule in RULES:
        for rows in (None, 16, 64, 256):
            for level in (None,) if rows is None else (None, 0.95):
                found = [closed_loop(rule, rows=rows, steps=steps, level=level, seed=seed) for seed in range(runs)]
                error, spread, reward, ignored, noise = (
                    float(np.mean([getattr(one, name) for one in found]))
                    for name in ("error", "spread", "reward", "ignored", "noise")
                )
                follows = "the exact KL" if rows is None else "every estimate" if level is None else "95% intervals"
                lines.append(
                    f"| {rule} | {'–' if rows is None else rows} | {noise:.0%} | {follows} | {error:.1%} | "
                    f"{spread:.1%} | {reward:.3f} | {ignored:.0%} |"
                )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks controllers", description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args(arguments)
    print(table(given.steps, given.runs))
