"""Following a run's folder of dumps, step after step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from kullback.documents import Interval, Uncertain, plain
from kullback.errors import FileError, InputError
from kullback.jobs.watching.feeding import feed
from kullback.jobs.watching.following import Arrival, Follower, Seen
from kullback.monitoring import Alarm, KLMonitor
from kullback.paths import path_of
from kullback.rollouts import Rollout
from kullback.rollouts.readers.containers.lines import Cursor

STATE = ".kullback-watch.json"
"""What is known, beside the dumps; hidden, so that no reader takes it for one."""

SCHEMA = 2


@dataclass(frozen=True)
class StepSeen:
    """A step of the run, judged.

    Attributes:
        step: its number.
        rows, prompts: sequences, and prompts they are of; None where not known.
        metrics: those of `kullback.KLMonitor.metrics`.
        alarms: raised by it.
    """

    step: int
    rows: int
    prompts: int | None
    metrics: Mapping[str, float]
    alarms: Sequence[Alarm]

    def line(self) -> str:
        """The step in a line."""
        of = f" of {self.prompts} prompts" if self.prompts else ""
        parts = [f"step {self.step}", *self._policy(), *self._mismatch(), f"{self.rows} sequences{of}"]
        return "  ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "step": self.step,
            "rows": self.rows,
            "prompts": self.prompts,
            "metrics": {name: plain(value) for name, value in self.metrics.items()},
            "alarms": [asdict(alarm) for alarm in self.alarms],
        }

    def _policy(self) -> list[str]:
        name = next((n for n in ("rao_blackwell", "k3") if f"kullback/policy/{n}" in self.metrics), None)
        if name is None:
            return []
        of = {key.rsplit("/", 1)[1]: value for key, value in self.metrics.items() if key.startswith("kullback/policy/")}
        said = [f"KL {Uncertain(of[name], of['stderr'])} nats/sequence {Interval(of['low'], of['high'])}"]
        return said + ([f"ESS {of['ess']:.0%}"] if of["ess"] < 1 else [])

    def _mismatch(self) -> list[str]:
        value = self.metrics.get("kullback/mismatch/k3")
        error = self.metrics.get("kullback/mismatch/stderr", nan)
        return [] if value is None else [f"mismatch {Uncertain(value, error)}"]


@dataclass
class Steps:
    """Rows that wait for their step to be whole.

    Attributes:
        settle: seconds without a change after which a step is.
        last: the last step that was judged.
        waiting, arrived, marked, paths: by step, its rows, when the last came, whether all were marked, from where.
        late: by path, rows of steps that were judged before they came.
        stepless: by path, the step of a file in which nothing tells it.
        again: files whose rows an earlier call judged in part, and that are read anew.
    """

    settle: float
    last: int | None = None
    waiting: dict[int, list[Rollout]] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict)
    marked: dict[int, bool] = field(default_factory=dict)
    paths: dict[int, set[str]] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    stepless: dict[str, int] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)

    def add(self, arrival: Arrival) -> None:
        """Put rows to their steps; those of a step that was judged are counted, and left out."""
        path = str(arrival.path)
        for rollout in arrival.rollouts:
            step = self._step(path, rollout)
            if self.last is not None and step <= self.last:
                if path not in self.again:
                    self.late[path] = self.late.get(path, 0) + 1
                continue
            self.waiting.setdefault(step, []).append(rollout)
            self.arrived[step] = max(arrival.at, self.arrived.get(step, 0.0))
            self.marked[step] = arrival.marked and self.marked.get(step, True)
            self.paths.setdefault(step, set()).add(path)
        self.again.discard(path)

    def _step(self, path: str, rollout: Rollout) -> int:
        """The row's own, or one for its file where nothing tells it."""
        if rollout.step is not None:
            return rollout.step
        before = max([-1 if self.last is None else self.last, *self.waiting])
        return self.stepless.setdefault(path, before + 1)

    def whole(self, *, finished: bool) -> Iterator[tuple[int, list[Rollout]]]:
        """The steps that are whole, in their order: marked so, without a change for a while, or all at the end."""
        while self.waiting:
            step = min(self.waiting)
            settled = time.time() - self.arrived[step] >= self.settle
            if not (finished or settled or self.marked[step]):
                return
            self.last = step
            self.paths.pop(step)
            yield step, self.waiting.pop(step)


