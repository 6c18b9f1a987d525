"""Records of every format, spoilt in a few places at once: a rollout or a sentence, whatever the reader."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from dumps_of_trainers import DUMPS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_records import RECORDS as SERVERS

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.rollouts.readers import foreign, recognition
from kullback.rollouts.readers.family import formats
from kullback.rollouts.readers.foreign import FormatSource, Reading
from kullback.rollouts.readers.format import Container, Format

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EXAMPLES = int(os.environ.get("KULLBACK_FUZZ", "3000"))
"""Inputs of each test; KULLBACK_FUZZ=100000 for a night."""

BATCH = 50
"""Inputs of one example of Hypothesis's, which takes longer to find a number than a reader to read a record."""

ANY = settings(max_examples=max(1, EXAMPLES // BATCH), deadline=None, suppress_health_check=list(HealthCheck))

LONGEST = 2000
"""Characters of a sentence."""

ODD: tuple[Callable[[Random, Any], Any], ...] = (
    lambda random, old: None,
    lambda random, old: random.choice([math.nan, math.inf, -math.inf, -0.0, 5e-324, -9999.0, 1e308, 7.5]),
    lambda random, old: random.choice([0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 10**400]),
    lambda random, old: random.choice(["", "spoilt", "token_id:7", "-inf", "nan", "\ud800", "é" * 9, "1" * 5000]),
    lambda random, old: random.choice([True, False, [], {}, [[]], [None], {"a": 1}, [[[[1.0]]]], b"bytes"]),
    lambda random, old: [old],
    lambda random, old: {"a": old},
    lambda random, old: old[: random.randrange(len(old) + 1)] if isinstance(old, list | str) else old,
    lambda random, old: old + old if isinstance(old, list | str) else old,
    lambda random, old: random.sample(old, len(old)) if isinstance(old, list) else old,
    lambda random, old: np.asarray(old) if isinstance(old, list | float | int) and _fits(old) else old,
    lambda random, old: -old if isinstance(old, int | float) else old,
    lambda random, old: str(old)[:4000] if not isinstance(old, int) or abs(old) < 2**70 else old,
)
"""What a value becomes."""


def _fits(value: object) -> bool:
    try:
        return np.asarray(value).dtype != object
    except (ValueError, OverflowError):
        return False


def plain(value: Any) -> Any:
    """A record as JSON would hold it, and a copy."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def spoil(random: Random, record: Any, names: list[str]) -> None:
    """Change something on a random way down: a value, a name, or that it is there."""
    holder, value = None, record
    key: Any = None
    while isinstance(value, dict | list) and value and (holder is None or random.random() < 0.85):
        holder = value
        key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        value = value[key]
    if holder is None:
        return
    kind = random.random()
    if kind < 0.1:
        del holder[key]
    elif kind < 0.2 and isinstance(holder, dict):
        holder[random.choice(names)] = value
    elif kind < 0.25:
        holder[key] = plain(record) if random.random() < 0.5 else value
    else:
        holder[key] = random.choice(ODD)(random, value)


def _seeds() -> Iterator[tuple[Format, Mapping[str, Any]]]:
    """A record of every format that reads records; a table or bytes of its own are fuzzed as files."""
    for dump in DUMPS:
        for record in dump.records:
            yield formats()[dump.format], record
    for record in SERVERS.values():
        for one in formats().values():
            if recognition.recognised(one, record, Path("x"), one.containers):
                yield one, record


SEEDS = [(one, plain(record)) for one, record in _seeds()]
FORMATS = sorted({one.name for one, _ in SEEDS})


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records that every container then finds, whatever the file."""
    records: list[Any] = []

    def found(path: Path) -> Iterator[tuple[str, Any]]:
        return iter([(f"line {number}", record) for number, record in enumerate(records, 1)])

    kept: dict[Container, Any] = dict.fromkeys(foreign.RECORDS, found)
    monkeypatch.setattr(foreign, "RECORDS", kept)
    monkeypatch.setattr(recognition, "RECORDS", kept)
    return records


def read(one: Format, *, skip_bad: bool) -> str:
    """What is held, read; what it was refused with."""
    source = FormatSource(Path("dump"), one, one.containers[0], Reading(skip_bad=skip_bad))
    try:
        for block in source.blocks(1000):
            for rollout in block:
                assert np.isfinite(_drew(rollout)[rollout.counted]).all()
        repr(source.metadata)
        return "\n".join(source.bad) and source.bad[0]
    except (FileError, InputError) as error:
        return str(error)


def _drew(rollout: kb.Rollout) -> np.ndarray:
    """The log-probs of what drew the tokens; those of another law may be −inf."""
    return rollout.column("logprobs" if rollout.behavior_logprobs is None else "behavior_logprobs")


def said_well(said: str) -> None:
    assert "\n" not in said
    assert len(said) < LONGEST


@pytest.mark.parametrize("name", FORMATS)
@ANY
@given(seed=st.integers(0, 2**63))
def test_spoilt_records(held: list[Any], name: str, seed: int) -> None:
    random = Random(seed)
    seeds = [(one, record) for one, record in SEEDS if one.name == name]
    names = [key for _, record in SEEDS for key in record]
    for _ in range(BATCH):
        one, record = random.choice(seeds)
        copy = plain(record)
        for _ in range(random.choice([1, 1, 1, 2, 3, 8])):
            spoil(random, copy, names)
        held[:] = [copy] if random.random() < 0.5 else [plain(record), copy]
        recognised = recognition.recognised(one, copy, Path("dump"), one.containers)
        said_well(read(one, skip_bad=random.random() < 0.5) if recognised or random.random() < 0.8 else "")
