"""A limit that a KL is to keep: the decision, the samples that it would take, and the exit status."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback import cli
from kullback.errors import InputError
from kullback.jobs.estimates import QUOTED, estimate_rows, quoted
from kullback.jobs.gate import Gated, gate

SMALL = ["compare", "--samples", "2", "--max-new-tokens", "8"]


def estimated(rng: np.random.Generator, prompts: int, samples: int = 1, between: float = 0.0) -> kb.Estimate:
    """k1 with a mean of 1 and a spread of 1 within prompts, clustered where there are several samples of each."""
    means = np.repeat(1.0 + between * rng.normal(size=prompts), samples)
    q = (means + rng.normal(size=len(means)))[:, None] - 9.0
    groups = np.repeat(np.arange(prompts), samples) if samples > 1 else None
    return kb.estimate(q, np.full_like(q, -9.0), estimator="k1", groups=groups)


FOUND = estimated(np.random.default_rng(0), prompts=40, samples=4, between=0.5)
LOW, HIGH = FOUND.interval()
HERE = FOUND.given_prompts.interval() if FOUND.given_prompts else (math.nan, math.nan)


@pytest.mark.parametrize(
    ("limit", "side"),
    [
        (HIGH, "below"),
        (HIGH + 1, "below"),
        (math.nextafter(HIGH, 0), "undecided"),
        (FOUND.value, "undecided"),
        (LOW, "undecided"),
        (math.nextafter(LOW, 0), "above"),
        (0.0, "above"),
    ],
)
def test_the_whole_interval_decides(limit: float, side: str) -> None:
    assert gate(FOUND, limit).side == side


def test_these_prompts_are_judged_by_their_own_interval() -> None:
    assert LOW < HERE[0] < HERE[1] < HIGH
    between = (HERE[1] + HIGH) / 2
    assert gate(FOUND, between).side == "undecided"
    judged = gate(FOUND, between, these_prompts=True)
    assert judged.side == "below"
    assert "(95% for these prompts)" in judged.sentence


def test_an_exact_number_is_on_one_side() -> None:
    assert gate(kb.Exact(0.5), 0.5).side == "below"
    assert gate(kb.Exact(0.5), 0.4999).side == "above"
    record = gate(kb.Exact(0.5), 0.25).to_dict()
    assert (record["verdict"], record["unit"], record["sequences_needed"]) == ("above", "sequence", None)


def test_no_difference_keeps_every_limit() -> None:
    same = kb.estimate([[-1.0], [-2.0]], [[-1.0], [-2.0]], estimator="rao_blackwell", token_kl=[[0.0], [0.0]])
    assert gate(same, 0.0).side == "below"


def test_an_infinite_kl_is_above_and_an_unknown_error_decides_nothing() -> None:
    infinite = kb.estimate([[-1.0], [-2.0]], [[-math.inf], [-2.0]], estimator="k1")
    assert gate(infinite, 100.0).side == "above"
    one = kb.estimate([[-1.0]], [[-2.0]], estimator="k1")
    judged = gate(one, 100.0)
    assert judged.side == "undecided"
    assert "its error not known" in judged.sentence
    assert "two sequences" in judged.sentence
    assert judged.to_dict()["sequences_needed"] is None
    single = kb.estimate([[-1.0], [-2.0]], [[-2.0], [-2.5]], estimator="k1", groups=[7, 8])
    assert "two sequences of a prompt" in gate(single, 100.0, these_prompts=True).sentence


@pytest.mark.parametrize("limit", [math.nan, math.inf, -0.1])
def test_a_limit_is_a_number_of_nats(limit: float) -> None:
    with pytest.raises(InputError, match="a number of nats, at least 0"):
        gate(FOUND, limit)


def test_so_many_samples_decide_in_four_of_five_runs() -> None:
    rng = np.random.default_rng(1)
    # Summands with a standard deviation of 1 and a mean 0.3 from the limit: ((1.96 + 0.84)/0.3)² = 87.
    needed = [gate(estimated(rng, 40), 1.3) for _ in range(60)]
    undecided = [judged.sequences_needed for judged in needed if judged.side == "undecided"]
    assert 40 < min(undecided) < 87 < max(undecided)
    decided = [gate(estimated(rng, 87), 1.3).side == "below" for _ in range(120)]
    assert 0.68 < np.mean(decided) < 0.92


def test_samples_needed_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(2)
    found = estimated(rng, 2000)
    limit = found.value + found.stderr
    times = ((found.interval()[1] - found.value) / found.stderr + 0.84) ** 2
    assert gate(found, limit).sequences_needed == math.ceil(2000 * times) == pytest.approx(15_700, rel=0.05)
    assert "about 16,000 sequences would decide, where 2,000 came" in gate(found, limit).sentence
    clustered = gate(FOUND, FOUND.value + 0.5 * FOUND.stderr)
    assert clustered.clusters_needed == math.ceil(40 * clustered.times)
    assert clustered.sequences_needed == math.ceil(160 * clustered.times)
    assert "prompts would decide, where 40 came" in clustered.sentence
    assert math.isinf(gate(found, found.value).sequences_needed)
    assert "no number of samples" in gate(found, found.value).sentence


def test_the_row_that_is_quoted_is_chosen_by_name() -> None:
    found = kb.compare(samples=2, max_new_tokens=4)
    rows = {row.per_sequence.estimator: row for row in found.rows if row.per_sequence.level == "token"}
    assert quoted(found.rows, truncated=False) is rows["rao_blackwell_controlled"]
    few = [rows[name] for name in ("k1", "control_variate", "k3")]
    assert quoted(few, truncated=False) is rows["k3"]
    assert quoted(few, truncated=True) is rows["k1"]
    others = list(estimate_rows(found.rollouts, [(kb.ESTIMATORS["pearson_chi2"], "token")]))
    with pytest.raises(InputError, match="no estimate of KL"):
        quoted(others, truncated=False)
    for name in QUOTED:
        assert set(kb.ESTIMATORS[name].value_of.values()) == {kb.REVERSE_KL}
    answer = Gated(found, gate(rows["k3"].per_sequence, 9.0))
    assert answer.to_dict().items() >= found.to_dict().items()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    sys.argv = ["kullback", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_exit_status_is_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *SMALL, "--json")
    middle = {(e["estimator"], e["unit"]): e["value"] for e in json.loads(out)["estimates"]}
    value, per_token = middle["rao_blackwell", "sequence"], middle["rao_blackwell", "token"]
    for limit, options, status, verdict in [
        ("50", [], 0, "below"),
        ("1e-3", [], 1, "above"),
        ("1e-3", ["--undecided", "pass"], 1, "above"),
        (str(value), [], 0, "undecided"),
        (str(value), ["--undecided", "fail"], 1, "undecided"),
        (f"{per_token}/token", ["--undecided", "fail", "--these-prompts"], 1, "undecided"),
        ("50/token", ["--undecided", "fail"], 0, "below"),
    ]:
        found, out, err = run(capsys, *SMALL, "--json", "--max-kl", limit, *options)
        record = json.loads(out)["gate"]
        assert (found, record["verdict"]) == (status, verdict), (limit, options)
        assert record["unit"] == ("token" if "/token" in limit else "sequence")
        assert ("undecided" in err) == (verdict == "undecided")


def test_the_answer_stands_before_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, *SMALL, "--max-kl", "1e-3")
    words = " ".join(out.split())
    assert status == 1
    assert words.index("above: KL(policy‖reference) is") < words.index("and the limit is 0.001") < words.index("k1")


def test_a_text_is_judged_by_the_kl_of_quantisers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The dog went to the lake. " * 40)
    command = ["compare", "--text", str(tmp_path / "t.txt"), "--context-length", "64", "--json"]
    status, out, _ = run(capsys, *command, "--max-kl", "0.001")
    record = json.loads(out)
    assert (status, record["gate"]["verdict"], record["gate"]["unit"]) == (1, "above", "token")
    assert record["gate"]["value"] == record["estimates"][0]["value"]
    assert record["estimates"][0]["direction"] == "forward"
    status, out, _ = run(capsys, *command, "--max-kl", str(record["gate"]["value"] * 1.001))
    assert (status, json.loads(out)["gate"]["clusters"]) == (0, "windows")
    assert json.loads(out)["gate"]["verdict"] == "undecided"
