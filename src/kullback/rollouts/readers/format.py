"""A format that a trainer or a server writes: how it is recognised, and what one of its records holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kullback.rollouts.metadata import Metadata
from kullback.rollouts.record import Rollout

Container = Literal["jsonl", "json", "sse", "yaml", "parquet", "torch", "npz", "binary"]
"""How records lie in a file: a line each, one document (or a list of them), server-sent events ({"events": [...]}),
a document a block, rows of a table, what `torch.save` wrote, arrays by name, or bytes of the format's own
({"head": the first 64, "path": the file}, which the format opens itself)."""

Record = Mapping[str, Any]
"""One record as its container gives it: parsed, and nothing else done to it."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """What is known of one format. Opening, decoding, naming lines and counting are its container's.

    Attributes:
        name: as `--format` takes it, such as "nemo-rl".
        written_by: who writes such files, for people.
        containers: in which its records lie.
        recognises: whether a file begins with a record of this format; it must not raise, whatever comes, and must
            be so narrow that no other format's record passes.
        rollouts: what one record holds; none where it is to be passed over. It raises `InputError` with what is wrong
            in the record; path and line are added by who calls it.
        metadata: what a file says about itself, from its first record: models, laws, quanta where written.
        advice: for a format without log-probs, what to do in a sentence; such a file is refused with it.
        companions: names of files that lie beside those of the format and hold no records of it, as `fnmatch` takes
            them ("*_metadata.jsonl").
        marker: the name of an empty file that says that the files beside it are whole; without it they are left out.
        steps: patterns, one of which finds the training step in a file's path, in its first group; for records
            that do not know it.
        texts: for a format without log-probs, what one record says, to be tokenised and scored: rollouts without a
            token whose `text` is the completion and whose `extra["prompt"]` is the prompt.
        lost: what such texts no longer say, for people.
        alone: a record that holds many sequences, as a batch does, in records of one each with a name for it: where
            the whole cannot be read, they are read one by one, and those that cannot are left out. None where a record
            is left out whole.
        columns: for a table with a column of numbers for every column of `Rollout`: from the names of its columns,
            which holds what, by the names of `Rollout`. Such a file is read by column; None where it is no such table.
    """

    name: str
    written_by: str
    containers: tuple[Container, ...]
    recognises: Callable[[Record, Path], bool]
    rollouts: Callable[[Record], Iterable[Rollout]]
    metadata: Callable[[Record], Metadata] = field(default=lambda record: Metadata())
    advice: str | None = None
    texts: Callable[[Record], Iterable[Rollout]] | None = None
    lost: str = ""
    companions: tuple[str, ...] = ()
    marker: str | None = None
    steps: tuple[str, ...] = (r"step[_=-]?(\d+)",)
    alone: Callable[[Record], Iterable[tuple[str, Record]]] | None = None
    columns: Callable[[Sequence[str]], Mapping[str, str] | None] | None = None
