"""On-policy distillation: the reverse KL to a teacher, with its whole distribution and with its likeliest words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments

PAGE = (Path(__file__).resolve().parents[1] / "docs/trl.md").read_text(encoding="utf-8")


def world() -> World:
    rng = np.random.default_rng(0)
    student = torch.tensor(rng.normal(size=(7, 3)), requires_grad=True)
    return World(TreeLM(student, 0, 3), TreeLM(torch.tensor(rng.normal(size=(7, 3))), 0, 3))


def logits_of(found: World, which: str) -> Any:
    model = getattr(found, which)
    return model.log_distributions[torch.tensor(model.places.copy())]


def test_the_loop_of_the_docs_follows_the_sequence_kl() -> None:
    space: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        if "def distillation_loss" in code:
            exec(code, space)
    found = world()

    def loss(q: Any, p: Any, mask: Any, tokens: Any, log_distributions: Any, ref_log_distributions: Any) -> Any:
        return space["distillation_loss"](log_distributions, ref_log_distributions.detach(), tokens, mask)

    moments = loss_moments(found, loss)
    assert moments.value == pytest.approx(float(found.exact(kb.REVERSE_KL).detach()))
    assert np.abs(moments.gradient - exact_gradient(found, kb.REVERSE_KL)).max() < 1e-12


def test_the_teachers_likeliest_words_bound_it() -> None:
    """As servers give them: top 2 of 3 words; the bounds close as all are given."""
    found = world()
    student, teacher = logits_of(found, "policy").detach(), logits_of(found, "reference")
    exact = kb.vocab.token_kl(student, teacher)
    for k, wide in ((2, True), (3, False)):
        values, ids = teacher.log_softmax(-1).topk(k, dim=-1)
        own = student.log_softmax(-1).gather(-1, ids)
        bounds = kb.vocab.topk_kl(own, values)
        assert bool((bounds.lower <= exact + 1e-9).all())
        assert bool((bounds.upper >= exact - 1e-9).all())
        assert bool((bounds.upper - bounds.lower).max() > 1e-6) is wide
