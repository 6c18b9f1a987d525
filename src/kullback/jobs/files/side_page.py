"""Two dumps as a page: what a terminal shows, and what differs most between them, token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Block, Channel, Document, Note, Passage, PassageGroup, Passages
from kullback.jobs.files.beside import Pair, Pairs
from kullback.jobs.files.page import channels_of, counted, log_ratio, texts_of, title_of, unnamed, values_of
from kullback.jobs.files.sampled import Kept
from kullback.jobs.files.sides import SideBySide, short_names

UNIT = "difference, nats"


def page_of(found: SideBySide) -> Document:
    """The document, and at its end the rows of both dumps beside each other, or why they are not there."""
    document = found.document()
    return replace(document, blocks=(*document.blocks, _tokens(found)))


def _tokens(found: SideBySide) -> Block:
    if found.pairs is None or not found.pairs.shown:
        why = "no question is answered by both" if not found.differences else "nothing in them is paired"
        return Note(f"Rows are not shown token by token, for {why}: a report of each dump on its own shows its rows.")
    names = short_names(found.first, found.second)
    return _same_rows(found.pairs, names) if found.pairs.aligned else _prompts(found.pairs, names)


def _prompts(pairs: Pairs, names: tuple[str, str]) -> Passages:
    """The rows of each prompt: those of the first dump, then those of the second."""
    sides = [(pair, ((names[0], pair.first), (names[1], pair.second))) for pair in pairs.shown]
    rows = [row for _, both in sides for _, own in both for row in own]
    channels = channels_of(rows)
    return Passages(
        title="Prompt by prompt, token by token",
        note=_note(pairs, "prompts that both have") + unnamed(rows),
        channels=tuple(channels),
        groups=tuple(PassageGroup(f"prompt {pair.first[0].prompt}", pair.value, pair.count) for pair, _ in sides),
        unit=UNIT,
        passages=tuple(
            Passage(number, f"{name}, {title_of(row)}", texts_of(row), values_of(row, channels, pairs.question))
            for number, (_, both) in enumerate(sides)
            for name, own in both
            for row in own
        ),
    )


def _same_rows(pairs: Pairs, names: tuple[str, str]) -> Passages:
    """Each row once, with what either dump gives its tokens."""
    apart = Channel("log-ratio, second − first", "nats", signed=True)
    channels = (apart, *(Channel(f"log-ratio, {name}", "nats", signed=True) for name in names))
    rows = [_named(pair) for pair in pairs.shown]
    return Passages(
        title="Row by row, token by token",
        note=_note(pairs, "rows, which hold the same tokens in both,") + unnamed(rows),
        channels=channels,
        groups=tuple(
            PassageGroup(title_of(row), pair.value, pair.count) for row, pair in zip(rows, pairs.shown, strict=True)
        ),
        unit=UNIT,
        passages=tuple(
            Passage(number, title_of(row), texts_of(row), _both(pair, pairs))
            for number, (row, pair) in enumerate(zip(rows, pairs.shown, strict=True))
        ),
    )


def _named(pair: Pair) -> Kept:
    """The row as the dump has it that knows its tokens."""
    return pair.first[0] if pair.first[0].tokens is not None else pair.second[0]


def _both(pair: Pair, pairs: Pairs) -> Float64:
    rows = (pair.first[0], pair.second[0])
    one, other = (np.where(counted(row), log_ratio(row, pairs.question), np.nan) for row in rows)
    with np.errstate(invalid="ignore"):  # a token that one law excludes in both
        return np.array([other - one, one, other])


def _note(pairs: Pairs, what: str) -> str:
    shown = len(pairs.shown)
    which = "all are here" if shown == pairs.of else f"{shown:,} are here"
    return (
        f"Of {pairs.of:,} {what} {which}, those first that differ most in "
        f"{pairs.question.title}; difference: second − first, nats a sequence."
    )
