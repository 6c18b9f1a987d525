"""Workers as processes of this machine."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

from kullback.jobs.engines.crew import THREADS, Answer, Job
from kullback.jobs.engines.pool import Heard

SIZE = struct.Struct("<Q")

CHILD = "kullback.jobs.engines.child"


class Processes:
    """A process a worker, which is told what to do on its stdin and answers on its stdout.

    It is a Python of its own that runs `child`, so that a script that calls `compare` is not run again in each
    worker, as `multiprocessing` would.
    """

    def __init__(self, job: Job) -> None:
        self._job = pickle.dumps(job)
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._heard: Queue[Heard] = Queue()
        self._started = 0

    def start(self) -> int:
        """Start a process; see `Pool`."""
        number, self._started = self._started, self._started + 1
        # A session of its own: Ctrl-C at the terminal is for whoever hands out the work, who ends the workers.
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        self._workers[number] = process
        Thread(target=self._listen, args=(number, process), daemon=True).start()
        self._send(number, self._job)
        return number

    def give(self, worker: int, batch: Any) -> None:
        """Tell a process; see `Pool`."""
        self._send(worker, pickle.dumps(batch))

    def wait(self, seconds: float) -> list[Heard]:
        """What came; see `Pool`."""
        try:
            found = [self._heard.get(timeout=seconds)]
        except Empty:
            return []
        with suppress(Empty):
            while True:
                found.append(self._heard.get_nowait())
        return found

    def close(self) -> None:
        """End the processes; see `Pool`."""
        for process in self._workers.values():
            process.kill()
        for process in self._workers.values():
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [process.pid for process in self._workers.values() if process.poll() is None]

    def _send(self, worker: int, message: bytes) -> None:
        pipe = self._workers[worker].stdin
        assert pipe is not None
        with suppress(OSError):  # a worker that is gone is heard of on its stdout
            write_frame(pipe, message)

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with suppress(OSError, ValueError):
            while (frame := read_frame(process.stdout)) is not None:
                self._heard.put(Heard(number, Answer(*pickle.loads(frame))))
        self._heard.put(Heard(number, None))


def environment() -> dict[str, str]:
    """Of a process that finds what this one finds, with one thread unless it is said otherwise."""
    path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {THREADS: "1", **os.environ, "PYTHONPATH": path}


def write_frame(pipe: IO[bytes], message: bytes) -> None:
    """A message, after its length."""
    pipe.write(SIZE.pack(len(message)) + message)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """The next message; None where the other end is gone."""
    head = pipe.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    (length,) = SIZE.unpack(head)
    found = pipe.read(length)
    return found if len(found) == length else None
