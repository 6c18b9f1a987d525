"""Every reader against records that are spoilt in one place: a rollout or a sentence, and never a traceback."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dumped_sequences import Dump
from dumps_of_trainers import DUMPS

from kullback.errors import InputError
from kullback.rollouts import Rollout
from kullback.rollouts.readers.family import formats

Place = tuple[Any, ...]

LONGEST = 400
"""Characters of a sentence."""


def _second(new: object) -> Callable[[Any], Any]:
    """Another second entry of a list."""
    return lambda value: [value[0], new, *value[2:]] if _long(value) else new


def _long(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1


SPOILS: Mapping[str, Callable[[Any], Any]] = {
    "null": lambda value: None,
    "text": lambda value: "spoilt",
    "number": lambda value: 3,
    "not a number": lambda value: math.nan,
    "endless": lambda value: math.inf,
    "huge": lambda value: 10**30,
    "mapping": lambda value: {"a": 1},
    "empty": lambda value: [],
    "nested": lambda value: [value],
    "deep": lambda value: [[[value]]],
    "yes": lambda value: True,
    "shorter": lambda value: value[:-1] if _long(value) else None,
    "longer": lambda value: [*value, value[-1]] if _long(value) else [value, value],
    "none in it": _second(None),
    "text in it": _second("-0.5"),
    "list in it": _second([1.0]),
    "mapping in it": _second({}),
    "not a number in it": _second(math.nan),
    "huge in it": _second(10**30),
    "negative in it": _second(-3),
    "positive in it": _second(7.5),
    "sentinel in it": _second(-9999.0),
}


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where a value can be spoilt: all fields, and those of the last entry of lists of mappings or rows."""
    if at:
        yield at
    if isinstance(value, Mapping):
        for name in value:
            yield from places(value[name], (*at, name))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping | list | np.ndarray):
        yield from places(value[-1], (*at, len(value) - 1))


def plain(value: Any) -> Any:
    """A record as JSON would hold it."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def at(record: Any, place: Place) -> Any:
    for step in place:
        record = record[step]
    return record


def spoilt(record: Any, place: Place, spoil: Callable[[Any], Any] | None) -> Any:
    """The record with one value spoilt, or left out."""
    whole = deepcopy(record)
    holder = at(whole, place[:-1])
    if spoil is None:
        del holder[place[-1]]
    else:
        holder[place[-1]] = spoil(holder[place[-1]])
    return whole


def verdict(dump: Dump, record: Any) -> Sequence[Rollout] | str:
    """What a reader makes of a record: its rollouts, or its sentence."""
    one = formats()[dump.format]
    try:
        found = list(one.rollouts(record))
        one.metadata(record)
    except InputError as error:
        return str(error)
    return found


def spoilt_records(dump: Dump) -> Iterator[tuple[str, Any]]:
    record = plain(dump.records[0])
    for place in places(record):
        for name, spoil in {"left out": None, **SPOILS}.items():
            yield f"{place} {name}", spoilt(record, place, spoil)


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.file)
def test_a_spoilt_record_gives_rollouts_or_one_sentence(dump: Dump) -> None:
    refused = 0
    for what, record in spoilt_records(dump):
        found = verdict(dump, record)
        if isinstance(found, str):
            refused += 1
            assert 0 < len(found) <= LONGEST, (what, found)
            assert "\n" not in found, (what, found)
        else:
            for rollout in found:
                _holds_numbers(rollout, what)
    assert refused >= 20


def _holds_numbers(rollout: Rollout, what: str) -> None:
    """Of what counts, every log-prob is one."""
    for name in ("logprobs", "ref_logprobs", "behavior_logprobs"):
        if (column := getattr(rollout, name)) is not None:
            counted = column[rollout.counted]
            assert ((counted <= 1e-3) & (counted > -9000)).all(), what
    assert rollout.counted.any()


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.file)
def test_what_a_log_prob_cannot_be_is_refused_wherever_it_counts(dump: Dump) -> None:
    """A spoilt number of a counted token is never read as if it were right."""
    record = plain(dump.records[0])
    spots = [place for place in places(record) if _is_logprobs(place) and _long(at(record, place))]
    assert len(spots) >= len(dump.columns)
    for place in spots:
        values = at(record, place)
        number = next(n for n, value in enumerate(values) if value not in (0.0, -4.8))
        for new in (None, math.nan, "-0.5", 7.5, -9999.0, 10**30, [1.0], {}):
            bad = spoilt(record, place, lambda value, new=new, n=number: [*value[:n], new, *value[n + 1 :]])
            assert isinstance(verdict(dump, bad), str), (place, new)


def _is_logprobs(place: Place) -> bool:
    names = [str(part) for part in place if isinstance(part, str)]
    return bool(names) and ("logprob" in names[-1] or "log_prob" in names[-1])


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.file)
@pytest.mark.parametrize("record", [{}, {"traces": [1]}, {"samples": [None]}, {"steps": 3}, {"response": []}])
def test_another_record_is_a_sentence_too(dump: Dump, record: Mapping[str, Any]) -> None:
    assert isinstance(verdict(dump, record), str | list)
    _ = [one.recognises(record, Path("a")) for one in formats().values() if one.name == dump.format]
