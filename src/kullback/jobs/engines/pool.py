"""What an engine is to those who hand out work: workers that are started, given batches, and heard."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from kullback.errors import InputError, shown
from kullback.jobs.engines.crew import Answer

MOST_WORKERS = 4096


class Heard(NamedTuple):
    """What was heard of a worker: its answer, or None where it is gone."""

    worker: int
    answer: Answer | None


class Pool(Protocol):
    """Workers of one order."""

    def start(self) -> int:
        """Start a worker; its number. It may take a while until it works, and it is given batches before."""
        ...

    def give(self, worker: int, batch: Any) -> None:
        """Have a worker do a batch, by its number or whatever its job takes; one that is gone is heard of by `wait`."""
        ...

    def wait(self, seconds: float) -> list[Heard]:
        """What there is to hear, after so many seconds at the most."""
        ...

    def close(self) -> None:
        """End all workers, whatever they do."""
        ...


@dataclass(frozen=True)
class Engine:
    """Who runs a plan.

    Attributes:
        name: "local" for processes of this machine, "ray" for actors of a Ray cluster.
        workers: how many; each loads the models once.
        gpus_per_worker: GPUs that Ray keeps for each; a part where several share one.
        address: of the Ray cluster, such as "auto" or "ray://host:10001"; None starts one on this machine, or takes
            the one that the environment names.

    Raises:
        InputError: a number of workers or GPUs that is none, or what only Ray has without Ray.
    """

    name: Literal["local", "ray"] = "local"
    workers: int = 1
    gpus_per_worker: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ("local", "ray"):
            raise InputError(f"engine={shown(self.name)} came, but it is local or ray")
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or not 1 <= self.workers <= MOST_WORKERS:
            raise InputError(f"workers={shown(self.workers)} came, but a number from 1 to {MOST_WORKERS} is needed")
        if not 0 <= self.gpus_per_worker <= 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise InputError(
                f"gpus_per_worker={self.gpus_per_worker:g} came, but Ray takes a part of one, or whole ones"
            )
        if self.name == "local" and (self.gpus_per_worker or self.address):
            raise InputError("gpus_per_worker or address came without engine='ray', which alone knows them")

    @property
    def cluster(self) -> str | None:
        """The address of a Ray cluster that is there already; None where one is started on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS") or None