def watch(
    folder: str | Path,
    *,
    monitor: KLMonitor | None = None,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    follow: bool = True,
    every: float = 2.0,
    settle: float = 5.0,
    state: str | Path | None = None,
    skip_bad: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Iterator[StepSeen]:
    """Follow a folder of dumps: what each step of a run says of its KL, as soon as the step is whole.

    A step is whole when its format's marker is there, or when none of its files has changed for `settle` seconds. Files
    that are half written are waited for. What was judged is remembered, so that a second call goes on behind it.

    Args:
        folder: where the run writes.
        monitor: judges the steps; None for one without a limit.
        format, map: as for `kullback.read_rollouts`.
        follow: whether to wait for more; else what is there is judged and the call ends.
        every: seconds between looks.
        settle: seconds without a change after which a file is whole.
        state: file that remembers; None for `.kullback-watch.json` in the folder.
        skip_bad: leave out rows that cannot be read, and steps whose numbers cannot be right, and name them.
        tell: takes sentences about files that stay unreadable and rows that came too late.

    Yields:
        A `StepSeen` a step, in order.

    Raises:
        FileError: no such folder, or a state that is none.
        InputError: rows with log-probs of one law alone, or that cannot be right.

    Example:
        >>> import tempfile, kullback as kb
        >>> from kullback.jobs.watching import watch
        >>> folder = tempfile.mkdtemp()
        >>> rows = [kb.Rollout(logprobs=[-0.1, -2.0 - i / 9], ref_logprobs=[-0.3, -1.5], step=7) for i in range(3)]
        >>> kb.write_rollouts(folder + "/rollouts.parquet", rows)
        >>> [(seen.step, seen.rows) for seen in watch(folder, follow=False)]
        [(7, 3)]
        >>> list(watch(folder, follow=False))
        []
    """
    folder = path_of(folder, "a folder")
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder: name the one that the run writes its dumps into")
    monitor = monitor or KLMonitor()
    follower, steps = Follower(folder, format, map, settle, skip_bad), Steps(settle)
    memory = Memory(Path(state) if state is not None else folder / STATE)
    memory.recall(monitor, follower, steps)
    while True:
        for arrival in follower.look():
            steps.add(arrival)
        _tell(follower, steps, tell)
        for step, rollouts in steps.whole(finished=not follow):
            try:
                seen = _judged(monitor, step, rollouts, folder)
            except InputError as error:
                if not skip_bad:
                    raise
                tell(f"{error}; the step is left out")
                continue
            yield seen
            memory.keep(monitor, follower, steps, tell)
        if not follow:
            return
        time.sleep(every)


def _judged(monitor: KLMonitor, step: int, rollouts: Sequence[Rollout], folder: Path) -> StepSeen:
    try:
        feed(monitor, rollouts, step)
    except InputError as error:
        raise InputError(f"{folder}, step {step}: {error}") from error
    alarms = monitor.close()
    prompts = {rollout.prompt_id for rollout in rollouts}
    return StepSeen(step, len(rollouts), None if None in prompts else len(prompts), monitor.metrics(), alarms)


def _tell(follower: Follower, steps: Steps, tell: Callable[[str], None]) -> None:
    for sentence in follower.complaints:
        tell(sentence)
    follower.complaints.clear()
    for path, rows in steps.late.items():
        tell(f"{path} has {rows} rows of steps that were judged already: they are left out; a longer --settle waits")
    steps.late.clear()


@dataclass
class Memory:
    """What is remembered between two calls, in a file of JSON."""

    path: Path
    told: bool = False

    def recall(self, monitor: KLMonitor, follower: Follower, steps: Steps) -> None:
        """Go on where an earlier call stopped, if there was one.

        Raises:
            FileError: the file is not what was written here.
            InputError: it is of a monitor with other options.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise FileError(f"{self.path} cannot be read ({error}): remove it to begin anew") from error
        try:
            if found["schema"] != SCHEMA:
                raise KeyError("schema")
            monitor.restore(found["monitor"])
            steps.last, steps.stepless = found["last"], dict(found["stepless"])
            follower.seen = {
                path: Seen(size, changed, rows, Cursor(*at))
                for path, (size, changed, rows, at) in found["files"].items()
            }
            steps.again = {str(follower.folder / path) for path in found["again"]}
        except InputError as error:
            raise InputError(f"{self.path}: {error}, or remove it to begin anew") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{self.path} is not what watch keeps: remove it to begin anew") from error

    def keep(self, monitor: KLMonitor, follower: Follower, steps: Steps, tell: Callable[[str], None]) -> None:
        """Remember what was judged; files with rows that still wait are read again."""
        waiting = {path for paths in steps.paths.values() for path in paths}
        names = {name for name in follower.seen if str(follower.folder / name) in waiting}
        files = {
            path: [known.size, known.changed, known.rows, astuple(known.cursor)]
            for path, known in follower.seen.items()
        }
        record = {
            "schema": SCHEMA,
            "monitor": monitor.state(),
            "last": steps.last,
            "stepless": steps.stepless,
            "files": {name: known for name, known in files.items() if name not in names},
            "again": sorted(names),
        }
        beside = self.path.with_name(self.path.name + ".tmp")
        try:
            beside.write_text(json.dumps(record), encoding="utf-8")
            os.replace(beside, self.path)
        except OSError as error:
            if not self.told:
                tell(
                    f"{self.path} cannot be written ({error.strerror}): a later watch begins anew; name another --state"
                )
            self.told = True
