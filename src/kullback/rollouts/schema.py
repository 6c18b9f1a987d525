"""The columns of a table of rollouts in Arrow's types, and the types that are read as them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.errors import FileError, InputError
from kullback.rollouts.record import FEATURES, LOGPROB_COLUMNS, Rollout

if TYPE_CHECKING:
    import pyarrow as pa


def numbers_of(column: pa.Array) -> np.ndarray:
    """The numbers of an Arrow array, not copied where they lie in it as NumPy has them; gaps are nan.

    Arrow's own `to_numpy` imports pandas wherever it is installed: 0.5 s and 60 MB.
    """
    import pyarrow as pa

    if column.null_count:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_boolean(column.type):
        return np.from_dlpack(column.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(column)


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        kind: Arrow's name of the type that is written, or of a list's elements; "top" is one of `_top_type`.
        fits: Arrow's tests (of `pyarrow.types`) one of which a type must pass to be read.
        words: the type, for people.
        listed: one for each token rather than one for the sequence.
        named: whether names may stand in place of numbers; then all are written as names.
        ours: whether it is read from our own files alone; others call other things so.
        several: several numbers for each token, as many for every one.
    """

    kind: str
    fits: tuple[str, ...]
    words: str
    listed: bool = False
    named: bool = False
    ours: bool = False
    several: bool = False

    def arrow(self, *, names: bool = False) -> pa.DataType:
        """The type that is written, or that of names."""
        import pyarrow as pa

        if self.kind == "top":
            return _top_type()
        one = pa.type_for_alias("string" if names else self.kind)
        one = pa.list_(one) if self.several else one
        return pa.list_(one) if self.listed else one

    def accepts(self, kind: pa.DataType) -> bool:
        """Whether a column of that type can be read as this one."""
        import pyarrow as pa

        if pa.types.is_null(kind) or (self.kind == "top" and kind == _top_type()):
            return True
        if self.listed:
            if not any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
                return False
            kind = kind.value_type
            if self.several:
                return bool(pa.types.is_list(kind)) and kind.value_type == pa.float32()
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        return any(getattr(pa.types, f"is_{name}")(kind) for name in self.fits)

    def cast(self, column: pa.Array, name: str) -> pa.Array:
        """A column of that name as it is written.

        Raises:
            InputError: a number that does not fit.
        """
        import pyarrow as pa

        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        wanted = self.arrow(names=self.named and text)
        if self.listed and pa.types.is_list(kind) and kind.value_type == wanted.value_type:
            return column  # what Arrow calls the elements may differ, for which it would copy all of them
        try:
            return column.cast(wanted)
        except pa.ArrowException as error:
            raise InputError(f"{name} has to be a {self.words} ({error})") from error

    def values(self, column: pa.Array, name: str) -> list[Any]:
        """What `Rollout` keeps of each row of a column of that name, None where the row has nothing.

        Raises:
            InputError: a number that does not fit, or a list with a gap.
        """
        held = self.cast(column, name)
        if not self.listed:
            found: list[Any] = held.to_pylist()
            return found
        if held.flatten().null_count:
            raise InputError(f"{name} has a gap: give every token a value, or leave out the whole list")
        numbers = self.numbers(held.values, name) if self.several else numbers_of(held.values)
        ends = numbers_of(held.offsets)
        rows = zip(held.is_valid().to_pylist(), ends[:-1], ends[1:], strict=True)
        # A copy, or one row that is kept would hold on to the numbers of its whole block.
        return [numbers[start:end].copy() if valid else None for valid, start, end in rows]

    @staticmethod
    def numbers(lists: pa.Array, name: str) -> np.ndarray:
        """Lists of several numbers, one after another, as (lists, numbers).

        Raises:
            InputError: they have unequal lengths, or a gap.
        """
        found = lists.flatten()
        width, left = divmod(len(found), len(lists)) if len(lists) else (0, 0)
        if left or lists.null_count or found.null_count or (np.diff(numbers_of(lists.offsets)) != width).any():
            raise InputError(f"{name} has not as many numbers for every token: leave the column out")
        return numbers_of(found).reshape(len(lists), width)


_WHOLE = ("integer",)
_REAL = ("floating",)
_TEXT = ("string", "large_string")
_NUMBERS = Column("float32", _REAL, "list of numbers", listed=True)
_SEVERAL = Column("float32", _REAL, "list of lists of numbers", listed=True, ours=True, several=True)
_TOKENS = Column("int32", _WHOLE, "list of token ids", listed=True)

