"""The fields of a record, each read as what it has to be, or refused by its name in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kullback.arrays import LOGPROBS, REF_LOGPROBS, check, column, counted, is_torch
from kullback.errors import InputError, ShapeError
from kullback.rollouts.record import LOGPROB_COLUMNS, Rollout

T = TypeVar("T")

MOST_ID = 2**31 - 1
"""The largest token id: a table of rollouts keeps ids in 32 bits."""


class Fields:
    """A mapping of a file, and where it lies in its record.

    What is asked for has to be there; null and absent are the same. `at` stands before the names in sentences.

    Raises:
        InputError: it is no mapping, or holds something else than what is asked for.
        ShapeError: numbers that are nested where one for each token is needed.
    """

    def __init__(self, record: object, at: str = "") -> None:
        if not isinstance(record, Mapping):
            raise InputError(f"{at or 'the record'} is {_kind(record)}, but fields by name are needed")
        self._record = record
        self._at = at
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._record.get(name) is not None

    def name(self, name: str) -> str:
        """A field's name for people."""
        return f"{self._at}.{name}" if self._at else name

    def get(self, name: str) -> Any:
        """A field as it is."""
        self._read.add(name)
        if name not in self:
            raise InputError(f"{self._at or 'the record'} has no {name}, which is needed: write it with the rest")
        return self._record[name]

    def maybe(self, read: Callable[[str], T], name: str) -> T | None:
        """A field where it is there, and None where it is not."""
        return read(name) if name in self else None

    def part(self, name: str) -> Fields:
        """A mapping within."""
        return Fields(self.get(name), self.name(name))

    def parts(self, name: str) -> list[Fields]:
        """Mappings within, in a list."""
        return [Fields(one, f"{self.name(name)}[{i}]") for i, one in enumerate(self.listed(name))]

    def listed(self, name: str) -> Sequence[Any]:
        """A list of anything."""
        value = self.get(name)
        if not isinstance(value, list | tuple):
            raise InputError(f"{self.name(name)} is {_kind(value)}, but a list is needed")
        return value

    def numbers(self, name: str) -> np.ndarray:
        """Numbers, one for each token; nan where None stands."""
        return numbers(self.name(name), self.get(name))

    def columns(self, names: Mapping[str, str]) -> dict[str, Any]:
        """The columns of numbers that are there, by their names in `Rollout`; `names` gives their names here."""
        return {name: self.numbers(field) for name, field in names.items() if field in self}

    def ids(self, name: str) -> list[int]:
        """Token ids."""
        return ids(self.name(name), self.get(name))

    def mask(self, name: str) -> np.ndarray:
        """What counts, as bool."""
        return mask(self.name(name), self.get(name))

    def whole(self, name: str) -> int:
        """A whole number."""
        value = self.number(name)
        if value != int(value):
            raise InputError(f"{self.name(name)} is {value:g}, but a whole number is needed")
        return int(value)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.get(name)
        value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise InputError(f"{self.name(name)} is {_kind(value)}, but a number is needed")
        return value

    def text(self, name: str) -> str:
        """A text."""
        value = self.get(name)
        if not isinstance(value, str):
            raise InputError(f"{self.name(name)} is {_kind(value)}, but a text is needed")
        return value

    def key(self, name: str) -> int | str:
        """A number or a text that names something."""
        return self.text(name) if isinstance(self._record.get(name), str) else self.whole(name)

    def names(self) -> list[str]:
        """The names of its fields."""
        return [str(name) for name in self._record]

    def rest(self) -> dict[str, int | float | str]:
        """The numbers and texts among the fields that were not read."""
        return scalars({str(name): value for name, value in self._record.items() if name not in self._read})


def numbers(name: str, value: object) -> np.ndarray:
    """Numbers of a list or an array, (tokens,); nan where None stands."""
    _refuse_single(name, value)
    try:
        table = column(name, [value])
    except InputError as error:
        raise type(error)(str(error).replace(f"{name}[0, ", f"{name}[").replace("row 0 of ", "")) from None
    if table.values.ndim != 2:
        raise ShapeError(f"{name} has shape {table.values.shape[1:]}, but one number for each token is needed")
    return np.asarray(table.values[0])


