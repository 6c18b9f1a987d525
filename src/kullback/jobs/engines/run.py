"""A plan run by several workers: batches are handed out, their shards kept, and what is there put together in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from kullback.documents import Record
from kullback.errors import FileError, ModelError, StoppedError
from kullback.jobs.engines.crew import Job, Order
from kullback.jobs.engines.pool import Engine, Pool
from kullback.jobs.engines.processes import Processes
from kullback.jobs.engines.schedule import Schedule
from kullback.jobs.engines.shards import Shards, shards_in, unpacked
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.local import metadata
from kullback.jobs.outputs import ROLLOUTS
from kullback.jobs.plans import Plan
from kullback.jobs.progress import OnProgress, Progress
from kullback.jobs.run import Run
from kullback.jobs.worker import Models
from kullback.rollouts import RolloutWriter

PATIENCE = 0.2
"""Seconds after which it is looked whether the job was asked to stop."""


class Shift(NamedTuple):
    """Who does an order, and what is known of it.

    Attributes:
        engine: who runs it.
        order: what the workers are told.
        settings: what decides the rows, as `settings_of` says it.
    """

    engine: Engine
    order: Order
    settings: Record


def run_workers(
    shift: Shift, models: Models, *, folder: Path | None, on_progress: OnProgress
) -> tuple[Run, BaseException | None]:
    """What was finished, and the error that ended it early, if one did; as `run_here`, with workers.

    Shards that are in the folder already are not made again.
    """
    run = Run(shift.order.plan)
    ended: BaseException | None = None
    with _shards(folder) as shards:
        try:
            _finish_all(shift, shards, on_progress)
        except KeyboardInterrupt:
            ended = StoppedError(
                f"stopped: what is shown rests on the batches that were finished{_kept(shards, folder)}"
            )
        except Exception as error:
            ended = said(error, f"; what was finished is{kept[1:]}" if (kept := _kept(shards, folder)) else "")
        try:
            _collect(run, shards, models, folder)
        except FileError as error:
            ended = ended or error
    return run, ended


@contextmanager
def _shards(folder: Path | None) -> Iterator[Shards]:
    if folder is not None:
        yield shards_in(folder)
        return
    with TemporaryDirectory(prefix="kullback-") as place:
        yield Shards(Path(place) / "shards")


def _kept(shards: Shards, folder: Path | None) -> str:
    return "" if folder is None else f", kept in {shards.folder}: --resume goes on from them"


def said(error: Exception, kept: str) -> Exception:
    """An error, and where what was finished is kept; a server that was away, or a machine, may be back."""
    if isinstance(error, ModelError) and "--resume" not in str(error):
        return ModelError(f"{error}{kept}")
    return error


def _finish_all(shift: Shift, shards: Shards, on_progress: OnProgress) -> None:
    plan = shift.order.plan
    done = shards.begin(shift.settings)
    schedule = Schedule(plan.batches, done)
    rows = sum(len(plan.batches[number].draws) for number in done)
    with safe_interrupts() as check:
        on_progress(Progress(rows, plan.total, 0))
        if not schedule.open:
            return
        pool = _pool(shift)
        try:
            for number in _answers(pool, schedule, shards, shift.engine.workers, check):
                rows += len(plan.batches[number].draws)
                on_progress(Progress(rows, plan.total, 0))
        finally:
            pool.close()


def _pool(shift: Shift) -> Pool:
    return pool_of(shift.engine, shift.order)


def pool_of(engine: Engine, job: Job) -> Pool:
    """Workers of an engine, none of them started."""
    if engine.name == "local":
        return Processes(job)
    from kullback.jobs.engines.cluster import Actors

    return Actors(job, engine)


def _answers(pool: Pool, schedule: Schedule, shards: Shards, workers: int, check: Callable[[], None]) -> Iterator[int]:
    """The batches in the order in which they are finished, each of them kept."""
    idle = [pool.start() for _ in range(min(workers, schedule.open))]
    while schedule.open:
        check()
        idle = [worker for worker in idle if not _busy(pool, schedule, worker)]
        for worker, answer in pool.wait(PATIENCE):
            if answer is None:
                schedule.lose(worker)
                idle = [other for other in idle if other != worker]
                idle.append(pool.start())
                continue
            if answer.shard is None:
                raise answer.raised()
            idle.append(worker)
            if schedule.finish(worker, answer.batch):
                shards.commit(answer.batch, answer.shard)
                yield answer.batch


def _busy(pool: Pool, schedule: Schedule, worker: int) -> bool:
    """Give a worker something to do; False where there is nothing."""
    batch = schedule.next_for(worker)
    if batch is None:
        return False
    pool.give(worker, batch)
    return True


def _collect(run: Run, shards: Shards, models: Models, folder: Path | None) -> None:
    """Put what is there together in the plan's order, so that sums round as in one process, and write it."""
    plan: Plan = run.plan
    decode = models.samplers["policy"].decode
    there = [number for number in range(len(plan.batches)) if shards.path(number).exists()]
    if not there:
        return
    if folder is None:
        for number in there:
            run.keep(unpacked(plan, plan.batches[number], shards.path(number)), decode)
    else:
        with RolloutWriter(folder / ROLLOUTS, metadata(plan, models)) as writer:
            for number in there:
                finished = unpacked(plan, plan.batches[number], shards.path(number))
                run.keep(finished, decode)
                writer.write(finished.rollouts)
    run.tokens = sum(rollout.length for rollout in run.rollouts)
