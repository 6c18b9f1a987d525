"""The columns of a table of rollouts in Arrow's types, those that are read as them, and the schema before this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.errors import FileError, InputError
from kullback.rollouts.metadata import Law, Metadata, Model, law_of
from kullback.rollouts.record import LOGPROB_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


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

    def values(self, column: pa.Array) -> list[Any]:
        """What `Rollout` keeps of each row, None where the row has nothing.

        Raises:
            InputError: a number that does not fit, or a list with a gap.
        """
        import pyarrow as pa

        try:
            held = column.cast(self.arrow())
        except pa.ArrowException as error:
            raise InputError(f"does not fit {self.words} ({error})") from error
        if not self.listed:
            found: list[Any] = held.to_pylist()
            return found
        if held.flatten().null_count:
            raise InputError("has a token without a value: fill it, or leave out the whole list")
        numbers = held.values.to_numpy(zero_copy_only=False)
        ends = held.offsets.to_numpy()
        rows = zip(held.is_valid().to_pylist(), ends[:-1], ends[1:], strict=True)
        keep: Callable[[np.ndarray], Any] = np.ndarray.tolist if self.kind == "int32" else np.ndarray.copy
        return [keep(numbers[start:end]) if valid else None for valid, start, end in rows]


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


# The schema before this one, in which the settings stood in every row.

_OLD = ("prompt", "sampled_from", "temperature", "top_p", "top_k", "policy_logprobs", "reference_logprobs")


def is_old(schema: pa.Schema) -> bool:
    """Whether this is a file of schema 1."""
    return set(_OLD) <= set(schema.names)


def old_metadata(file: pq.ParquetFile) -> Metadata:
    """What the rows of a file of schema 1 say about it, where all of them say the same."""
    table = file.read(columns=list(_OLD[1:]))
    rows = {tuple(row.values()) for row in table.to_pylist()}
    settings = {
        role: _one({row[1:4] for row in rows if row[0] == role}) or _one({row[1:4] for row in rows})
        for role in ("policy", "reference")
    }
    law: dict[str, Law] = {}
    for name, role, place in (("logprobs", "policy", 4), ("ref_logprobs", "reference", 5)):
        said = _one({row[place] for row in rows})
        if said == "raw":
            law[name] = "raw"
        elif said == "processed" and settings[role] is not None:
            law[name] = law_of(*settings[role])
    return Metadata(law=law, schema=1, **{role: _model(settings[role]) for role in settings})


def _one(found: Iterable[Any]) -> Any:
    """The one thing in it, or None."""
    kinds = list(found)
    return kinds[0] if len(kinds) == 1 else None


def _model(settings: tuple[float, float, int] | None) -> Model | None:
    return settings and Model(sampling=dict(zip(("temperature", "top_p", "top_k"), settings, strict=True)))
