"""Workers as actors of a Ray cluster."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kullback.errors import InputError, ModelError
from kullback.jobs.engines.crew import Answer, Job, Task, told
from kullback.jobs.engines.pool import Engine, Heard
from kullback.models.packages import needed


def ray() -> Any:
    """The package.

    Raises:
        MissingPackageError: it is not installed.
    """
    return needed("ray", "ray")


CONNECTING = 10.0
"""Seconds in which a cluster's port has to answer."""


class Actor:
    """A worker as Ray has it: what goes wrong in loading is told with the first batch, and not raised."""

    def __init__(self, job: Job) -> None:
        self.worker: Task | None = None
        self.failed: tuple[str, str] | None = None
        try:
            self.worker = job.worker()
        except Exception as error:
            self.failed = told(error, job.rows)

    def finish(self, number: Any) -> tuple[Any, ...]:
        """A piece's answer, as a plain tuple."""
        return tuple(Answer(0, error=self.failed) if self.worker is None else self.worker.finish(number))


class Actors:
    """An actor a worker. Shards come back as bytes: the cluster's machines need share no folder.

    Actors are not restarted by Ray: who hands out the work does that, and counts.

    Raises:
        InputError: no cluster is at the address, or it has not the GPUs for one worker.
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self._ray = ray()
        self._begun = connected(engine)
        options = {"num_cpus": 1, "num_gpus": engine.gpus_per_worker, "max_restarts": 0}
        self._actor = self._ray.remote(**options)(Actor)
        self._job = self._ray.put(job)
        self._workers: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}

    def start(self) -> int:
        """Start an actor; see `Pool`."""
        number = len(self._workers)
        self._workers[number] = self._actor.remote(self._job)
        return number

    def give(self, worker: int, batch: Any) -> None:
        """Ask an actor; see `Pool`."""
        self._asked[self._workers[worker].finish.remote(batch)] = worker

    def wait(self, seconds: float) -> list[Heard]:
        """What is ready; see `Pool`.

        Raises:
            ModelError: Ray itself is gone.
        """
        if not self._asked:
            time.sleep(seconds)
            return []
        try:
            ready, _ = self._ray.wait(list(self._asked), timeout=seconds)
        except Exception as error:
            raise ModelError(
                f"Ray is gone ({next(iter(str(error).splitlines()), '')}): what was finished is kept where there is an "
                "--output, so start Ray again and go on with --resume"
            ) from error
        return [self._heard(one) for one in ready]

    def close(self) -> None:
        """End the actors, and Ray where it was begun here."""
        for actor in getattr(self, "_workers", {}).values():
            with suppress(Exception):
                self._ray.kill(actor)
        if self._begun:
            with suppress(Exception):
                self._ray.shutdown()

    def _heard(self, one: Any) -> Heard:
        worker = self._asked.pop(one)
        try:
            return Heard(worker, Answer(*self._ray.get(one)))
        except self._ray.exceptions.RayError:
            # Actors are slow to die of lost nodes: it is ended, lest two do its work.
            with suppress(Exception):
                self._ray.kill(self._workers[worker])
            return Heard(worker, None)


def connected(engine: Engine) -> bool:
    """Be connected to the cluster that is meant, or start one here; whether that was not so before.

    Raises:
        InputError: no cluster is at the address, or it has not the GPUs for one worker.
    """
    module = ray()
    begun = not module.is_initialized()
    if begun:
        _begin(engine)
    gpus = module.cluster_resources().get("GPU", 0.0)
    if engine.gpus_per_worker > gpus:
        if begun:
            module.shutdown()
        raise InputError(f"gpus_per_worker={engine.gpus_per_worker:g} came, but the Ray cluster has {gpus:g} GPUs")
    return begun


def on_cluster(engine: Engine, call: Callable[[bytes], bytes], work: bytes) -> bytes:
    """What a function returns on a machine of the cluster that is there.

    Raises:
        InputError: as `connected`.
        ModelError: the machine, or Ray, was lost.
    """
    module, begun = ray(), connected(engine)
    try:
        task = module.remote(num_cpus=1, num_gpus=engine.gpus_per_worker, max_retries=0)(call)
        return bytes(module.get(task.remote(work)))
    except module.exceptions.RayError as error:
        raise ModelError(
            f"the machine that was to load the models was lost ({next(iter(str(error).splitlines()), '')}): try again"
        ) from error
    finally:
        if begun:
            module.shutdown()


def _begin(engine: Engine) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address, module = engine.cluster, ray()
    try:
        if address:
            _check_reachable(address)
            module.init(address=address, **options)
            return
        cpus = max(engine.workers, os.cpu_count() or 1)
        module.init(num_cpus=cpus, include_dashboard=False, **options)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"Ray could not be reached at {address or 'this machine'} ({reason}): start it with "
            "`ray start --head`, or name its --address"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise at once where nobody listens: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition("//")[2].partition("/")[0].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTING).close()
