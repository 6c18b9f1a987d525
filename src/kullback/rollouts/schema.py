"""The columns of a table of rollouts in Arrow's types, and the types that are read as them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import FileError, InputError
from kullback.rollouts.record import LOGPROB_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        kind: Arrow's name of the type that is written, or of a list's elements.
        fits: Arrow's tests (of `pyarrow.types`) one of which a type must pass to be read.
        words: the type, for people.
        listed: one for each token rather than one for the sequence.
    """

    kind: str
    fits: tuple[str, ...]
    words: str
    listed: bool = False

    def arrow(self) -> pa.DataType:
        """The type that is written."""
        import pyarrow as pa

        one = pa.type_for_alias(self.kind)
        return pa.list_(one) if self.listed else one

    def accepts(self, kind: pa.DataType) -> bool:
        """Whether a column of that type can be read as this one."""
        import pyarrow as pa

        if pa.types.is_null(kind):
            return True
        if self.listed:
            lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
            if not any(test(kind) for test in lists):
                return False
            kind = kind.value_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        return any(getattr(pa.types, f"is_{name}")(kind) for name in self.fits)

    def values(self, column: pa.Array, name: str) -> list[Any]:
        """What `Rollout` keeps of each row of a column of that name, None where the row has nothing.

        Raises:
            InputError: a number that does not fit, or a list with a gap.
        """
        import pyarrow as pa

        try:
            held = column.cast(self.arrow())
        except pa.ArrowException as error:
            raise InputError(f"{name} has to be a {self.words} ({error})") from error
        if not self.listed:
            found: list[Any] = held.to_pylist()
            return found
        if held.flatten().null_count:
            raise InputError(f"{name} has a gap: give every token a value, or leave out the whole list")
        numbers = held.values.to_numpy(zero_copy_only=False)
        ends = held.offsets.to_numpy()
        rows = zip(held.is_valid().to_pylist(), ends[:-1], ends[1:], strict=True)
        # A copy, or one row that is kept would hold on to the numbers of its whole block.
        return [numbers[start:end].copy() if valid else None for valid, start, end in rows]


_WHOLE = ("integer",)
_REAL = ("floating",)
_TEXT = ("string", "large_string")
_NUMBERS = Column("float32", _REAL, "list of numbers", listed=True)
_TOKENS = Column("int32", _WHOLE, "list of token ids", listed=True)

COLUMNS: Mapping[str, Column] = {
    **dict.fromkeys(LOGPROB_COLUMNS, _NUMBERS),
    "prompt_id": Column("int64", _WHOLE, "whole number"),
    "sample": Column("int64", _WHOLE, "whole number"),
    "step": Column("int64", _WHOLE, "whole number"),
    "prompt_tokens": _TOKENS,
    "tokens": _TOKENS,
    "mask": Column("bool", ("boolean", "integer"), "list of true and false", listed=True),
    "token_kl": _NUMBERS,
    "ref_mass": _NUMBERS,
    "sampled_from": Column("string", _TEXT, "text"),
    "reward": Column("float64", (*_REAL, *_WHOLE), "number"),
    "finish": Column("string", _TEXT, "text"),
}
"""Every column, by its name in `Rollout` and in the order in which it is written."""


def table_schema() -> pa.Schema:
    """The schema that is written."""
    import pyarrow as pa

    return pa.schema([(name, column.arrow()) for name, column in COLUMNS.items()])


def check_columns(path: Path, schema: pa.Schema, stored: Mapping[str, str]) -> None:
    """Refuse a file without log-probs of two laws, or with a column of another type.

    Args:
        path: of the file.
        schema: of the file.
        stored: the names in `COLUMNS` of the file's columns.
    """
    if sum(name in stored.values() for name in LOGPROB_COLUMNS) < 2:
        missing = [name for name in LOGPROB_COLUMNS if name not in stored.values()]
        raise FileError(
            f"{path} has no column {', '.join(missing)}: a table of rollouts has logprobs and ref_logprobs, "
            "or behavior_logprobs and one of them"
        )
    for at, name in stored.items():
        kind = schema.field(at).type
        if not COLUMNS[name].accepts(kind):
            raise FileError(f"{path} has a column {at} of {kind}, but a {COLUMNS[name].words} is needed")
