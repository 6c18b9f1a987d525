"""Whatever bytes come: a file is read or refused in a sentence, soon, and in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import math
import os
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_formats import toys

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.rollouts.readers.family import formats

__all__ = ["toys"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EXAMPLES = int(os.environ.get("KULLBACK_FUZZ", "3000"))
"""Inputs of each test; KULLBACK_FUZZ=100000 for a night."""

BATCH = 50
"""Inputs of one example of Hypothesis's, which draws a number: drawing the records itself took it 30 ms an input."""

ANY = settings(max_examples=max(1, EXAMPLES // BATCH), deadline=None, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 2**63)

NAMES = ("q", "p", "prompt", "tokens", "events", "logprobs", "ref_logprobs", "choices", "nodes", "token_ids", "samples")
STARTS = (b"", b"{", b"[", b"PAR1", b"PK\x03\x04", b"\x80\x02", b"data: ", b"a: ", b"\x1f\x8b", b"BZh9", b"\xff" * 4)
LEAVES: tuple[Callable[[Random], Any], ...] = (
    lambda random: None,
    lambda random: random.random() < 0.5,
    lambda random: random.choice([0, 1, -1, 2**31, 2**63, -(2**70), random.randrange(-100, 100)]),
    lambda random: random.choice([math.nan, math.inf, -math.inf, -0.0, 5e-324, -1e308, -random.expovariate(1.0)]),
    lambda random: text(random, 8),
    lambda random: [-random.expovariate(1.0) for _ in range(random.randrange(4))],
)
LETTERS = "aqp0.-é\ud800\n\0\U0001f600{[\"'"


def text(random: Random, longest: int) -> str:
    return "".join(random.choices(LETTERS, k=random.randrange(longest + 1)))


def name(random: Random) -> str:
    return random.choice(NAMES) if random.random() < 0.8 else text(random, 4)


def value(random: Random, depth: int = 3) -> Any:
    """A number, a text, nothing, or a list or an object of such."""
    kind = random.random()
    if depth and kind < 0.2:
        return [value(random, depth - 1) for _ in range(random.randrange(5))]
    if depth and kind < 0.4:
        return {name(random): value(random, depth - 1) for _ in range(random.randrange(5))}
    return random.choice(LEAVES)(random)


def records_of(random: Random) -> list[dict[str, Any]]:
    return [{name(random): value(random) for _ in range(random.randrange(7))} for _ in range(random.randrange(5))]


def look(path: Path, *, skip_bad: bool) -> str:
    """Read a file; what it was refused with."""
    try:
        found = kb.read_rollouts(path, skip_bad=skip_bad)
        for _ in islice(found, 1000):
            pass
        repr((found.law, found.quantum, found.columns))
    except (FileError, InputError) as error:
        return str(error)
    return ""


def attempt(content: bytes, path: Path) -> None:
    """Read it, each way it can be read; only errors that are sentences may come."""
    path.write_bytes(content)
    for skip_bad in (False, True):
        said = look(path, skip_bad=skip_bad)
        assert "\n" not in said, (content, said)
        assert len(said) < 2000, (content, said)


def lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def events(records: list[dict[str, Any]]) -> bytes:
    return "".join(f"data: {json.dumps(record)}\n\n" for record in records).encode()


def saved(records: object) -> bytes:
    kept = io.BytesIO()
    torch.save(records, kept)
    return kept.getvalue()


def arrays(records: list[dict[str, Any]]) -> bytes:
    kept = io.BytesIO()
    np.savez(kept, **{name: np.asarray([1.0, 2.0]) for record in records for name in ("q", "p") if name in record})
    return kept.getvalue()


def table(records: list[dict[str, Any]]) -> bytes:
    kept = io.BytesIO()
    pq.write_table(pa.table({"q": [[-1.0]], "p": [[-2.0]], "n": [len(records)]}), kept)
    return kept.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "lines": lines,
    "document": lambda records: json.dumps(records).encode(),
    "one": lambda records: json.dumps(records[0] if records else {}).encode(),
    "events": events,
    "yaml": lambda records: yaml.safe_dump(records, allow_unicode=True).encode("utf-8", "replace"),
    "torch": saved,
    "npz": arrays,
    "parquet": table,
    "gzip": lambda records: gzip.compress(lines(records)),
    "bzip2": lambda records: bz2.compress(lines(records)),
}


def content_of(writer: str, records: list[dict[str, Any]]) -> bytes:
    """Records in a file; nothing where they cannot be written so."""
    try:
        return WRITERS[writer](records)
    except (ValueError, TypeError, OverflowError, yaml.YAMLError):
        return b""


@pytest.fixture(params=["toys", "all"])
def known(request: pytest.FixtureRequest) -> str:
    """With formats that nobody writes, and with those there are."""
    if request.param == "toys":
        request.getfixturevalue("toys")
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@ANY
@given(seed=SEEDS)
def test_random_bytes(known: str, path: Path, seed: int) -> None:
    random = Random(seed)
    for _ in range(BATCH):
        attempt(random.choice(STARTS) + random.randbytes(random.randrange(300)), path)


@pytest.mark.parametrize("writer", WRITERS)
@ANY
@given(seed=SEEDS)
def test_records_of_any_shape(known: str, path: Path, writer: str, seed: int) -> None:
    random = Random(seed)
    for _ in range(BATCH):
        attempt(content_of(writer, records_of(random)), path)


@pytest.mark.parametrize("writer", WRITERS)
@ANY
@given(seed=SEEDS)
def test_spoilt_files(known: str, path: Path, writer: str, seed: int) -> None:
    random = Random(seed)
    for _ in range(BATCH):
        content = bytearray(content_of(writer, [*records_of(random), {"q": [-1.0], "p": [-2.0]}]) or b"{}")
        for _ in range(random.randrange(7)):
            content[random.randrange(len(content))] = random.randrange(256)
        attempt(bytes(content[: len(content) - random.choice([0, random.randrange(len(content))])]), path)


@ANY
@given(seed=SEEDS)
def test_no_format_is_thrown_by_a_record(seed: int) -> None:
    """`recognises` does not raise, and nothing of others is recognised by two."""
    random = Random(seed)
    there = [one for one in formats().values() if "jsonl" in one.containers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(BATCH):
            record = {random.choice(NAMES): value(random) for _ in range(random.randrange(7))}
            assert sum(one.recognises(record, Path("dump.jsonl")) for one in there) < 2, record
