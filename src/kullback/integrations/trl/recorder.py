"""The monitor behind the mixin and the callback: rows of all processes in, flat metrics into the trainer's log."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf, isnan
from typing import Any

import torch
from torch import Tensor

from kullback.integrations.trl.batches import behavior, counted, prompts, reference
from kullback.monitoring import KLMonitor


class Recorder:
    """Feeds a monitor, once with every sequence that was generated.

    With several processes all rows are gathered, which is three numbers a token, and the main one judges them.
    """

    def __init__(self, monitor: KLMonitor) -> None:
        self.monitor = monitor
        self._new = False

    def record(self, trainer: Any, inputs: Mapping[str, Any], logps: Tensor, token_kl: Tensor | None = None) -> None:
        """Add the rows of a batch, where it is the first time that the trainer learns from them."""
        if not trainer.model.training or not _is_fresh(trainer):
            return
        columns = {
            "logprobs": logps.detach().float(),
            "ref_logprobs": reference(inputs).detach().float(),
            "mask": counted(inputs),
            "behavior_logprobs": behavior(inputs),
            "token_kl": None if token_kl is None else token_kl.detach().float(),
        }
        rows = {name: _gathered(trainer.accelerator, x) for name, x in columns.items() if x is not None}
        groups = trainer.accelerator.gather(prompts(inputs))
        self._new = True
        if trainer.accelerator.is_main_process:
            numbers = {name: x.cpu().numpy() for name, x in rows.items()}
            self.monitor.update(**numbers, groups=groups.cpu().numpy(), step=trainer.state.global_step)

    def metrics(self, trainer: Any) -> dict[str, float]:
        """The numbers of the step, where there are any since they were last asked for; on the main process."""
        if not self._new or not trainer.accelerator.is_main_process:
            return {}
        self._new = False
        # What is not known yet is left out, as are bounds of few units: a tracker would draw a hole or refuse it.
        known = {name: value for name, value in self.monitor.metrics().items() if not isnan(value)}
        return {name: value for name, value in known.items() if not (isinf(value) and "/anytime_" in name)}


def _is_fresh(trainer: Any) -> bool:
    """Whether this is the first of the passes over a generation batch."""
    steps: int = trainer.args.steps_per_generation
    return bool(trainer._step % (steps * trainer.num_iterations) < steps)


def _gathered(accelerator: Any, x: Tensor) -> Tensor:
    whole: Tensor = accelerator.gather(accelerator.pad_across_processes(x.float(), dim=1))
    return whole.bool() if x.dtype == torch.bool else whole
