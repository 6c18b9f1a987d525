"""How a text is cut into windows that a model reads at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from kullback.errors import InputError, shown

Cut = Literal["overlapping", "llama.cpp"]
"""Every token scored once with half a window before it, or the second half of windows that do not overlap."""


@dataclass(frozen=True)
class Window:
    """A stretch of a document: tokens read first, then tokens that are scored."""

    document: int
    context: list[int]
    scored: list[int]


def windows_of(documents: Sequence[list[int]], length: int, cut: Cut, *, start: list[int]) -> Iterator[Window]:
    """The windows of every document, in order.

    Args:
        documents: token ids of each.
        length: tokens of a window.
        cut: how.
        start: the token that the tokenizer puts before every text, if any: llama.cpp puts it before every window.

    Raises:
        InputError: no such cut.
    """
    if cut not in get_args(Cut):
        raise InputError(f"windows={shown(cut)} came, but windows are {' or '.join(get_args(Cut))}")
    for number, tokens in enumerate(documents):
        yield from (
            _overlapping(number, tokens, length)
            if cut == "overlapping"
            else _halves(number, tokens, length, start if tokens[:1] == start else [])
        )


def _overlapping(document: int, tokens: list[int], length: int) -> Iterator[Window]:
    """Every token but the first is scored exactly once."""
    start = 1
    while start < len(tokens):
        context = tokens[max(0, start - length // 2) : start]
        scored = tokens[start : start + length - len(context)]
        yield Window(document, context, scored)
        start += len(scored)


def _halves(document: int, tokens: list[int], length: int, first: list[int]) -> Iterator[Window]:
    """Whole windows side by side, each read from its first token; the second half is scored.

    llama.cpp takes the logits from place length // 2 on, so the token after that place is the first one scored; where
    the tokenizer has a start token it overwrites the first token of each window.
    """
    for begin in range(0, len(tokens) - length + 1, length):
        window = [*first, *tokens[begin + len(first) : begin + length]]
        yield Window(document, window[: length // 2 + 1], window[length // 2 + 1 :])
