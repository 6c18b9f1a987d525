"""Scoring texts without log-probs: trainers' dumps as they are written, any prompts and completions, what is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dumps_of_trainers import TEXTS
from toy_scorers import Letters

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.jobs.rescoring.outcome import Rescored
from kullback.rollouts.readers import read_scorable

Q, P = Letters("q", 0.1), Letters("p", 0.2)


def written(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(records)), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def scored(path: Path, **options: Any) -> tuple[Rescored, list[kb.Rollout]]:
    folder = path if path.is_dir() else path.parent
    found = kb.score_files(
        path, folder.parent / "scored.parquet", **{"policy": Q, "reference": P, "overwrite": True, **options}
    )
    return found, list(kb.read_rollouts(found.output))


def plain(tmp_path: Path, *records: Mapping[str, Any], name: str = "texts.jsonl") -> Path:
    return written(tmp_path / "in" / name, records)


def test_numbers_by_hand(tmp_path: Path) -> None:
    # The prompt is 0 1 2, with the 0 that stands before every text; the completion is 3 4, with none.
    found, (row,) = scored(plain(tmp_path, {"prompt": "ab", "completion": "cd", "reward": 0.5, "kind": "x"}))
    assert (list(row.prompt_tokens or ()), list(row.tokens or ())) == ([0, 1, 2], [3, 4])
    np.testing.assert_allclose(row.logprobs, [-0.1 * (3 + 3), -0.1 * (4 + 4)], atol=1e-6)
    np.testing.assert_allclose(row.ref_logprobs, [-1.2, -1.6], atol=1e-6)
    assert row.behavior_logprobs is None
    assert (row.reward, row.text, row.extra) == (0.5, "cd", {"kind": "x", "prompt": "ab"})
    assert (row.finish, row.missing_end) == ("unknown", True)
    assert found.written == ("logprobs", "ref_logprobs")
    said = " ".join(found.notes)
    for words in (
        "without a chat template",
        "taken as drawn from q at temperature 1",
        "1 of 1 texts do not end in an end token",
    ):
        assert words in said
    notes = kb.read_rollouts(found.output).metadata.notes
    assert any("tokenizer of q" in note for note in notes)
    assert any("end token is lost" in note for note in notes)
    assert set(notes) <= set(kb.estimate_files(found.output).notes)


def test_an_end_token_that_is_written_is_the_end(tmp_path: Path) -> None:
    found, (row,) = scored(plain(tmp_path, {"prompt": "ab", "completion": "ce"}))
    assert (row.finish, row.missing_end) == ("end", False)
    assert not any("do not end in an end token" in note for note in found.notes)


def test_the_shipped_tokenizer_puts_nothing_between(tmp_path: Path) -> None:
    model = kb.models.load("builtin:tuned")
    text = " there was a dog." + model.tokenizer.eos_token
    path = plain(tmp_path, {"prompt": "Once upon a time", "completion": text})
    found, (row,) = scored(path, policy=model, reference="builtin:base")
    assert list(row.tokens or ()) == model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(row.prompt_tokens or ()) == model.encode("Once upon a time")
    assert (row.finish, row.missing_end) == ("end", False)
    assert found.written == ("logprobs", "ref_logprobs", "token_kl", "ref_mass")
    expected = model.logprobs([row.prompt_tokens or ()], [row.tokens or ()])[0]
    np.testing.assert_allclose(row.logprobs, expected, atol=1e-6)


ROWS: Mapping[str, list[tuple[str, str, Any, int | None, int | None, float | None]]] = {
    # prompt, completion, group, sample, step, reward
    "verl-text": [("a", "b", "p0", 0, 6, 1.0)],
    "trl": [("a", "b", None, None, 6, 0.5)],
    "areal": [("a", "b", 100, 0, None, 1.0)],
    "roll": [("a", "b", "q0", None, 6, 1.0)],
    "rl-logging-board-eval": [("a", "b", None, None, 0, 0.5), ("a", "c", None, None, 0, 0.1)],
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_trainers_texts(name: str, tmp_path: Path) -> None:
    file, record = TEXTS[name]
    found, rows = scored(written(tmp_path / "in" / file, [record]))
    assert found.format == name
    assert len(rows) == len(ROWS[name])
    for row, (prompt, completion, group, sample, step, reward) in zip(rows, ROWS[name], strict=True):
        assert (row.extra["prompt"], row.text) == (prompt, completion)
        assert row.prompt_id == group or (group is None and str(row.prompt_id).startswith("prompt "))
        assert (row.sample, row.step, row.reward) == (sample, step, reward)
        np.testing.assert_allclose(
            row.logprobs, Q.logprobs([Q.encode(prompt)], [Q.encode(completion)[1:]], None, drawn=False)[0], atol=1e-6
        )  # type: ignore[arg-type]
    assert [row.sampled_from for row in rows] == ["policy", "reference"][: len(rows)]
    assert {row.missing_end for row in rows} == {name != "areal"}
    assert kb.estimate_files(found.output).sequences == len(rows)


def test_verl_uids_of_both_kinds(tmp_path: Path) -> None:
    rows = [{"input": "a", "output": "b", "score": 1.0, "step": 6, "uid": uid} for uid in ("x_1_3_0", "0b2c-77", "p_1")]
    _, found = scored(written(tmp_path / "in" / "6.jsonl", rows))
    assert [(row.prompt_id, row.sample) for row in found] == [("x_1", 3), ("0b2c-77", None), ("p_1", None)]


def test_a_step_of_roll_is_many_rows_and_a_folder_is_in_order(tmp_path: Path) -> None:
    for step in (10, 2):
        record = {
            "id": ["x", "x", "y"],
            "prompt": ["a", "a", "b"],
            "responses": ["b", "c", "d"],
            "scores": [0.0, 1.0, 2.0],
            "global_step": [step] * 3,
        }
        written(tmp_path / "in" / f"rollout_dump_data.step_{step}.jsonl", [record])
    _, rows = scored(tmp_path / "in")
    assert [(row.step, row.prompt_id, row.reward) for row in rows][:4] == [
        (2, "x", 0),
        (2, "x", 1),
        (2, "y", 2),
        (10, "x", 0),
    ]


@pytest.mark.parametrize("names", [("prompt", "response"), ("input", "output"), ("query", "generation")])
@pytest.mark.parametrize("file", ["t.jsonl", "t.parquet"])
def test_texts_of_nobody_in_particular(names: tuple[str, str], file: str, tmp_path: Path) -> None:
    found, (row,) = scored(plain(tmp_path, dict(zip(names, ("ab", "cd"), strict=True)), name=file))
    assert (found.format, list(row.tokens or ())) == ("text", [3, 4])


def test_other_names_are_mapped(tmp_path: Path) -> None:
    path = plain(tmp_path, {"asked": "ab", "said": {"text": "cd"}})
    with pytest.raises(FileError, match="in no format that is known"):
        scored(path)
    _, (row,) = scored(path, map={"prompt": "asked", "completion": "said.text"})
    assert list(row.tokens or ()) == [3, 4]


def test_empty_completions_are_counted(tmp_path: Path) -> None:
    found, rows = scored(plain(tmp_path, {"prompt": "a", "completion": ""}, {"prompt": "a", "completion": "b"}))
    assert len(rows) == 1
    assert "1 texts with an empty completion were left out" in found.notes


BAD: tuple[tuple[Mapping[str, Any], str], ...] = (
    (
        {"prompt": [{"role": "user", "content": "a"}], "completion": "b"},
        "prompt is a list of messages, and chat templates",
    ),
    ({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "completion is a list of messages"),
    ({"prompt": "a", "completion": None}, "the record has no completion"),
    ({"prompt": "a", "completion": 5}, "completion is 5, but a text is needed"),
    ({"prompt": "a" * 60, "completion": "b"}, "62 tokens with its prompt, but the models read 50"),
)


@pytest.mark.parametrize(("record", "words"), BAD, ids=[words for _, words in BAD])
def test_a_text_that_cannot_be_read_is_named(record: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    path = plain(tmp_path, {"prompt": "a", "completion": "b"}, record, {"prompt": "a", "completion": "b"})
    with pytest.raises((InputError, FileError), match=words) as error:
        scored(path)
    assert "\n" not in str(error.value)
    assert "texts.jsonl, " in str(error.value)
    found, rows = scored(path, skip_bad=True)
    assert len(rows) == 2
    assert any("1 rows that cannot be scored were left out" in note for note in found.notes)


def test_texts_need_two_models(tmp_path: Path) -> None:
    path = plain(tmp_path, {"prompt": "a", "completion": "b"})
    for side, other in (("policy", "reference"), ("reference", "policy")):
        with pytest.raises(InputError, match=f"name the {other} too"):
            kb.score_files(path, tmp_path / "o.parquet", **{side: "not/loaded"})  # type: ignore[arg-type]


def test_texts_stay_refused_where_nothing_is_scored(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        kb.read_rollouts(plain(tmp_path, {"prompt": "a", "completion": "b"}))
    with pytest.raises(FileError, match="kullback score"):
        kb.read_rollouts(written(tmp_path / "in" / TEXTS["trl"][0], [TEXTS["trl"][1]]))


def test_a_servers_answer_without_its_question(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not say what was asked"):
        scored(plain(tmp_path, {"choices": [{"text": "b", "index": 0}], "object": "text_completion"}))
    _, (row,) = scored(plain(tmp_path, {"content": "cd", "prompt": "ab", "tokens_predicted": 2}, name="l.jsonl"))
    assert list(row.tokens or ()) == [3, 4]


def test_completions_that_come_out_otherwise_are_counted(tmp_path: Path) -> None:
    found, _ = scored(plain(tmp_path, {"prompt": "a", "completion": "Cd"}, {"prompt": "a", "completion": "cd"}))
    assert any(note.startswith("1 of 2 completions come out otherwise") for note in found.notes)


def test_texts_are_named_before_they_are_tokenised(tmp_path: Path) -> None:
    rows = read_scorable(plain(tmp_path, *[{"prompt": p, "completion": "b"} for p in "aab"]))
    groups = [row.prompt_id for row in rows]
    assert groups[0] == groups[1] != groups[2]
