"""Whatever words come on a command line: a status and a sentence, and never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_lines import written

from kullback import cli
from kullback.cli.app import app

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EXAMPLES = int(os.environ.get("KULLBACK_FUZZ", "3000")) // 30
"""Lines of each command, which reads files and runs models; KULLBACK_FUZZ=100000 for a night."""

ENDS: dict[str, tuple[str, ...]] = {
    "compare": ("--samples", "1", "--max-new-tokens", "2"),
    "watch": ("--once",),
    "lab gaussian": ("--samples", "100"),
    "lab categorical": ("--worlds", "1", "--vocab", "4"),
    "lab language": ("--worlds", "1", "--vocab", "4", "--horizon", "4"),
    "lab training": ("--steps", "2", "--seeds", "1"),
    "lab variance": ("--worlds", "1", "--vocab", "2", "--horizon", "2"),
    "lab plan": ("--samples", "2", "--max-new-tokens", "2"),
}
"""What stands last in each line of a command, so that it ends soon."""

NUMBERS = ("0", "1", "2", "-1", "0.5", "nan", "inf", "-inf", "1e999", "1e-320", "9" * 30, "0x10", "1_0", "½", "٣")
WORDS = (
    "",
    " ",
    "x",
    "-",
    "--",
    "-x",
    "--no-such-option",
    "=",
    "a=b",
    "token",
    "k3",
    "loss",
    "reward",
    "builtin:tuned",
    "builtin:base",
    "builtin:../x",
    "cpu",
    "cuda:99",
    "float32",
    "./no/such/file.jsonl",
    "math:sqrt",
    "json",
    "a\x1b[2Jb",
    "\u202e",
    "\udcff",
    "语言",
    "a" * 5000,
    "[" * 300,
    "*",
    "../*",
    "~nobody/x",
)
BUSY = ("--help", "--server", "--address", "--engine", "--workers", "--install-completion", "--show-completion")
"""Help ends a line; the others ask machines and start processes, which tests of their own do."""


def commands() -> Iterator[tuple[str, Any]]:
    """Each command by its words, those of groups too."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", {})
        yield from ((f"{name} {word}", held) for word, held in inner.items())
        if not inner:
            yield name, command


COMMANDS = dict(commands())


def lines(command: Any, files: list[str]) -> st.SearchStrategy[list[str]]:
    """Command lines: options with and without values, files, and words, in any order."""
    values = st.sampled_from([*NUMBERS, *WORDS, *files]) | st.text(max_size=6)
    known = [name for option in command.params for name in option.opts if name.startswith("-")]
    options = st.sampled_from([name for name in known if name not in BUSY] or ["--json"])
    parts = st.one_of(
        st.tuples(values),
        st.tuples(options),
        st.tuples(options, values),
        st.builds(lambda option, value: (f"{option}={value}",), options, values),
    )
    return st.lists(parts, max_size=5).map(lambda found: [word for part in found for word in part])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize(
    "name", sorted(set(COMMANDS) - {"lab gradients"})
)  # a minute a line, and no option shortens it
def test_no_line_ends_in_a_traceback(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    files = sorted(place.name for place in folder.iterdir())

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(lines(COMMANDS[name], files))
    def tried(words: list[str]) -> None:
        line = [*name.split(), *words, *ENDS.get(name, ())]
        monkeypatch.setattr(sys, "argv", ["kullback", *line])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code in (0, 1, 2, None), (line, out, err)
        assert "Traceback" not in out + err, line
        assert "nobody foresaw" not in out + err, (line, err)
        assert ended.value.code != 2 or err.strip(), line

    tried()
