"""Samples to a given exact KL, by what the gradient is made of: ``python -m benchmarks critics [--seeds N]``.

A tabular policy that is a nat or so from its reference is brought back by gradient descent on the KL alone, with the
worlds and the draws of `kullback lab training`. Every way sees the same random numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

import kullback as kb
from kullback.lab.training_runs import EOS, HORIZON, VOCAB, Problem

WAYS = ("score", "Rao-Blackwell", "leave-one-out", "token values")
PARTS = (0.5, 0.2, 0.1)
"""Of the KL at the start."""


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks critics", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--samples", type=int, default=16, help="sequences of a step")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rates", type=float, nargs="+", default=[4.0], help="of plain gradient descent")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    parts = " | ".join(f"to {part:.0%}" for part in PARTS)
    print(f"| rate | gradient | {parts} | KL at the end, nats |\n|---:|---|" + "---:|" * (len(PARTS) + 1))
    for rate in given.rates:
        for way in WAYS:
            kls = trained(way, rate, given.steps, Problem([1.0], given.samples, given.seeds))
            below = kls.mean(axis=1)[:, None] <= np.array(PARTS) * kls[0].mean()
            samples = [str(at.argmax() * given.samples) if at.any() else "–" for at in below.T]
            end = kls[-1]
            error = end.std(ddof=1) / len(end) ** 0.5 if len(end) > 1 else float("nan")
            print(f"| {rate:g} | {way} | {' | '.join(samples)} | {end.mean():.4f} ± {error:.4f} |", flush=True)


def trained(way: str, rate: float, steps: int, problem: Problem) -> np.ndarray:
    """Exact KLs before every step, (steps, runs)."""
    generator = torch.Generator().manual_seed(0)
    away = torch.randn(problem.reference.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    logits = (problem.reference + away).expand(problem.runs, -1, -1).clone().requires_grad_()
    critics = [kb.TokenCritic(memory=0.95) for _ in range(problem.runs)]
    run = torch.arange(problem.runs).repeat_interleave(problem.samples)
    kls = []
    for _ in range(steps):
        table = logits.log_softmax(-1)
        everything = problem._read(table)
        whole = everything.detach().sum(-1)
        kls.append((whole.exp() * (whole - problem.ref_logprobs.sum(-1))).sum(-1).numpy())
        uniform = torch.rand(problem.runs, problem.samples, dtype=torch.float64, generator=generator)
        cumulative = whole.exp().cumsum(-1)
        rows = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp(max=len(whole[0]) - 1).ravel()
        exact = (table.exp() * (table - problem.reference)).sum(-1)[run[:, None], problem.places[rows]]
        value = (
            None if way != "token values" else _value(problem, critics, rows, table[run[:, None], problem.places[rows]])
        )
        loss = kb.kl_loss(
            everything[run, rows],
            problem.ref_logprobs[rows],
            problem.mask[rows],
            objective=kb.REVERSE_KL,
            token_kl=None if way == "score" else exact,
            baseline="leave_one_out" if way == "leave-one-out" else value,
            groups=run if way == "leave-one-out" else None,
        )
        (gradient,) = torch.autograd.grad(problem.runs * loss, logits)
        if value is not None:
            _learn(problem, critics, rows, exact.detach())
        with torch.no_grad():
            logits -= rate * gradient
    return np.array(kls)


def _prefix(problem: Problem, rows: torch.Tensor) -> torch.Tensor:
    """The position and the token before, (rows, horizon, numbers)."""
    before = torch.cat([torch.full((len(rows), 1), EOS), problem.tokens[rows][:, :-1]], dim=1)
    place = torch.arange(HORIZON, dtype=torch.float64).expand(before.shape)
    return torch.cat([place[..., None], torch.nn.functional.one_hot(before, VOCAB).double()], dim=-1)


def _value(
    problem: Problem, critics: Sequence[kb.TokenCritic], rows: torch.Tensor, logprobs: torch.Tensor
) -> kb.TokenValue[torch.Tensor]:
    """Of all runs, each by its own critic."""
    prefix, words = _prefix(problem, rows), torch.eye(VOCAB, dtype=torch.float64)
    tokens, found = problem.tokens[rows], []
    for number, critic in enumerate(critics):
        at = slice(number * problem.samples, (number + 1) * problem.samples)
        found.append(critic.value(prefix[at], words, logprobs=logprobs[at], tokens=tokens[at]))
    drawn = torch.cat([torch.as_tensor(one.drawn) for one in found])
    return kb.TokenValue(drawn, torch.cat([one.expected for one in found]))


def _learn(problem: Problem, critics: Sequence[kb.TokenCritic], rows: torch.Tensor, token_kl: torch.Tensor) -> None:
    prefix, words = _prefix(problem, rows), torch.eye(VOCAB, dtype=torch.float64)
    tokens, mask = problem.tokens[rows], problem.mask[rows]
    for number, critic in enumerate(critics):
        at = slice(number * problem.samples, (number + 1) * problem.samples)
        critic.update(prefix[at], words, tokens=tokens[at], token_kl=token_kl[at], mask=mask[at])
