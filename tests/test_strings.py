"""Strings in pieces: no piece is a few words left on a line of their own."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import kullback as kb

ROOT = Path(kb.__file__).parent
LINE = 120
SHORT = 50
"""A piece that is shorter than this, and is not the last, ends where a text has its own end or where a line is full."""

Place = tuple[int, int]
Piece = tuple[Place, Place]


def strings(text: str) -> Iterator[list[Piece]]:
    """Runs of string literals with nothing but line ends between them, each by where it begins and ends."""
    opens, closes = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
    run: list[Piece] = []
    starts: list[Place] = []  # of f-strings, which are several tokens from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == opens:
            starts.append(token.start)
        elif token.type == closes:
            start = starts.pop()
            if not starts:
                run.append((start, token.end))
        elif starts or token.type in (tokenize.NL, tokenize.COMMENT):
            continue
        elif token.type == tokenize.STRING:
            run.append((token.start, token.end))
        else:
            yield run
            run = []


def scars(text: str) -> list[str]:
    """Short pieces of strings in a piece of code after which the next piece's first word would have fitted."""
    lines = text.splitlines()
    found = []
    for run in strings(text):
        for (start, end), (after, _) in pairwise(run):
            line, following = lines[end[0] - 1].rstrip(), lines[after[0] - 1][after[1] :].lstrip("frb")
            word = following[1:].split()[0].rstrip("\"',)") if following[1:].split() else ""
            ended = line[:-1].endswith((r"\n", ".", ". ")) or word.startswith(r"\n")
            short = start[0] == end[0] < after[0] and end[1] - start[1] < SHORT
            if short and not ended and len(line) + len(word) <= LINE:
                found.append(f"line {start[0]}: {line.strip()} {word}")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_is_broken_where_its_line_had_room(path: Path) -> None:
    assert not scars(path.read_text())


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ('x = (\n    "The two sides are consistent "\n    "with each "\n    "other."\n)\n', 2),
        ('x = (\n    f"The sides of {x} are consistent "\n    "with each other."\n)\n', 1),
        (f'x = (\n    "{"word " * 22}"\n    "reconsidered, and more."\n)\n', 0),
        ('x = (\n    "# A heading\\n\\n"\n    "A text."\n)\n', 0),
        ('x = (\n    "A sentence. "\n    "Another."\n)\n', 0),
        ('f("one", "other")\n', 0),
    ],
)
def test_a_scar_is_found_and_nothing_else(code: str, count: int) -> None:
    assert len(scars(code)) == count
