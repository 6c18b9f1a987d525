"""llama.cpp's `--kl-divergence-base` files: the distribution of a model at every scored position of a text.

::

    8 bytes      _logits_
    3 int32      n_ctx, n_vocab, n_chunk
    int32s       the text's tokens, n_chunk windows of n_ctx
    rows         of each window one for each position from n_ctx/2 on, but the last:
                 float32 step, float32 least, n_vocab uint16 q, and one more where n_vocab is odd

log p of a word is step·q + least. Words more than 16 nats below the likeliest all have q = 0. Little endian; the row
of position t is of the token at t + 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kullback.errors import FileError, InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.writers import drawn_by
from kullback.rollouts.record import Rollout

MAGIC = b"_logits_"
HEADER = 20
RANGE = 16.0
"""Nats below the likeliest word at which the file ends."""

HALF_STEP, ARITHMETIC = 0.52, 2e-6
"""How far a log-prob may be from what was rounded: half a step and a little of it, and what float32 adds at 16 nats."""

BLOCK_BYTES = 1 << 22
"""Of float64 log-probs held at a time, unless told otherwise."""


class Block(NamedTuple):
    """Positions of a base.

    Attributes:
        tokens: the token that followed at each position, (positions,).
        logprobs: log p of every word, (positions, n_vocab), float64, as the file has them.
        step: of the rounding of each position, (positions,), in nats.
        cut: True for words that the file only knows to be beyond its 16 nats, (positions, n_vocab).
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    step: np.ndarray
    cut: np.ndarray


class TextKL(NamedTuple):
    """KL(p‖q) of the next token at positions of a text, and how far it may be off.

    Attributes:
        token_kl: in nats, (positions,).
        rounding: the rounding of the files moves it by at most so much, (positions,).
        unseen: the most of p's probability that lies on words which one of the files does not tell apart, being more
            than 16 nats below the likeliest; it is not in `rounding`, and 0 where both files tell all words apart.
    """

    token_kl: np.ndarray
    rounding: np.ndarray
    unseen: np.ndarray


