"""Prompts and texts as they are read: what comes out of every shape, and how a model takes it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from odd_lines import BAD, GOOD, written

import kullback as kb
from kullback.errors import FileError, InputError, MissingPackageError
from kullback.jobs.excerpts import excerpts
from kullback.jobs.prompts import asked_prompts, asked_texts, check_prompts, fitted, read_prompts, read_texts
from kullback.jobs.reading.columns import Turn
from kullback.jobs.reading.hub import is_dataset

TWO = ["a dog", "the cat"]
CHAT = [{"role": "user", "content": "a dog"}]

READ: dict[str, list[Any]] = {
    **dict.fromkeys(GOOD, TWO),
    "separator.txt": ["a dog\u2028ran", "the cat"],
    "separator.jsonl": ["a dog\u2028ran", "the\u0085cat"],
    "rows.csv": ["a dog, and\nthe cat", "the cat"],
    "question.jsonl": ["why?", "how?"],
    "problem.jsonl": ["1 + 1?", "2 + 2?"],
    "alpaca.json": ["Say\n\nit", "Go"],
    "sharegpt.json": [[{"role": "user", "content": "why?"}]] * 2,
    "parts.jsonl": [CHAT] * 2,
    "packed.csv": [CHAT] * 2,
    "bidi.txt": ["a \u202edog\x1b]52;c;aGk=\x07", "the \x9b2Jcat"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("prompts"))


@pytest.mark.parametrize("name", GOOD)
def test_every_shape_holds_its_two_prompts(folder: Path, name: str) -> None:
    assert read_prompts(folder / name) == READ[name]


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_is_one_sentence(folder: Path, name: str) -> None:
    with pytest.raises((FileError, InputError)) as caught:
        read_prompts(folder / name)
    said = str(caught.value)
    assert all(word in said for word in BAD[name][1])
    assert said.count(f"/{name}") <= 2  # once more in a command to copy
    assert "\n" not in said


def test_columns_of_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "p.parquet"
    chats = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    pq.write_table(pa.table({"messages": chats, "image": [b"x"]}), path)
    assert read_prompts(path) == [[{"role": "user", "content": "a"}]]
    with pytest.raises(InputError, match=r"row 1 of .*, column image, holds bytes"):
        read_prompts(path, "image")
    pq.write_table(pa.table({"x": [1], "y": [2]}), path)
    with pytest.raises(InputError, match="has the columns x, y"):
        read_prompts(path)


def test_lists_of_rows_are_read_as_files_are() -> None:
    assert check_prompts([{"prompt": "a"}, "b", CHAT]) == ["a", "b", CHAT]
    assert check_prompts({"question": q} for q in "ab") == ["a", "b"]
    with pytest.raises(InputError, match="prompt 1 of prompts is a whole number"):
        check_prompts([5])
    with pytest.raises(InputError, match="an object with the keys train"):
        check_prompts({"train": []})
    with pytest.raises(InputError, match="is one chat message"):
        check_prompts(CHAT)


def test_texts_are_whole_and_blank_documents_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.raw").write_text("one\n\ntwo\n")
    assert read_texts(tmp_path / "t.raw") == ["one\n\ntwo\n"]
    (tmp_path / "t.jsonl").write_text('{"text": "one"}\n{"text": ""}\n{"text": "two"}\n')
    assert asked_texts(tmp_path / "t.jsonl", None) == (["one", "two"], ("1 empty documents were left out",))


def test_built_in_prompts_are_said_for_models_of_ones_own() -> None:
    assert asked_prompts(None, None, models=("builtin:tuned", "builtin:base"))[1] == ()
    found, told = asked_prompts(None, None, models=("./mine", "builtin:base"))
    assert len(found) == 20
    assert told == ("no prompts came: the 20 built-in beginnings of stories were used; pass prompts of your own",)


class Reader:
    """A model that reads, with a chat template or without."""

    name = "reader"

    def __init__(self, template: bool) -> None:
        self.template = template

    def encode(self, prompt: Any) -> list[int]:
        if not isinstance(prompt, str) and not self.template:
            raise kb.errors.ModelError("no chat template")
        return [1]


def test_turns_go_through_the_template_of_a_model_that_has_one() -> None:
    asked = ["plain", Turn("why?"), CHAT, [{"role": "system", "content": "s"}, *CHAT]]
    chats, told = fitted(asked, Reader(template=True))  # type: ignore[arg-type]
    assert chats == ["plain", [{"role": "user", "content": "why?"}], CHAT, asked[3]]
    assert told == ("3 of 4 prompts went through the chat template of reader",)
    texts, told = fitted(asked, Reader(template=False))  # type: ignore[arg-type]
    assert texts == ["plain", "why?", "a dog", asked[3]]
    assert all(type(text) is str for text in texts[:3])
    assert "reader has no chat template" in told[0]
    assert fitted(["plain"], Reader(template=False)) == (["plain"], ())  # type: ignore[arg-type]


# Data sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("openai/gsm8k", True),
        ("openai/gsm8k:test", True),
        ("openai/gsm8k:main:test[:100]", True),
        ("prompts.jsonl", False),
        ("folder/prompts.jsonl", False),
        ("folder/prompts.jsonl.gz", False),
        ("a/b/c", False),
        ("", False),
    ],
)
def test_what_may_be_a_data_set(source: str, wanted: bool) -> None:
    assert is_dataset(source) is wanted


class Splits(dict[str, list[dict[str, str]]]):
    """As `datasets.DatasetDict`."""


def fake(monkeypatch: pytest.MonkeyPatch, held: Any) -> list[tuple[Any, ...]]:
    """A library that gives what it is told to, and notes what it was asked for."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, split: str | None) -> Any:
        asked.append((name, config, split))
        if isinstance(held, Exception):
            raise held
        return held if split is None else held[split.partition("[")[0]]

    library = ModuleType("datasets")
    library.__dict__.update(load_dataset=load_dataset, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return asked


def test_a_data_set_is_read_by_id_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake(monkeypatch, Splits(train=[{"question": "a"}], test=[{"question": "b"}, {"question": "c"}]))
    found, told = asked_prompts("openai/gsm8k:main:test[:2]", None)
    assert found == ["b", "c"]
    assert asked == [("openai/gsm8k", "main", "test[:2]")]
    assert told[0] == "2 rows of openai/gsm8k, split test[:2]"
    with pytest.raises(FileError, match=r"has the splits train, test: name one, as openai/gsm8k:train"):
        read_prompts("openai/gsm8k")
    fake(monkeypatch, Splits(train=[{"answer": "a"}]))
    with pytest.raises(InputError, match="row 1 of openai/gsm8k has the columns answer"):
        read_prompts("openai/gsm8k")
    fake(monkeypatch, ValueError("no such\nhub"))
    with pytest.raises(FileError, match=r"cannot be loaded as a data set \(no such hub\)"):
        read_prompts("openai/gsm8k")


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileError, match=r"no such file\); if it is the id of a data set.*\[datasets\]"):
        read_prompts("openai/gsm8k")
    with pytest.raises(MissingPackageError, match=r"datasets is needed.*\[datasets\]"):
        read_prompts(tmp_path)


def test_a_real_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]).save_to_disk(tmp_path / "saved")
    assert read_prompts(tmp_path / "saved") == ["a", "b"]


# What differs ---------------------------------------------------------------------------------------------------


def test_what_prompts_share_is_cut_off() -> None:
    head, tail = "system You are a helpful assistant. user", "Answer within a box. assistant"
    texts = {n: f"{head} {question} {tail}" for n, question in enumerate(["why is it", "how was it", "who is he"])}
    assert excerpts(texts, [2, 0], 40) == {2: "…who is he…", 0: "…why is it…"}
    assert excerpts({0: "a dog", 1: "a cat"}, [0, 1], 40) == {0: "a dog", 1: "a cat"}
    assert excerpts({0: "x" * 60}, [0], 20) == {0: "x" * 19 + "…"}
    long = {n: "y" * 10 + " " + "x" * 60 + str(n) for n in range(2)}
    assert len(set(excerpts(long, [0, 1], 20).values())) == 2
    assert excerpts({0: "same", 1: "same"}, [0, 1], 20) == {0: "same (prompt 1)", 1: "same (prompt 2)"}
