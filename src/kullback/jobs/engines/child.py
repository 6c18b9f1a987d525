"""What a worker's process runs: it reads its order, then does batch after batch until nobody is left to ask."""

from __future__ import annotations

import os
import pickle
import sys

from kullback.jobs.engines.crew import Answer, Task, told
from kullback.jobs.engines.processes import read_frame, write_frame


def main() -> None:
    """Work until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    tasks = sys.stdin.buffer
    order = read_frame(tasks)
    if order is None:
        return
    worker, failed = _worker(order)
    while (task := read_frame(tasks)) is not None:
        number = pickle.loads(task)
        answer = Answer(number, error=failed) if worker is None else worker.finish(number)
        try:
            write_frame(answers, pickle.dumps(tuple(answer)))
        except OSError:
            return


def _worker(order: bytes) -> tuple[Task | None, tuple[str, str] | None]:
    from kullback.models.quiet import quiet

    try:
        with quiet():
            return pickle.loads(order).worker(), None
    except Exception as error:
        return None, told(error, 1)


if __name__ == "__main__":
    main()