@dataclass(frozen=True)
class LlamaBase:
    """A base file, opened: its windows, and its distributions a block at a time.

    Attributes:
        path: of the file.
        n_ctx, n_vocab, n_chunk: tokens of a window, words of the vocabulary, windows.
    """

    path: Path
    n_ctx: int
    n_vocab: int
    n_chunk: int

    @property
    def scored(self) -> int:
        """Positions of a window that have a distribution."""
        return self.n_ctx - 1 - self.n_ctx // 2

    @property
    def width(self) -> int:
        """uint16s of a row: four hold the step and the least, and an odd vocabulary is filled up."""
        return 2 * ((self.n_vocab + 1) // 2) + 4

    @cached_property
    def tokens(self) -> np.ndarray:
        """The text, (n_chunk, n_ctx)."""
        return np.memmap(self.path, "<i4", "r", HEADER, (self.n_chunk, self.n_ctx))

    @cached_property
    def _rows(self) -> np.ndarray:
        start = HEADER + 4 * self.n_chunk * self.n_ctx
        return np.memmap(self.path, "<u2", "r", start, (self.n_chunk * self.scored, self.width))

    @property
    def followers(self) -> np.ndarray:
        """The token after each scored position, (n_chunk · scored,)."""
        return np.asarray(self.tokens[:, self.n_ctx // 2 + 1 :]).reshape(-1)

    def blocks(self, positions: int | None = None) -> Iterator[Block]:
        """The scored positions in the order of the text, so many at a time.

        Raises:
            FileError: a row whose step or least log-prob is no such number.
        """
        positions = positions or max(1, BLOCK_BYTES // (8 * self.n_vocab))
        followers = self.followers
        for start in range(0, len(followers), positions):
            yield self._block(start, followers[start : start + positions])

    def token_logprobs(self, window: int) -> np.ndarray:
        """log p of the tokens of a window's second half, (scored,), as the file has them.

        Raises:
            FileError: a damaged row.
            InputError: a token that is none of the vocabulary's words.
        """
        start, tokens = window * self.scored, np.asarray(self.tokens[window, self.n_ctx // 2 + 1 :])
        if tokens.min() < 0 or tokens.max() >= self.n_vocab:
            raise InputError(f"window {window} has a token that is none of the {self.n_vocab} words")
        rows = self._rows[start : start + self.scored]
        step, least = self._scales(rows[:, :4], start)
        found: np.ndarray = step * rows[np.arange(self.scored), 4 + tokens] + least
        return found

    def _block(self, start: int, tokens: np.ndarray) -> Block:
        rows = np.asarray(self._rows[start : start + len(tokens)])
        step, least = self._scales(rows[:, :4], start)
        stored = rows[:, 4 : 4 + self.n_vocab]
        reaches_all = step * 65535 < RANGE - 1e-3
        cut = (stored == 0) & ~reaches_all[:, None]
        return Block(tokens, step[:, None] * stored + least[:, None], step, cut)

    def _scales(self, heads: np.ndarray, start: int) -> np.ndarray:
        """The step and the least log-prob of rows, (2, positions)."""
        scales: np.ndarray = np.array(heads).view("<f4").astype(np.float64).T
        step, least = scales
        wrong = ~((step >= 0) & (step <= 1.01 * RANGE / 65535) & np.isfinite(least) & (least <= 1e-3))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise FileError(
                f"{self.path}, position {start + row}: the step is {step[row]:g} and the least {least[row]:g}, "
                "which no base file has: it is damaged, write it again"
            )
        return scales


def read_llama_base(path: str | Path) -> LlamaBase:
    """Open what `llama-perplexity --kl-divergence-base PATH` wrote; its rows are read when they are asked for.

    Raises:
        FileError: no such file, another kind of file, or one that was not written to its end.

    Example:
        >>> import tempfile, numpy as np
        >>> from pathlib import Path
        >>> from kullback.rollouts.readers.llama_base import read_llama_base
        >>> path = tempfile.mkdtemp() + "/base.kld"
        >>> row = np.array([0.0, np.log(0.5)], "<f4").tobytes() + bytes(4)
        >>> data = b"_logits_" + np.array([4, 2, 1, 1, 0, 1, 1], "<i4").tobytes() + row
        >>> _ = Path(path).write_bytes(data)
        >>> [block] = read_llama_base(path).blocks()
        >>> np.exp(block.logprobs).round(6).tolist()
        [[0.5, 0.5]]
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEADER)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if not head.startswith(MAGIC) or len(head) < HEADER:
        raise FileError(
            f"{path} is no base file of llama.cpp: it does not begin with {MAGIC.decode()} and three numbers"
        )
    base = LlamaBase(path, *(int(number) for number in np.frombuffer(head, "<i4", 3, 8)))
    if min(base.n_ctx - 3, base.n_vocab - 1, base.n_chunk - 1) < 0:
        raise FileError(
            f"{path} has windows of {base.n_ctx}, {base.n_vocab} words and {base.n_chunk} windows: it is damaged"
        )
    wanted = HEADER + 4 * base.n_chunk * base.n_ctx + 2 * base.n_chunk * base.scored * base.width
    if size != wanted:
        raise FileError(
            f"{path} has {size} bytes, but its header asks for {wanted}: "
            + ("it was not written to its end, or still is" if size < wanted else "it is damaged, write it again")
        )
    return base


def kl_between_bases(first: LlamaBase, second: LlamaBase, positions: int | None = None) -> Iterator[TextKL]:
    """KL(p‖q) at every scored position of one text, p of the first file and q of the second, a block at a time.

    Each file's distribution is normalised over the words that it tells apart: the rounding moves every log-prob by
    half a step at most, and what all share cancels. The bound on what that does shrinks with the distance of the two
    laws; it is proved, not estimated. Words beyond 16 nats in p are left out, and those beyond in q are taken at 16
    nats: `unseen` says how much of p they may be.

    Args:
        first, second: files of the same text, windows and vocabulary.
        positions: of a block; None for as many as 4 MB of float64 hold.

    Raises:
        InputError: files of different texts, windows or vocabularies.
        FileError: a damaged row.
    """
    _check_same_text(first, second)
    positions = positions or max(1, BLOCK_BYTES // (8 * first.n_vocab))
    for mine, other in zip(first.blocks(positions), second.blocks(positions), strict=True):
        yield _text_kl(mine, other)


def _check_same_text(first: LlamaBase, second: LlamaBase) -> None:
    for name in ("n_ctx", "n_vocab", "n_chunk"):
        mine, other = getattr(first, name), getattr(second, name)
        if mine != other:
            raise InputError(
                f"{first.path} has {name} {mine} and {second.path} {other}: write both with the same options"
            )
    differ = np.flatnonzero(first.tokens != second.tokens)
    if len(differ):
        raise InputError(
            f"{first.path} and {second.path} are of two texts: token {differ[0]} is {first.tokens.flat[differ[0]]} "
            f"in the one and {second.tokens.flat[differ[0]]} in the other"
        )


class _Law(NamedTuple):
    """A distribution over the words that a file tells apart: logs, probabilities, the error of a log, and the mass."""

    logs: np.ndarray
    chances: np.ndarray
    off: np.ndarray
    mass: np.ndarray


def _normalised(block: Block) -> _Law:
    chances = np.exp(block.logprobs)
    chances[block.cut] = 0.0
    mass = chances.sum(axis=-1)
    chances /= mass[:, None]
    log_mass = np.log(mass)
    return _Law(block.logprobs - log_mass[:, None], chances, _off(block) + np.abs(log_mass), mass)


def _off(block: Block) -> np.ndarray:
    return HALF_STEP * block.step + ARITHMETIC


def _text_kl(mine: Block, other: Block) -> TextKL:
    p, q = _normalised(mine), _normalised(other)
    ratio = np.subtract(p.logs, q.logs, out=p.logs)
    value = np.vecdot(p.chances, ratio)
    spread = np.vecdot(p.chances, np.abs(ratio - value[:, None]))
    apart = np.abs(p.chances - q.chances).sum(axis=-1)
    return TextKL(value, _rounding(spread, apart, p.off, q.off), _unseen(mine, other, p))


def _rounding(spread: np.ndarray, apart: np.ndarray, off_p: np.ndarray, off_q: np.ndarray) -> np.ndarray:
    """The most that errors δ of log p and ε of log q, |δ| ≤ off_p and |ε| ≤ off_q, move KL(p‖q), to both sides.

    With p' = p·e^δ and q' = q·e^ε normalised and r the log-ratio,
    KL(p'‖q') − KL(p‖q) = KL(p'‖p) + Σ(p' − p)(r − KL) − Σ(p' − q')ε − KL(q'‖q),
    where KL(p'‖p) ≤ off²/2, |p' − p| ≤ p·(e^off − 1).
    """
    grown_p, grown_q = np.expm1(off_p), np.expm1(off_q)
    bound: np.ndarray = off_p**2 / 2 + grown_p * spread + off_q * (apart + grown_p + grown_q) + off_q**2 / 2
    return bound


def _unseen(mine: Block, other: Block, p: _Law) -> np.ndarray:
    """At most so much of p is on words that the first cuts, and so much on those that the second cuts."""
    cut = mine.cut.sum(axis=-1) * np.exp(mine.logprobs.min(axis=-1))
    lost: np.ndarray = np.minimum(cut, np.maximum(0.0, 1.0 - p.mass * np.exp(-_off(mine))))
    lost += np.vecdot(p.chances, other.cut)
    return lost


def recognises(record: Record, path: Path) -> bool:
    """Whether a file begins as a base file does."""
    head = record.get("head")
    return isinstance(head, bytes) and head.startswith(MAGIC)


def rollouts(record: Record) -> Iterator[Rollout]:
    """A rollout a window: the tokens of its second half, with what the model gave them, after the first half."""
    base = read_llama_base(Path(record["path"]))
    for window in range(base.n_chunk):
        tokens = base.tokens[window].tolist()
        first = base.n_ctx // 2 + 1
        yield Rollout(
            behavior_logprobs=base.token_logprobs(window),
            tokens=tokens[first:],
            prompt_tokens=tokens[:first],
            prompt_id=window,
            extra={"scored": "text"},
        )


def metadata(record: Record) -> Metadata:
    """The law of the model's own logits."""
    return drawn_by("raw")


FORMAT = Format(
    name="llama-base",
    written_by="llama-perplexity --kl-divergence-base",
    containers=("binary",),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
