"""What a process runs that was started for one answer: it reads what to call on stdin, and writes what came of it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from kullback.jobs.engines.apart import answered


def main() -> None:
    """Answer, where somebody is still there to hear it."""
    # Unbuffered, so that nothing is left to be written when it ends.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not come before the answer
    left = memoryview(answered(sys.stdin.buffer.read()))
    with suppress(OSError):
        while left:
            left = left[answers.write(left) or 0 :]


if __name__ == "__main__":
    main()
