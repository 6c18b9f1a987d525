"""``python -m benchmarks.startup``: CPU seconds of a first `kullback compare`, and until a terminal shows something.

Seconds of the processor, user and system, in one thread: what else runs lengthens them less than those of a clock.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "compare, 1 × 2 tokens": ["-m", "kullback", "compare", "--samples", "1", "--max-new-tokens", "2"],
    "compare": ["-m", "kullback", "compare"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each command; their median is shown")
    print(table(parser.parse_args().runs))


def table(runs: int) -> str:
    """A row a command: median CPU seconds in all, and until the first byte on a terminal."""
    rows = ["| command | CPU s | until something shows |", "|---|---|---|"]
    for name, command in COMMANDS.items():
        found = [measured(command) for _ in range(runs)]
        shown = [first for _, first in found if first is not None]
        first = f"{statistics.median(shown):.2f}" if shown else ""
        rows.append(f"| {name} | {statistics.median(total for total, _ in found):.2f} | {first} |")
    return "\n".join(rows)


def measured(command: list[str]) -> tuple[float, float | None]:
    """CPU seconds of a process on a terminal, and those it had used when it first wrote to it, if it did."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    first = None
    while _read(ours):
        first = _used(process.pid) if first is None else first
    os.close(ours)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, first


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that nobody writes any more
        return b""


def _used(process: int) -> float | None:
    """CPU seconds of a process so far, where /proc tells."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
