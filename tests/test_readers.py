"""Files and folders of other people: known by what is in them, and refused in a sentence."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from toy_formats import TOY, TOYS, toys

import kullback as kb
from kullback.errors import FileError, InputError, UnfinishedError
from kullback.rollouts.readers.containers import opening, texts

__all__ = ["toys"]
pytestmark = pytest.mark.usefixtures("toys")

RECORDS: list[dict[str, Any]] = [
    {"q": [-1.0, -2.0], "p": [-1.5, -2.5], "prompt": [1, 2], "tokens": [3, 4]},
    {"q": [-0.5], "p": [-3.0], "prompt": [1, 2]},
    {"q": [-0.25], "p": [-4.0], "prompt": [5]},
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def zstd(text: bytes) -> bytes:
    return pa.compress(text, codec="zstd", asbytes=True)


def to_torch(path: Path) -> None:
    torch.save([{name: torch.tensor(value) for name, value in record.items()} for record in RECORDS], path)


def to_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=2)


def to_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, q=array)


WRITTEN: dict[str, Callable[[Path], object]] = {
    "lines": lambda path: path.write_text(LINES),
    "lines after a mark": lambda path: path.write_text("\ufeff" + LINES),
    "lines with empty ones": lambda path: path.write_text("\n" + LINES.replace("\n", "\n\n")),
    "lines without the last end": lambda path: path.write_text(LINES.rstrip("\n")),
    "gzip": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "bzip2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "xz": lambda path: path.write_bytes(lzma.compress(LINES.encode())),
    "zstd": lambda path: path.write_bytes(zstd(LINES.encode())),
    "a list": lambda path: path.write_text(json.dumps(RECORDS)),
    "a list over lines": lambda path: path.write_text(json.dumps(RECORDS, indent=1)),
    "yaml": lambda path: path.with_suffix(".yaml").write_text(yaml.safe_dump(RECORDS)) and path.with_suffix(".yaml"),
    "torch": to_torch,
    "parquet": to_parquet,
    "arrow": to_arrow,
    "events": lambda path: path.write_text("".join(f"data: {json.dumps(r)}\n\n" for r in RECORDS) + "data: [DONE]\n"),
    "events without gaps": lambda path: path.write_text("".join(f"data: {json.dumps(r)}\n" for r in RECORDS)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_container_gives_the_records(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    made = WRITTEN[name](path)
    found = kb.read_rollouts(made if isinstance(made, Path) else path)
    assert len(found) == 3
    assert [(list(r.column("logprobs")), list(r.column("ref_logprobs"))) for r in found] == [
        (record["q"], record["p"]) for record in RECORDS
    ]
    first, second, third = (rollout.prompt_id for rollout in found)
    assert first == second != third
    assert str(first).startswith("prompt ")
    assert found.format == ("stream" if "events" in name else "toy")
    assert found.columns[:3] == ("logprobs", "ref_logprobs", "prompt_id")
    whole = list(found.batches())
    assert [value for columns in whole for value in columns.tokens["logprobs"].tolist()] == [-1, -2, -0.5, -0.25]
    assert [one for columns in whole for one in columns.rows["prompt_id"]] == [first, second, third]


def test_arrays_by_name_are_one_record(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", q=np.array([-1.0]), p=np.array([-2.0]))
    assert [list(r.column("logprobs")) for r in kb.read_rollouts(tmp_path / "a.npz")] == [[-1.0]]


def test_bytes_are_their_formats_own(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"_toy_\x07\x00")
    assert [r.tokens for r in kb.read_rollouts(tmp_path / "a.bin")] == [[7]]


def test_half_precision_tensors_are_numbers(tmp_path: Path) -> None:
    torch.save({"q": torch.tensor([-1.0], dtype=torch.bfloat16), "p": [-2.0]}, tmp_path / "a.pt")
    assert kb.read_rollouts(tmp_path / "a.pt")[0].column("logprobs").tolist() == [-1.0]


def test_texts_of_prompts_are_groups_too(tmp_path: Path) -> None:
    records = [{"q": [-1.0], "p": [-2.0], "question": text} for text in ("a", "b", "a")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    one, other, again = (rollout.prompt_id for rollout in kb.read_rollouts(tmp_path / "a.jsonl"))
    assert one == again != other


def test_other_names_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"old": [-1.0], "info": {"ref": [-2.0]}}\n{"old": [-1.0]}\n')
    names = {"logprobs": "old", "ref_logprobs": "info.ref"}
    found = kb.read_rollouts(tmp_path / "a.jsonl", map=names)
    with pytest.raises(FileError, match=r"a.jsonl, line 2: there is no 'info.ref', which is to be ref_logprobs"):
        list(found)
    assert len(kb.read_rollouts(tmp_path / "a.jsonl", map=names, skip_bad=True)) == 1
    with pytest.raises(InputError, match="map names 'logprob', but the columns of rollouts are"):
        kb.read_rollouts(tmp_path / "a.jsonl", map={"logprob": "old"})


def test_a_plain_table_is_read_by_column(tmp_path: Path) -> None:
    table = pa.table({"a": [[-1.0], [-2.0, -3.0]], "b": [[-1.5], [-2.5, -3.5]], "prompt_tokens": [[1], [1]]})
    pq.write_table(table, tmp_path / "step_4.parquet")
    found = kb.read_rollouts(tmp_path / "step_4.parquet", map={"logprobs": "a", "ref_logprobs": "b"})
    (columns,) = found.batches()
    assert columns.tokens["logprobs"].tolist() == [-1, -2, -3]
    assert columns.offsets.tolist() == [0, 1, 3]
    assert columns.rows["step"] == [4, 4]
    assert columns.rows["prompt_id"] == [row.prompt_id for row in found]
    assert {row.step for row in found} == {4}
    assert "prompt_id" in found.columns


# Refusals -----------------------------------------------------------------------------------------------------


def pickled(value: object) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pickle.dumps(value))


class Harmful:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for i in range(depth):
        lines.append(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]")
    return "\n".join(lines)


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda path: None, "there is no such file, check the path"),
    "an empty file": (lambda path: path.touch(), "it is empty"),
    "white space": (lambda path: path.write_text(" \n\n"), "it is empty"),
    "another record": (lambda path: path.write_text('{"a": 1, "b": 2}\n'), "first record has the names 'a', 'b'; name"),
    "names of others": (
        lambda path: path.write_text('{"base_lp": [-1.5], "lp": [-1.0], "id": 3}\n'),
        "perhaps --map logprobs=lp --map ref_logprobs=base_lp, or name its format",
    ),
    "sums for log-probs": (
        lambda path: path.write_text('{"logprobs": -7.5, "ref_logprobs": -8.0}\n'),
        "its logprobs is -7.5, and a list with a number for every token is read: convert it, or",
    ),
    "no names": (lambda path: path.write_text("{}\n"), "its first record has no names"),
    "prose": (lambda path: path.write_text("Once upon a time"), "in no format that is known"),
    "random bytes": (lambda path: path.write_bytes(bytes(range(256)) * 40), "in no format that is known"),
    "text alone": (lambda path: path.write_text('{"answer": "4"}\n'), "keeps no numbers, without log-probs: score the"),
    "lists for records": (
        lambda path: path.write_text("[1]\n[2]\n"),
        "line 1 .*a list came, but a record is an",
    ),
    "a number for a record": (lambda path: path.write_text(LINES + "5\n"), "line 4: a int came|a number came"),
    "a spoilt line": (
        lambda path: path.write_text(LINES + '{"q": [1}\n' + LINES),
        "line 4: it is not JSON",
    ),
    "a line of bytes": (lambda path: path.write_bytes(LINES.encode() + b'{"q": "\xff"}\n'), "line 4: it is not UTF-8"),
    "a spoilt first line": (lambda path: path.write_text('{"q": 1, }\n' + LINES), "line 1: it is not JSON"),
    "a line cut off": (lambda path: path.write_text(LINES + '{"q": [-1'), "line 4: the last line is not whole"),
    "deep lines": (
        lambda path: path.write_text("[" * 200_000 + "]" * 200_000 + "\n" + LINES),
        "nested too deeply|not JSON",
    ),
    "a document cut off": (lambda path: path.write_text(json.dumps(RECORDS)[:-9]), "it ends in the middle"),
    "a document spoilt": (lambda path: path.write_text('{"q": [1,\n 2,, 3]}'), "it is not JSON"),
    "a deep document": (
        lambda path: path.write_text('{"q":\n' * 200_000 + "1" + "}" * 200_000),
        "nested too deeply|not JSON",
    ),
    "a wrong column": (lambda path: path.write_text('{"q": [-1.0], "p": [-1, -2]}\n'), "line 1: logprobs has 1 tokens"),
    "a prompt that is none": (
        lambda path: path.write_text(LINES + '{"q": [], "p": [], "prompt": false}\n'),
        "line 4: it has not the shape of toy",
    ),
    "a prompt without a token": (
        lambda path: path.write_text(LINES + '{"q": [-1.0], "p": [-1.0], "prompt": [null]}\n'),
        "line 4: it has not the shape of toy",
    ),
    "a wrong shape": (lambda path: path.write_text('{"q": {"a": 1}, "p": 3}\n'), "line 1: "),
    "gzip cut off": (lambda path: path.write_bytes(gzip.compress(LINES.encode())[:-9]), "compressed and has no end"),
    "bzip2 cut off": (lambda path: path.write_bytes(bz2.compress(LINES.encode())[:-9]), "compressed and has no end"),
    "zstd cut off": (lambda path: path.write_bytes(zstd(LINES.encode())[:-4]), "compressed and has no end"),
    "gzip spoilt": (lambda path: path.write_bytes(gzip.compress(LINES.encode())[:-6] + b"123456"), "be decompressed"),
    "not gzip": (lambda path: path.write_bytes(b"\x1f\x8b" + b"x" * 99), "cannot be decompressed|no end"),
    "parquet cut off": (
        lambda path: (to_parquet(path), path.write_bytes(path.read_bytes()[:-9])),
        "written to its end",
    ),
    "a pickle": (pickled(Harmful()), "a pickle, which could run code .*pickle.loads.*torch.save"),
    "a plain pickle": (pickled({"q": [-1.0]}), "a pickle, which could run code"),
    "a torch file of a class": (lambda path: torch.save(Harmful(), path), "a pickle, which could run code"),
    "a torch file cut off": (lambda path: (to_torch(path), path.write_bytes(path.read_bytes()[:-99])), "its end"),
    "arrays of objects": (lambda path: save(path, np.array([{}, 1], dtype=object)), "Python objects"),
    "a bomb of aliases": (lambda path: path.write_text(bomb(9)), "its aliases stand for more than"),
    "tags of Python": (lambda path: path.write_text("a: !!python/object/apply:os.getcwd []"), "it is not YAML"),
    "events without data": (lambda path: path.write_text("event: ping\n\n"), "no event with data"),
    "events spoilt": (lambda path: path.write_text('data: {"q": [}\n\n'), "the event that ends in line 1 cannot be"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = MALFORMED[name]
    path = tmp_path / "dump"
    make(path)
    with pytest.raises(FileError, match=words) as caught:
        list(kb.read_rollouts(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnfinishedError) == any(word in name for word in ("cut off", "empty", "white"))
    assert not (tmp_path / "harm").exists()


def test_a_pickle_is_read_after_the_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("batch.pkl").open("wb") as file:
        pickle.dump({"q": torch.tensor([[-1.0]]), "p": torch.tensor([[-2.0]])}, file)
    with pytest.raises(FileError) as caught:
        kb.read_rollouts("batch.pkl")
    first, second = str(caught.value).split("`")[1::2]
    namespace: dict[str, Any] = {}
    exec(f"{first}\n{second}", namespace)
    assert torch.load("batch.pkl.safe.pt", weights_only=True)["q"][0].tolist() == [-1.0]


def test_bad_records_are_counted_named_and_left_out_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    path.write_text(LINES + "{\n" + LINES + '{"q": [-1.0], "p": [0, 1]}\n{"q": [-1')
    with pytest.raises(FileError, match=r"dump.jsonl, line 4: .*\(2 more cannot be read\); skip_bad=True"):
        list(kb.read_rollouts(path))
    found = kb.read_rollouts(path, skip_bad=True)
    assert len(found) == 6
    assert [text.split(": ")[0] for text in found.bad] == [f"{path}, line {n}" for n in (4, 8, 9)]
    path.write_text('{"q": 1}\n{"q": 1, "p": 2}\n')
    with pytest.raises(FileError, match=r"holds no rollout: none of its 2 records can be read, the first: .*line 1"):
        list(kb.read_rollouts(path, "toy", skip_bad=True))


def test_bounds_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kullback.rollouts.readers.containers import document, lines, tensors

    path = tmp_path / "dump"
    path.write_text(LINES)
    monkeypatch.setattr(lines, "MAX_LINE", 60)
    with pytest.raises(FileError, match="line 1 is longer than 0 MiB"):
        list(kb.read_rollouts(path))
    path.write_text(json.dumps(RECORDS, indent=1))
    monkeypatch.setattr(opening, "MAX_DOCUMENT", 60)
    with pytest.raises(FileError, match="one document of more than 0 MiB"):
        list(document.records(path))
    path.write_text("a: 1")
    monkeypatch.setattr(texts, "MAX_TEXT", 2)
    with pytest.raises(FileError, match="YAML of more than 0 MiB"):
        list(texts.records(path))
    save(path, np.zeros(9999))
    monkeypatch.setattr(tensors, "MAX_UNPACKED", 999)
    with pytest.raises(FileError, match="unpacks to 0 GiB"):
        list(kb.read_rollouts(path, "toy"))


def test_formats_can_be_named_and_doubts_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_text(LINES)
    assert len(kb.read_rollouts(path, "toy")) == 3
    with pytest.raises(InputError, match="format='joy' came, but there is a reader for parquet, part, bytes, marked"):
        kb.read_rollouts(path, "joy")
    with pytest.raises(FileError, match="cannot be read as stream: it is jsonl, and stream is sse"):
        kb.read_rollouts(path, "stream")
    from dataclasses import replace

    monkeypatch.setattr("kullback.rollouts.readers.recognition.formats", lambda: {**TOYS, "b": replace(TOY, name="b")})
    with pytest.raises(FileError, match="dump looks like toy and b: its first record has the names 'q', 'p', 'prompt'"):
        kb.read_rollouts(path)


# Folders ------------------------------------------------------------------------------------------------------


def line(number: float, **more: Any) -> str:
    return json.dumps({"q": [-number], "p": [-1.0], **more}) + "\n"


def test_a_folder_is_its_files_in_the_order_of_steps(tmp_path: Path) -> None:
    for step in (10, 2, 1):
        (tmp_path / f"train_step_{step}").mkdir()
        for rank in (11, 3):
            (tmp_path / f"train_step_{step}" / f"{rank}.jsonl").write_text(line(step + rank / 100))
    (tmp_path / "DONE").touch()
    (tmp_path / "args.json").write_text("{}")
    (tmp_path / "notes.md").write_text("# Notes\n- of: [")
    (tmp_path / "train_step_3.jsonl.tmp").write_text('{"q"')
    found = kb.read_rollouts(tmp_path)
    values = [round(-float(row.column("logprobs")[0]), 2) for row in found]
    assert values == [1.03, 1.11, 2.03, 2.11, 10.03, 10.11]
    assert [row.step for row in found] == [1, 1, 2, 2, 10, 10]
    assert found.left_out == ("notes.md",)
    assert [columns.first for columns in found.batches()] == list(range(6))
    assert (len(found), found.law["logprobs"], found.format, found[4].step) == (6, "raw", "toy", 10)


def test_only_what_is_marked_is_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"step_{step}").mkdir()
        (tmp_path / f"step_{step}" / "rank_0.jsonl").write_text(line(step, marked=True).replace('"q"', '"q"'))
    with pytest.raises(UnfinishedError, match="has no STABLE beside a file yet"):
        kb.read_rollouts(tmp_path, "marked")
    (tmp_path / "step_2" / "STABLE").touch()
    assert [row.step for row in kb.read_rollouts(tmp_path, "marked")] == [2]


def test_folders_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="it holds no file of records"):
        kb.read_rollouts(tmp_path)
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(FileError, match=r"it holds x\.json, in no format that is known"):
        kb.read_rollouts(tmp_path)
    (tmp_path / "a.jsonl").write_text(LINES)
    assert len(kb.read_rollouts(tmp_path)) == 3
    (tmp_path / "b.txt").write_text(f"data: {json.dumps(RECORDS[0])}\n\n")
    with pytest.raises(FileError, match=r"several formats, a\.jsonl \(toy\), b\.txt \(stream\): name the files of one"):
        kb.read_rollouts(tmp_path)
    assert len(kb.read_rollouts(tmp_path, "stream")) == 1
    (tmp_path / "c.jsonl").write_text('{"q": [-1')
    with pytest.raises(FileError, match=r"c\.jsonl"):
        kb.read_rollouts(tmp_path, "toy")


def test_the_folder_of_a_comparison_is_its_table(tmp_path: Path) -> None:
    rows = [kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0])]
    kb.write_rollouts(tmp_path / "rollouts.parquet", rows)
    (tmp_path / "estimate.json").write_text("{}")
    found = kb.read_rollouts(tmp_path)
    assert (list(found), found.format, found.left_out) == (rows, "kullback", ("estimate.json",))
