"""Rows of a block that count, as the questions read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.estimation.ragged import Ragged
from kullback.jobs.files.columns import READ, Block
from kullback.jobs.files.questions import COLUMN, Question, Side, askable
from kullback.rollouts import Rollout
from kullback.rollouts.columns import Columns, split


@dataclass(frozen=True)
class Part:
    """Rows that have the same laws, drawn by the same one.

    Attributes:
        block: those rows alone.
        number: of each among all rows that count, (rows,).
        place: the number of each in its file, (rows,).
        prompts: the prompt of each, (rows,); None where prompts are not known.
        drawer: the law that drew the tokens: what sampled, where its log-probs stand beside the models', else the
            model that was to be sampled.
    """

    block: Block
    number: np.ndarray
    place: np.ndarray
    prompts: np.ndarray | None
    drawer: Side
    _read: dict[str, Ragged] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, block: Block, kept: np.ndarray, first: int, *, grouped: bool) -> Part:
        """The rows of a block that are kept, of which the first has the number `first`.

        A block is of one sampler, as readers give it; rows drawn from the two models are told apart by `by_sampler`.
        """
        chosen = block.select(kept)
        number = first + np.arange(len(chosen))
        return cls(
            block=chosen,
            number=number,
            place=block.columns.first + np.flatnonzero(kept),
            prompts=_prompts(chosen, number) if grouped else None,
            drawer=_drawer(chosen),
        )

    def __len__(self) -> int:
        return len(self.block)

    @property
    def sides(self) -> frozenset[Side]:
        """The laws that the rows have."""
        return frozenset(side for side, column in COLUMN.items() if column in self.block.columns.tokens)

    def check(self) -> None:
        """Hold all numbers against what they can be, before any of them is summed.

        Raises:
            InputError: one that cannot be right.
        """
        for question in askable(self.sides):
            self.sequences(question)

    def sequences(self, question: Question) -> Ragged:
        """The rows as the question reads them: q the first law, p the second, μ what drew the tokens.

        Raises:
            InputError: numbers that cannot be right.
        """
        if question.name not in self._read:
            self._read[question.name] = self._checked(question)
        return self._read[question.name]

    def _checked(self, question: Question) -> Ragged:
        tokens = self.block.columns.tokens
        # Token KLs are of the model that was to be sampled where it is there, and of what drew in its place where not.
        drew = self._model if COLUMN[self._model] in tokens else self.drawer
        exact = (question.first, question.second) == (drew, self._other)
        return Ragged.of(
            tokens[COLUMN[question.first]],
            tokens[COLUMN[question.second]],
            self.block.columns.offsets,
            mask=tokens.get("mask"),
            behavior_logprobs=None if question.first == self.drawer else tokens[COLUMN[self.drawer]],
            token_kl=tokens.get("token_kl") if exact else None,
            ref_mass=tokens.get("ref_mass") if exact else None,
            groups=self.prompts,
            state=tokens.get("state") if exact else None,
            deviation=tokens.get("deviation") if exact else None,
        )

    @property
    def _model(self) -> Side:
        """The model that was to be sampled."""
        return "reference" if _sampled(self.block) == "reference" else "policy"

    @property
    def _other(self) -> Side:
        return "policy" if self._model == "reference" else "reference"


def _sampled(block: Block) -> Side:
    return "reference" if next(iter(block.columns.rows.get("sampled_from", ())), "policy") == "reference" else "policy"


def _drawer(block: Block) -> Side:
    return "sampler" if COLUMN["sampler"] in block.columns.tokens else _sampled(block)


def _prompts(block: Block, number: np.ndarray) -> np.ndarray:
    """The prompt of each row; a row that has none is a prompt of its own."""
    names = block.columns.rows.get("prompt_id", [None] * len(block))
    kinds = set(map(type, names))
    if kinds in ({int}, {str}):
        return np.asarray(names)
    found = np.empty(len(block), dtype=object)  # NumPy would make text of them where they are mixed
    found[:] = [f"row {row}" if name is None else name for name, row in zip(names, number.tolist(), strict=True)]
    return found


def _cut(columns: Columns, start: int, stop: int) -> Columns:
    offsets = columns.offsets[start : stop + 1]
    return Columns(
        first=columns.first + start,
        offsets=offsets - offsets[0],
        tokens={name: values[offsets[0] : offsets[-1]] for name, values in columns.tokens.items()},
        rows={name: values[start:stop] for name, values in columns.rows.items()},
    )


def by_sampler(block: Block) -> Iterator[Block]:
    """A block in blocks of which every row was drawn from the same model."""
    drawn = np.array([*block.columns.rows.get("sampled_from", ())], dtype=object) == "reference"
    if not len(drawn) or drawn.all() or not drawn.any():
        yield block
        return
    changes = np.flatnonzero(drawn[1:] != drawn[:-1]) + 1
    for start, stop in zip([0, *changes.tolist()], [*changes.tolist(), len(drawn)], strict=True):
        yield Block(block.file, _cut(block.columns, start, stop))


def parts_of(rows: Sequence[Rollout]) -> Iterator[Part]:
    """Rollouts as parts, numbered from 0 on; prompts are known where every row names its own."""
    grouped = all(row.prompt_id is not None for row in rows)
    for columns in split(rows, 0, READ):
        for block in by_sampler(Block("", columns)):
            yield Part.of(block, np.ones(len(block), dtype=bool), block.columns.first, grouped=grouped)
