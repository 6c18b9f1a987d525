"""A worker of a plan: it loads the models once, and does the batches that it is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kullback.errors import FileError, InputError, KullbackError, ModelError
from kullback.jobs.engines.shards import packed
from kullback.jobs.plans import Plan, Role
from kullback.jobs.worker import Models, finish_batch
from kullback.models.memory import out_of_memory
from kullback.models.opening import opened, opened_pair
from kullback.models.pairs import gives_distributions
from kullback.models.protocols import Sampler
from kullback.models.randomness import Randomness

if TYPE_CHECKING:
    from kullback.models.bases import Basis

THREADS = "OMP_NUM_THREADS"
"""Says how many threads a worker has; one where it is not set, since sums that threads share round by their number."""

ERRORS: Mapping[str, type[KullbackError]] = {"InputError": InputError, "FileError": FileError, "ModelError": ModelError}
"""What a worker's errors become where it was asked; every other is a `ModelError`."""


class Task(Protocol):
    """What somebody who works does, one piece after another."""

    def finish(self, number: Any) -> Answer:
        """Do a piece; whatever goes wrong is told and not raised."""
        ...


class Job(Protocol):
    """What workers are told: it can be sent, and makes of a process somebody who works."""

    @property
    def rows(self) -> int:
        """Sequences at a time, at most, for what is said where memory runs out."""
        ...

    def worker(self) -> Task:
        """Load the models."""
        ...


@dataclass(frozen=True)
class Order:
    """A plan for workers.

    Attributes:
        plan: of which it does batches.
        policy, reference, sampler: names of models; None where the policy draws for itself.
        device, dtype: where and as what they are loaded.
        bases: see `Models`; on the CPU.
    """

    plan: Plan
    policy: str
    reference: str
    sampler: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    bases: Mapping[Role, Basis | None] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """See `Job`."""
        return self.plan.batch_rows

    def worker(self) -> Worker:
        """See `Job`."""
        return Worker(self)


class Answer(NamedTuple):
    """What a worker says of a batch: its shard, or the kind and the text of the error."""

    batch: int
    shard: bytes | None = None
    error: tuple[str, str] | None = None

    def raised(self) -> KullbackError:
        """The error."""
        kind, text = self.error or ("", "")
        return ERRORS.get(kind, ModelError)(text)


class Worker:
    """Two models, or three, and a plan.

    Raises:
        ModelError: one of them cannot be loaded.
    """

    def __init__(self, order: Order) -> None:
        one_thread()
        self.plan = order.plan
        q, p = opened_pair(order.policy, order.reference, device=order.device, dtype=order.dtype)
        drawing = q
        if order.sampler is not None:
            drawing = opened(order.sampler, device=order.device, dtype=order.dtype, tokenizer_from=q)
        drawn: dict[Role, Sampler] = {}
        of: Mapping[Role, object] = {"policy": drawing, "reference": p}
        for role, model in of.items():
            if isinstance(model, Sampler) and any(batch.sampled_from == role for batch in order.plan.batches):
                drawn[role] = model
        self.models = Models(q, p, drawn)
        self.models = replace(self.models, bases={role: self._here(role, one) for role, one in order.bases.items()})

    def _here(self, role: Role, basis: Basis | None) -> Basis | None:
        model = self.models.pair(role)[0]
        return basis.to(model.device) if basis is not None and gives_distributions(model) else None

    def finish(self, number: int) -> Answer:
        """Draw and score a batch; whatever goes wrong is told and not raised."""
        try:
            randomness = Randomness(self.plan.seed)
            finished = finish_batch(
                self.plan, self.plan.batches[number], self.models, randomness, on_tokens=lambda tokens: None
            )
            return Answer(number, packed(finished))
        except Exception as error:
            return Answer(number, error=told(error, self.plan.batch_rows))


def one_thread() -> None:
    """Take as many threads as the environment says, or one."""
    import torch

    torch.set_num_threads(int(os.environ.get(THREADS) or 1))


def told(error: Exception, rows: int) -> tuple[str, str]:
    """An error as its kind and its text."""
    if isinstance(error, KullbackError):
        return type(error).__name__, str(error)
    if out_of_memory(error):
        return "ModelError", f"a worker ran out of memory with {rows} sequences at a time: pass a smaller --batch-size"
    reason = next(iter(str(error).splitlines()), "")
    return "ModelError", f"a worker could not go on ({type(error).__name__}: {reason}): run it without --workers to see"
