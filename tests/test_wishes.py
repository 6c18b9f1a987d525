"""An error or a time that is asked for: how many samples that makes, and that the pilot leaves no trace."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kullback as kb
from kullback import cli
from kullback.errors import InputError, StoppedError
from kullback.jobs.estimates import TABLE, estimate_rows, quote, quoted
from kullback.jobs.wishes import Wish, answer, further, planned, wish
from kullback.models.randomness import other_seed

SMALL: dict[str, Any] = {"prompts": ["The small dog", "One day"], "max_new_tokens": 3, "batch_size": 64}
PLAIN: dict[str, Any] = {**SMALL, "estimators": ((kb.RAO_BLACKWELL, "token"),)}


def pilot(spread: float = 1.0, prompts: int = 10, samples: int = 7) -> kb.Estimate:
    rng = np.random.default_rng(0)
    q = 5.0 + spread * rng.normal(size=(prompts * samples, 1)) - 30.0
    return kb.estimate(q, np.full_like(q, -30.0), estimator="k1", groups=np.repeat(np.arange(prompts), samples))


def test_what_is_asked_for_has_one_meaning() -> None:
    assert wish(None, None, None, prompts=20) == Wish(16)
    assert wish(3, None, None, prompts=20) == Wish(3)
    assert [wish(None, 0.1, None, prompts=count).samples for count in (1, 20, 64, 500)] == [64, 4, 2, 2]
    assert wish(None, 0.1, 5.0, prompts=20).settings == {"asked_stderr": 0.1, "asked_seconds": 5.0, "pilot_samples": 4}
    assert wish(None, None, 5.0, prompts=20) == Wish(2, seconds=5.0)
    assert wish(None, None, 5.0, prompts=20).settings == {"asked_seconds": 5.0}
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="above 0"):
            wish(None, value, None, prompts=1)
        with pytest.raises(InputError, match="above 0"):
            wish(None, None, value, prompts=1)
    with pytest.raises(InputError, match="samples=8 came with stderr, which chooses them"):
        wish(8, 0.1, None, prompts=1)


def test_samples_go_with_the_square_of_the_error_and_in_proportion_to_the_time() -> None:
    found = pilot()
    assert found.given_prompts is not None
    here = found.given_prompts.stderr
    counts = [planned(Wish(7, here / k), found, taken=1.0, elapsed=1.0, prompts=10) for k in (1, 2, 10)]
    assert 7 < counts[0] < 10  # a little more than the pilot's own, since its variance may be too small by luck
    assert counts[1] == pytest.approx(4 * counts[0], abs=4)
    assert counts[2] == pytest.approx(100 * counts[0], abs=100)
    assert planned(Wish(7, here / 100, 21.0), found, taken=1.0, elapsed=1.0, prompts=10) == 7 * 12
    assert planned(Wish(7, here / 100, 1.0), found, taken=1.5, elapsed=1.5, prompts=10) == 2
    assert planned(Wish(7, 100.0), found, taken=1.0, elapsed=1.0, prompts=10) == 4
    with pytest.raises(InputError, match=r"would take about .* samples of each prompt.*at most 500,000"):
        planned(Wish(7, 1e-6), found, taken=1.0, elapsed=1.0, prompts=10)


def test_more_is_drawn_while_the_error_is_too_large_and_there_is_time() -> None:
    found = pilot()
    assert found.given_prompts is not None
    here = found.given_prompts.stderr
    unhurried: dict[str, Any] = {"samples": 7, "elapsed": 1.0, "pace": 0.1, "prompts": 10}
    assert further(Wish(4, here), found, **unhurried) == 7
    assert further(Wish(4, here / 1.01), found, **unhurried) == 8  # a tenth more at the least
    assert further(Wish(4, here / 2), found, **unhurried) == 28
    assert further(Wish(4, here / 2, 2.05), found, **unhurried) == 7 + 6
    assert further(Wish(4, here / 1e9), found, **unhurried) == 500_000
    for error in (math.nan, math.inf):
        assert further(Wish(4, 0.1), replace(found, stderr=error, given_prompts=None), **unhurried) == 7
    timed = [further(Wish(2, seconds=10.0), None, samples=2, elapsed=t, pace=0.1, prompts=10) for t in (0.9, 8.9, 9.6)]
    assert timed == [2 + 54, 2 + 6, 2]


@pytest.mark.parametrize(("draw", "enough"), [("normal", (0.75, 0.85)), ("exponential", (0.7, 0.85))])
def test_a_plan_is_mostly_enough_and_looks_reach_the_error_in_every_run(draw: str, enough: tuple[float, float]) -> None:
    """Four of five plans of normal summands, three of exponential ones; the true error is the wished one in most."""
    rng, found = np.random.default_rng(1), pilot(prompts=1, samples=64)
    sample = getattr(rng, f"standard_{draw}")

    def seen(x: np.ndarray) -> kb.Estimate:
        skewness = float(np.mean((x - x.mean()) ** 3) / x.std() ** 3)
        error = float(x.std(ddof=1)) / len(x) ** 0.5
        return replace(found, stderr=error, skewness=skewness, given_prompts=None, clusters=len(x))

    asked, plans, counts = Wish(64, 0.1), 0, []
    for _ in range(1000):
        count, x = planned(asked, seen(sample(size=64)), taken=0.0, elapsed=0.0, prompts=1), sample(size=0)
        plans += count >= 100
        while count > len(x):
            x = np.concatenate([x, sample(size=count - len(x))])
            count = further(asked, seen(x), samples=len(x), elapsed=0.0, pace=0.0, prompts=1)
        assert seen(x).stderr <= 0.1
        counts.append(len(x))
    assert enough[0] < plans / 1000 < enough[1]
    assert np.mean(np.array(counts) >= 100) > 0.85


def test_a_pilot_that_asks_for_much_more_is_followed_by_a_larger_one() -> None:
    asked = Wish(4, 0.1)
    assert asked.again(47) is None
    assert asked.again(60) == Wish(10, 0.1)
    assert Wish(4, seconds=9.0).again(600) is None


def test_the_answer_says_what_it_would_take() -> None:
    found = pilot()
    assert found.given_prompts is not None
    here = found.given_prompts.stderr
    said = answer(Wish(4, here / 2), found, samples=(7, 7), seconds={"pilot": 2.0, "all": 9.0})
    assert "7 samples of each prompt were drawn: 7 by a pilot of 4, which no estimate rests on; it and they" in said
    assert "about 28 samples of each prompt would do, in 28 s" in said
    assert "would do" not in answer(Wish(4, here), found, samples=(7, 7), seconds={"pilot": 2.0, "all": 9.0})
    more = answer(Wish(4, here), found, samples=(7, 5), seconds={"pilot": 2.0, "all": 9.0})
    assert "5 by a pilot of 4, which no estimate rests on, and 2 more after looking at the error; it and they" in more
    timed = answer(Wish(2, seconds=10.0), found, samples=(7, 2), seconds={"pilot": 0.0, "all": 9.0})
    assert timed.startswith("7 samples of each prompt were drawn in 9.0 s, where 10 were allowed; the standard error")


def test_what_is_estimated_is_a_run_of_the_samples_that_were_chosen() -> None:
    """It does not depend on the pilot but by its size, and rounds change the order of its rows alone."""
    found = kb.compare(stderr=0.05, seed=3, **PLAIN)
    again = kb.compare(samples=found.settings["samples"], seed=3, **PLAIN)
    assert found.settings["samples"] > 4
    drawn = [{(row.prompt_id, row.sample): row.tokens for row in run.rollouts} for run in (found, again)]
    assert drawn[0] == drawn[1]
    assert len(found.rollouts) == 2 * found.settings["samples"]
    for one, other in zip(found.rows, again.rows, strict=True):
        assert one.per_sequence.value == pytest.approx(other.per_sequence.value, rel=1e-6)
        assert one.per_sequence.stderr == pytest.approx(other.per_sequence.stderr, rel=1e-6)
    assert found.notes[0].startswith(f"{found.settings['samples']} samples of each prompt were drawn: ")
    assert found.settings["pilot_samples"] >= 32


def test_the_error_that_was_asked_for_is_reached(tmp_path: Path) -> None:
    """In every run, also where the pilot planned too few; the file has every round."""
    more = 0
    for seed in range(4):
        found = kb.compare(stderr=0.04, seed=seed, output=tmp_path / str(seed), **PLAIN)
        reached = found.rows[0].per_sequence.given_prompts
        assert reached is not None
        assert reached.stderr <= 0.04
        assert len(kb.read_rollouts(tmp_path / str(seed) / "rollouts.parquet")) == 2 * found.settings["samples"]
        more += "more after looking" in found.notes[0]
    assert 0 < more < 4


def test_the_estimate_that_is_looked_at_is_the_one_that_is_quoted() -> None:
    """With token values, without them, and where there are no rows of the controlled estimator."""
    found = kb.compare(samples=20, **SMALL)
    bare = [replace(row, state=None, deviation=None) for row in found.rollouts]
    for rollouts, table in ((found.rollouts, TABLE), (bare, TABLE), (found.rollouts, PLAIN["estimators"])):
        rows = [*estimate_rows(rollouts, table)]
        assert quote(rollouts, table, truncated=False) == quoted(rows, truncated=False).per_sequence


def test_seeds_of_pilots_differ_in_the_bits_that_torch_reads() -> None:
    seeds = [0, 1, 1 << 32, (1 << 64) - 1]
    assert len({other_seed(seed) % (1 << 32) for seed in seeds} | {seed % (1 << 32) for seed in seeds}) == 7


def test_a_time_is_kept_whatever_a_sequence_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the rows drive, slower with every batch: no run ends more than a tenth late."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for speed in (1.0, 3.0):
        clock[0], pace = 0.0, [speed]

        def heard(done: Any, pace: list[float] = pace) -> None:
            clock[0] += pace[0] * 0.1
            pace[0] *= 1.002

        found = kb.compare(seconds=20.0, on_progress=heard, **{**PLAIN, "batch_size": 8})
        assert 15.0 < found.seconds <= 22.0
        assert found.complete
        assert f"drawn in {found.seconds:.1f} s, where 20 were allowed" in found.notes[0]
        assert {row.sample for row in found.rollouts} == set(range(found.settings["samples"]))


def test_a_pilot_that_is_stopped_hands_over_what_it_drew() -> None:
    def stop(done: Any) -> None:
        if done.sequences:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError) as stopped:
        kb.compare(seconds=5.0, on_progress=stop, **SMALL)
    found: kb.Comparison = stopped.value.result
    assert not found.complete
    assert found.rollouts


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--stderr", "0.1", "--samples", "4"], "--samples came with --stderr, which chooses them"),
        (["--seconds", "0"], "--seconds 0.0 came, but a number above 0 is needed"),
        (["--stderr", "nan"], "--stderr nan came, but a number above 0 is needed"),
        (["--text", "x.txt", "--seconds", "3"], "--seconds came with --text, which samples nothing"),
    ],
)
def test_the_command_line_refuses(
    line: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kullback", "compare", *line])
    with pytest.raises(SystemExit):
        cli.main()
    assert said in capsys.readouterr().err


def test_a_pilot_and_workers_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found in this process: give samples instead"):
        kb.compare(stderr=0.1, workers=2, output=tmp_path / "out", max_new_tokens=4)
