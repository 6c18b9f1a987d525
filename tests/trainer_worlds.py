"""A world of fifteen sequences for the losses of trainers: what their mean gradient must be is enumerated."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kullback as kb
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments


def small_world(*, staleness: float = 0.0) -> World:
    """Three words, up to three tokens; with staleness another policy drew them."""
    rng = np.random.default_rng(0)
    logits, other, noise = (rng.normal(size=(7, 3)) for _ in range(3))
    policy = TreeLM(torch.tensor(logits, requires_grad=True), 0, 3)
    reference = TreeLM(torch.tensor(other), 0, 3)
    if not staleness:
        return World(policy, reference)
    return World(policy, reference, TreeLM(torch.tensor(logits + staleness * noise), 0, 3))


def relative_error(world: World, loss: Callable[..., Any], target: kb.Target, *, scale: float, rows: int = 1) -> float:
    """How far the loss's mean gradient is from scale · ∇target, as a share of the latter."""
    exact = scale * exact_gradient(world, target)
    found = loss_moments(world, loss, rows=rows).gradient
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def checkout(trainer: str) -> Path:
    """A trainer's checkout in the folder that SOURCES names."""
    return Path(os.environ.get("KULLBACK_SOURCES", "nowhere")) / trainer


def through_jax(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss of JAX arrays as one of torch's, differentiated by JAX in float64."""
    import jax

    def called(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        with jax.enable_x64(True):
            fixed = [jax.numpy.asarray(x.detach().numpy()) for x in (ref_logprobs, mask, behavior_logprobs)]
            live = jax.numpy.asarray(logprobs.detach().numpy())
            value, gradient = (np.array(x) for x in jax.value_and_grad(lambda q: loss(q, *fixed))(live))
        along = (logprobs - logprobs.detach()) * torch.from_numpy(gradient)
        return torch.tensor(float(value), dtype=logprobs.dtype) + along.sum()

    return called


def audited(loss: Callable[..., Any], **options: Any) -> tuple[kb.Target | None, kb.Target | None, set[str]]:
    """What the audit says that a loss's gradient and value are, and the codes of what it finds; it has to run."""
    report = kb.audit(loss, placement="loss", **options)
    codes = {finding.code for finding in report.findings}
    assert "KB001" not in codes, report
    return report.gradient.target, report.value.target, codes
