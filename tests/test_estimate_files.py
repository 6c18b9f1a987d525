"""Estimates from files, each number against the same one computed by hand, token by token."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from math import exp, inf, isnan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kullback as kb
from kullback.errors import InputError
from kullback.jobs.files.conditions import condition
from kullback.jobs.files.tally import answers

Q = [[-0.5, -1.0], [-0.7, -0.2, -0.4], [-0.1, -2.0], [-0.3], [-0.9, -0.6], [-0.2, -0.8, -1.1]]
P = [[-0.7, -1.5], [-0.6, -0.9, -0.4], [-0.3, -1.6], [-0.4], [-0.5, -0.7], [-0.2, -1.0, -0.9]]
MU = [[-0.6, -1.0], [-0.7, -0.3, -0.4], [-0.1, -1.9], [-0.2], [-0.9, -0.7], [-0.3, -0.8, -1.1]]
STEPS = [1, 1, 1, 2, 2, 2]
TASKS = ["maths", "code", "maths", "code", "maths", "code"]


def rows(*, sampler: bool = False, prompts: bool = False, **same: object) -> list[kb.Rollout]:
    return [
        kb.Rollout(
            logprobs=q,
            ref_logprobs=p,
            behavior_logprobs=mu if sampler else None,
            prompt_id=i // 2 if prompts else None,
            step=STEPS[i],
            tokens=[7] * len(q),
            **same,  # type: ignore[arg-type]
        )
        for i, (q, p, mu) in enumerate(zip(Q, P, MU, strict=True))
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return written(tmp_path, "rollouts", rows())


def written(folder: Path, name: str, found: list[kb.Rollout], metadata: kb.rollouts.Metadata | None = None) -> str:
    kb.write_rollouts(folder / f"{name}.parquet", found, metadata)
    return str(folder / f"{name}.parquet")


def k3(q: float, p: float) -> float:
    return exp(p - q) - 1 + q - p


def k3_sums(first: list[list[float]], second: list[list[float]]) -> list[float]:
    return [sum(k3(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(first, second, strict=True)]


def one(found: object, question: str, unit: str) -> kb.Estimate:
    assert isinstance(found, kb.FilesEstimate)
    answer = next(answer for answer in found.answers if answer.question.name == question)
    return answer.estimates[unit]  # type: ignore[index]


def test_on_policy_is_a_mean_over_rows_or_tokens(path: str) -> None:
    found = kb.estimate_files(path)
    assert isinstance(found, kb.FilesEstimate)
    sums = k3_sums(Q, P)
    sequence, token = (one(found, "policy_reference", unit) for unit in ("sequence", "token"))
    assert sequence.value == pytest.approx(np.mean(sums), rel=1e-6)
    assert sequence.stderr == pytest.approx(np.std(sums, ddof=1) / sqrt(6), rel=1e-6)
    assert token.value == pytest.approx(sum(sums) / 13, rel=1e-6)
    assert (found.sequences, found.tokens, found.prompts) == (6, 13, None)
    chi2 = found.answers[0].chi2
    assert chi2 is not None
    pairs = [(q, p) for x, y in zip(Q, P, strict=True) for q, p in zip(x, y, strict=True)]
    assert chi2.value == pytest.approx(np.mean([(exp(p - q) - 1) ** 2 for q, p in pairs]), rel=1e-6)


def weighted(first: list[list[float]], second: list[list[float]], drew: list[list[float]]) -> tuple[float, float]:
    """Nats a sequence and a token, token t weighted by Π first/drew up to it."""
    total = weights = 0.0
    for x, y, z in zip(first, second, drew, strict=True):
        log_weight = 0.0
        for a, b, c in zip(x, y, z, strict=True):
            log_weight += a - c
            total += exp(log_weight) * k3(a, b)
            weights += exp(log_weight)
    return total / len(first), total / weights


@pytest.mark.parametrize(
    ("question", "first", "second", "drew"),
    [
        ("policy_reference", Q, P, MU),
        ("sampler_policy", MU, Q, MU),
        ("sampler_reference", MU, P, MU),
        ("reference_policy", P, Q, MU),
        ("policy_sampler", Q, MU, MU),
    ],
)
def test_three_laws_answer_five_questions(
    tmp_path: Path, question: str, first: list[list[float]], second: list[list[float]], drew: list[list[float]]
) -> None:
    found = kb.estimate_files(written(tmp_path, "three", rows(sampler=True)))
    sequence, token = weighted(first, second, drew)
    assert one(found, question, "sequence").value == pytest.approx(sequence, rel=1e-5)
    assert one(found, question, "token").value == pytest.approx(token, rel=1e-5)
    weights = [exp(sum(x) - sum(z)) for x, z in zip(first, drew, strict=True)]
    ess = sum(weights) ** 2 / sum(w * w for w in weights)
    assert one(found, question, "token").ess == pytest.approx(ess, rel=1e-5)


def test_the_other_direction_is_reweighted(path: str) -> None:
    found = kb.estimate_files(path)
    assert isinstance(found, kb.FilesEstimate)
    assert [(a.question.name, a.drawn) for a in found.answers] == [
        ("policy_reference", True),
        ("reference_policy", False),
    ]
    assert one(found, "reference_policy", "token").value == pytest.approx(weighted(P, Q, Q)[1], rel=1e-5)


def test_rows_of_the_reference_answer_the_other_direction(tmp_path: Path) -> None:
    found = kb.estimate_files(written(tmp_path, "reference", rows(sampled_from="reference")))
    assert isinstance(found, kb.FilesEstimate)
    assert {a.question.name: a.drawn for a in found.answers} == {"policy_reference": False, "reference_policy": True}
    assert one(found, "reference_policy", "sequence").value == pytest.approx(np.mean(k3_sums(P, Q)), rel=1e-6)
    both = kb.estimate_files(written(tmp_path, "both", [*rows(), *rows(sampled_from="reference")]))
    assert isinstance(both, kb.FilesEstimate)
    assert all(answer.drawn for answer in both.answers)
    assert one(both, "policy_reference", "sequence").value == pytest.approx(np.mean(k3_sums(Q, P)), rel=1e-6)


def test_sampler_and_reference_alone_have_their_own_question(tmp_path: Path) -> None:
    found = kb.estimate_files(
        written(tmp_path, "two", [kb.Rollout(behavior_logprobs=m, ref_logprobs=p) for m, p in zip(MU, P, strict=True)])
    )
    assert isinstance(found, kb.FilesEstimate)
    assert [answer.question.name for answer in found.answers] == ["sampler_reference", "reference_sampler"]


def test_masked_tokens_do_not_count(tmp_path: Path) -> None:
    masked = [kb.Rollout(logprobs=[-0.5, -9.0], ref_logprobs=[-0.7, -0.1], mask=[True, False])] * 2
    found = kb.estimate_files(written(tmp_path, "masked", masked))
    assert one(found, "policy_reference", "token").value == pytest.approx(k3(-0.5, -0.7), rel=1e-6)


def test_by_step_and_by_what_the_file_says(path: str) -> None:
    found = kb.estimate_files(path, by=["length", "position"], unit="token")
    assert isinstance(found, kb.FilesEstimate)
    tables = {grouping.name: grouping for grouping in found.groupings}
    sums = k3_sums(Q, P)
    steps = {group.value: group for group in tables["step"].groups}
    assert steps[1].found.value == pytest.approx(sum(sums[:3]) / 7, rel=1e-6)
    assert steps[2].found.value == pytest.approx(sum(sums[3:]) / 6, rel=1e-6)
    assert steps[1].found.n == 3
    lengths = {group.value: group.found.value for group in tables["length"].groups}
    assert lengths[1] == pytest.approx(sums[3], rel=1e-6)
    places = {group.value: group.found.value for group in tables["position"].groups}
    assert set(places) == {"1", "2", "3–4"}
    assert places["1"] == pytest.approx(np.mean([k3(q[0], p[0]) for q, p in zip(Q, P, strict=True)]), rel=1e-6)
    assert places["3–4"] == pytest.approx((k3(Q[1][2], P[1][2]) + k3(Q[5][2], P[5][2])) / 2, rel=1e-6)
    document = found.document()
    assert [chart.name for chart in document.charts] == ["policy_reference_by_step"]


def test_groups_of_reweighted_rows_keep_the_weights_of_what_came_before(tmp_path: Path) -> None:
    found = kb.estimate_files(written(tmp_path, "three", rows(sampler=True)), by="position", unit="token")
    assert isinstance(found, kb.FilesEstimate)
    table = next(t for t in found.groupings if (t.name, t.question) == ("position", "policy_reference"))
    second = [(exp(q[0] - m[0] + q[1] - m[1]), k3(q[1], p[1])) for q, p, m in zip(Q, P, MU, strict=True) if len(q) > 1]
    expected = sum(w * k for w, k in second) / sum(w for w, _ in second)
    assert {group.value: group.found.value for group in table.groups}["2"] == pytest.approx(expected, rel=1e-5)


def test_where_chooses_rows(path: str) -> None:
    found = kb.estimate_files(path, where="step = 2 and length > 1")
    assert one(found, "policy_reference", "sequence").value == pytest.approx(np.mean(k3_sums(Q, P)[4:]), rel=1e-6)
    assert isinstance(found, kb.FilesEstimate)
    assert "--where left out 4 rows" in found.notes


def test_exact_token_kls_are_averaged_where_they_are_known(tmp_path: Path) -> None:
    exact = [
        kb.Rollout(logprobs=q, ref_logprobs=p, token_kl=[0.25] * len(q), prompt_id=i)
        for i, (q, p) in enumerate(zip(Q, P, strict=True))
    ]
    found = one(kb.estimate_files(written(tmp_path, "exact", exact)), "policy_reference", "token")
    assert (found.estimator, found.value) == ("rao_blackwell", pytest.approx(0.25))


def test_several_files_are_one_dump_and_two_can_be(tmp_path: Path) -> None:
    names = [written(tmp_path, name, rows()[start : start + 2]) for name, start in (("a", 0), ("b", 2), ("c", 4))]
    whole = kb.estimate_files(written(tmp_path, "whole", rows()))
    for found, reference in (
        (kb.estimate_files(names), whole),
        (kb.estimate_files(names[:2], pool=True), kb.estimate_files(written(tmp_path, "four", rows()[:4]))),
    ):
        mine, other = (one(each, "policy_reference", "token") for each in (found, reference))
        assert (mine.value, mine.stderr) == (pytest.approx(other.value), pytest.approx(other.stderr))
    assert isinstance(kb.estimate_files(names), kb.FilesEstimate)


def test_both_errors_with_prompts(tmp_path: Path) -> None:
    found = one(kb.estimate_files(written(tmp_path, "p", rows(prompts=True))), "policy_reference", "sequence")
    sums = np.array(k3_sums(Q, P)).reshape(3, 2)
    assert found.clusters == 3
    assert found.stderr == pytest.approx(np.std(sums.mean(axis=1), ddof=1) / sqrt(3), rel=1e-5)
    assert found.given_prompts is not None
    within = 2 * ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum()
    assert found.given_prompts.stderr == pytest.approx(sqrt(within) / 6, rel=1e-5)


def test_influential_rows_come_with_their_place(tmp_path: Path) -> None:
    odd = [*rows(), kb.Rollout(logprobs=[-0.1, -0.1], ref_logprobs=[-0.1, -4.0], tokens=[5, 6], step=9)]
    found = kb.estimate_files(written(tmp_path, "odd", odd))
    assert isinstance(found, kb.FilesEstimate)
    first = found.influential[0]
    assert (first.row, first.token) == (6, 1)
    assert first.found is not None
    assert (first.found.row, first.found.step, first.found.text) == (6, 9, "token ids 5 6")


def test_a_row_that_cannot_be_right_is_named_or_left_out(tmp_path: Path) -> None:
    bad = [*rows()[:2], kb.Rollout(logprobs=[-0.5, 3.0], ref_logprobs=[-0.5, -0.4]), *rows()[2:]]
    path = written(tmp_path, "bad", bad)
    with pytest.raises(kb.errors.FileError, match=r"bad.parquet, row 2: logprobs\[1\] is 3: .*--skip-bad"):
        kb.estimate_files(path)
    found = kb.estimate_files(path, skip_bad=True)
    assert isinstance(found, kb.FilesEstimate)
    assert one(found, "policy_reference", "sequence").value == pytest.approx(np.mean(k3_sums(Q, P)), rel=1e-6)
    assert any("--skip-bad left out 1 rows" in note and "row 2" in note for note in found.notes)


def test_weights_beyond_all_bounds_cost_one_question_and_no_other(tmp_path: Path) -> None:
    far = [kb.Rollout(logprobs=[-1.0] * 300, ref_logprobs=[-1.1] * 300, behavior_logprobs=[-2.0] * 300)] * 2
    found = kb.estimate_files(written(tmp_path, "far", far))
    assert isinstance(found, kb.FilesEstimate)
    refused = {answer.question.name for answer in found.answers if answer.refused}
    assert refused == {"policy_reference", "reference_policy", "policy_sampler"}
    assert any("KL(policy‖reference) cannot be given by reweighting" in note for note in found.notes)
    assert found.main is not None
    assert found.main.question.name == "sampler_policy"


def test_few_effective_sequences_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = [
        kb.Rollout(
            logprobs=-1 - rng.random(40), ref_logprobs=-1 - rng.random(40), behavior_logprobs=-1 - rng.random(40)
        )
        for _ in range(60)
    ]
    found = kb.estimate_files(written(tmp_path, "many", many))
    assert isinstance(found, kb.FilesEstimate)
    assert any("KL(policy‖reference) is reweighted" in note and "of 60" in note for note in found.notes)


def test_laws_of_two_kinds_and_the_floor_of_rounding_are_said(tmp_path: Path) -> None:
    laws = kb.rollouts.Metadata(
        law={"logprobs": "temperature", "ref_logprobs": "raw"}, quantum={"logprobs": 2.0, "ref_logprobs": 2.0}
    )
    found = kb.estimate_files(written(tmp_path, "laws", rows(), laws))
    assert isinstance(found, kb.FilesEstimate)
    assert any("laws of two kinds" in note for note in found.notes)
    assert any("may be rounding" in note and "0.33" in note for note in found.notes)


def test_the_estimates_of_a_step_are_a_function_of_its_rows(path: str) -> None:
    found = answers(rows()[:3], units=("token",))
    assert found[0].main is not None
    assert found[0].main.value == pytest.approx(sum(k3_sums(Q, P)[:3]) / 7)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("step > 1", True),
        ("step>=2 and reward<1", True),
        ("1 < step <= 2", True),
        ("not (step = 2)", False),
        ("step = 1 or finish = end", True),
        ("step = 1 or finish = end and reward > 1", False),
        ("finish != 'end'", False),
        ("`odd name` = 7", True),
        ("task.name = 'a b'", True),
        ("missing > 1", False),
        ("id = 7", True),
        ("id != 8", True),
        ("flag = true", True),
        ("reward = 5e-1", True),
        ("reward > -1", True),
    ],
)
def test_a_condition(text: str, holds: bool) -> None:
    row = {"step": 2, "reward": 0.5, "finish": "end", "odd name": 7, "task.name": "a b", "id": "7", "flag": True}
    assert condition(text).holds(row.get) is holds


def test_nothing_of_a_condition_is_executed() -> None:
    for text in ("__import__('os').system('true')", "step > (1).__class__", "f(step) > 1", "step[0] > 1", "lambda: 1"):
        with pytest.raises(kb.errors.InputError, match="--where"):
            condition(text)


def test_one_row_has_no_error(tmp_path: Path) -> None:
    found = kb.estimate_files(written(tmp_path, "one", rows()[:1]))
    assert isnan(one(found, "policy_reference", "token").stderr)
    assert isinstance(found, kb.FilesEstimate)
    assert "no error can be given" in str(found.document().blocks[0])


def test_what_the_numbers_show_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    q = -1 - rng.random((40, 8)).astype(np.float32)
    p = (q.view(np.uint32) + 0x8000 & 0xFFFF0000).astype(np.uint32).view(np.float32)
    copied = [kb.Rollout(logprobs=a, ref_logprobs=b, finish="end", missing_end=True) for a, b in zip(q, p, strict=True)]
    found = kb.estimate_files(written(tmp_path, "copied", copied))
    assert isinstance(found, kb.FilesEstimate)
    assert any("rounding: at " in note and "rounded to bfloat16" in note for note in found.notes)
    assert any("not counted in 40 of 40 sequences" in note for note in found.notes)
    apart = [kb.Rollout(logprobs=a, ref_logprobs=b) for a, b in zip(np.round(q, 1), np.round(q + 0.01, 1), strict=True)]
    found = kb.estimate_files(written(tmp_path, "apart", apart))
    assert isinstance(found, kb.FilesEstimate)
    assert any("may be rounding" in note and "1 decimal," in note and "0.00083" in note for note in found.notes)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_progress_goes_by_bytes_where_rows_are_not_counted(tmp_path: Path, packed: bool) -> None:
    lines = "".join(f'{{"logprobs": [-0.5, -1.{i}], "ref_logprobs": [-0.7, -1.5]}}\n' for i in range(3000))
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_bytes(gzip.compress(lines.encode(), 1) if packed else lines.encode())
    heard: list[Any] = []
    kb.estimate_files(paths, pool=True, on_progress=heard.append)
    shares = [one.share for one in heard]
    assert shares == sorted(shares)
    assert 0.0 < shares[0] <= 0.5 < shares[-1] == 1.0
    assert (heard[-1].sequences, heard[-1].total) == (6000, 0)


def test_progress_goes_by_rows_where_they_are_known(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    kb.write_rollouts(path, [kb.Rollout(logprobs=[-0.5, -1.0], ref_logprobs=[-0.7, -1.5])] * 7)
    heard: list[Any] = []
    kb.estimate_files(path, on_progress=heard.append)
    assert (heard[-1].sequences, heard[-1].total, heard[-1].share) == (7, 7, None)


def server_file(path: Path, law: Mapping[str, float], listed: int) -> Path:
    """A chat response of one token, with the likeliest words beside it."""
    drawn = {"token": "a", "logprob": law["a"], "bytes": None}
    words = [{"token": word, "logprob": law[word], "bytes": None} for word in list(law)[:listed]]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "a"},
        "finish_reason": "length",
        "logprobs": {"content": [{**drawn, "top_logprobs": words}]},
    }
    response = {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice]}
    path.write_text(json.dumps([response] * 4))
    return path


def test_a_bound_on_what_no_list_shows_gives_the_kl_an_upper_bound(tmp_path: Path) -> None:
    """0.5 nats of log-ratio at most outside a and b, where the exact KL of the next token is known."""
    q = dict(zip("abcd", np.log([0.5, 0.25, 0.125, 0.125]).tolist(), strict=True))
    p = dict(zip("abcd", np.log([0.4, 0.3, 0.2, 0.1]).tolist(), strict=True))
    exact = sum(exp(q[word]) * (q[word] - p[word]) for word in "abcd")
    files = [server_file(tmp_path / "q.json", q, 2), server_file(tmp_path / "p.json", p, 2)]
    open_above = kb.estimate_files(files)
    bounded = kb.estimate_files(files, max_log_ratio=0.5)
    assert isinstance(open_above, kb.FilesEstimate)
    assert isinstance(bounded, kb.FilesEstimate)
    assert open_above.bracket is not None
    assert bounded.bracket is not None
    assert open_above.bracket.upper == inf
    assert "--max-log-ratio sets one" in open_above.bracket.sentence
    assert open_above.bracket.lower == bounded.bracket.lower < exact < bounded.bracket.upper < 0.2
    assert "lies between" in bounded.bracket.sentence
    with pytest.raises(InputError, match="a bound on log"):
        kb.estimate_files(files, max_log_ratio=float("nan"))
    with pytest.raises(InputError, match=r"no two such files came"):
        kb.estimate_files(files[0], max_log_ratio=0.5)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_padding_that_is_counted_is_said(kind: str, tmp_path: Path) -> None:
    rows = {
        "padded": [
            ([-0.5, -1.0, -0.25, -2.0], [-0.7, -1.5, -0.3, -1.0]),
            ([-0.5, -0.25, 0.0, 0.0], [-1.0, -0.5, 0.0, 0.0]),
        ],
        "of two lengths": [
            ([-0.5, -1.0, -0.25], [-0.7, -1.5, -0.3]),
            ([-0.5, -0.25, 0.0, 0.0], [-1.0, -0.5, 0.0, 0.0]),
        ],
        "sure by one law": [
            ([-0.5, -1.0, 0.0, 0.0], [-0.7, -1.5, -0.1, -0.2]),
            ([-0.5, -0.25, 0.0, -1.0], [-1.0, -0.5, 0.0, 0.0]),
        ],
    }
    for name, listed in rows.items():
        table = [{"logprobs": q, "ref_logprobs": p, "prompt_id": i} for i, (q, p) in enumerate(listed)]
        path = tmp_path / f"{name}.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        else:
            pq.write_table(pa.Table.from_pylist(table), path)
        found = kb.estimate_files(path)
        assert isinstance(found, kb.FilesEstimate)
        said = [note for note in found.notes if "look like padding" in note]
        assert bool(said) == (name == "padded"), name
        if said:
            assert said[0].startswith("1 of 2 sequences end in log-probs of exactly 0 by every law")


@pytest.mark.parametrize("names", [("logProbs", "refLogProbs"), ("policyLogprobs", "referenceLogprobs")], ids=str)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_in_camel_case_are_those_in_snake_case(names: tuple[str, str], kind: str, tmp_path: Path) -> None:
    table = [{names[0]: [-0.5, -1.0], names[1]: [-0.7, -1.5], "promptId": 7, "responseMask": [1, 0]}]
    path = tmp_path / f"dump.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(table[0]) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    (row,) = kb.read_rollouts(path)
    assert row.logprobs is not None
    assert row.logprobs[0] == pytest.approx(-0.5)
    assert row.ref_logprobs is not None
    assert row.ref_logprobs[0] == pytest.approx(-0.7)
    assert row.counted.sum() == 1


def test_a_first_row_without_a_token_hides_no_format(tmp_path: Path) -> None:
    rows = [{"logprobs": [], "ref_logprobs": []}, {"logprobs": [-0.5], "ref_logprobs": [-0.7]}]
    (tmp_path / "dump.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = kb.estimate_files(tmp_path / "dump.jsonl")
    assert isinstance(found, kb.FilesEstimate)
    assert (found.sequences, found.tokens) == (1, 1)
    assert "1 rows without a counted token were left out" in found.notes
