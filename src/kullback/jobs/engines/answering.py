"""What a process runs that was started for one answer: it reads what to call on stdin, and writes what came of it."""

from __future__ import annotations

import os
import sys

from kullback.jobs.engines.apart import answered


def main() -> None:
    """Answer."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come before the answer
    answers.write(answered(sys.stdin.buffer.read()))
    answers.close()


if __name__ == "__main__":
    main()
