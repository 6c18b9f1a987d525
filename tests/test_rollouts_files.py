"""Rollouts on disk: what is written is read, in blocks, and what is no table of rollouts is refused in a sentence."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.rollouts import (
    LOGPROB_COLUMNS,
    TOKEN_COLUMNS,
    Metadata,
    Model,
    RolloutWriter,
    hash_tokens,
    same_tokens,
    table,
    to_sequences,
)
from kullback.rollouts.schema import COLUMNS, numbers_of

UNFILLED = {"finish": "unknown", "missing_end": False, "extra": {}}
"""What stands where nothing is known."""
NAMES = [field.name for field in fields(kb.Rollout)]
NUMBERS = st.integers(-(2**63), 2**63 - 1)
SCALARS = {
    "sample": st.integers(0, 99),
    "step": st.integers(0, 10**9),
    "reward": st.floats(allow_nan=False),
    "sampled_from": st.sampled_from(["policy", "reference"]),
    "finish": st.sampled_from(["end", "length", "unknown"]),
    "missing_end": st.booleans(),
    "text": st.text(max_size=5),
    "extra": st.dictionaries(st.text(max_size=3), NUMBERS | st.floats(allow_nan=False) | st.text(), max_size=3),
}
LOGPROBS = st.floats(width=32, allow_nan=False)
PAIRS = (("logprobs", "ref_logprobs"), ("logprobs", "behavior_logprobs"), ("behavior_logprobs",))
PLACES = st.dictionaries(st.integers(0, 2**31 - 1) | st.text(max_size=2), LOGPROBS, max_size=3)
"""The log-probs of some tokens at a place, by id or by text."""


@st.composite
def rollouts(draw: st.DrawFn) -> list[kb.Rollout]:
    """Ragged rows, each with its own subset of the columns that may be null; prompts by number, or all by name."""
    rows = []
    scalars = SCALARS | {"prompt_id": draw(st.sampled_from([NUMBERS, st.text(max_size=3)]))}
    tokens = {name: st.floats(width=32) for name in TOKEN_COLUMNS}
    ids = st.integers(0, 2**31 - 1)
    listed = {**tokens, "mask": st.booleans(), "tokens": ids, "top": PLACES}
    for length in draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)):
        kinds: dict[str, Any] = {
            **{name: st.lists(kind, min_size=length, max_size=length) for name, kind in listed.items()},
            "prompt_tokens": st.lists(ids, max_size=4),
            **scalars,
        }
        required = draw(st.sampled_from(PAIRS))
        kept = {*required, *draw(st.sets(st.sampled_from(sorted(kinds))))}
        rows.append(kb.Rollout(**{name: draw(kinds[name]) for name in sorted(kept)}))
    return rows


def some(count: int, start: int = 0) -> list[kb.Rollout]:
    """Rows of 1 to 4 tokens that all differ."""
    return [
        kb.Rollout(
            logprobs=np.full(1 + i % 4, -0.5 * i, np.float32),
            ref_logprobs=np.full(1 + i % 4, -0.25 * i, np.float32),
            tokens=list(range(i, i + 1 + i % 4)),
            prompt_id=i // 2,
        )
        for i in range(start, start + count)
    ]


# What is written is read --------------------------------------------------------------------------------------


@settings(deadline=None)  # the first tables load Arrow
@given(rollouts(), st.integers(1, 7))
def test_what_is_written_is_read(rows: list[kb.Rollout], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.parquet"
        with RolloutWriter(path) as writer:
            for start in range(0, len(rows), size):
                writer.write(rows[start : start + size])
        back = kb.read_rollouts(path)
        assert list(back) == rows
        found = {(name, str(getattr(row, name))) for name in NAMES for row in rows if getattr(row, name) is not None}
        held = {name for name, value in found if value != str(UNFILLED.get(name))}
        assert back.columns == tuple(name for name in COLUMNS if name in held)
        assert set(back.law) == set(back.quantum) == held & set(LOGPROB_COLUMNS)
        assert back.token_hash == back.metadata.token_hash == hash_tokens(rows)


def test_every_column_of_a_rollout_has_a_place() -> None:
    assert list(COLUMNS) == NAMES


def test_numbers_are_kept_as_float32(tmp_path: Path) -> None:
    kb.write_rollouts(tmp_path / "r.parquet", [kb.Rollout(logprobs=[-0.1], ref_logprobs=[-1e-50], reward=0.1)])
    (back,) = kb.read_rollouts(tmp_path / "r.parquet")
    assert back.column("logprobs").dtype == np.float32
    assert (float(back.column("logprobs")[0]), float(back.column("ref_logprobs")[0])) == (np.float32(-0.1), 0.0)
    assert back.reward == 0.1
    back.column("logprobs")[0] = -2.0  # a row is the reader's own


def test_the_file_says_whose_its_log_probs_are(tmp_path: Path) -> None:
    said = Metadata(
        policy=Model("a", {"temperature": 0.5}, "bfloat16"),
        law={"logprobs": "temperature"},
        quantum={"ref_logprobs": 0.125},
        token_hash="not this",
    )
    kb.write_rollouts(tmp_path / "r.parquet", some(3), said)
    back = kb.read_rollouts(tmp_path / "r.parquet")
    assert back.metadata == replace(said, token_hash=hash_tokens(some(3)))
    assert back.law == {"logprobs": "temperature", "ref_logprobs": "unknown"}
    assert back.quantum == {"logprobs": None, "ref_logprobs": 0.125}
    kb.write_rollouts(tmp_path / "copy.parquet", back)
    copy = kb.read_rollouts(tmp_path / "copy.parquet")
    assert (copy.metadata, list(copy)) == (back.metadata, list(back))


def test_the_order_of_writing_is_in_the_hash(tmp_path: Path) -> None:
    for name, rows in {"one": some(4), "same": some(4), "turned": some(4)[::-1]}.items():
        with RolloutWriter(tmp_path / name) as writer:
            for row in rows:
                writer.write([row])
    one, same, turned = (kb.read_rollouts(tmp_path / name) for name in ("one", "same", "turned"))
    assert same_tokens(one.metadata, same.metadata)
    assert same_tokens(one, same)
    assert not same_tokens(one.metadata, turned.metadata)


# Blocks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(tmp_path: Path) -> kb.Rollouts:
    """Twenty rows in row groups of 1 to 8."""
    with RolloutWriter(tmp_path / "grouped.parquet") as writer:
        for start, count in ((0, 3), (3, 1), (4, 8), (12, 2), (14, 6)):
            writer.write(some(count, start))
    return kb.read_rollouts(tmp_path / "grouped.parquet")


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 20, 1000])
def test_blocks_are_the_whole(grouped: kb.Rollouts, rows: int) -> None:
    blocks = list(grouped.blocks(rows))
    assert [row for block in blocks for row in block] == some(20)
    assert max(map(len, blocks)) <= rows
    with pytest.raises(InputError, match="a block has at least one row"):
        grouped.blocks(0)


@pytest.mark.parametrize("kept", [1, 3, 1024])
def test_rows_are_found_by_number(grouped: kb.Rollouts, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "BLOCK_ROWS", kept)
    rows = some(20)
    assert isinstance(grouped, Sequence)
    assert len(grouped) == 20
    assert [grouped[i] for i in (5, 0, 19, -1, 11, 12, -20)] == [rows[i] for i in (5, 0, 19, -1, 11, 12, -20)]
    assert grouped[3:17:4] == rows[3:17:4]
    assert list(reversed(grouped)) == rows[::-1]
    assert rows[6] in grouped
    for outside in (20, -21):
        with pytest.raises(IndexError):
            grouped[outside]


def test_a_block_is_read_without_what_comes_after(grouped: kb.Rollouts) -> None:
    last = pq.ParquetFile(grouped.path).metadata.row_group(4).column(0)
    with grouped.path.open("r+b") as file:  # the last row group's log-probs are spoilt
        file.seek(last.data_page_offset)
        file.write(b"\xff" * last.total_compressed_size)
    blocks = grouped.blocks(7)
    assert [row for _ in range(2) for row in next(blocks)] == some(14)
    with pytest.raises(FileError, match=r"grouped\.parquet is damaged"):
        next(blocks)


def test_batches_of_blocks_are_the_batch_of_the_whole(grouped: kb.Rollouts) -> None:
    whole = to_sequences(list(grouped))
    parts = [to_sequences(block) for block in grouped.blocks(6)]
    np.testing.assert_array_equal(np.concatenate([part.lengths for part in parts]), whole.lengths)
    sums = np.concatenate([part.log_ratio().sum(axis=1) for part in parts])
    np.testing.assert_array_equal(sums, whole.log_ratio().sum(axis=1))


# Half-way -----------------------------------------------------------------------------------------------------


def test_a_writer_that_is_killed_leaves_only_the_part(tmp_path: Path) -> None:
    import os
    import signal

    code = (
        "import os, signal, sys, kullback as kb\n"
        "from kullback.rollouts import RolloutWriter\n"
        "writer = RolloutWriter(sys.argv[1])\n"
        "writer.write([kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0])])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "r.parquet"
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet.part"]
    with pytest.raises(FileError, match=r"only r.parquet.part is there, of a job that has not come to its end"):
        kb.read_rollouts(path)
    back = kb.read_rollouts(tmp_path / "r.parquet.part")
    assert [row.column("logprobs").tolist() for row in back] == [[-1.0]]


@pytest.mark.parametrize("torn", [0, 1, 7, 500])
def test_a_part_is_read_up_to_its_last_whole_batch(tmp_path: Path, torn: int) -> None:
    """Without a close, and with the last bytes lost as by a full disk: what is lost is the batch that was torn."""
    writer = RolloutWriter(tmp_path / "r.parquet", Metadata(law={"logprobs": "raw"}))
    ends = []
    part = tmp_path / "r.parquet.part"
    for start in range(0, 12, 4):
        writer.write(some(12)[start : start + 4])
        ends.append(part.stat().st_size)
    copy = tmp_path / "copy.part"
    copy.write_bytes(part.read_bytes()[: ends[-1] - torn])
    writer.close()
    left = 12 if not torn else 8 if torn < ends[2] - ends[1] else 4
    back = kb.read_rollouts(copy)
    assert list(back) == some(12)[:left]
    assert back[left - 1] == some(12)[left - 1]
    assert back.law["logprobs"] == "raw"
    assert [row for block in back.blocks(3) for row in block] == some(12)[:left]


def test_a_batch_that_finds_no_room_leaves_the_others(tmp_path: Path) -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = RolloutWriter(tmp_path / "r.parquet")
    writer.write(some(4))
    size = (tmp_path / "r.parquet.part").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
        with pytest.raises(
            FileError, match=r"r.parquet cannot be written \(File too large\): what was written before.*r.parquet.part"
        ):
            writer.write(some(12))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(kb.read_rollouts(tmp_path / "r.parquet.part")) == some(4)
    writer.close()
    assert list(kb.read_rollouts(tmp_path / "r.parquet")) == some(4)
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "out"
    folder.mkdir()
    with RolloutWriter(folder / "r.parquet") as writer:
        writer.write(some(4))
        shutil.rmtree(folder)
        writer.write(some(8)[4:])
    assert list(kb.read_rollouts(folder / "r.parquet")) == some(8)


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.part").write_bytes(b"no")
    with pytest.raises(FileError, match=r"r\.part cannot be read as rollouts: it is not Arrow's stream format"):
        kb.read_rollouts(tmp_path / "r.part")
    with pytest.raises(FileError, match="No such file"):
        kb.read_rollouts(tmp_path / "none.part")


def test_an_error_keeps_the_batches_that_were_finished(tmp_path: Path) -> None:
    wrong = replace(some(1)[0], tokens=[2**40])

    def write() -> None:
        with RolloutWriter(tmp_path / "r.parquet") as writer:
            writer.write(some(4))
            writer.write([])
            writer.write([wrong])

    with pytest.raises(InputError, match="column tokens holds what is no list of token ids"):
        write()
    back = kb.read_rollouts(tmp_path / "r.parquet")
    assert list(back) == some(4)
    assert back.token_hash == back.metadata.token_hash == hash_tokens(some(4))
    with RolloutWriter(tmp_path / "nothing.parquet"):
        pass
    assert not (tmp_path / "nothing.parquet").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rollout came for"):
        kb.write_rollouts(tmp_path / "r.parquet", [])
    with pytest.raises(FileError, match=r"r.parquet cannot be written \(No such file"):
        kb.write_rollouts(tmp_path / "nowhere" / "r.parquet", some(1))
    with pytest.raises(InputError, match="extra holds what is neither a number nor a text"):
        kb.write_rollouts(tmp_path / "r.parquet", [replace(some(1)[0], extra={"tool": object()})])  # type: ignore[dict-item]


def test_prompts_are_known_by_number_or_by_name(tmp_path: Path) -> None:
    named = [replace(row, prompt_id=name) for row, name in zip(some(3), ("a", 7, None), strict=True)]
    kb.write_rollouts(tmp_path / "r.parquet", named)
    assert [row.prompt_id for row in kb.read_rollouts(tmp_path / "r.parquet")] == ["a", "7", None]
    with RolloutWriter(tmp_path / "later.parquet") as writer:
        for row in named[::-1]:
            writer.write([row])
            assert len(kb.read_rollouts(tmp_path / "later.parquet.part"))
    assert [row.prompt_id for row in kb.read_rollouts(tmp_path / "later.parquet")] == [None, "7", "a"]
    assert len(list(tmp_path.iterdir())) == 2
    kb.write_rollouts(tmp_path / "n.parquet", some(3))
    assert pq.read_schema(tmp_path / "n.parquet").field("prompt_id").type == pa.int64()


# Files of other people ----------------------------------------------------------------------------------------

PAIR: dict[str, Any] = {"logprobs": [[-1.0, -2.0], [-3.0]], "ref_logprobs": [[-1.5, -2.5], [-3.5]]}


def written(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def test_other_widths_and_list_types_are_read(tmp_path: Path) -> None:
    columns = {
        "logprobs": pa.array(PAIR["logprobs"], pa.large_list(pa.float64())),
        "ref_logprobs": pa.array(PAIR["ref_logprobs"], pa.list_(pa.float16())),
        "tokens": pa.array([[1, 2], [3]], pa.list_(pa.uint64())),
        "mask": pa.array([[1, 0], [1]], pa.list_(pa.int8())),
        "reward": pa.array([1, 0], pa.int8()),
        "finish": pa.array(["end", None]).dictionary_encode(),
        "sampled_from": pa.array([None, None], pa.string()),
        "token_kl": pa.nulls(2),
        "text": ["of", "no interest"],
    }
    back = kb.read_rollouts(written(tmp_path / "r.parquet", columns))
    assert list(back) == [
        kb.Rollout(logprobs=q, ref_logprobs=p, tokens=t, mask=m, reward=r, finish=f)  # type: ignore[arg-type]
        for q, p, t, m, r, f in zip(
            *PAIR.values(), [[1, 2], [3]], [[True, False], [True]], [1, 0], ["end", "unknown"], strict=True
        )
    ]
    assert back.columns == ("logprobs", "ref_logprobs", "tokens", "mask", "reward", "finish")
    assert back.metadata == Metadata()
    square = {name: pa.array([[-1.0, -2.0]], pa.list_(pa.float32(), 2)) for name in PAIR}
    assert kb.read_rollouts(written(tmp_path / "s.parquet", square))[0].length == 2


def truncated(path: Path) -> Path:
    kb.write_rollouts(path, some(4))
    path.write_bytes(path.read_bytes()[:-9])
    return path


def text(path: Path) -> Path:
    path.write_text("logprobs,ref_logprobs\n" * 20)
    return path


def pair_with(**columns: Any) -> dict[str, Any]:
    return {**PAIR, **columns}


MALFORMED: dict[str, tuple[Any, str]] = {
    "nothing there": (lambda path: path, "cannot be read as rollouts: there is no such file"),
    "a folder": (
        lambda path: path.mkdir() or path,
        "cannot be read as rollouts: it holds no file of",
    ),
    "text": (text, "it is not Parquet, or was not written to its end"),
    "an empty file": (lambda path: path.touch() or path, "it is empty"),
    "without its end": (truncated, "it is not Parquet, or was not written to its end"),
    "no rows": ({name: pa.array([], pa.list_(pa.float32())) for name in PAIR}, "holds no rollout"),
    "no log-probs": ({"tokens": [[1]]}, "is in no format that is known: its first record has the names 'tokens'"),
    "ours without log-probs": (
        {"tokens": [[1]]},
        "has no column logprobs, ref_logprobs, behavior_logprobs: a",
    ),
    "one log-prob": ({"ref_logprobs": [[-1.0]]}, "has no column logprobs, behavior_logprobs: a table of rollouts has"),
    "extra of others": (pair_with(extra=["{", "{}"]), "row 0: extra is no JSON object"),
    "text for numbers": (pair_with(logprobs=["a", "b"]), "a column logprobs of string, but a list of numbers"),
    "one number": (pair_with(token_kl=[1.0, 2.0]), "a column token_kl of double, but a list of numbers is needed"),
    "whole numbers": (pair_with(logprobs=[[1, 2], [3]]), r"a column logprobs of list<\w+: int64>, but a list of num"),
    "text for ids": (pair_with(tokens=[["a", "b"], ["c"]]), "but a list of token ids is needed"),
    "list for one": (pair_with(prompt_id=[[0], [1]]), "but a whole number, or a name is needed"),
    "an id too large": (pair_with(tokens=[[1, 2], [2**40]]), "row 1: tokens has to be a list of token ids"),
    "lengths": (pair_with(token_kl=[[0.1, 0.2], [0.1, 0.2]]), "row 1: logprobs has 1 tokens and token_kl has 2"),
    "a gap": (pair_with(logprobs=[[-1.0, -2.0], [None]]), "row 1: logprobs has a gap: give every token a value"),
    "a row of one": (pair_with(logprobs=[[-1.0, -2.0], None]), "row 1: a rollout with ref_logprobs came"),
    "another sampler": (pair_with(sampled_from=["policy", "engine"]), "row 1: sampled_from='engine' came"),
    "another finish": (pair_with(finish=["end", "stop"]), "row 1: finish='stop' came, but it is one of end"),
}


SAY_THEY_ARE_OURS = ("ours without log-probs", "one log-prob", "extra of others")


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_table_of_rollouts_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    made, words = MALFORMED[name]
    path = tmp_path / "r.parquet"
    if callable(made):
        made(path)
    else:
        written(path, made, {"kullback": '{"schema": 3}'} if name in SAY_THEY_ARE_OURS else None)
    with pytest.raises(FileError, match=words) as caught:
        list(kb.read_rollouts(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not re.search(r"Arrow|Traceback", str(caught.value))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "metadata is not what kullback writes"), ('{"schema": 9}', "its schema is 9")],
)
def test_metadata_that_cannot_be_read_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=rf"r.parquet cannot be read as rollouts: .*{words}"):
        kb.read_rollouts(written(tmp_path / "r.parquet", PAIR, {"kullback": text}))


def test_the_row_is_numbered_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    long = pa.table({name: [[-1.0]] * 50 for name in PAIR})
    with pq.ParquetWriter(path, long.schema) as writer:
        writer.write_table(long)
        writer.write_table(pa.table({"logprobs": [[-1.0], [-1.0, -2.0]], "ref_logprobs": [[-1.0], [-1.0]]}))
    with pytest.raises(FileError, match="row 51: logprobs has 2 tokens and ref_logprobs has 1"):
        list(kb.read_rollouts(path).blocks(20))


def test_a_format_is_known_by_its_name(tmp_path: Path) -> None:
    kb.write_rollouts(tmp_path / "rows.data", some(2))
    assert list(kb.read_rollouts(tmp_path / "rows.data")) == list(kb.read_rollouts(tmp_path / "rows.data", "parquet"))
    with pytest.raises(InputError, match="format='csv' came, but there is a reader for parquet"):
        kb.read_rollouts(tmp_path / "rows.data", format="csv")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3], pa.int32()).slice(1),
        pa.array([0.5, None, 2.0], pa.float32()),
        pa.array([True, False, True]).slice(1),
        pa.array([], pa.float64()),
        pa.array([1.5, 2.5], pa.float16()),
    ],
    ids=["slice", "gap", "booleans", "empty", "half"],
)
def test_numbers_of_arrow_are_numpys(column: pa.Array) -> None:
    found = numbers_of(column)
    want = column.to_numpy(zero_copy_only=False)
    assert found.dtype == want.dtype
    np.testing.assert_array_equal(found, want)


def test_an_estimate_from_parquet_does_not_wait_for_pandas(tmp_path: Path) -> None:
    """pyarrow imports it, where it is installed, to make any NumPy array: 0.5 s and 60 MB."""
    pytest.importorskip("pandas")
    one = kb.Rollout(logprobs=[-0.5, -1.0], ref_logprobs=[-0.6, -0.9], mask=[True, True], prompt_id=1)
    kb.write_rollouts(tmp_path / "rows.parquet", [one] * 3)
    code = "import sys, kullback as kb; kb.estimate_files(sys.argv[1]); sys.exit('pandas' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code, str(tmp_path / "rows.parquet")]).returncode
