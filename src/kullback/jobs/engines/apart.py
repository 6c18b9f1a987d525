"""A function called where it leaves nothing behind: in a process of its own, or on a machine of a Ray cluster."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from kullback.errors import ModelError
from kullback.jobs.engines.crew import Answer, told
from kullback.jobs.engines.pool import Engine
from kullback.jobs.engines.processes import environment

P = ParamSpec("P")
T = TypeVar("T")

CHILD = "kullback.jobs.engines.answering"


def apart(engine: Engine, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What a function of a module returns there.

    Raises:
        KullbackError: as it was raised there; whatever else was is a ModelError.
        ModelError: the process was ended.
    """
    work = pickle.dumps((call, arguments, options))
    said = _on_cluster(engine, work) if engine.name == "ray" else None
    if said is None:
        said = _in_process(work)
    found, error = pickle.loads(said)
    if error is not None:
        raise Answer(0, error=error).raised()
    result: T = found
    return result


def answered(work: bytes) -> bytes:
    """What a function returned, or the kind and the text of its error."""
    from kullback.models.quiet import quiet

    try:
        with quiet():
            call, arguments, options = pickle.loads(work)
            return pickle.dumps((call(*arguments, **options), None))
    except Exception as error:
        return pickle.dumps((None, told(error, 1)))


def _on_cluster(engine: Engine, work: bytes) -> bytes | None:
    """The answer of a cluster that is there; None where one would have to be started here."""
    from kullback.jobs.engines.cluster import on_cluster, ray

    return on_cluster(engine, answered, work) if engine.cluster or ray().is_initialized() else None


def _in_process(work: bytes) -> bytes:
    # A session of its own: Ctrl-C at the terminal is for this process, which then ends the other.
    done = subprocess.run(
        [sys.executable, "-m", CHILD],
        input=work,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        check=False,
    )
    if not done.stdout:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        raise ModelError(
            f"the process that was to load the models ended without an answer ({how}): there may be too little memory"
        )
    return done.stdout
