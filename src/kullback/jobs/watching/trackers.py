"""Trackers of experiments that take the metrics of a step, each through its own library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import ParamSpec

from kullback.errors import InputError, MissingPackageError, shown

P = ParamSpec("P")
Log = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class Tracker:
    """Where metrics go.

    Attributes:
        log: takes the metrics of a step.
        close: ends the run there.
    """

    log: Log
    close: Callable[[], None]


def tensorboard(place: str) -> Tracker:
    """Event files in a folder."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise MissingPackageError("tensorboard", "tensorboard") from None
    writer = EventFileWriter(place or "runs")

    def log(metrics: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        writer.add_event(Event(step=step, summary=Summary(value=values)))
        writer.flush()

    return Tracker(log, writer.close)


def wandb(place: str) -> Tracker:
    """A run of a project at Weights & Biases."""
    try:
        import wandb as library
    except ImportError:
        raise MissingPackageError("wandb", "wandb") from None
    run = library.init(project=place or "kullback")
    return Tracker(lambda metrics, step: run.log(dict(metrics), step=step), run.finish)


def trackio(place: str) -> Tracker:
    """A run of a project of trackio's."""
    try:
        import trackio as library
    except ImportError:
        raise MissingPackageError("trackio", "trackio") from None
    library.init(project=place or "kullback")
    return Tracker(lambda metrics, step: library.log(dict(metrics), step=step), library.finish)


TRACKERS: Mapping[str, Callable[[str], Tracker]] = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}
"""By name; each takes what stands behind the colon: a folder, or a project."""


def tracker(name: str) -> Tracker:
    """The tracker of a name such as "tensorboard:runs/kl" or "wandb:my-project".

    Raises:
        InputError: there is none of that name.
        MissingPackageError: its library is not installed.
    """
    kind, _, place = name.partition(":")
    if kind not in TRACKERS:
        raise InputError(f"log={shown(name)} came, but metrics go to {', '.join(TRACKERS)}, as in tensorboard:runs/kl")
    with redirect_stdout(sys.stderr):  # where trackio says what it does, among the lines of --json
        found = TRACKERS[kind](place)
    return Tracker(_aside(found.log), _aside(found.close))


def _aside(call: Callable[P, None]) -> Callable[P, None]:
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        with redirect_stdout(sys.stderr):
            call(*args, **kwargs)

    return called
