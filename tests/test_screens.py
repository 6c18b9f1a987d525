"""Terminals of 60, 80 and 120 columns: nothing is wider than they are, and progress leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

COMPARE = "compare --samples 2 --max-new-tokens 8 --max-kl 1"
COMMANDS = ("estimators", "claims", "lab", COMPARE)
WIDTHS = (60, 80, 120)

SCRIPT = """
import fcntl, struct, sys, termios
from kullback import cli
widths, *lines = sys.argv[1:]
for width in widths.split(","):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, int(width), 0, 0))
    for line in lines:
        sys.argv = ["kullback", *line.split()]
        print(f"\\x00{width} {line}", flush=True)
        try:
            cli.main()
        except SystemExit as ended:
            print(f"\\x01{ended.code or 0}", flush=True)
"""
"""All commands on all widths in one process, which loads torch once."""

MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def shown() -> dict[tuple[int, str], str]:
    """What a terminal gets, stdout and stderr, by its width and the command."""
    leader, follower = pty.openpty()
    ours = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    job = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, ",".join(map(str, WIDTHS)), *COMMANDS],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**ours, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
    )
    os.close(follower)
    pieces: list[bytes] = []
    while piece := _read(leader):
        pieces.append(piece)
    os.close(leader)
    assert job.wait(timeout=60) == 0
    texts = (text.split("\r\n", 1) for text in b"".join(pieces).decode().split("\x00")[1:])
    return {(int(head.split()[0]), head.split(" ", 1)[1]): text for head, text in texts}


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 1 << 16)
    except OSError:  # the other end was closed
        return b""


def _lines(text: str) -> list[str]:
    return [line for piece in MOVES.sub("", text).splitlines() for line in piece.split("\r")]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(shown: dict[tuple[int, str], str], width: int, command: str) -> None:
    *lines, status = _lines(shown[width, command])
    assert status == ("\x012" if command == "lab" else "\x010")
    assert [line for line in lines if cell_len(line) > width] == []
    assert len(lines) > 10


@pytest.mark.parametrize("width", WIDTHS)
def test_progress_is_wiped_away_before_the_result(shown: dict[tuple[int, str], str], width: int) -> None:
    text = shown[width, COMPARE]
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor, hidden and shown again
    progress, result = text.rsplit("\x1b[?25h", 1)
    assert "loading models" in progress
    assert "loading models" not in result
    assert "40 sequences of 20 prompts" in " ".join(_lines(result))
    assert re.match(r"\r?\x1b\[1A\x1b\[2K", result)  # up to the bar's line, and wiped


def test_a_wide_terminal_is_used(shown: dict[tuple[int, str], str]) -> None:
    for width in WIDTHS:
        longest = max(cell_len(line) for (at, _), text in shown.items() if at == width for line in _lines(text))
        assert 0.8 * width < longest <= width
