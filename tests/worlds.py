"""Small worlds: drawn by Hypothesis, and fixed ones that tell every target from every other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kullback.oracle import TreeLM, World
from kullback.oracle.tree import prefix_count


def world(
    policy: np.ndarray, reference: np.ndarray, horizon: int, array: Callable[[np.ndarray], Any] = np.asarray
) -> World:
    return World(TreeLM(array(policy), eos=0, horizon=horizon), TreeLM(array(reference), eos=0, horizon=horizon))


@st.composite
def logit_pairs(draw: st.DrawFn, largest: float = 3.0) -> tuple[np.ndarray, np.ndarray, int]:
    """Policy logits, reference logits and a horizon; vocabularies of 2 and 3, up to 4 tokens long."""
    vocab = draw(st.integers(2, 3))
    horizon = draw(st.integers(1, 4 if vocab == 2 else 3))
    logits = arrays(
        np.float64, (prefix_count(vocab, horizon), vocab), elements=st.floats(-largest, largest, allow_subnormal=False)
    )
    return draw(logits), draw(logits), horizon


def generic(seed: int = 0, scale: float = 1.0, vocab: int = 3, horizon: int = 3) -> tuple[np.ndarray, np.ndarray, int]:
    """A world without coincidences, in which no two targets agree."""
    rng = np.random.default_rng(seed)
    shape = (prefix_count(vocab, horizon), vocab)
    return scale * rng.normal(size=shape), scale * rng.normal(size=shape), horizon


FAR = generic(seed=1, scale=12.0)
"""Log-ratios beyond ±20, where clamps bind."""
