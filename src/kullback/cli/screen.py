"""What every command shares: the console, a progress bar, and errors of one sentence."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, NoReturn, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from kullback.documents import Outcome, json_of, visible
from kullback.errors import StoppedError
from kullback.report import terminal
from kullback.report.substitutes import ERRORS

if TYPE_CHECKING:
    from kullback.jobs.progress import Progress as Done

WIDTH = 124
"""Columns of tables that do not go to a terminal, unless the environment says COLUMNS."""

NARROWEST = 20
"""Columns that can be asked for where there is no terminal."""

QUIET_SECONDS = 30.0
"""How often a job says on a pipe how far it is."""


def prepare_streams() -> None:
    """Let stdout and stderr show whatever comes: with substitutes, and nowhere where they are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python began, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process lives)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def console(*, stderr: bool = False) -> Console:
    """The terminal as it is, or a fixed width where there is none and none was asked for."""
    console = Console(stderr=stderr)
    columns = os.environ.get("COLUMNS", "")
    asked = columns.isdecimal() and int(columns) >= NARROWEST
    return console if console.is_terminal or asked else Console(stderr=stderr, width=WIDTH)


def show(outcome: Outcome, as_json: bool) -> None:
    """An outcome, as JSON or as a document."""
    if as_json:
        write_record(outcome.to_dict())
    else:
        terminal.show(outcome.document(), console())
    sys.stdout.flush()


def write_record(record: object) -> None:
    """A record as a line of JSON on stdout, in ASCII where it has no more."""
    print(json_of(record, ascii_only="utf" not in (sys.stdout.encoding or "utf-8").lower()))


def tell(message: str, style: str = "") -> None:
    """A sentence on stderr, as one line whatever its length."""
    # Where stderr is closed or full there is nobody to tell.
    with suppress(OSError):
        err = console(stderr=True)
        err.print(Text(visible(message), style=style), soft_wrap=True)


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
    bar = _bar(err)
    task = bar.add_task(starting, total=None, count="", rate="")
    said = time.monotonic()
    begun: tuple[float, Done] | None = None  # the first report: what came before it is loading

    def on_progress(done: Done) -> None:
        nonlocal said, begun
        now = time.monotonic()
        begun = begun or (now, done)
        rate = _rate(done, begun[1], unit, now - begun[0])
        count = f"{done.sequences:,} {unit}" if not done.total else f"{done.sequences}/{done.total} {unit}"
        finished, total = (done.sequences, done.total or None) if done.share is None else (done.share, 1.0)
        bar.update(task, description=doing, completed=finished, total=total, count=count, rate=rate)
        if not err.is_terminal and now - said > QUIET_SECONDS:
            said = now
            first = begun[1].sequences if done.share is None else begun[1].share or 0.0
            left = _left(finished - first, total and total - first, now - begun[0])
            tell(f"kullback: {doing}, {count}{rate and f', {rate}'}{left}")

    try:
        with bar:
            yield on_progress, ended
    except StoppedError as error:
        _show_half(error, ended)
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped before anything was finished")
    except Exception as error:
        _show_half(error, ended)
        raise


def _rate(done: Done, first: Done, unit: str, elapsed: float) -> str:
    """Rows a second of what is read; tokens a second of what is drawn."""
    count, name = (done.sequences - first.sequences, unit) if unit == "rows" else (done.tokens - first.tokens, "tokens")
    return f"{count / elapsed:,.0f} {name}/s" if elapsed > 0 and count > 0 else ""


def _left(finished: float, total: float | None, elapsed: float) -> str:
    return f", about {elapsed * (total - finished) / finished:,.0f} s left" if total and finished else ""


def _bar(err: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )


def _show_half(error: BaseException, show: Callable[[Outcome], None]) -> None:
    """What a job had finished when the error ended it, if anything."""
    result = getattr(error, "result", None)
    if result is not None:
        show(result)


def fail(message: str) -> NoReturn:
    """One sentence on stderr and exit status 2."""
    tell(f"kullback: {message}", style="red")
    sys.exit(2)


def silence(stream: TextIO | None) -> None:
    """Have nothing more written to a stream that is closed or full, not even when Python ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, cast(IO[str], stream).fileno())
