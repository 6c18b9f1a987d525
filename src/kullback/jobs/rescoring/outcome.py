"""What scoring a file found, and where it wrote it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kullback.displays import Displayed
from kullback.documents import Block, Cell, Code, Document, Facts, Note, Number, Record, Table, Verdict, plain
from kullback.jobs.rescoring.agreement import Agreement

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Rescored(Displayed):
    """What `score_files` wrote.

    Attributes:
        source, format: what was read, and in which format.
        output: the table of rollouts that was written.
        models: names by the column that each filled or was compared with.
        written: the columns that are the models'.
        kept: columns that a model was named for, and that stayed the file's.
        agreements: the file's own log-probs against the models' scores of the same tokens.
        rows, tokens: sequences that were written, and tokens that were scored.
        temperature: that logits were divided by.
        seconds: taken.
        complete: whether all rows were scored.
        notes: sentences that a reader of the numbers should know.

    Example:
        >>> import tempfile, kullback as kb
        >>> folder = tempfile.mkdtemp()
        >>> found = kb.compare(samples=1, max_new_tokens=4, output=folder)
        >>> scored = kb.score_files(f"{folder}/rollouts.parquet", f"{folder}/again.parquet", policy="builtin:tuned")
        >>> scored.kept, round(scored.agreements[0].mean, 4)
        (('logprobs',), 0.0)
    """

    source: str
    format: str
    output: str
    models: Mapping[str, str]
    written: tuple[str, ...]
    kept: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    rows: int
    tokens: int
    temperature: float
    seconds: float
    complete: bool
    notes: tuple[str, ...] = ()

    @property
    def next_command(self) -> str:
        """What answers what the file is for."""
        return f"kullback estimate {shlex.quote(self.output)}"

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        record = {
            "schema": SCHEMA,
            "source": self.source,
            "format": self.format,
            "output": self.output,
            "models": dict(self.models),
            "written": list(self.written),
            "kept": list(self.kept),
            "agreements": [agreement.to_dict() for agreement in self.agreements],
            "rows": self.rows,
            "tokens": self.tokens,
            "temperature": self.temperature,
            "seconds": self.seconds,
            "complete": self.complete,
            "notes": list(self.notes),
            "next": self.next_command,
        }
        return dict(plain(record))

    def records(self) -> list[Record]:
        """A record for each column that the file had before."""
        return list(self.to_dict()["agreements"])

    def document(self) -> Document:
        """What it has to say to people."""
        return Document(
            title=f"{self.source} scored",
            subtitle=", ".join(f"{column} by {model}" for column, model in self.models.items()),
            blocks=tuple(self._blocks()),
        )

    def _blocks(self) -> Iterator[Block]:
        yield Verdict(self._sentence(), "plain" if self.complete else "warning")
        if self.agreements:
            yield _table(self.agreements)
        yield from (Note(note) for note in self.notes)
        yield Facts((("rows", Number(self.rows, ",.0f")), ("tokens scored", Number(self.tokens, ",.0f"))), tone="quiet")
        yield Note("The KLs:", tone="quiet")
        yield Code(self.next_command, language="sh")

    def _sentence(self) -> str:
        done = f"{', '.join(self.written)} added" if self.written else "Nothing was added"
        done = done[0].upper() + done[1:] if not self.written else done
        kept = f"; {' and '.join(self.kept)} stayed the file's own" if self.kept else ""
        so_far = "" if self.complete else " The run did not come to its end."
        return f"{done}{kept}: {self.output}.{so_far}"

    def __str__(self) -> str:
        return "\n".join([self._sentence(), *self.notes, self.next_command])


def _table(agreements: tuple[Agreement, ...]) -> Table:
    right = ("mean |difference|", "mean difference", "largest", "tokens")
    rows: list[tuple[Cell, ...]] = [
        (
            one.column,
            one.model,
            Number(one.mean, ".3g"),
            Number(one.bias, ".2g"),
            Number(one.largest, ".3g"),
            Number(one.tokens, ",.0f"),
        )
        for one in agreements
    ]
    return Table(
        title="The file's log-probs against the model's, nats a token",
        note="What one model gives twice differs by rounding; engines differ from trainers by more.",
        columns=("of the file", "of the model", *right),
        rows=tuple(rows),
        right=right,
    )
