"""The page of two dumps: what differs most between them, read again and shown beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.documents import Note, Passages
from kullback.report import html


def dump(path: Path, shift: float, prompts: list[int], *, seed: int = 0, samples: int = 3, length: int = 4) -> Path:
    """Rows whose second law differs from the first by the prompt's number, and by what is asked for."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in prompts:
        for sample in range(samples):
            q = -rng.exponential(size=length)
            p = q - shift * prompt / 10 - 0.01 * sample
            tokens = list(range(10 * prompt, 10 * prompt + length))
            rows.append(kb.Rollout(logprobs=q, ref_logprobs=p, prompt_id=prompt, tokens=tokens, text=f"p{prompt}"))
    kb.write_rollouts(path, rows)
    return path


def sides(*paths: Path, **asked: object) -> kb.SideBySide:
    found = kb.estimate_files([*paths], sample=True, **asked)  # type: ignore[arg-type]
    assert isinstance(found, kb.SideBySide)
    return found


def passages_of(found: kb.SideBySide) -> Passages:
    [passages] = [block for block in found.page().blocks if isinstance(block, Passages)]
    return passages


def k3(path: Path, prompt: int) -> float:
    own = [row for row in kb.read_rollouts(path) if row.prompt_id == prompt]
    ratios = [np.asarray(row.column("logprobs") - row.column("ref_logprobs"), float) for row in own]
    return float(np.mean([np.sum(np.expm1(-ratio) + ratio) for ratio in ratios]))


def test_prompts_of_both_stand_beside_each_other_by_what_differs_most(tmp_path: Path) -> None:
    a = dump(tmp_path / "a.parquet", 1.0, [1, 2, 3, 7])
    b = dump(tmp_path / "b.parquet", 2.0, [9, 3, 2, 1], seed=1, samples=2)
    passages = passages_of(sides(a, b))
    assert [group.text for group in passages.groups] == ["prompt 3", "prompt 2", "prompt 1"]
    for group, prompt in zip(passages.groups, (3, 2, 1), strict=True):
        assert group.value == pytest.approx(k3(b, prompt) - k3(a, prompt), rel=1e-4)
        assert group.count == 5
    assert "Of 3 prompts that both have all are here" in passages.note
    own = [one.name for one in passages.passages if one.group == 0]
    assert [name.split(",")[0] for name in own] == ["a.parquet"] * 3 + ["b.parquet"] * 2
    at = [channel.name for channel in passages.channels].index("log-ratio")
    third = list(kb.read_rollouts(a))[7]
    shown = next(one for one in passages.passages if one.name.startswith("a.parquet, row 7"))
    np.testing.assert_allclose(shown.values[at], third.column("logprobs") - third.column("ref_logprobs"), rtol=1e-6)
    assert shown.tokens[0] == "[30]"
    assert "prompt 3" in html.render(sides(a, b).page())


@pytest.mark.parametrize("known", [True, False])
def test_rows_of_the_same_tokens_are_shown_once_with_both_ratios(tmp_path: Path, known: bool) -> None:
    a, b = dump(tmp_path / "a.parquet", 1.0, [1, 2, 3]), dump(tmp_path / "b.parquet", 1.5, [1, 2, 3], seed=1)
    if not known:
        for path in (a, b):
            rows = [
                kb.Rollout(logprobs=r.logprobs, ref_logprobs=r.ref_logprobs, tokens=r.tokens)
                for r in kb.read_rollouts(path)
            ]
            kb.write_rollouts(path, rows)
    passages = passages_of(sides(a, b))
    assert len(passages.passages) == len(passages.groups) == 9
    assert [group.value for group in passages.groups] == sorted((g.value for g in passages.groups), reverse=True)
    names = [channel.name for channel in passages.channels]
    assert names == ["log-ratio, second − first", "log-ratio, a.parquet", "log-ratio, b.parquet"]
    number = int(passages.passages[0].name.removeprefix("row ").split(":")[0])
    ratios = [
        np.asarray(row.column("logprobs") - row.column("ref_logprobs"), float)
        for row in (list(kb.read_rollouts(path))[number] for path in (a, b))
    ]
    np.testing.assert_allclose(passages.passages[0].values, [ratios[1] - ratios[0], *ratios], atol=1e-6)


def test_of_many_prompts_those_are_shown_that_differ_most(tmp_path: Path) -> None:
    prompts = list(range(1, 321))
    a = dump(tmp_path / "a.parquet", 0.01, prompts, samples=2)
    b = dump(tmp_path / "b.parquet", 0.02, prompts[::-1], seed=1, samples=1)
    passages = passages_of(sides(a, b, where="prompt != 320"))
    assert [group.text for group in passages.groups[:2]] == ["prompt 319", "prompt 318"]
    assert len(passages.groups) == 250
    assert "Of 319 prompts that both have 250 are here" in passages.note
    assert len(passages.passages) == 500


def test_long_rows_are_shown_as_far_as_there_is_room(tmp_path: Path) -> None:
    a = dump(tmp_path / "a.parquet", 0.01, [1, 2, 3], samples=9, length=2000)
    b = dump(tmp_path / "b.parquet", 0.02, [3, 2, 1], seed=1, samples=9, length=2000)
    passages = passages_of(sides(a, b))
    assert len(passages.groups) == 3
    assert sum(len(one.tokens) for one in passages.passages) == 60_000


def test_what_is_not_paired_is_not_shown_and_the_page_says_why(tmp_path: Path) -> None:
    a, b = dump(tmp_path / "a.parquet", 1.0, [1, 2]), dump(tmp_path / "b.parquet", 1.5, [3, 4])
    last = sides(a, b).page().blocks[-1]
    assert isinstance(last, Note)
    assert "nothing in them is paired: a report of each dump on its own shows its rows" in last.text
    assert kb.estimate_files([a, b]).pairs is None  # type: ignore[union-attr]
