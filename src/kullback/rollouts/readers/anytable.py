"""Any table of log-probs, a row a record or a padded batch a record, under the names of `aliases`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import InputError, ShapeError
from kullback.rollouts.readers.aliases import ALIASES, names_in, spellings
from kullback.rollouts.readers.checked import excerpt
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import FINISHES
from kullback.rollouts.readers.values import same_length
from kullback.rollouts.record import LOGPROB_COLUMNS, TOKEN_COLUMNS, Finish, Rollout

NAME = "table"
PER_TOKEN = (*TOKEN_COLUMNS, "mask", "tokens")
MINIMUM = 2
"""So many zeros at the end of every log-prob column of a row are taken for padding, where rows differ in them."""


def recognises(record: Record, path: Path) -> bool:
    """Whether there are log-probs under a known name, in a record that no other format knows."""
    spelt = spellings(record)
    held = [record.get(spelt.get(name, name)) for ours in LOGPROB_COLUMNS for name in (ours, *ALIASES[ours])]
    # A first row without a token says by two names what one with numbers says by one.
    named = any(map(_is_list, held)) or sum(isinstance(one, list) and not one for one in held) > 1
    return named and not _known_otherwise(record, path)


def _known_otherwise(record: Record, path: Path) -> bool:
    from kullback.rollouts.readers.family import formats  # which has this format among its own

    return any(_recognised(one, record, path) for one in formats().values() if one.name != NAME)


def _recognised(one: Format, record: Record, path: Path) -> bool:
    try:
        return one.recognises(record, path)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        return False


def rollouts(record: Record) -> Iterator[Rollout]:
    """A rollout a row: the record, or each row of its columns of two dimensions."""
    names = names_in(record)
    given = [ours for ours in LOGPROB_COLUMNS if ours in names]
    if len(given) < 2 and given != ["behavior_logprobs"]:
        raise InputError(_missing(names, given))
    columns = {ours: _plain(record[name]) for ours, name in names.items()}
    others = {name: _plain(value) for name, value in record.items() if name not in {*names, *names.values()}}
    if not _is_batch(columns[given[0]]):
        if _counts(columns):
            yield _rollout(columns, others)
        return
    rows = len(columns[given[0]])
    pieces = [(_row(columns, i, rows), _row(others, i, rows)) for i in range(rows)]
    if "mask" not in columns and "length" not in columns:
        _refuse_padding([[row[name] for name in given] for row, _ in pieces])
    for i, (row, rest) in enumerate(pieces):
        if not _counts(row):
            continue
        try:
            yield _rollout({k: v for k, v in row.items() if k != "prompt_tokens" or "prompt_mask" in row}, rest)
        except InputError as error:
            raise type(error)(f"row {i}: {error}") from error


def _counts(columns: Mapping[str, Any]) -> bool:
    """Whether a row counts: a sample that is masked was left out of training."""
    kept = columns.get("sample_mask", 1)
    if not isinstance(kept, int | float) or kept not in (0, 1):
        raise InputError(f"sample_mask is {excerpt(kept)}, but a sample counts, 1, or does not, 0")
    return bool(kept)


def _missing(names: Mapping[str, str], given: Sequence[str]) -> str:
    if not given:
        known = ", ".join(LOGPROB_COLUMNS)
        return f"there is no column of log-probs: say which it is with --map OURS=THEIRS, ours being {known}"
    name = names[given[0]]
    return (
        f"there are log-probs of one law alone, {name}: add those of the other, or say that they are of what drew the "
        f"tokens with --map behavior_logprobs={name}, to be scored or joined"
    )


def _is_list(value: object) -> bool:
    """Whether this is a list of numbers, or of such lists."""
    if isinstance(value, np.ndarray):
        return value.ndim in (1, 2) and value.dtype.kind in "fiu"
    first = next((one for one in value if one is not None), None) if isinstance(value, list | tuple) else None
    if isinstance(first, list | tuple | np.ndarray):
        return len(first) == 0 or _is_list(first) or first[0] is None
    return isinstance(first, int | float | np.number) and not isinstance(first, bool)


def _is_batch(value: Any) -> bool:
    """Whether a column has two dimensions."""
    if isinstance(value, np.ndarray):
        return value.ndim == 2
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple | np.ndarray)


def _plain(value: object) -> Any:
    """A NumPy scalar, and an array of none or one dimension that holds texts, as Python has it."""
    if isinstance(value, np.ndarray) and (value.ndim == 0 or value.dtype.kind not in "fiub"):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _row(columns: Mapping[str, Any], i: int, rows: int) -> dict[str, Any]:
    """One row of a batch; what is no list is of all rows."""
    found = {}
    for name, value in columns.items():
        if isinstance(value, list | tuple | np.ndarray):
            if len(value) != rows:
                if name in PER_TOKEN or name in ("length", "prompt_id", "sample_mask"):
                    raise ShapeError(f"{name} has {len(value)} rows, but the log-probs have {rows}")
                continue
            found[name] = _plain(value[i])
        else:
            found[name] = value
    return found


def _rollout(columns: Mapping[str, Any], others: Mapping[str, Any]) -> Rollout:
    per_token = {name: columns[name] for name in (*TOKEN_COLUMNS, "mask") if name in columns}
    for name, value in per_token.items():
        if not isinstance(value, list | tuple | np.ndarray):
            raise InputError(f"{name} is {excerpt(value)}, but a list of numbers is needed")
    same_length(**per_token)  # before any is cut: the rest of a longer one would be of other tokens
    length = _length(columns, per_token)
    end = _end(per_token, length)
    places = len(next(iter(per_token.values())))
    tokens, prompt = _tokens(columns, places)
    if tokens is not None:
        same_length(**{"tokens": tokens, "log-probs": range(places)})
    return Rollout(
        **{name: value[:end] for name, value in per_token.items()},
        tokens=None if tokens is None else tokens[:end],
        prompt_tokens=prompt,
        finish=_finish(columns.get("finish"), others.get("truncated")),
        **_named(columns),
        extra={name: value for name, value in others.items() if isinstance(value, int | float | str)},
    )


def _length(columns: Mapping[str, Any], per_token: Mapping[str, Any]) -> int:
    longest = len(next(iter(per_token.values())))
    length = columns.get("length", longest)
    if isinstance(length, bool) or not isinstance(length, int | float) or not 0 <= length <= longest or length % 1:
        raise InputError(f"length is {excerpt(length)}, but the log-probs have {longest} places")
    return int(length)


def _end(per_token: Mapping[str, Any], length: int) -> int:
    """Where a row ends: after its last token that counts, for what follows is padding."""
    if "mask" not in per_token:
        return length
    counts = [place for place, one in enumerate(per_token["mask"][:length]) if one]
    return counts[-1] + 1 if counts else length


def _tokens(columns: Mapping[str, Any], places: int) -> tuple[Any, list[int] | None]:
    """The ids of the completion and of the prompt; ids that hold both are parted where the length says how."""
    tokens, prompt = (_ids(columns.get(name)) for name in ("tokens", "prompt_tokens"))
    if prompt is not None and "prompt_mask" in columns:
        prompt = [one for one, kept in zip(prompt, columns["prompt_mask"], strict=False) if kept]
    if tokens is not None and prompt is None and len(tokens) > places and columns.get("length") == places:
        return tokens[-places:], tokens[:-places]
    return tokens, prompt


def _ids(value: Any) -> list[int] | None:
    """A list of ids; texts are none."""
    if isinstance(value, np.ndarray):
        return [int(one) for one in value] if value.ndim == 1 and value.dtype.kind in "iu" else None
    fits = isinstance(value, list | tuple) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    return list(value) if fits else None


def _finish(written: object, truncated: object) -> Finish:
    if isinstance(written, str) and written in FINISHES:
        return FINISHES[written]
    if written in ("end", "truncated"):
        return "end" if written == "end" else "length"
    return "length" if truncated in (True, 1) and isinstance(truncated, int) else "unknown"


def _named(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What names a row, each where it is of its kind."""
    kinds: Mapping[str, tuple[type, ...]] = {
        "prompt_id": (int, str),
        "sample": (int,),
        "step": (int,),
        "reward": (int, float),
        "text": (str,),
    }
    found = {name: columns.get(name) for name in kinds}
    return {name: value for name, value in found.items() if isinstance(value, kinds[name])}


