"""Rows of two dumps, read again to be shown beside each other: those of what differs most."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kullback.jobs.files.asked import Asked
from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.ledger import Ledger
from kullback.jobs.files.pairing import Compared, Pairing, compared
from kullback.jobs.files.questions import Question
from kullback.jobs.files.sampled import Kept
from kullback.jobs.files.sieve import Sieve
from kullback.jobs.shown import MOST_SEQUENCES, MOST_TOKENS


@dataclass(frozen=True)
class Pair:
    """What is shown of a prompt of both dumps, or of a row where both hold the same tokens.

    Attributes:
        value: the mean of the second's sequences minus that of the first's, nats a sequence.
        count: sequences of both.
        first, second: rows of each.
    """

    value: float
    count: int
    first: tuple[Kept, ...]
    second: tuple[Kept, ...]


@dataclass(frozen=True)
class Pairs:
    """What differs most between two dumps, to be read token by token.

    Attributes:
        question: whose differences they are.
        aligned: whether they are rows, of which both hold the same tokens; else prompts.
        of: how many are paired.
        shown: some of them, the largest difference first.
    """

    question: Question
    aligned: bool
    of: int
    shown: tuple[Pair, ...]


def pairs_of(dumps: Sequence[Dump], ledgers: Sequence[Ledger], pairing: Pairing, asked: Asked) -> Pairs | None:
    """Read again what differs most; None where nothing is paired, or no question is answered by both.

    Args:
        dumps, ledgers: the first and the second.
        pairing: of the two.
        asked: by which their rows were chosen.
    """
    first, second = ledgers
    question = next((one.question for name, one in first.singles.items() if name in second.singles), None)
    if question is None or not pairing.by:
        return None
    everything = compared(first, second, pairing, question.name)
    each = 1 if pairing.aligned else 2
    chosen = everything[: MOST_SEQUENCES // each]
    most = MOST_SEQUENCES // (each * max(len(chosen), 1))
    wanted = [replace(one, first=one.first[:most], second=one.second[:most]) for one in chosen]
    rows = [
        _rows(dump, asked, [number for one in wanted for number in getattr(one, side)])
        for dump, side in zip(dumps, ("first", "second"), strict=True)
    ]
    counts = [len(one.first) + len(one.second) for one in chosen]
    return Pairs(question, pairing.aligned, len(everything), _fitting(wanted, counts, rows, pairing.aligned))


def _rows(dump: Dump, asked: Asked, wanted: Collection[int]) -> dict[int, Kept]:
    """The rows with these numbers among those that count."""
    sieve = Sieve(asked.where, asked.by, asked.skip_bad)
    numbers, found = np.array(sorted(wanted)), dict[int, Kept]()
    for block in dump.blocks(told=True):
        part = sieve.sift(block)
        for place in np.flatnonzero(np.isin(part.number, numbers)).tolist():
            found[int(part.number[place])] = Kept.of(part, place)
        if len(found) == len(numbers):
            break
    return found


def _fitting(
    wanted: Sequence[Compared], counts: Sequence[int], rows: Sequence[Mapping[int, Kept]], aligned: bool
) -> tuple[Pair, ...]:
    """As many as a page has room for: the first row of everything before the second of anything."""
    kept: list[tuple[list[Kept], list[Kept]]] = [([], []) for _ in wanted]
    tokens = 0
    for turn in range(max((len(side) for one in wanted for side in (one.first, one.second)), default=0)):
        for one, own in zip(wanted, kept, strict=True):
            new = [[rows[at][n] for n in side[turn : turn + 1]] for at, side in enumerate((one.first, one.second))]
            size = sum(row.length for row in (new[0] if aligned else [*new[0], *new[1]]))
            if tokens + size <= MOST_TOKENS:
                own[0].extend(new[0])
                own[1].extend(new[1])
                tokens += size
    found = zip(wanted, counts, kept, strict=True)
    return tuple(Pair(one.value, count, tuple(a), tuple(b)) for one, count, (a, b) in found if a and b)
