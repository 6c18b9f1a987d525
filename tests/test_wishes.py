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
from kullback.jobs.wishes import Wish, answer, chosen, wish
from kullback.models.randomness import other_seed

SMALL: dict[str, Any] = {"prompts": ["The small dog", "One day"], "max_new_tokens": 3, "batch_size": 64}


def pilot(spread: float = 1.0, prompts: int = 10, samples: int = 7) -> kb.Estimate:
    rng = np.random.default_rng(0)
    q = 5.0 + spread * rng.normal(size=(prompts * samples, 1)) - 30.0
    return kb.estimate(q, np.full_like(q, -30.0), estimator="k1", groups=np.repeat(np.arange(prompts), samples))


def test_what_is_asked_for_has_one_meaning() -> None:
    assert wish(None, None, None, prompts=20) == Wish(16)
    assert wish(3, None, None, prompts=20) == Wish(3)
    assert [wish(None, 0.1, None, prompts=count).samples for count in (1, 20, 64, 500)] == [64, 4, 2, 2]
    assert wish(None, 0.1, 5.0, prompts=20).settings == {"asked_stderr": 0.1, "asked_seconds": 5.0, "pilot_samples": 4}
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
    counts = [chosen(Wish(7, here / k), found, taken=1.0, elapsed=1.0, prompts=10) for k in (1, 2, 10)]
    assert 7 < counts[0] < 10  # a little more than the pilot's own, since its variance may be too small by luck
    assert counts[1] == pytest.approx(4 * counts[0], abs=4)
    assert counts[2] == pytest.approx(100 * counts[0], abs=100)
    assert chosen(Wish(7, seconds=21.0), found, taken=1.0, elapsed=1.0, prompts=10) == 7 * 18
    assert chosen(Wish(7, seconds=1.0), found, taken=1.5, elapsed=1.5, prompts=10) == 2
    assert chosen(Wish(7, here / 100, 21.0), found, taken=1.0, elapsed=1.0, prompts=10) == 7 * 18
    assert chosen(Wish(7, 100.0), found, taken=1.0, elapsed=1.0, prompts=10) == 4
    with pytest.raises(InputError, match=r"would take about .* samples of each prompt.*at most 500,000"):
        chosen(Wish(7, 1e-6), found, taken=1.0, elapsed=1.0, prompts=10)


def test_the_error_is_reached_in_four_of_five_runs_of_normal_summands() -> None:
    rng, reached, found = np.random.default_rng(1), 0, pilot(prompts=1, samples=64)
    for _ in range(2000):
        one = replace(found, stderr=float(rng.normal(size=64).std(ddof=1)) / 8.0, given_prompts=None, clusters=64)
        count = chosen(Wish(64, 0.1), one, taken=0.0, elapsed=0.0, prompts=1)
        reached += rng.normal(size=count).std(ddof=1) / count**0.5 <= 0.1
    assert 0.7 < reached / 2000 < 0.85


def test_a_pilot_that_asks_for_much_more_is_followed_by_a_larger_one() -> None:
    asked = Wish(4, 0.1)
    assert asked.again(47) is None
    assert asked.again(60) == Wish(10, 0.1)
    assert Wish(4, seconds=9.0).again(600) is None


def test_the_answer_says_what_it_would_take() -> None:
    found = pilot()
    assert found.given_prompts is not None
    here = found.given_prompts.stderr
    said = answer(Wish(4, here / 2), found, samples=7, seconds={"pilot": 2.0, "all": 9.0})
    assert "7 samples of each prompt were chosen by a pilot of 4, which no estimate rests on" in said
    assert "about 28 samples of each prompt would do, in 28 s" in said
    assert "would do" not in answer(Wish(4, here), found, samples=7, seconds={"pilot": 2.0, "all": 9.0})
    timed = answer(Wish(4, seconds=10.0), found, samples=7, seconds={"pilot": 2.0, "all": 9.0})
    assert "took 9.0 s, where 10 were allowed" in timed


def test_what_is_estimated_is_a_run_of_the_samples_that_were_chosen() -> None:
    """So unbiased and with the coverage of that run: it does not depend on the pilot but by its size."""
    found = kb.compare(stderr=0.01, seed=3, **SMALL)
    again = kb.compare(samples=found.settings["samples"], seed=3, **SMALL)
    assert found.settings["samples"] > 4
    assert repr(found.rows) == repr(again.rows)  # a k̂ that is nan equals no other
    assert len(found.rollouts) == 2 * found.settings["samples"]
    assert found.notes[0].startswith(f"{found.settings['samples']} samples of each prompt were chosen by a pilot of")
    assert found.settings["pilot_samples"] in (32, found.settings["samples"] // 6)


def test_seeds_of_pilots_differ_in_the_bits_that_torch_reads() -> None:
    seeds = [0, 1, 1 << 32, (1 << 64) - 1]
    assert len({other_seed(seed) % (1 << 32) for seed in seeds} | {seed % (1 << 32) for seed in seeds}) == 7


def test_a_time_is_kept_and_the_pilot_is_part_of_it() -> None:
    started = time.perf_counter()
    found = kb.compare(seconds=0.5, **SMALL)
    assert found.settings["samples"] >= 2
    assert found.seconds <= time.perf_counter() - started
    assert "where 0.5 were allowed" in found.notes[0]


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
    with pytest.raises(InputError, match="a pilot runs in this process: give samples instead"):
        kb.compare(stderr=0.1, workers=2, output=tmp_path / "out", max_new_tokens=4)
