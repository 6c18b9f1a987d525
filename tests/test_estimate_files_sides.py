"""Two dumps side by side, many groups, and what machines read of them."""

from __future__ import annotations

from math import exp, sqrt
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.jobs.files.ledger import Group
from kullback.jobs.files.multiplicity import standing


def k3(ratio: float) -> float:
    return exp(-ratio) - 1 + ratio


def dump(folder: Path, name: str, ratios: dict[int | str | None, list[float]]) -> str:
    """Rows of one token each, by prompt."""
    rows = [
        kb.Rollout(logprobs=[-1.0], ref_logprobs=[-1.0 - ratio], prompt_id=prompt, tokens=[5])
        for prompt, own in ratios.items()
        for ratio in own
    ]
    kb.write_rollouts(folder / f"{name}.parquet", rows)
    return str(folder / f"{name}.parquet")


def sides(first: str, second: str) -> kb.SideBySide:
    found = kb.estimate_files([first, second])
    assert isinstance(found, kb.SideBySide)
    return found


def test_dumps_are_paired_by_prompt(tmp_path: Path) -> None:
    a = dump(tmp_path, "a", {1: [0.1, 0.2], 2: [0.5, 0.4], 3: [0.9, 1.0], 9: [0.3]})
    b = dump(tmp_path, "b", {1: [0.2, 0.3], 2: [0.6, 0.4], 3: [1.1, 1.0], 8: [0.7]})
    found = sides(a, b)
    one = found.differences[0]
    first = np.array([[0.1, 0.2], [0.5, 0.4], [0.9, 1.0]])
    second = np.array([[0.2, 0.3], [0.6, 0.4], [1.1, 1.0]])
    apart = np.vectorize(k3)(second).mean(axis=1) - np.vectorize(k3)(first).mean(axis=1)
    assert one.value == pytest.approx(apart.mean(), rel=1e-5)
    assert one.stderr == pytest.approx(np.std(apart, ddof=1) / sqrt(3), rel=1e-5)
    assert one.low < one.value < one.high
    assert (one.sequences, one.clusters) == ((6, 6), 3)
    assert found.done == (
        "Paired by prompt: the difference is over the 3 prompts of both; 1 of a.parquet alone and 1 of b.parquet "
        "alone are left out of it."
    )


def test_dumps_without_a_prompt_in_common_stand_unpaired(tmp_path: Path) -> None:
    a = dump(tmp_path, "a", {1: [0.1, 0.2], 2: [0.5, 0.4]})
    b = dump(tmp_path, "b", {3: [0.2, 0.3], 4: [0.6, 0.4]})
    one, *_ = sides(a, b).differences
    errors = [
        np.std(np.vectorize(k3)(x).mean(axis=1), ddof=1) / sqrt(2)
        for x in ([[0.1, 0.2], [0.5, 0.4]], [[0.2, 0.3], [0.6, 0.4]])
    ]
    assert one.stderr == pytest.approx(sqrt(errors[0] ** 2 + errors[1] ** 2), rel=1e-5)
    assert "share no prompt" in sides(a, b).done


def test_the_same_tokens_are_paired_by_row_and_others_are_not(tmp_path: Path) -> None:
    a = dump(tmp_path, "a", {None: [0.1, 0.2, 0.5]})
    b = dump(tmp_path, "b", {None: [0.2, 0.2, 0.7]})
    found = sides(a, b)
    assert found.done == "Paired by row: both hold the same tokens, row by row."
    apart = [k3(y) - k3(x) for x, y in zip([0.1, 0.2, 0.5], [0.2, 0.2, 0.7], strict=True)]
    assert found.differences[0].stderr == pytest.approx(np.std(apart, ddof=1) / sqrt(3), rel=1e-5)
    other = [kb.Rollout(logprobs=[-1.0], ref_logprobs=[-1.1], tokens=[6])] * 3
    kb.write_rollouts(tmp_path / "c.parquet", other)
    assert "not paired" in sides(a, str(tmp_path / "c.parquet")).done


def test_a_group_stands_apart_by_more_than_their_number_explains() -> None:
    rng = np.random.default_rng(1)
    spread = 0.1 * rng.normal(size=(40, 20))
    groups = [Group(n, estimate(0.5 + row), 20.0) for n, row in enumerate(spread)]
    whole = estimate(0.5 + spread.ravel())
    separate = sum(not low <= whole.value <= high for low, high in (group.found.interval() for group in groups))
    assert separate  # by chance alone
    assert standing(groups, whole).apart == ()
    groups[7] = Group(7, estimate(0.7 + spread[7]), 20.0)
    found = standing(groups, estimate(np.concatenate([0.5 + spread.ravel(), 0.2 + 0 * spread[7]])))
    assert found.apart == (7,)
    assert found.judged == 40


def estimate(values: np.ndarray) -> kb.Estimate:
    column = values[:, None]
    return kb.estimate(-column - 5, np.full_like(column, -5.0), estimator=kb.K1)


def test_json_has_what_the_design_promises(tmp_path: Path) -> None:
    path = dump(tmp_path, "a", {1: [0.1, 0.2], 2: [0.5, 0.4]})
    alone = kb.estimate_files(path).to_dict()
    assert alone["schema"] == 1
    names = {
        "estimator",
        "level",
        "unit",
        "value",
        "stderr",
        "low",
        "high",
        "stderr_given_prompts",
        "low_given_prompts",
        "high_given_prompts",
        "n",
    }
    assert all(names <= set(record) for record in alone["estimates"])
    first = alone["estimates"][0]
    assert (first["estimator"], first["level"], first["unit"], first["n"]) == ("k3", "token", "sequence", 4)
    both = sides(path, dump(tmp_path, "b", {1: [0.2], 2: [0.6]})).to_dict()
    assert {record["dump"] for record in both["estimates"]} == {"first", "second"}
    assert set(both["differences"][0]) >= {"kl", "value", "stderr", "low", "high", "first", "second", "unit"}


@pytest.mark.parametrize("short", [0, 1])
def test_rows_are_not_paired_by_number_where_some_do_not_count(tmp_path: Path, short: int) -> None:
    paths = []
    for name in range(2):
        out = (1, 3)[name] if short else (None, 3)[name]
        rows = [
            kb.Rollout(logprobs=[-1.0], ref_logprobs=[-1.1 - ratio], tokens=[row], mask=[row != out])
            for row, ratio in enumerate((0.1, 0.2, 0.5, 0.9))
        ]
        kb.write_rollouts(tmp_path / f"{name}.parquet", rows)
        paths.append(str(tmp_path / f"{name}.parquet"))
    for one, other in (paths, paths[::-1]):
        assert "not paired, for rows were left out" in sides(one, other).done


def test_a_prompt_without_one_of_the_laws_is_left_out_of_that_difference(tmp_path: Path) -> None:
    for name, lacks in (("a", None), ("b", 0)):
        rows = [
            kb.Rollout(
                logprobs=[-1.0],
                ref_logprobs=[-1.2 - prompt / 10],
                behavior_logprobs=None if prompt == lacks else [-1.1 - prompt / 10],
                prompt_id=prompt,
            )
            for prompt in range(4)
        ]
        kb.write_rollouts(tmp_path / f"{name}.parquet", rows)
    a, b = (str(tmp_path / f"{name}.parquet") for name in "ab")
    for one, other in ((a, b), (b, a)):
        found = {each.question: each for each in sides(one, other).differences}
        assert found["sampler_policy"].clusters == 3
        assert found["sampler_policy"].value == 0
