"""No name of a file ends in the operating system's own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import kullback as kb
from kullback.errors import KullbackError
from kullback.jobs.watching import watch
from kullback.paths import path_of

ONE = [kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0])]
DOORS: dict[str, Callable[[str], object]] = {
    "prompts": lambda name: kb.compare(prompts=name, samples=1, max_new_tokens=1),
    "text": lambda name: kb.compare_text("builtin:tuned", "builtin:base", name),
    "model": kb.models.load,
    "rollouts": kb.read_rollouts,
    "files": kb.estimate_files,
    "score": lambda name: kb.score_files(name, output="o.parquet", policy="builtin:tuned"),
    "scored": lambda name: kb.score_files("r.parquet", output=name, policy="builtin:tuned"),
    "written": lambda name: kb.write_rollouts(name, ONE),
    "output": lambda name: kb.compare(samples=1, max_new_tokens=1, output=name),
    "watch": lambda name: list(watch(name, follow=False)),
}
NAMES = {
    "a text": "Once upon a time there was a cat. " * 30,
    "a character 0": "a\0b.parquet",
    "half a character": "\ud800.parquet",
    "nothing": "",
    "a space": " ",
    "a long path": "a/" * 3000,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_no_file_has_is_a_sentence(door: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KullbackError) as raised:
        DOORS[door](NAMES[name])
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 300
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, 5, ["a.jsonl"]])
def test_what_is_no_name_is_said(name: object) -> None:
    with pytest.raises(KullbackError, match="is no name of a file: give a path"):
        path_of(name, "a file")  # type: ignore[arg-type]


def test_a_text_in_a_names_place_is_told_its_own() -> None:
    for name in ("Tell me a story.", "Tell me a story. " * 40):
        with pytest.raises(KullbackError, match="prompts themselves are given in a list"):
            kb.compare(prompts=name)
        with pytest.raises(KullbackError, match="texts themselves are given in a list"):
            kb.compare_text("builtin:tuned", "builtin:base", name)
