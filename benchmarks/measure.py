"""Time and peak memory side by side: every contender in a process of its own, all asked in turn."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, nan
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kullback.vocab import memory

MB = 1e6
DISTURBED = 0.1
"""Share of the machine that other processes may take during a run; above it the run is made again."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        seconds: wall time.
        peak: bytes resident at most, beyond what was resident before; nan where the system does not tell.
        others: share of the machine's processors that other processes took.
        own: processor seconds that it took itself, all threads together.
    """

    seconds: float
    peak: float
    others: float
    own: float = nan


@dataclass(frozen=True)
class Measured:
    """What a contender costs.

    Attributes:
        runs: all of them, the first (warm-up) left out.
        value: what the warm-up returned.
        failure: why it did not run, if it did not.
    """

    runs: tuple[Run, ...] = ()
    value: Any = None
    failure: str = ""

    @property
    def seconds(self) -> float:
        """Median over the undisturbed runs, over all where there are fewer than 5."""
        return statistics.median([run.seconds for run in self._counted()] or [nan])

    @property
    def own(self) -> float:
        """Median of the processor seconds, which other processes disturb less."""
        return statistics.median([run.own for run in self._counted()] or [nan])

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest of the runs that count."""
        seconds = [run.seconds for run in self._counted()] or [nan]
        return min(seconds), max(seconds)

    @property
    def peak(self) -> float:
        """Largest over the runs."""
        return max((run.peak for run in self.runs), default=nan)

    @property
    def disturbed(self) -> bool:
        """Whether disturbed runs had to be counted."""
        return any(run.others > DISTURBED for run in self._counted())

    def _counted(self) -> list[Run]:
        quiet = [run for run in self.runs if run.others <= DISTURBED]
        return quiet if len(quiet) >= 5 else list(self.runs)


Contender = Callable[[], tuple[Any, Any]]
"""Does the work and returns what must still be held (gradients) and what to look at (small tensors)."""


def side_by_side(
    contenders: Mapping[str, Contender], runs: int = 5, extra: int = 5, threads: int = 0
) -> dict[str, Measured]:
    """Every contender once to warm up, then ``runs`` rounds in which each runs once, in turn.

    Contenders run in forks of this process, one at a time, so that inputs are shared, and neither a compiler's
    caches nor an allocator's leftovers of one meet another. Before a run the memory that it will take is touched.
    This process must not have used threads before: the OpenMP of gcc does not survive a fork.

    Args:
        contenders: name → work.
        runs: rounds.
        extra: rounds at most to make disturbed runs again.
        threads: of each contender; 0 is every processor.
    """
    workers = {name: _Worker(work, threads or processors()) for name, work in contenders.items()}
    found: dict[str, list[Run]] = {name: [] for name in contenders}
    for name in list(workers):
        if workers[name].failure:
            del found[name]
    for turn in range(runs + extra):
        for name, done in found.items():
            if turn < runs or sum(run.others <= DISTURBED for run in done) < runs:
                done.append(workers[name].run())
    for worker in workers.values():
        worker.stop()
    return {
        name: Measured(tuple(found.get(name, ())), worker.value, worker.failure) for name, worker in workers.items()
    }


def in_a_fork(work: Callable[[], Any], threads: int) -> Any:
    """What work returns, from a process of its own.

    Raises:
        RuntimeError: it failed there.
    """
    (found,) = side_by_side({"": lambda: (None, work())}, 0, 0, threads).values()
    if found.failure:
        raise RuntimeError(found.failure)
    return found.value


def load_compiler() -> None:
    """Import torch.compile once for all forks, and let it compile in the process that asks."""
    import torch._inductor.compile_fx
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1


class _Worker:
    """A fork that runs one contender when told to."""

    def __init__(self, work: Contender, threads: int) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, threads, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.value: Any = None
        self.failure = ""
        try:
            self.value, self.failure = self.pipe.recv()
        except EOFError:
            self.process.join()
            self.failure = f"its process ended with code {self.process.exitcode} (out of memory?)"

    def run(self) -> Run:
        self.pipe.send(True)
        found: Run = self.pipe.recv()
        return found

    def stop(self) -> None:
        with suppress(OSError):
            self.pipe.send(False)
        self.process.join()