def ids(name: str, value: object) -> list[int]:
    """Token ids of a list or an array."""
    array = numbers(name, value)
    with np.errstate(invalid="ignore"):
        right = (array >= 0) & (array <= MOST_ID) & (array == np.floor(array))
    if array.dtype == bool or not right.all():
        at = 0 if array.dtype == bool else int(np.argmin(right))
        raise InputError(f"{name}[{at}] is {array[at]}, but a token id is a whole number from 0 to {MOST_ID}")
    if isinstance(value, list) and array.dtype.kind in "iu":
        return value  # to make the list again took a tenth of a reader's time
    found: list[int] = array.astype(np.int64).tolist()
    return found


def mask(name: str, value: object) -> np.ndarray:
    """A mask of a list or an array, which has to be bool, or exactly 0 and 1."""
    _refuse_single(name, value)
    table = column("mask", [value])
    try:
        return np.asarray(counted(table, table.values.shape)[0], dtype=bool)
    except InputError as error:
        raise type(error)(str(error).replace("mask[0, ", f"{name}[")) from None


def rows(name: str, value: object) -> list[Any]:
    """The rows of a column of a batch: a list, an array, or a tensor, nested ones too."""
    if is_torch(value):
        return list(value.unbind())
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {_kind(value)}, but a row for each sequence is needed")
    return list(value)


def batch_rows(batch: Fields, needed: Sequence[str], beside: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a batch of columns: those that are needed, and those beside them that are there."""
    names = [*needed, *(name for name in beside if name in batch)]
    columns = {name: rows(name, batch.get(name)) for name in names}
    same_length(**columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def samples_alone(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A record with `samples` as records with one each."""
    samples = record["samples"]
    for number, sample in enumerate(samples if isinstance(samples, list | tuple) else ()):
        yield f"sample {number}", {**record, "samples": [sample]}


def rows_alone(batch: Mapping[str, Any], needed: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A batch of columns as batches of one row; columns of another length are of no row."""
    length = len(batch[needed[0]])
    columns = {name: list(value) for name, value in batch.items() if _has_rows(value) and len(value) == length}
    for number in range(length):
        yield f"row {number}", {**batch, **{name: [column[number]] for name, column in columns.items()}}


def _has_rows(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def scalars(values: Mapping[str, object]) -> dict[str, int | float | str]:
    """Those of them that are numbers or texts."""
    kept: dict[str, int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, bool):
            kept[name] = int(value)
        elif isinstance(value, int | float | str):
            kept[name] = value
    return kept


def split(tokens: Sequence[int], response: int, name: str) -> tuple[Sequence[int], Sequence[int]]:
    """Prompt and completion of a sequence whose last `response` tokens are the completion."""
    if not 0 <= response <= len(tokens):
        raise InputError(f"{name} is {response}, but the sequence has {len(tokens)} tokens")
    start = len(tokens) - response
    return tokens[:start], tokens[start:]


def same_length(**columns: Any) -> None:
    """Hold that columns, by their names in the file, have one entry for each token.

    Raises:
        ShapeError: they do not.
    """
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    (first, length), *others = lengths.items()
    for name, other in others:
        if other != length:
            raise ShapeError(f"{first} has {length} entries and {name} has {other}, but both have one for each token")


def checked(read: Callable[[Mapping[str, Any]], Iterable[Rollout]]) -> Callable[[Mapping[str, Any]], Iterator[Rollout]]:
    """The same rollouts, those without a counted token left out, and log-probs that cannot be right refused."""

    def rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
        for rollout in read(record):
            if rollout.counted.any():
                _check_bounds(rollout)
                yield rollout

    return rollouts


def _check_bounds(rollout: Rollout) -> None:
    sampler = "logprobs" if rollout.behavior_logprobs is None else "behavior_logprobs"
    for name in LOGPROB_COLUMNS:
        values = getattr(rollout, name)
        if values is not None:
            try:
                check(name, values[None], rollout.counted[None], LOGPROBS if name == sampler else REF_LOGPROBS)
            except InputError as error:
                raise InputError(str(error).replace(f"{name}[0, ", f"{name}[")) from None


def _refuse_single(name: str, value: object) -> None:
    if isinstance(value, str | bytes | Mapping) or not (isinstance(value, Iterable) or is_torch(value)):
        raise InputError(f"{name} is {_kind(value)}, but a list with an entry for each token is needed")
    if getattr(value, "ndim", 1) != 1:
        shape = tuple(getattr(value, "shape", ()))
        raise ShapeError(f"{name} has shape {shape}, but one entry for each token is needed")


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        shown = repr(value)
        return shown if len(shown) <= 40 else f"{shown[:37]}…"
    return f"a {type(value).__name__}"
