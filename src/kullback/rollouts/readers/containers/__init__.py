"""How records lie in a file: one module a container, each with `records(path)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kullback.rollouts.readers.containers import arrays, document, events, lines, raw, rows, tensors, texts
from kullback.rollouts.readers.containers.found import Broken, Found
from kullback.rollouts.readers.format import Container

RECORDS: Mapping[Container, Callable[[Path], Iterator[Found]]] = {
    "jsonl": lines.records,
    "json": document.records,
    "sse": events.records,
    "yaml": texts.records,
    "parquet": rows.records,
    "torch": tensors.records,
    "npz": arrays.records,
    "binary": raw.records,
}
"""The records of a file, each with its place; what is no record comes as `Broken`, and what ends the file raises."""

__all__ = ["RECORDS", "Broken", "Found"]