COLUMNS: Mapping[str, Column] = {
    **dict.fromkeys(LOGPROB_COLUMNS, _NUMBERS),
    "prompt_id": Column("int64", (*_WHOLE, *_TEXT), "whole number, or a name", named=True),
    "sample": Column("int64", _WHOLE, "whole number"),
    "step": Column("int64", _WHOLE, "whole number"),
    "prompt_tokens": _TOKENS,
    "tokens": _TOKENS,
    "mask": Column("bool", ("boolean", "integer"), "list of true and false", listed=True),
    "token_kl": _NUMBERS,
    "ref_mass": _NUMBERS,
    **dict.fromkeys(FEATURES, _SEVERAL),
    "sampled_from": Column("string", _TEXT, "text"),
    "reward": Column("float64", (*_REAL, *_WHOLE), "number"),
    "finish": Column("string", _TEXT, "text"),
    "missing_end": Column("bool", ("boolean",), "true or false", ours=True),
    "text": Column("string", _TEXT, "text", ours=True),
    "top": Column("top", (), "list of log-probs by token, for each token", ours=True),
    "extra": Column("string", _TEXT, "text of JSON", ours=True),
}
"""Every column, by its name in `Rollout` and in the order in which it is written."""

NOTHING: Mapping[str, object] = {"finish": "unknown", "missing_end": False, "extra": {}}
"""What stands in a `Rollout` where nothing is known; null in a file."""


def _top_type() -> pa.DataType:
    import pyarrow as pa

    one = pa.struct([("id", pa.int32()), ("text", pa.string()), ("logprob", pa.float32())])
    return pa.list_(pa.list_(one))


def holds(rollout: Rollout, name: str) -> bool:
    """Whether a rollout has something in a column."""
    value = getattr(rollout, name)
    return value is not None and not (name in NOTHING and value == NOTHING[name])


def stored(rollout: Rollout, name: str) -> Any:
    """What is written of a rollout in a column; None where there is nothing.

    Raises:
        InputError: `extra` holds what is neither a number nor a text.
    """
    if not holds(rollout, name):
        return None
    value = getattr(rollout, name)
    if name == "top":
        return [[_entry(token, logprob) for token, logprob in place.items()] for place in value]
    if name != "extra":
        return value
    try:
        return json.dumps(dict(value), default=lambda number: number.item())
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"extra holds what is neither a number nor a text ({error}): leave it out") from error


def several(rows: Sequence[np.ndarray | None]) -> pa.Array:
    """Rows of (tokens, numbers) as a column, null where there is None."""
    import pyarrow as pa

    held = [np.zeros((0, 0), np.float32) if row is None else row for row in rows]
    widths = np.concatenate([np.full(len(row), row.shape[1]) for row in held])
    numbers = pa.array(np.concatenate([row.ravel() for row in held]), type=pa.float32())
    lists = pa.ListArray.from_arrays(pa.array(_starts(widths)), numbers)
    gaps = pa.array([row is None for row in rows])
    return pa.ListArray.from_arrays(pa.array(_starts([len(row) for row in held])), lists, mask=gaps)


def _starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _entry(token: int | str, logprob: float) -> dict[str, Any]:
    return {"text" if isinstance(token, str) else "id": token, "logprob": float(logprob)}


def kept(name: str, value: Any) -> Any:
    """What `Rollout` keeps of what was stored in a column.

    Raises:
        InputError: `extra` is no JSON of an object.
    """
    if value is None:
        return None
    if name == "top":
        return [{one["text"] if one["id"] is None else one["id"]: one["logprob"] for one in place} for place in value]
    if name != "extra":
        return value
    try:
        return dict(json.loads(value))
    except (ValueError, TypeError, RecursionError):
        raise InputError("extra is no JSON object, which kullback writes there") from None


def table_schema(*, names: bool = False) -> pa.Schema:
    """The schema that is written, with prompts by number or by name."""
    import pyarrow as pa

    return pa.schema([(name, column.arrow(names=names and column.named)) for name, column in COLUMNS.items()])


def check_columns(path: Path, schema: pa.Schema, stored: Mapping[str, str]) -> None:
    """Refuse a file without log-probs of two laws or of the sampler's, or with a column of another type.

    Args:
        path: of the file.
        schema: of the file.
        stored: the names in `COLUMNS` of the file's columns.
    """
    found = [name for name in LOGPROB_COLUMNS if name in stored.values()]
    if len(found) < 2 and found != ["behavior_logprobs"]:
        missing = [name for name in LOGPROB_COLUMNS if name not in found]
        raise FileError(
            f"{path} has no column {', '.join(missing)}: a table of rollouts has logprobs and ref_logprobs, "
            "or behavior_logprobs, alone or with one of them; name columns that are called otherwise with map= (--map)"
        )
    for at, name in stored.items():
        kind = schema.field(at).type
        if not COLUMNS[name].accepts(kind):
            raise FileError(f"{path} has a column {at} of {kind}, but a {COLUMNS[name].words} is needed")
