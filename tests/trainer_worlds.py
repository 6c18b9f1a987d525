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
