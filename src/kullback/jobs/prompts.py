"""Prompts and texts from files: one a line, JSON lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kullback.errors import FileError, InputError, MissingPackageError
from kullback.models.protocols import Prompt

PROMPT_COLUMNS = ("prompt", "messages", "text", "question", "input")
TEXT_COLUMNS = ("text", "content", "document")


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts from a .txt (one a line), .jsonl or .parquet file (column "prompt" or "messages").

    Raises:
        FileError: no such file, or not of these kinds.
        InputError: no prompt in it, or a row without a prompt.
    """
    return check_prompts(_read(Path(path), PROMPT_COLUMNS, by_line=True), str(path))


def read_texts(path: str | Path) -> list[str]:
    """Documents from a .txt file (one document), .jsonl or .parquet file (column "text"); errors as above."""
    texts = check_prompts(_read(Path(path), TEXT_COLUMNS, by_line=False), str(path))
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{path} holds chat messages, but --text reads plain text in a column named text")
    return [str(text) for text in texts]


def check_prompts(prompts: Iterable[Prompt], source: str = "prompts") -> list[Prompt]:
    """The prompts as a list, none of them empty."""
    found: list[Prompt] = [prompts] if isinstance(prompts, str) else list(prompts)
    if not found:
        raise InputError(f"{source} holds no prompt: give at least one, a line each in a .txt file")
    for number, prompt in enumerate(found, 1):
        if not prompt or (isinstance(prompt, str) and not prompt.strip()):
            raise InputError(f"prompt {number} of {source} is empty: remove it or write one")
    return found


def _read(path: Path, columns: Sequence[str], *, by_line: bool) -> list[Prompt]:
    readers = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}
    try:
        if path.suffix in readers:
            return [_pick(row, columns, path, number) for number, row in enumerate(readers[path.suffix](path), 1)]
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not text in UTF-8 ({error.reason}): save it as .txt, .jsonl or .parquet") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    if by_line:
        return [line.strip() for line in text.splitlines() if line.strip()]
    return [text] if text.strip() else []


def _read_jsonl(path: Path) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise FileError(
                    f"line {number} of {path} is not JSON ({error.msg}): write one object a line"
                ) from error
    return rows


def _read_parquet(path: Path) -> list[object]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "hf") from None
    if not path.is_file():
        raise FileError(f"{path} cannot be read (no such file): check the path")
    try:
        rows: list[object] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise FileError(f"{path} is not a Parquet file ({error}): check the path") from error
    return rows


def _pick(row: object, columns: Sequence[str], path: Path, number: int) -> Prompt:
    """The prompt of a row: the row itself, or the first of the columns that holds something."""
    if isinstance(row, str):
        return row
    for column in columns:
        if isinstance(row, dict) and row.get(column) is not None:
            return _checked(row[column], f"row {number} of {path}")
    has = f"the columns {', '.join(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
    raise InputError(f"row {number} of {path} has {has}, but one named {' or '.join(columns[:2])} is needed")


def _checked(value: object, place: str) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        return value
    raise InputError(f"{place} holds a {type(value).__name__}, but a text or a list of chat messages is needed")
