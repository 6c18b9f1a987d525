"""An estimate from files as a page: what a terminal shows, what to do next, how log-ratios lie, and rows by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Block, Channel, Document, Note, Passage, PassageGroup, Passages, Verdict
from kullback.jobs.files.outcome import FilesEstimate
from kullback.jobs.files.pages import document_of
from kullback.jobs.files.questions import COLUMN, Question
from kullback.jobs.files.sampled import Kept
from kullback.jobs.spread import spread_of, tail_of

NAMED = 60
"""Characters of a row's text that name it."""

TOKEN_KL = Channel("token KL", "nats")
LOG_RATIO = Channel("log-ratio", "nats", signed=True)
TO_SAMPLER = Channel("log-ratio to the sampler", "nats", signed=True)
PROBABILITIES = {side: Channel(f"probability, {side}", "") for side in COLUMN}


def page_of(found: FilesEstimate) -> Document:
    """The document with what to do next behind the answer, and at the end what only a page can show."""
    document = document_of(found)
    blocks = list(document.blocks)
    place = 1 + next((at for at, block in enumerate(blocks) if isinstance(block, Verdict)), -1)
    blocks[place:place] = list(_next(found))
    return replace(document, blocks=(*blocks, *token_blocks(found)))


def token_blocks(found: FilesEstimate) -> Iterator[Block]:
    """How the log-ratios of the sampled rows lie, their tail, and the rows token by token."""
    main = found.main
    rows = [row for row in found.sampled if main is not None and answers(row, main.question)]
    if main is None or not rows:
        return
    ratios = np.concatenate([log_ratio(row, main.question)[counted(row)] for row in rows])
    what = f"log {main.question.first} − log {main.question.second}"
    yield from spread_of(ratios, title="Log-ratios of the drawn tokens", what=what, unit="tokens")
    if main.drawn:
        yield from tail_of(ratios)
    if len(rows) < found.sequences:
        yield Note(f"What is drawn above is of the {len(rows):,} rows below.", tone="quiet")
    yield _passages(found, rows, main.question)


def _next(found: FilesEstimate) -> Iterator[Note]:
    """What to do with it, in words."""
    main = found.main
    if main is None or main.main is None or found.greedy:
        return
    one, said = main.main, []
    if main.unreliable:
        said.append("Read the other direction: this one's weights do not hold.")
    if one.warnings or found.notes:
        said.append("Mind the warnings first: they say what the number cannot bear.")
    apart = sorted({grouping.name for grouping in found.groupings if grouping.standing.apart})
    if apart:
        said.append(f"Look at what stands apart (≠) by {' and by '.join(apart)}.")
    if found.prompts is None:
        said.append("Give the rows a prompt_id, and the error allows for samples of one prompt being alike.")
    if found.influential:
        said.append("Look at the rows that move it most: a few of them may be another model's, or cut off.")
    said.append(f"Half the error takes four times as many {'sequences' if found.prompts is None else 'prompts'}.")
    yield Note(" ".join(said), tone="hint")


def answers(row: Kept, question: Question) -> bool:
    """Whether a row has both laws of a question."""
    return all(COLUMN[side] in row.columns for side in (question.first, question.second))


def log_ratio(row: Kept, question: Question) -> Float64:
    """The log-ratio of a question's laws at each token."""
    first, second = (row.columns[COLUMN[side]].astype(np.float64) for side in (question.first, question.second))
    return first - second


def counted(row: Kept) -> np.ndarray:
    """Whether each token counts."""
    return row.columns["mask"].astype(bool) if "mask" in row.columns else np.ones(row.length, bool)


def _passages(found: FilesEstimate, rows: Sequence[Kept], question: Question) -> Passages:
    channels = channels_of(rows)
    groups: dict[str, list[Kept]] = {}
    for row in rows:
        groups.setdefault(_group(row), []).append(row)
    which = "all are" if len(rows) == found.sequences else f"{len(rows):,} are here, evenly spread:"
    words = unnamed(rows)
    return Passages(
        title="Row by row, token by token",
        note=f"Of {found.sequences:,} rows {which} by prompt where prompts are known, else by file.{words}",
        channels=tuple(channels),
        groups=tuple(
            PassageGroup(name, float(np.mean([_sum(row, question) for row in own])), len(own))
            for name, own in groups.items()
        ),
        unit="log-ratio, nats a sequence",
        passages=tuple(
            Passage(number, title_of(row), texts_of(row), values_of(row, channels, question))
            for number, own in enumerate(groups.values())
            for row in own
        ),
    )


def channels_of(rows: Sequence[Kept]) -> list[Channel]:
    """What is known of the tokens of some row."""
    channels = [TOKEN_KL] if any("token_kl" in row.columns for row in rows) else []
    channels += [LOG_RATIO]
    channels += [PROBABILITIES[side] for side, column in COLUMN.items() if any(column in row.columns for row in rows)]
    if any({COLUMN["policy"], COLUMN["sampler"]} <= row.columns.keys() for row in rows):
        channels.append(TO_SAMPLER)
    return channels


def unnamed(rows: Sequence[Kept]) -> str:
    """What is said where no row knows its tokens."""
    return "" if any(row.tokens for row in rows) else " Their files do not name the tokens: each is a dot."


def _group(row: Kept) -> str:
    return row.file.rpartition("/")[2] if row.prompt is None else f"prompt {row.prompt}"


def title_of(row: Kept) -> str:
    """Where a row is, and how it begins."""
    step = "" if row.step is None else f", step {row.step}"
    text = " ".join(row.text.split())
    said = f": {text if len(text) <= NAMED else text[: NAMED - 1] + '…'}" if text else ""
    return f"row {row.row}{step}{said}"


def texts_of(row: Kept) -> tuple[str, ...]:
    """What stands for each token."""
    return ("· ",) * row.length if row.tokens is None else tuple(f"[{token}]" for token in row.tokens)


def _sum(row: Kept, question: Question) -> float:
    return float(np.sum(log_ratio(row, question)[counted(row)]))


def values_of(row: Kept, channels: Sequence[Channel], question: Question) -> Float64:
    """The numbers of each token, (channels, tokens); nan where there is none."""
    known = {name: column.astype(np.float64) for name, column in row.columns.items()}
    missing = np.full(row.length, np.nan)
    numbers = {
        TOKEN_KL: known.get("token_kl", missing),
        LOG_RATIO: log_ratio(row, question),
        **{PROBABILITIES[side]: np.exp(known.get(column, missing)) for side, column in COLUMN.items()},
        TO_SAMPLER: known.get(COLUMN["policy"], missing) - known.get(COLUMN["sampler"], missing),
    }
    return np.where(counted(row), np.array([numbers[channel] for channel in channels]), np.nan)
