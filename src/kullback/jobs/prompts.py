"""Prompts and texts: out of files, data sets or lists, each a text or chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kullback.errors import FileError, InputError, shown
from kullback.jobs.reading.columns import PROMPT_COLUMNS, TEXT_COLUMNS, Turn, column_of, prompt_of
from kullback.jobs.reading.files import LINES, READERS, WHOLE, ending_of, plain_lines, plain_whole, rows_of
from kullback.jobs.reading.files import unknown_ending as unknown
from kullback.jobs.reading.hub import dataset_rows, is_dataset
from kullback.jobs.reading.rows import Row
from kullback.models.protocols import Prompt, Sampler
from kullback.models.shipped import BUILTIN_PROMPTS
from kullback.paths import path_of

Told = tuple[str, ...]
"""Sentences on what was assumed."""


def read_prompts(path: str | Path, column: str | None = None) -> list[Prompt]:
    """Prompts from a file or a data set.

    Args:
        path: a .txt (one a line), .jsonl, .ndjson, .json, .csv, .tsv or .parquet file (all but the last also as .gz),
            or an id or folder of `datasets`, as ``openai/gsm8k:main:test``.
        column: where they are; None to look for prompt, messages, conversations, question, problem, instruction and
            the like.

    Raises:
        FileError: no such file, or not of these kinds.
        InputError: no prompt in it, or a row without a prompt, by row, column and type.
    """
    return _read_prompts(path, column)[0]


def read_texts(path: str | Path, column: str | None = None) -> list[str]:
    """Documents from a .txt file (one document), or from a column "text" of the other kinds; errors as above."""
    return asked_texts(path, column)[0]


def asked_prompts(
    prompts: str | Path | Iterable[object] | None, column: str | None, *, models: Sequence[object] = ()
) -> tuple[list[Prompt], Told]:
    """The prompts of a comparison, and what was assumed; None for the built-in ones."""
    if prompts is None:
        if column is not None:
            raise InputError(f"prompt_column={shown(column)} came without prompts: name a file that has that column")
        found, _ = _read_prompts(BUILTIN_PROMPTS, None)
        own = [model for model in models if not (isinstance(model, str) and model.startswith("builtin:"))]
        said = f"no prompts came: the {len(found)} built-in beginnings of stories were used; pass prompts of your own"
        return found, (said,) if own else ()
    if isinstance(prompts, str | Path):
        return _read_prompts(prompts, column)
    return check_prompts(prompts, column=column), ()


def asked_texts(text: str | Path | Iterable[object], column: str | None) -> tuple[list[str], Told]:
    """The documents, those that are not empty, and what was assumed.

    Raises:
        FileError, InputError: as `read_prompts`.
    """
    if not isinstance(text, str | Path):
        return [str(t) for t in check_prompts(text, "text", column=column)], ()
    rows, told = _rows(text, TEXT_COLUMNS, column, whole=True)
    name = column_of(rows, TEXT_COLUMNS, column)
    texts = [prompt_of(row, name, TEXT_COLUMNS, wanted=column is not None) for row in rows]
    if not all(isinstance(one, str) for one in texts):
        raise InputError(f"{text} holds chat messages, but --text reads plain text in a column named text")
    kept = [str(one) for one in texts if str(one).strip()]
    if not kept:
        raise InputError(f"{text} holds no prompt or text: give at least one")
    blank = len(texts) - len(kept)
    return kept, (*told, *([f"{blank:,} empty documents were left out"] if blank else []))


def check_prompts(prompts: Iterable[object], source: str = "prompts", column: str | None = None) -> list[Prompt]:
    """The prompts as a list, none of them empty: texts, lists of messages, or rows with a column that holds them.

    Raises:
        InputError: none, an empty one, or what is no prompt.
    """
    if isinstance(prompts, Mapping):
        raise InputError(f"{source} is an object with the keys {', '.join(map(str, prompts))}, but a list is needed")
    found = [prompts] if isinstance(prompts, str) else list(prompts)
    rows = [Row(f"prompt {number} of {source}", value) for number, value in enumerate(found, 1)]
    return _prompts_in(rows, source, column)


def fitted(prompts: Sequence[Prompt], sampler: Sampler) -> tuple[list[Prompt], Told]:
    """The prompts as the model takes them: turns of a user through its chat template, or as text if it has none.

    A conversation of one user's message is such a turn; a longer one stays, for the model to refuse.
    """
    turns = [prompt for prompt in prompts if isinstance(prompt, Turn) or not isinstance(prompt, str)]
    if not turns:
        return [*prompts], ()
    count = f"{len(turns):,} of {len(prompts):,} prompts"
    if _has_template(sampler):
        chats: list[Prompt] = [[{"role": "user", "content": str(p)}] if isinstance(p, Turn) else p for p in prompts]
        return chats, (f"{count} went through the chat template of {sampler.name}",)
    return [_as_text(p) for p in prompts], (f"{sampler.name} has no chat template: {count} were read as plain text",)


def _has_template(sampler: Sampler) -> bool:
    try:
        sampler.encode([{"role": "user", "content": "a"}])
    except Exception:  # whatever a model that takes texts alone makes of messages
        return False
    return True


def _as_text(prompt: Prompt) -> Prompt:
    if isinstance(prompt, str):
        return str(prompt)
    return prompt[0]["content"] if len(prompt) == 1 and prompt[0]["role"] == "user" else prompt


def _read_prompts(source: str | Path, column: str | None) -> tuple[list[Prompt], Told]:
    rows, told = _rows(source, PROMPT_COLUMNS, column, whole=False)
    return _prompts_in(rows, str(source), column), (*told, *_chosen(rows, column))


def _prompts_in(rows: Sequence[Row], source: str, column: str | None) -> list[Prompt]:
    if not rows:
        raise InputError(f"{source} holds no prompt: give at least one, a line each in a .txt file")
    name = column_of(rows, PROMPT_COLUMNS, column)
    found = [prompt_of(row, name, PROMPT_COLUMNS, wanted=column is not None) for row in rows]
    for row, prompt in zip(rows, found, strict=True):
        if not prompt or (isinstance(prompt, str) and not prompt.strip()):
            raise InputError(f"{row.place} is empty: remove it or write a prompt")
    return found


def _chosen(rows: Sequence[Row], column: str | None) -> Iterator[str]:
    """Which column was chosen, where others might have been meant, and what was cut off conversations."""
    name = column_of(rows, PROMPT_COLUMNS, column)
    first = next((row.value for row in rows if isinstance(row.value, Mapping)), {})
    others = [other for other in PROMPT_COLUMNS if other in first and other != name]
    if name == "instruction":
        others = [other for other in others if other not in ("input", "text")]
    if column is None and name is not None and (others or name not in ("prompt", "text", "messages")):
        instead = f" (there is {', '.join(others)} too: --prompt-column)" if others else ""
        yield f"the prompts are those of the column {name}{instead}"


def _rows(source: str | Path, known: tuple[str, ...], column: str | None, *, whole: bool) -> tuple[list[Row], Told]:
    what = "texts" if whole else "prompts"
    themselves = f"; {what} themselves are given in a list"
    path = path_of(source, f"a file of {what}", hint=themselves)
    if is_dataset(str(source)):
        rows, said = dataset_rows(str(source))
        return rows, (said,)
    ending = ending_of(path)
    plain = WHOLE if whole else LINES
    if ending in plain or (not ending and path.is_fifo()):
        return (plain_whole if whole else plain_lines)(path), ()
    if not path.exists():
        perhaps = themselves if " " in str(path) else ""
        raise FileError(f"{path} cannot be read (No such file or directory): check the path{perhaps}")
    if ending not in (*READERS, ".parquet"):
        raise FileError(unknown(path, READERS))
    return rows_of(path, known + PLUS if column is None else (column, *PLUS)), ()


PLUS = ("input",)
"""Of Alpaca's rows, beside the instruction."""
