"""What of the monitor's numbers a trainer's log gets, without a trainer."""

from __future__ import annotations

from math import inf, isfinite
from types import SimpleNamespace
from typing import Any

import pytest

import kullback as kb

torch = pytest.importorskip("torch")
from kullback.integrations.trl.recorder import Recorder  # noqa: E402


def trainer(*, step: int = 0, **accelerator: Any) -> Any:
    alone = {"gather": lambda x: x, "pad_across_processes": lambda x, dim: x, "is_main_process": True, **accelerator}
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(steps_per_generation=1),
        num_iterations=1,
        _step=step,
        accelerator=SimpleNamespace(**alone),
        state=SimpleNamespace(global_step=step),
    )


def inputs(rows: int, *, counts: bool = True, excluded: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    reference = -torch.rand((rows, 4), generator=generator)
    if excluded:
        reference[0, 1] = -inf
    return {
        "ref_per_token_logps": reference,
        "completion_mask": torch.full((rows, 4), int(counts)),
        "prompt_ids": torch.arange(rows)[:, None],
        "prompt_mask": torch.ones(rows, 1),
    }


def logged(rows: int, **options: bool) -> dict[str, float]:
    recorder, of = Recorder(kb.KLMonitor()), trainer()
    batch = inputs(rows, **options)
    recorder.record(of, batch, batch["ref_per_token_logps"].clamp(min=-1) * 0.9)
    found = recorder.metrics(of)
    assert recorder.metrics(of) == {}
    return found


def test_what_is_not_known_is_left_out_of_the_log() -> None:
    few, many = logged(8), logged(64)
    assert all(map(isfinite, few.values()))
    assert set(many) - set(few) == {"kullback/policy/anytime_low", "kullback/policy/anytime_high"}


def test_an_infinite_kl_is_in_the_log() -> None:
    assert logged(8, excluded=True)["kullback/policy/k3"] == inf


def test_a_batch_in_which_no_token_counts_does_not_end_the_run() -> None:
    """As where every completion was cut off, and `mask_truncated_completions` is on."""
    assert logged(8, counts=False) == {"kullback/policy/alarms": 0.0}
