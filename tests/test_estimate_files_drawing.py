"""What an estimate says of how tokens were drawn: greedily, at another temperature, with lists, without prompts."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_records import document

import kullback as kb
from kullback.cli.estimation import _gate
from kullback.cli.gate import Limit
from kullback.rollouts import Metadata, Model

LAWS = (
    {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05},
    {"a": 0.4, "b": 0.35, "c": 0.05, "d": 0.2},
)
"""Of an engine and of another one, over four words."""

IDS = {"a": "11", "b": "12", "c": "13", "d": "14"}


def output(drawn: str, law: dict[str, float], words: str) -> dict[str, Any]:
    """What vLLM's engine returns, with the log-probs of some words at each place."""
    lists = [
        {IDS[w]: {"logprob": log(law[w]), "rank": 1, "decoded_token": w} for w in sorted({*words, one})}
        for one in drawn
    ]
    return {
        "request_id": "r0",
        "outputs": [
            {
                "index": 0,
                "text": drawn,
                "token_ids": [int(IDS[one]) for one in drawn],
                "logprobs": lists,
                "finish_reason": "length",
            }
        ],
    }


def estimate(folder: Path, drawn: list[str], words: str) -> kb.FilesEstimate:
    paths = []
    for name, law in zip("ab", LAWS, strict=True):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(output(one, law, words)) + "\n" for one in drawn))
        paths.append(path)
    found = kb.estimate_files(paths)
    assert isinstance(found, kb.FilesEstimate)
    return found


def screen(found: kb.FilesEstimate) -> str:
    return "\n".join(str(block) for block in found.document().blocks)


def test_lists_of_two_files_bound_the_kl(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = estimate(tmp_path, ["abc", "ddb"], "ab")
    assert found.bracket is not None
    q, p = LAWS
    coarse = []
    for one in "abcddb":
        both = sorted({"a", "b", one})
        rest = [1 - sum(law[w] for w in both) for law in LAWS]
        coarse.append(sum(q[w] * log(q[w] / p[w]) for w in both) + rest[0] * log(rest[0] / rest[1]))
    assert found.bracket.lower == pytest.approx(np.mean(coarse), rel=1e-6)
    assert found.bracket.lower < sum(q[w] * log(q[w] / p[w]) for w in q)
    assert "is at least" in screen(found)
    assert "KL(sampler‖policy) of the next token" in screen(found)
    said = json.loads(found.to_json())["bracket"]
    assert (said["positions"], said["lower"], said["unit"]) == (6, found.bracket.lower, "token")


def test_files_without_lists_bound_nothing(tmp_path: Path) -> None:
    for name, value in (("a", -0.5), ("b", -0.7)):
        kb.write_rollouts(tmp_path / f"{name}.parquet", [kb.Rollout(behavior_logprobs=[value], tokens=[1])] * 2)
    found = kb.estimate_files([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert isinstance(found, kb.FilesEstimate)
    assert found.bracket is None


def test_the_likeliest_word_everywhere_is_no_sample(tmp_path: Path) -> None:
    """0.5 a place: ten places are 1 in 1,024, which may be chance; eleven are not."""
    assert not estimate(tmp_path, ["aaaaaaaa", "a"], "ab").greedy
    assert not estimate(tmp_path, ["aaaaaaaaaaab"], "ab").greedy
    found = estimate(tmp_path, ["aaaaaaaaaa", "aaaa"], "ab")
    assert found.greedy
    [note] = [note for note in found.notes if "taken greedily" in note]
    assert f"{exp(14 * log(0.5)):.0e}" in note or "0.00006" in note
    assert "That is no KL" in screen(found)
    gate = _gate(found, Limit(nats=10.0, unit="token", these_prompts=False), None)
    assert gate.side == "undecided"


def test_tgi_names_the_seed_of_what_it_sampled(tmp_path: Path) -> None:
    record = document("tgi.json")
    for seed, greedy in ((None, True), (7, False)):
        record["details"]["seed"] = seed
        for name in "ab":
            (tmp_path / f"{name}.json").write_text(json.dumps(record))
        found = kb.estimate_files([tmp_path / "a.json", tmp_path / "b.json"])
        assert isinstance(found, kb.FilesEstimate)
        assert found.greedy is greedy
        assert any("at temperature 0" in note for note in found.notes) is greedy


@pytest.mark.parametrize(
    ("heat", "law", "said"), [(0.7, "raw", True), (1.0, "raw", False), (0.7, "temperature", False)]
)
def test_raw_log_probs_of_tokens_drawn_at_another_temperature(
    tmp_path: Path, heat: float, law: Any, said: bool
) -> None:
    rows = [kb.Rollout(behavior_logprobs=[-0.5, -1.0], logprobs=[-0.6, -0.9]) for _ in range(3)]
    kb.write_rollouts(
        tmp_path / "a.parquet",
        rows,
        Metadata(behavior=Model(sampling={"temperature": heat}), law={"behavior_logprobs": law, "logprobs": law}),
    )
    found = kb.estimate_files(tmp_path / "a.parquet")
    assert isinstance(found, kb.FilesEstimate)
    assert any("drawn at temperature 0.7, and the log-probs are raw" in note for note in found.notes) is said


@pytest.mark.parametrize(("known", "count"), [(True, 3), (False, 3), (False, 1)])
def test_rows_without_prompts_are_said_to_be_their_own(tmp_path: Path, known: bool, count: int) -> None:
    rows = [kb.Rollout(logprobs=[-0.5], ref_logprobs=[-0.6], prompt_id=i if known else None) for i in range(count)]
    kb.write_rollouts(tmp_path / "a.parquet", rows)
    found = kb.estimate_files(tmp_path / "a.parquet")
    assert isinstance(found, kb.FilesEstimate)
    assert any("prompts are not known" in note for note in found.notes) is (not known and count > 1)
