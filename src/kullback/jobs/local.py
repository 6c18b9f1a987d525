"""A plan run on this machine, batch by batch; what is finished is kept whatever happens next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from kullback.errors import KullbackError, ModelError, StoppedError
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.outputs import PART, ROLLOUTS
from kullback.jobs.plans import Batch, Plan
from kullback.jobs.progress import OnProgress
from kullback.jobs.run import Run
from kullback.jobs.worker import Models, finish_batch
from kullback.models.memory import out_of_memory
from kullback.models.pairs import gives_distributions
from kullback.models.protocols import Reader
from kullback.models.randomness import Randomness
from kullback.models.sampling import Sampling
from kullback.rollouts import Metadata, Model, RolloutWriter, law_of

Grown = Callable[[Run], Plan | None]
"""What is to be drawn in all once a plan is finished: its batches, and more; None where it is enough."""


def run_here(
    plan: Plan, models: Models, *, folder: Path | None, on_progress: OnProgress, grown: Grown | None = None
) -> tuple[Run, BaseException | None]:
    """What was finished, and the error that ended it early, if one did; each batch is written at once."""
    run = Run(plan)
    try:
        _finish_all(run, models, folder, on_progress, grown)
    except KeyboardInterrupt:
        return run, _stopped(run, folder)
    except Exception as error:
        # Each library has an error of its own for this, and none may be imported to name it.
        if isinstance(error, KullbackError) or not out_of_memory(error):
            return run, error
        return run, ModelError(
            f"{place(models.policy)} ran out of memory with {plan.batch_rows} sequences at a time: "
            "pass a smaller --batch-size"
        )
    return run, None


def _finish_all(run: Run, models: Models, folder: Path | None, on_progress: OnProgress, grown: Grown | None) -> None:
    randomness = Randomness(run.plan.seed)
    decode = models.samplers["policy"].decode
    writing = RolloutWriter(folder / ROLLOUTS, metadata(run.plan, models)) if folder else nullcontext()
    with safe_interrupts() as check, writing as writer:

        def count(tokens: int) -> None:
            check()
            run.tokens += tokens
            on_progress(run.progress)

        for batch in _batches(run, grown):
            finished = finish_batch(run.plan, batch, models, randomness, on_tokens=count)
            # First in memory: what finds no room on the disk can still be shown.
            run.keep(finished, decode)
            if writer is not None:
                with suppress(OSError):  # made again where it was removed before the first batch
                    writer.path.parent.mkdir(parents=True, exist_ok=True)
                writer.write(finished.rollouts)
            on_progress(run.progress)
            check()


def _batches(run: Run, grown: Grown | None) -> Iterator[Batch]:
    """The batches of a run's plan, and of what it grows to."""
    plan: Plan | None = run.plan
    done = 0
    while plan is not None:
        run.plan = plan
        yield from plan.batches[done:]
        done, plan = len(plan.batches), grown and grown(run)


def _stopped(run: Run, folder: Path | None) -> StoppedError:
    there = [name for name in (PART, ROLLOUTS) if folder and (folder / name).exists()]
    kept = f", kept in {folder / there[0]}" if folder and there and run.rollouts else ""
    return StoppedError(
        f"stopped after {len(run.rollouts)} of {run.plan.total} sequences{kept}: "
        + ("what is shown rests on those" if run.rollouts else "nothing was finished")
    )


def metadata(plan: Plan, models: Models) -> Metadata:
    """What the file of a plan's rollouts says about itself."""
    laws = {"logprobs": plan.laws.policy, "ref_logprobs": plan.laws.reference}
    behavior = None
    if plan.laws.sampler is not None:
        laws["behavior_logprobs"] = plan.laws.sampler
        behavior = _described(models.samplers["policy"], plan.laws.sampler)
    return Metadata(
        policy=_described(models.policy, plan.laws.policy),
        reference=_described(models.reference, plan.laws.reference),
        behavior=behavior,
        law={name: law_of(law.temperature, law.top_p, law.top_k) for name, law in laws.items()},
    )


def place(model: Reader) -> str:
    """The device a model runs on, or its name where it does not say."""
    return str(model.device) if gives_distributions(model) else model.name


def _described(model: Reader, law: Sampling) -> Model:
    return Model(model.name, law.settings, model.dtype if gives_distributions(model) else None)
