"""Any table of log-probs: ragged or padded, in lines, Parquet, NumPy's archives or a folder of `datasets`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kullback as kb
from kullback.errors import FileError
from kullback.rollouts.readers.aliases import ALIASES

Q, P = [[-0.5, -1.0, -0.25], [-2.0, -0.125]], [[-0.75, -0.5, -0.5], [-1.0, -0.25]]
PADDED_Q, PADDED_P = [Q[0], [*Q[1], 0.0]], [P[0], [*P[1], 0.0]]
MASK = [[1, 1, 1], [1, 1, 0]]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(path: Path, **options: Any) -> list[kb.Rollout]:
    """That the two sequences are there, without their padding."""
    found = list(kb.read_rollouts(path, **options))
    for mine, q, p in zip(found, Q, P, strict=True):
        assert mine.logprobs is not None and mine.ref_logprobs is not None  # noqa: PT018
        assert mine.logprobs[mine.counted].tolist() == q
        assert mine.ref_logprobs[mine.counted].tolist() == p
    return found


def rows(q: str = "logprobs", p: str = "ref_logprobs") -> list[dict[str, Any]]:
    return [{q: Q[i], p: P[i], "prompt_id": i, "reward": 0.5 + i} for i in range(2)]


NAMES = [
    *((name, "ref_logprobs") for name in ALIASES["logprobs"]),
    *(("logprobs", name) for name in ALIASES["ref_logprobs"]),
]


@pytest.mark.parametrize("theirs", NAMES)
def test_columns_are_known_by_the_names_of_trainers(tmp_path: Path, theirs: tuple[str, str]) -> None:
    found = check(lines(tmp_path / "a.jsonl", rows(*theirs)))
    assert [(one.prompt_id, one.reward) for one in found] == [(0, 0.5), (1, 1.5)]


BATCHES: Mapping[str, dict[str, Any]] = {
    "verl": {
        "responses": [[7, 8, 2], [9, 2, 0]],
        "response_mask": MASK,
        "old_log_probs": PADDED_Q,
        "ref_log_prob": PADDED_P,
        "uid": ["a", "b"],
        "global_steps": 6,
    },
    "trl": {
        "prompt_ids": [[0, 4], [5, 6]],
        "prompt_mask": [[0, 1], [1, 1]],
        "completion_ids": [[7, 8, 2], [9, 2, 0]],
        "completion_mask": MASK,
        "old_per_token_logps": PADDED_Q,
        "ref_per_token_logps": PADDED_P,
    },
    "lengths": {"policy_logprobs": PADDED_Q, "reference_logprobs": PADDED_P, "response_length": [3, 2]},
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_padded_batch_is_its_rows(tmp_path: Path, name: str) -> None:
    record = BATCHES[name]
    np.savez(tmp_path / "a.npz", **{key: np.asarray(value) for key, value in record.items()})
    found, same = check(tmp_path / "a.npz"), check(lines(tmp_path / "a.jsonl", [record]))
    assert [one.length for one in found] == [3, 2]
    for one, other in zip(found, same, strict=True):
        assert (one.tokens, one.prompt_tokens, one.step) == (other.tokens, other.prompt_tokens, other.step)
    if name == "verl":
        assert [(one.prompt_id, one.step, one.tokens) for one in found] == [("a", 6, [7, 8, 2]), ("b", 6, [9, 2])]
    if name == "trl":
        assert [one.prompt_tokens for one in found] == [[4], [5, 6]]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("listed", [pa.list_, pa.large_list])
def test_parquet_is_read_by_the_names_of_trainers(tmp_path: Path, kind: pa.DataType, listed: Any) -> None:
    table = {"old_log_probs": pa.array(Q, listed(kind)), "ref_log_prob": pa.array(P, listed(kind)), "uid": ["a", "b"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert [one.prompt_id for one in check(tmp_path / "a.parquet")] == ["a", "b"]


def test_a_folder_of_datasets_is_read(tmp_path: Path) -> None:
    table = pa.table({"old_log_probs": Q, "ref_log_prob": P})
    with pa.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {}}))
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    check(tmp_path)


def test_what_a_map_names_is_taken(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows("lp", "their.ref"))
    check(path, map={"logprobs": "lp", "ref_logprobs": "their.ref"})
    two = [{**row, "log_probs": [0.0], "old_log_probs": row["lp"]} for row in rows("lp")]
    check(lines(tmp_path / "b.jsonl", two), map={"logprobs": "old_log_probs"})


def test_what_else_a_row_says_is_kept(tmp_path: Path) -> None:
    row = {**rows()[0], "env": "maths", "truncated": True, "list": [1, 2], "temperature": 0.7}
    [one] = kb.read_rollouts(lines(tmp_path / "a.jsonl", [row]))
    assert one.extra == {"env": "maths", "truncated": True, "temperature": 0.7}
    assert one.finish == "length"


def test_ids_of_prompt_and_completion_are_parted_by_the_length(tmp_path: Path) -> None:
    row = {**rows()[0], "tokens": [4, 5, 7, 8, 2], "response_length": 3}
    [one] = kb.read_rollouts(lines(tmp_path / "a.jsonl", [row]))
    assert (one.prompt_tokens, one.tokens) == ([4, 5], [7, 8, 2])


def test_a_sample_that_is_masked_is_no_sequence(tmp_path: Path) -> None:
    both = [{**row, "sample_loss_mask": i} for i, row in enumerate(rows())]
    assert len(kb.read_rollouts(lines(tmp_path / "a.jsonl", both))) == 1


def test_tool_output_inside_a_sequence_stays_masked(tmp_path: Path) -> None:
    [one] = kb.read_rollouts(lines(tmp_path / "a.jsonl", [{**rows()[0], "loss_mask": [1, 0, 1]}]))
    assert one.counted.tolist() == [True, False, True]


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "two names": (
        {**rows("log_probs")[0], "old_log_probs": Q[0]},
        "log_probs and old_log_probs are both names for logprobs: say which is meant with --map logprobs=log_probs or "
        "--map logprobs=old_log_probs",
    ),
    "ours and theirs": ({**rows()[0], "ref_log_probs": P[1]}, "--map ref_logprobs=ref_logprobs or"),
    "one law": ({"log_probs": Q[0]}, "--map behavior_logprobs=log_probs, to be scored or joined"),
    "lengths": ({"logprobs": Q[0], "ref_logprobs": P[1]}, "both have one for each token"),
    "a mask of weights": ({**rows()[0], "mask": [0.5, 1, 1]}, "mask"),
    "an array in an array": ({"logprobs": [[Q[0]]], "ref_logprobs": [[P[0]]]}, "shape"),
    "padding without a mask": (
        {"logprobs": [*PADDED_Q, [-1.0, 0.0, 0.0]], "ref_logprobs": [*PADDED_P, [-1.5, 0.0, 0.0]]},
        r"row 2 ends in 2 places without a log-prob, which look like padding: name the mask with --map mask=THEIRS",
    ),
    "rows": ({"logprobs": PADDED_Q, "ref_logprobs": PADDED_P[:1]}, "ref_logprobs has 1 rows, but the log-probs have 2"),
    "a length": ({**rows()[0], "response_length": 4}, "length is 4, but the log-probs have 3 places"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path: Path, name: str) -> None:
    record, words = REFUSED[name]
    with pytest.raises(FileError, match=words):
        list(kb.read_rollouts(lines(tmp_path / "a.jsonl", [record])))


def test_the_names_are_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "files.md").read_text().partition("## Any table")[2]
    assert [name for names in ALIASES.values() for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    "longer",
    [
        {"ref_logprobs": [-0.6, -0.7, -0.8]},
        {"logprobs": [-0.5, -1.0, -1.5]},
        {"mask": [1, 1, 0]},
        {"tokens": [5, 6, 7]},
        {"ref_logprobs": [-0.6]},
    ],
    ids=str,
)
def test_columns_of_different_lengths_are_not_cut_to_fit(tmp_path: Path, longer: dict[str, Any]) -> None:
    row = {"logprobs": [-0.5, -1.0], "ref_logprobs": [-0.6, -0.9], **longer}
    with pytest.raises(FileError, match=r"line 1: .* has \d entries and .* has \d, but both have one for each token"):
        list(kb.read_rollouts(lines(tmp_path / "a.jsonl", [row])))
