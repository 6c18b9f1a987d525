"""What every command shares: the console, a progress bar, and errors of one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kullback.documents import Outcome
from kullback.errors import KullbackError
from kullback.report import terminal

if TYPE_CHECKING:
    from kullback.jobs.progress import Progress as Done

WIDTH = 124
"""Columns of tables that do not go to a terminal."""


def console(*, stderr: bool = False) -> Console:
    """The terminal as it is, or a fixed width where there is none."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def show(outcome: Outcome, as_json: bool) -> None:
    """An outcome, as JSON or as a document."""
    if as_json:
        typer.echo(json.dumps(outcome.to_dict(), ensure_ascii=False))
    else:
        terminal.show(outcome.document(), console())


@contextmanager
def shown(
    as_json: bool,
    unit: str,
    *,
    starting: str = "loading models",
    doing: str = "comparing",
) -> Iterator[tuple[Callable[[Done], None], Callable[[Outcome], None]]]:
    """A progress bar on a terminal; what is shown at the end, also of a job that an error ended half-way."""

    def ended(outcome: Outcome) -> None:
        bar.stop()
        show(outcome, as_json)

    err = console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
    task = bar.add_task(starting, total=None, count="", rate="")

    def on_progress(done: Done) -> None:
        elapsed = bar.tasks[0].elapsed or 0.0
        rate = f"{done.tokens / elapsed:,.0f} tokens/s" if elapsed > 0 and done.tokens else ""
        count = f"{done.sequences}/{done.total} {unit}"
        bar.update(task, description=doing, completed=done.sequences, total=done.total, count=count, rate=rate)

    try:
        with bar:
            yield on_progress, ended
    except KullbackError as error:
        bar.stop()
        if error.result is not None:
            ended(error.result)
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped before anything was finished")


def fail(message: str) -> NoReturn:
    """One sentence on stderr and exit status 2."""
    console(stderr=True).print(f"kullback: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)
