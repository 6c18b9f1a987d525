"""Rows out of files: by their endings, in every shape that people keep them in."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

from kullback.errors import FileError, MissingPackageError, shown
from kullback.jobs.reading.encodings import bytes_of, decoded, lines_of, text_of_file
from kullback.jobs.reading.rows import Row, kind_of

LINES = (".txt", ".text")
WHOLE = (".txt", ".text", ".md", ".raw")
"""Endings of plain text: a prompt a line, or one document."""


def ending_of(path: Path) -> str:
    """The ending that says what a file holds, in small letters, that of gzip taken off; "" for a pipe."""
    names = [suffix.lower() for suffix in path.suffixes]
    if names and names[-1] == ".gz":
        names.pop()
    return names[-1] if names else ""


def rows_of(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a file.

    Args:
        path: of the file.
        columns: those that are looked for; a file that is stored by columns is read no further.

    Raises:
        FileError: no such file, of no kind that is read, or not as its ending says.
    """
    ending = ending_of(path)
    if ending == ".parquet":
        return _parquet(path, columns)
    reader = READERS.get(ending)
    if reader is None:
        raise FileError(unknown_ending(path, READERS))
    try:
        return reader(text_of_file(path), path)
    except RecursionError:
        raise FileError(f"{path} is nested too deeply: write a row a line, with the text in a column") from None


def unknown_ending(path: Path, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """What is said of a file whose kind is not known."""
    kinds = ", ".join(dict.fromkeys([*LINES[:1], *known, ".parquet"]))
    came = f"ends in {path.suffix}" if path.suffix else "has no ending"
    return f"{path} {came}, but prompts and texts are read from {kinds}, or these as .gz: rename or convert it"


def _json_lines(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            place = f"line {number} of {path}"
            try:
                rows.append(Row(place, json.loads(line)))
            except ValueError as error:
                raise FileError(f"{place} is not JSON ({_why(error)}): write one object a line") from error
    return rows


def _json(text: str, path: Path) -> list[Row]:
    try:
        held = json.loads(text)
    except ValueError as error:
        # Lines of JSON under this ending are common, and only the end of the first line tells.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return _json_lines(text, path)
        raise FileError(f"{path} is not JSON ({_why(error)}): mend it, or write one object a line as .jsonl") from error
    return [Row(f"row {number} of {path}", value) for number, value in enumerate(_listed(held, path), 1)]


def _why(error: ValueError) -> str:
    return f"{error.msg} at {error.pos}" if isinstance(error, json.JSONDecodeError) else str(error)


def _listed(held: object, path: Path) -> list[object]:
    """Rows in a list, in an object of columns, or within an object that holds one list of them."""
    if isinstance(held, list):
        return held
    if not isinstance(held, dict):
        raise FileError(f"{path} holds {kind_of(held)}, but a list of rows or an object of columns is needed")
    # As pandas writes columns: objects from the row's number to the value.
    columns = {name: list(v.values()) if isinstance(v, dict) else v for name, v in held.items()}
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    if len(lists) == 1 and (len(held) == 1 or all(isinstance(value, dict) for value in next(iter(lists.values())))):
        [(name, values)] = lists.items()
        if all(isinstance(value, dict) and "role" not in value and "from" not in value for value in values):
            return values
        if len(held) == 1 and not any(isinstance(value, dict) for value in values):
            return [{name: value} for value in values]
    if len(lists) < len(held) or not lists or any(isinstance(v, dict) for values in lists.values() for v in values):
        return [held]
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise FileError(f"{path} is an object of columns of different lengths ({each}): give every row a value")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _separated(text: str, path: Path) -> list[Row]:
    first = lines_of(text)[0]
    mark = "\t" if ending_of(path) == ".tsv" else max(",;\t", key=first.count)
    before = csv.field_size_limit(sys.maxsize)  # 131,072 characters otherwise, which a prompt can have
    try:
        lines = csv.reader(StringIO(text, newline=""), delimiter=mark, strict=True)
        header = [name.strip() for name in next(lines, [])]
        rows = [Row(f"row {number} of {path}", line) for number, line in enumerate(lines, 1) if line]
    except csv.Error as error:
        raise FileError(f"{path} is not {ending_of(path)[1:].upper()} ({error}): check its quotes") from error
    finally:
        csv.field_size_limit(before)
    twice = [name for name, times in Counter(header).items() if name and times > 1]
    if twice:
        raise FileError(f"{path} has {shown(twice[0])} as the name of several columns: give each its own")
    return [Row(row.place, _named(header, row)) for row in rows]


def _named(header: list[str], row: Row) -> dict[str, str]:
    line = row.value
    assert isinstance(line, list)
    if len(line) != len(header):
        raise FileError(
            f"{row.place} has {len(line)} fields, but the first line names {len(header)}: quote texts with separators"
        )
    return dict(zip(header, line, strict=True))


def _parquet(path: Path, columns: tuple[str, ...]) -> list[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "hf") from None
    raw = bytes_of(path)  # says what is wrong with the path, as for every other file
    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        names = file.schema_arrow.names
        wanted = [name for name in names if name in columns]
        held = (
            file.read(columns=wanted).to_pylist() if wanted else [dict.fromkeys(names)] * min(1, file.metadata.num_rows)
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FileError(f"{path} is not a Parquet file ({error}): check the path") from error
    return [Row(f"row {number} of {path}", value) for number, value in enumerate(held, 1)]


READERS: Mapping[str, Callable[[str, Path], list[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated,
    ".tsv": _separated,
}
"""By ending, for what is text."""


def plain_lines(path: Path) -> list[Row]:
    """A row for each line that holds something."""
    lines = enumerate(lines_of(text_of_file(path)), 1)
    return [Row(f"line {number} of {path}", line.strip()) for number, line in lines if line.strip()]


def plain_whole(path: Path) -> list[Row]:
    """One row, unless there is nothing in the file."""
    text = decoded(bytes_of(path), path)
    return [Row(str(path), text)] if text.strip() else []
