"""TRL's trainers as they are, with the monitor's numbers in their logs."""

from __future__ import annotations

from typing import Any

from kullback.errors import InputError, MissingPackageError
from kullback.integrations.trl.batches import REFERENCE, Scored
from kullback.integrations.trl.recorder import Recorder
from kullback.monitoring import KLMonitor

try:
    from transformers import TrainerCallback
except ImportError:
    raise MissingPackageError("transformers", "trl") from None


class KLCallback(TrainerCallback):  # type: ignore[misc]
    """Logs the KL of a `GRPOTrainer`, an `RLOOTrainer` or a subclass, with its interval, and changes nothing.

    The log-probs are those that the trainer makes; they are read once for every sequence that was generated, and the
    numbers (`KLMonitor.metrics`) come into the trainer's log and `log_history`.

    Args:
        trainer: the trainer, which must have a reference (β ≠ 0).
        monitor: a `kullback.KLMonitor` with limits of your own.

    Raises:
        InputError: the trainer has no reference, or no log-probs that can be read.

    Example:
        trainer.add_callback(KLCallback(trainer)), after ``trainer = GRPOTrainer(…)``; without a reference:

        >>> from kullback.integrations.trl import KLCallback
        >>> KLCallback(type("Trainer", (), {"beta": 0.0})())
        Traceback (most recent call last):
        kullback.errors.InputError: beta=0 came, with which the trainer keeps no reference to measure the KL to: set \
beta to a small number, or watch the rollouts with `kullback watch`
    """

    def __init__(self, trainer: Any, monitor: KLMonitor | None = None) -> None:
        if not hasattr(trainer, "beta"):
            raise InputError(
                f"a {type(trainer).__name__} came, but this watches GRPOTrainer, RLOOTrainer and subclasses"
            )
        if trainer.beta == 0:
            raise InputError(
                "beta=0 came, with which the trainer keeps no reference to measure the KL to: set beta to a small "
                "number, or watch the rollouts with `kullback watch`"
            )
        if getattr(trainer, "use_liger_kernel", False) and hasattr(trainer, "compute_liger_loss"):
            raise InputError(
                "use_liger_kernel=True came, whose loss in this version of TRL shows no log-probs: pass False"
            )
        self.monitor = KLMonitor() if monitor is None else monitor
        self._recorder = Recorder(self.monitor)
        self._trainer = trainer
        self._calls: list[Scored] = []
        self._score = trainer._get_per_token_logps_and_entropies
        self._generate = trainer._generate_and_score_completions
        self._loss = trainer._compute_loss
        trainer._get_per_token_logps_and_entropies = self._scored
        trainer._generate_and_score_completions = self._generated
        trainer._compute_loss = self._learned

    def _scored(self, *args: Any, **kwargs: Any) -> Any:
        found = self._score(*args, **kwargs)
        self._calls.append(Scored(found[0], None))
        return found

    def _generated(self, inputs: Any) -> Any:
        self._calls = []
        batch = self._generate(inputs)
        if "ref_per_token_logps" not in batch and REFERENCE not in batch:
            batch[REFERENCE] = self._calls[-1].logps
        return batch

    def _learned(self, model: Any, inputs: Any) -> Any:
        self._calls = []
        loss = self._loss(model, inputs)
        self._recorder.record(self._trainer, inputs, self._calls[-1].logps)
        self._calls = []
        return loss

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the step's numbers where the trainer's next log takes them from."""
        for name, value in self._recorder.metrics(self._trainer).items():
            self._trainer._metrics["train"][name] = [value]