def _refuse_padding(rows: Sequence[Sequence[Any]]) -> None:
    """Refuse rows of one length that end in different numbers of zeros, or None, with no mask to say what counts."""
    ends = [min(_padding(column) for column in row) for row in rows]
    if max(ends, default=0) >= MINIMUM and len(set(ends)) > 1 and len({len(row[0]) for row in rows}) == 1:
        row = ends.index(max(ends))
        raise InputError(
            f"row {row} ends in {ends[row]} places without a log-prob, which look like padding: name the mask with "
            "--map mask=THEIRS"
        )


def _padding(column: Any) -> int:
    values = (
        np.asarray(column, dtype=np.float64)
        if isinstance(column, np.ndarray)
        else np.asarray([np.nan if one is None else one for one in column], dtype=np.float64)
    )
    some = np.flatnonzero((values != 0) & ~np.isnan(values))
    return len(values) if not len(some) else len(values) - 1 - int(some[-1])


def columns(names: Sequence[str]) -> Mapping[str, str] | None:
    """Which column of a Parquet file holds what, where no row of it has to be cut or its words turned into ours."""
    try:
        found = names_in({name: object() for name in names})
    except InputError:  # said of a row, where it can be seen whether they are the same
        return None
    if {"length", "finish", "text", "prompt_mask", "sample_mask"} & set(found):
        return None
    return found if sum(name in found for name in LOGPROB_COLUMNS) >= 2 else None


FORMAT = Format(
    name=NAME,
    written_by="whoever writes log-probs under one of the known names",
    containers=("jsonl", "json", "parquet", "npz", "torch"),
    recognises=recognises,
    rollouts=rollouts,
    columns=columns,
)