def _serve(work: Contender, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    before = _forget_peak()
    try:
        value = work()[1]
        pipe.send((value, ""))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {error}".splitlines()[0][:160]))
        return
    peak = _status("VmHWM") - before
    while pipe.recv():
        _own(peak)
        pipe.send(one_run(work))


def _own(size: float) -> None:
    """Touch so much memory, in small pages and in huge ones, and free it.

    The host of a virtual machine takes free pages away, and takes long to give them back.
    """
    for empty in (torch.empty, memory.empty):
        empty((int(size) if isfinite(size) else 0,), dtype=torch.uint8, device=torch.device("cpu")).fill_(1)


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_run(work: Contender) -> Run:
    """In this process, after the allocator has given back what it kept."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _forget_peak()
    busy, own, started = _busy(), time.process_time(), time.perf_counter()
    held = work()
    seconds, own = time.perf_counter() - started, time.process_time() - own
    peak = _status("VmHWM") - before
    del held
    others = (_busy() - busy - own) / (seconds * processors())
    return Run(seconds, peak, others if seconds > 0.1 and isfinite(others) else 0.0, own)


def _forget_peak() -> float:
    """Set the peak of the resident memory (VmHWM) to what is resident now, and return that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return nan


def _status(key: str) -> float:
    """A line of /proc/self/status, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return 1024.0 * int(line.split()[1])
    return nan


def _busy() -> float:
    """Seconds that all processors together have worked, or were taken away by the hypervisor."""
    with suppress(OSError):
        user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return nan


def median_seconds(work: Callable[[], object], runs: int) -> float:
    """In this process, after one run to warm up."""
    work()
    return statistics.median(timed(work) for _ in range(runs))


def timed(work: Callable[[], object]) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- as tables


@dataclass(frozen=True)
class Results:
    """What a case has found.

    Attributes:
        found: by contender, ours first.
        ours: names of ours.
        errors: largest error of each; nan where there is none to tell.
        floor: seconds that the work takes at least.
        gradient: bytes that every contender must return.
    """

    found: dict[str, Measured]
    ours: tuple[str, ...]
    errors: dict[str, float]
    floor: float
    gradient: float

    def peer(self, prefix: str) -> Measured:
        """The contender whose name starts so."""
        return next((found for name, found in self.found.items() if name.startswith(prefix)), Measured())

    def best_peer(self) -> float:
        """Seconds of the fastest that is not ours."""
        return min((x.seconds for name, x in self.found.items() if name not in self.ours and x.runs), default=nan)


@dataclass(frozen=True)
class Goal:
    """What ours is to reach.

    Attributes:
        text: in words.
        figure: (results, name of ours) → the number.
        bound: the number to reach.
        at_most: whether smaller is better.
        unit: shown after the number.
    """

    text: str
    figure: Callable[[Results, str], float]
    bound: float
    at_most: bool = False
    unit: str = "×"

    def shown(self, results: Results, name: str) -> str:
        """The number, and whether it is enough."""
        number = self.figure(results, name)
        if not isfinite(number):
            return "not measured"
        met = number <= self.bound if self.at_most else number >= self.bound
        return f"{number:.3g}{self.unit}, {'met' if met else '**not met**'}"


def as_fast_as(prefix: str, bound: float) -> Goal:
    """Another's time over ours."""

    def figure(results: Results, name: str) -> float:
        return results.peer(prefix).seconds / results.found[name].seconds

    return Goal(f"≥ {bound:g}× as fast as {prefix}", figure, bound)


def share_of_peak(prefix: str, part: int) -> Goal:
    """The peak of another over ours."""

    def figure(results: Results, name: str) -> float:
        return results.peer(prefix).peak / results.found[name].peak

    return Goal(f"peak ≤ 1/{part} of {prefix}'s", figure, part)


def beyond_gradient(megabytes: float) -> Goal:
    """The peak without what is returned."""

    def figure(results: Results, name: str) -> float:
        return (results.found[name].peak - results.gradient) / MB

    return Goal(f"≤ {megabytes:g} MB beyond the gradient", figure, megabytes, True, " MB")


def times_floor(bound: float) -> Goal:
    """Our time over the floor."""
    return Goal(f"≤ {bound:g}× the floor", lambda r, name: r.found[name].seconds / r.floor, bound, True)


def within_nats(bound: float) -> Goal:
    """Our largest error."""
    return Goal(f"error ≤ {bound:g} nats", lambda r, name: r.errors[name], bound, True, " nats")


COLUMNS = ("", "ms", "from – to", "peak, MB", "beyond gradient", "× naive", "× best peer", "× floor", "max error")


def table(results: Results) -> str:
    """One row a contender."""
    rows = [_row(name, measured, results) for name, measured in results.found.items()]
    return markdown(COLUMNS, rows)


def _row(name: str, x: Measured, results: Results) -> list[str]:
    if not x.runs:
        return [name, f"did not run: {x.failure or 'not asked'}", *[""] * (len(COLUMNS) - 2)]
    low, high = x.spread
    times = [f"{1e3 * x.seconds:.4g}" + (" ~" if x.disturbed else ""), f"{1e3 * low:.4g} – {1e3 * high:.4g}"]
    ratios = [results.peer("naive").seconds / x.seconds, results.best_peer() / x.seconds, x.seconds / results.floor]
    memory = [_shown(x.peak / MB, ".0f"), _shown((x.peak - results.gradient) / MB, ".0f")]
    return [name, *times, *memory, *(_shown(ratio, ".2f") for ratio in ratios), _shown(results.errors[name], ".1e")]


def _shown(x: float, form: str) -> str:
    return format(x, form) if isfinite(x) else "–"


def goals(asked: Sequence[Goal], results: Results) -> str:
    """One row a goal, one column for each of ours."""
    rows = [[goal.text, *(goal.shown(results, name) for name in results.ours)] for goal in asked]
    return markdown(("goal", *results.ours), rows)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column to the left."""
    rule = "|---|" + "---:|" * (len(columns) - 1)
    return "\n".join([f"| {' | '.join(columns)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


# --- as a picture

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73")
"""Of Okabe and Ito: told apart by colour-blind readers; markers differ too."""
MARKERS = "osD^"


def draw_growth(
    picture: Path, sizes: Mapping[str, Sequence[int]], seconds: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Seconds of each contender against each size, both logarithmic, as PNG and SVG, with lines of power 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 15, "svg.hashsalt": "kullback", "svg.fonttype": "none"}):
        figure, panels = pyplot.subplots(1, len(sizes), figsize=(11, 5.2), sharey=True, layout="constrained")
        for panel, (axis, at) in zip(panels, sizes.items(), strict=True):
            for i, (name, found) in enumerate(seconds[axis].items()):
                milliseconds = [1e3 * s for s in found]
                panel.loglog(at, milliseconds, MARKERS[i] + "-", color=COLOURS[i], label=name, lw=2.2, ms=8)
                line = [milliseconds[-1] * n / at[-1] for n in at]
                panel.loglog(at, line, ":", color=COLOURS[i], lw=1.4)
            panel.set_xlabel(f"{axis}")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("forward and backward, ms")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture.with_suffix(".png"), dpi=110)
        figure.savefig(picture.with_suffix(".svg"), metadata={"Date": None})
        pyplot.close(figure)
