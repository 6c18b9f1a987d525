"""How noisy every unbiased way to ∇KL(q‖p) is, exactly, and what kl_loss costs against the bare formula."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import kullback as kb
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments, reference_world

Loss = Callable[..., Any]


def reward_to_go(q: Any, p: Any, mask: Any) -> Any:
    """k1 in the reward, credited with what follows."""
    penalty = kb.kl_reward(q, p, mask, estimator=kb.K1)
    return (penalty.flip(-1).cumsum(-1).flip(-1) * q * mask).sum(-1)


def kl_loss(estimator: kb.Estimator, baseline: str | None) -> Loss:
    """kl_loss of the reverse KL."""

    def loss(q: Any, p: Any, mask: Any, token_kl: Any) -> Any:
        exact = {"token_kl": token_kl} if estimator is kb.RAO_BLACKWELL else {}
        return kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL, estimator=estimator, baseline=baseline, **exact)

    return loss


def ways() -> list[tuple[str, Loss, int]]:
    """(name, loss, rows of a batch)."""
    found: list[tuple[str, Loss, int]] = [
        ("k1 in the reward, return", kb.SURROGATES["k1_reward"].fn, 1),
        ("k1 in the reward, reward-to-go", reward_to_go, 1),
        ("k2 of the sequence in the loss (f_X, c = 0)", kb.SURROGATES["k2_sequence_loss"].fn, 1),
        ("f_X, c = 1", kb.SURROGATES["f_X"].fn, 1),
    ]
    for estimator in (kb.K1, kb.K3, kb.ControlVariate(0.5), kb.RAO_BLACKWELL):
        found.append((f"kl_loss, {estimator.name}", kl_loss(estimator, None), 1))
        found.append((f"kl_loss, {estimator.name}, leave-one-out", kl_loss(estimator, "leave_one_out"), 2))
    return found


def crossed() -> World:
    """A world in which the first token decides how far apart the second ones are."""

    def tree(chances: tuple[float, float, float], leaf: bool) -> TreeLM:
        rows = torch.tensor([[1 - c, c, 1e-12] for c in chances], dtype=torch.float64).log()
        return TreeLM(rows.requires_grad_(leaf), eos=2, horizon=2)

    return World(tree((0.5, 0.5, 0.99), True), tree((0.75, 0.5, 0.01), False))


def variances() -> str:
    """Trace of the gradient's covariance for one row, over ‖∇KL(q‖p)‖², as Markdown."""
    worlds = {name: reference_world(name, torch=True) for name in ("near", "apart")} | {"crossed": crossed()}
    lines = [f"| way to ∇KL(q‖p) | {' | '.join(worlds)} |", "|---|" + "---:|" * len(worlds)]
    for name, loss, rows in ways():
        cells = []
        for world in worlds.values():
            moments, want = loss_moments(world, loss, rows=rows), exact_gradient(world, kb.REVERSE_KL)
            if abs(moments.gradient - want).max() > 1e-9 * abs(want).max():
                raise ArithmeticError(f"{name} does not follow the reverse KL")
            cells.append(f"{rows * moments.variance / float((want**2).sum()):.3g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_hand(q: Any, p: Any, mask: Any, mu: Any) -> Any:
    """The formula of kl_loss without its care: no dtype, support, shape or option."""
    ratio = torch.where(mask, q - (q.detach() if mu is None else mu), 0.0)
    gap = torch.where(mask, q - p, 0.0)
    return (ratio.cumsum(-1).exp() * gap).sum(-1).mean()


def overhead(batch: int = 64, time_steps: int = 4096, runs: int = 61) -> str:
    """Forward and backward at 64 × 4096 tokens, medians, as Markdown."""
    torch.manual_seed(0)
    q = (-torch.rand(batch, time_steps)).requires_grad_()
    p, mu = (q.detach() - 1e-3 * torch.rand_like(q) for _ in range(2))
    mask = torch.rand(batch, time_steps) < 0.9
    lines = ["| | by hand, ms | kl_loss, ms | ratio |", "|---|---:|---:|---:|"]
    for name, behavior in (("on-policy", None), ("off-policy", mu)):

        def ours(behavior: Any = behavior) -> Any:
            return kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL, behavior_logprobs=behavior)

        def theirs(behavior: Any = behavior) -> Any:
            return by_hand(q, p, mask, behavior)

        hand, loss = _medians([theirs, ours], q, runs)
        lines.append(f"| {name} | {1e3 * hand:.1f} | {1e3 * loss:.1f} | {loss / hand:.2f} |")
    return "\n".join(lines)


def _medians(losses: list[Callable[[], Any]], leaf: Any, runs: int) -> list[float]:
    """Interleaved, so that a noisy moment of the machine meets both."""
    seconds: list[list[float]] = [[] for _ in losses]
    for _ in range(runs + 2):
        for i, loss in enumerate(losses):
            started = time.perf_counter()
            torch.autograd.grad(loss(), leaf)
            seconds[i].append(time.perf_counter() - started)
    return [statistics.median(s[2:]) for s in seconds]


def table() -> str:
    """Both tables."""
    return f"{variances()}\n\n{overhead()}"
