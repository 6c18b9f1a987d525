"""Records of servers in which one value is another: read, or refused in a sentence; never a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_records import FORMATS, RECORDS

from kullback.errors import InputError
from kullback.rollouts import Rollout
from kullback.rollouts.readers import anytable
from kullback.rollouts.readers.format import Format

GONE = object()
WRONG: tuple[Any, ...] = (
    *(GONE, None, True, -1, 10**400, 0.5, -9999.0, float("nan"), "", "a", "token_id:99999999999"),
    *([], [None], [[]], [1, 2, 3], [-0.1, "a"], {}, {"a": 1}, {"7": None}),
)
"""What stands in the place of a value. All of them at every place of a record are thousands of variants a reader."""

TABLES: dict[str, dict[str, Any]] = {
    "row": {
        "logprobs": [-0.5, -1.0, -0.25],
        "ref_log_probs": [-0.75, -0.5, -0.25],
        "response_mask": [1, 1, 0],
        "response_ids": [7, 8, 2],
        "prompt_ids": [4, 5],
        "uid": "a",
        "reward": 1.0,
        "finish_reason": "stop",
        "step": 3,
    },
    "batch": {
        "old_log_probs": [[-0.5, -1.0], [-0.25, 0.0]],
        "ref_log_prob": [[-0.75, -0.5], [-0.25, 0.0]],
        "rollout_log_probs": [[-0.75, -0.5], [-0.25, 0.0]],
        "response_mask": [[1, 1], [1, 0]],
        "responses": [[7, 8], [2, 0]],
        "uid": ["a", "b"],
        "global_steps": 3,
    },
}
CASES: dict[str, tuple[Format, dict[str, Any]]] = {
    **{
        name: (next(one for one in FORMATS if one.recognises(record, Path())), record)
        for name, record in RECORDS.items()
    },
    **{f"table {name}": (anytable.FORMAT, record) for name, record in TABLES.items()},
}


def places(value: Any) -> Iterator[tuple[str | int, ...]]:
    """The paths to every value inside; of a list to its last."""
    if isinstance(value, dict):
        inside: list[tuple[str | int, Any]] = list(value.items())
    elif isinstance(value, list):
        inside = [(len(value) - 1, value[-1])] if value else []
    else:
        return
    for key, part in inside:
        yield (key,)
        yield from ((key, *rest) for rest in places(part))


def with_another(record: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy along the path, with another value at its end."""
    key, *rest = path
    whole = record.copy()
    if rest:
        whole[key] = with_another(record[key], tuple(rest), value)
    elif value is GONE:
        del whole[key]
    else:
        whole[key] = value
    return whole


def outcome(format: Format, record: dict[str, Any]) -> list[Rollout] | str:
    """What was read, or the sentence that refuses it."""
    try:
        return list(format.rollouts(record))
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_record_is_read_or_refused_in_a_sentence(name: str) -> None:
    format, record = CASES[name]
    refused = set()
    for path in places(record):
        for value in WRONG:
            spoilt = with_another(record, path, value)
            format.recognises(spoilt, Path("x"))
            format.metadata(spoilt)
            found = outcome(format, spoilt)
            if isinstance(found, str):
                assert re.fullmatch(r"[^\n]{9,599}", found), found
                refused.add((path, str(value)))
            for rollout in found if isinstance(found, list) else []:
                counted = next(c for c in (rollout.behavior_logprobs, rollout.logprobs) if c is not None)[
                    rollout.counted
                ]
                assert format is anytable.FORMAT or np.all((counted <= 1e-3) & (counted > -9000)), (path, value)
    assert len(refused) >= 20, refused


KEYS = ("events", "choices", "meta_info", "details", "output", "interactions", "document", "outputs", "logprobs")


@pytest.mark.parametrize("format", [*FORMATS, anytable.FORMAT], ids=lambda one: one.name)
def test_no_record_makes_a_reader_fall_over(format: Format) -> None:
    for record in [{}, *({key: value} for key in KEYS for value in WRONG if value is not GONE)]:
        format.recognises(record, Path("x"))
        assert isinstance(outcome(format, record), list | str)
