"""Odd command lines: each ends with its status and a sentence, none with a traceback, none silently."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from odd_lines import LINES, written

from kullback import cli

UNSEEN = {"\x1b", "\x9b", "\x07", "\u202e"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = written(tmp_path_factory.mktemp("odd"))
    place = os.open(folder / "held", os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    yield folder
    os.close(place)


def test_the_table_is_long_enough() -> None:
    assert len({line for line, _, _ in LINES}) == len(LINES) > 150


@pytest.mark.parametrize(("line", "status", "words"), LINES, ids=[line.replace("{tmp}/", "") for line, _, _ in LINES])
def test_an_odd_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    line: str,
    status: int,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(sys, "argv", ["kullback", *shlex.split(line.format(tmp=folder))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert int(ended.value.code or 0) == status, out + err
    said = " ".join((out + err).replace("│", " ").split())
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert "nobody foresaw" not in said
    assert not UNSEEN & set(out + err)
    if status == 2 and err.startswith("kullback: "):
        assert err.count("\n") == 1
        assert err.count("kullback: ") == 1
        assert not out
