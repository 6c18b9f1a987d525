"""Whatever bytes come: a file is read or refused in a sentence, soon, and in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

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

ANY = settings(max_examples=EXAMPLES, deadline=5000, suppress_health_check=list(HealthCheck))

NAMES = ("q", "p", "prompt", "tokens", "events", "logprobs", "ref_logprobs", "choices", "nodes", "token_ids", "samples")
WORDS = st.sampled_from(NAMES) | st.text(max_size=4)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)
RECORDS = st.lists(st.dictionaries(WORDS, VALUES, max_size=6), max_size=4)
STARTS = (b"", b"{", b"[", b"PAR1", b"PK\x03\x04", b"\x80\x02", b"data: ", b"a: ", b"\x1f\x8b", b"BZh9", b"\xff\xff\xff\xff")


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


def attempt(content: bytes, name: str = "dump") -> None:
    """Read it, each way it can be read; only errors that are sentences may come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        for skip_bad in (False, True):
            said = look(path, skip_bad=skip_bad)
            assert "
" not in said
            assert len(said) < 2000


def lines(records: list[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def events(records: list[object]) -> bytes:
    return "".join(f"data: {json.dumps(record)}\n\n" for record in records).encode()


def saved(records: object) -> bytes:
    kept = io.BytesIO()
    torch.save(records, kept)
    return kept.getvalue()


def arrays(records: list[dict[str, object]]) -> bytes:
    kept = io.BytesIO()
    np.savez(kept, **{name: np.asarray([1.0, 2.0]) for record in records for name in ("q", "p") if name in record})
    return kept.getvalue()


def table(records: list[dict[str, object]]) -> bytes:
    kept = io.BytesIO()
    pq.write_table(pa.table({"q": [[-1.0]], "p": [[-2.0]], "n": [len(records)]}), kept)
    return kept.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, object]]], bytes]] = {
    "lines": lines,  # type: ignore[dict-item]
    "document": lambda records: json.dumps(records).encode(),
    "one": lambda records: json.dumps(records[0] if records else {}).encode(),
    "events": events,  # type: ignore[dict-item]
    "yaml": lambda records: yaml.safe_dump(records, allow_unicode=True).encode("utf-8", "replace"),
    "torch": saved,
    "npz": arrays,
    "parquet": table,
    "gzip": lambda records: gzip.compress(lines(records)),  # type: ignore[arg-type]
    "bzip2": lambda records: bz2.compress(lines(records)),  # type: ignore[arg-type]
}


@pytest.fixture(params=["toys", "all"])
def known(request: pytest.FixtureRequest) -> str:
    """With formats that nobody writes, and with those there are."""
    if request.param == "toys":
        request.getfixturevalue("toys")
    return str(request.param)


@ANY
@given(content=st.binary(max_size=300), start=st.sampled_from(STARTS))
def test_random_bytes(known: str, content: bytes, start: bytes) -> None:
    attempt(start + content)


@pytest.mark.parametrize("writer", WRITERS)
@ANY
@given(records=RECORDS)
def test_records_of_any_shape(known: str, writer: str, records: list[dict[str, object]]) -> None:
    try:
        content = WRITERS[writer](records)
    except (ValueError, TypeError, OverflowError, UnicodeEncodeError, yaml.YAMLError):
        return
    attempt(content)


@pytest.mark.parametrize("writer", WRITERS)
@ANY
@given(
    records=RECORDS,
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
)
def test_spoilt_files(
    known: str, writer: str, records: list[dict[str, object]], cut: int, changes: list[tuple[int, int]]
) -> None:
    try:
        content = bytearray(WRITERS[writer]([*records, {"q": [-1.0], "p": [-2.0]}]))
    except (ValueError, TypeError, OverflowError, UnicodeEncodeError, yaml.YAMLError):
        return
    for at, byte in changes:
        content[at % len(content)] = byte
    attempt(bytes(content[: len(content) - cut % len(content)]))


@ANY
@given(record=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
def test_no_format_is_thrown_by_a_record(record: dict[str, object]) -> None:
    """`recognises` does not raise, and nothing of others is recognised by two."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            sum(one.recognises(record, Path("dump.jsonl")) for one in formats().values() if "jsonl" in one.containers)
            < 2
        )
