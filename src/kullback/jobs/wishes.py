"""How many samples a wished error or a wished time take: by a pilot that no estimate rests on, and by looking again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, isfinite, isinf

import numpy as np

from kullback.documents import Record
from kullback.errors import InputError, shown
from kullback.estimation.result import Estimate
from kullback.jobs.limits import MOST, MOST_SEQUENCES, check_counts

SAMPLES = 16
"""Completions of each prompt where neither their number, an error nor a time was asked for."""

PILOT = 64
"""Sequences of the pilot, at least, and two of each prompt."""

SECOND = 6
"""A pilot that asks for twice so many times its size or more is followed by another, a sixth of what it asked for: few
sequences show little of what token values gain. On the built-in pair a pilot of 80 alone asks for 1,200 sequences for
an error of 0.03, and with a second one of 200 for 300."""

LEAST = {"stderr": 4, "seconds": 2}
"""Samples of each prompt that are drawn whatever was asked: from four on the error for these prompts covers."""

SURE = 0.8
"""How often the pilot's plan should be enough: its variance is uncertain too. What is missing is drawn afterwards."""

SKEWED = 0.75
"""What γ², γ the skewness of the summands, adds to the variance of their variance, over that of normal ones: their
kurtosis is about 3 + 1.5·γ², as that of every gamma law. Without it a pilot of 64 is enough in 51% of runs in place of
64% where γ is 3.6."""

STEP = 1.1
"""Times as many samples at least after a look that finds too few: each look costs a little unbiasedness."""

PART = 0.6
"""Of the time that is left: how much the next round is planned with. It may be 1.8 times slower than those before and
still ends within 10% of the time that was asked for."""

SPARE = 0.05
"""Of the time that was asked for: what is left unused, since so short a round would draw next to nothing."""


@dataclass(frozen=True)
class Wish:
    """What was asked for: a number of samples, or an error or a time that say how many.

    For an error a pilot plans, and no estimate rests on it. Then the error of what was drawn is looked at, and more is
    drawn while it is above what was asked for. Where the plan was enough, as in four of five runs, the estimates are
    those of a run whose size was fixed. What the others bias (samples with small values have small spreads) is 0.2
    standard errors in the most skewed of the worlds in docs/variance.md and less than 0.07 elsewhere; looks alone
    would bias by 0.8 there. A time is filled in rounds, each planned by the pace of those before.

    Attributes:
        samples: of each prompt; of the pilot, or where a time alone was asked for of the first round.
        stderr: the standard error that is wanted for these prompts, nats a sequence, of the estimate that is quoted.
        seconds: the time that sampling and scoring may take, the pilot's included.
    """

    samples: int
    stderr: float | None = None
    seconds: float | None = None

    @property
    def piloted(self) -> bool:
        """Whether a pilot plans."""
        return self.stderr is not None

    @property
    def grows(self) -> bool:
        """Whether what was drawn decides how much more is drawn."""
        return self.stderr is not None or self.seconds is not None

    @property
    def settings(self) -> Record:
        """What was asked for, and the pilot's samples of each prompt; empty where there is none."""
        asked = {"stderr": self.stderr, "seconds": self.seconds}
        named = {f"asked_{name}": value for name, value in asked.items() if value is not None}
        return {**named, **({"pilot_samples": self.samples} if self.piloted else {})}

    def again(self, samples: int) -> Wish | None:
        """The wish with a larger pilot, where so many samples are more than the pilot can speak for."""
        larger = samples // SECOND
        enough = self.stderr is None or larger < 2 * self.samples
        return None if enough else replace(self, samples=larger)


def wish(samples: int | None, stderr: float | None, seconds: float | None, *, prompts: int) -> Wish:
    """What was asked for, with the pilot's size.

    Raises:
        InputError: a number that is none, or samples beside what would choose them.
    """
    for name, value, unit in (("stderr", stderr, "nats a sequence"), ("seconds", seconds, "seconds")):
        if value is not None and not (isfinite(value) and value > 0):
            raise InputError(f"{name}={shown(value)} came, but it is a number of {unit} above 0")
    first = LEAST["seconds"] if stderr is None else max(2, ceil(PILOT / max(prompts, 1)))
    asked = Wish(first, stderr, seconds)
    if samples is None:
        return asked if asked.grows else Wish(SAMPLES)
    check_counts({"samples": samples})
    if asked.grows:
        chooser = "stderr" if stderr is not None else "seconds"
        raise InputError(f"samples={samples} came with {chooser}, which chooses them: leave one of the two out")
    return Wish(samples)


def error_here(found: Estimate) -> float:
    """For these prompts where it is known, since no estimator can do anything about which prompts were drawn."""
    return found.stderr if found.given_prompts is None else found.given_prompts.stderr


def planned(asked: Wish, pilot: Estimate, *, taken: float, elapsed: float, prompts: int) -> int:
    """Samples of each prompt for an error, by what the pilot found and by the time that it took.

    Args:
        asked: the wish, with the pilot's samples.
        pilot: its estimate, in nats a sequence.
        taken: its seconds.
        elapsed: seconds since the first sequence.
        prompts: how many, with the directions in which they are sampled.

    Raises:
        InputError: the error would take more sequences than a run holds.
    """
    most, found = most_samples(prompts), error_here(pilot)
    if asked.stderr is None or not isfinite(found):  # every draw gave one number, or a KL is infinite
        return SAMPLES
    wanted = ceil(min(asked.samples * (found / asked.stderr) ** 2 * _margin(pilot), 1e15))
    if wanted > most and asked.seconds is None:
        raise InputError(
            f"a standard error of {asked.stderr:g} nats a sequence would take about {wanted:,.0f} samples of each "
            f"prompt, by a pilot of {asked.samples}, and a run holds at most {most:,}: ask for a larger error"
        )
    count = min(max(LEAST["stderr"], wanted), most)
    return min(count, max(LEAST["seconds"], _room(asked, elapsed=elapsed, pace=taken / asked.samples)))


def further(asked: Wish, found: Estimate | None, *, samples: int, elapsed: float, pace: float, prompts: int) -> int:
    """Samples of each prompt to have after another round; as many as there are where it is enough.

    Args:
        asked: the wish.
        found: the estimate of what was drawn, in nats a sequence; None where no error was asked for.
        samples: of each prompt, that were drawn.
        elapsed: seconds since the first sequence.
        pace: seconds that one sample of each prompt takes.
        prompts: how many, with the directions in which they are sampled.
    """
    goal = most_samples(prompts)
    if asked.stderr is not None and found is not None:
        error = error_here(found)
        if not error > asked.stderr or isinf(error):  # nan where every draw gave one number
            return samples
        goal = min(goal, ceil(max(STEP * samples, min(samples * (error / asked.stderr) ** 2, 1e15))))
    return max(samples, min(goal, samples + _room(asked, elapsed=elapsed, pace=pace)))


def most_samples(prompts: int) -> int:
    """Of each prompt, that a run holds."""
    return min(MOST["samples"], MOST_SEQUENCES // max(prompts, 1))


def _room(asked: Wish, *, elapsed: float, pace: float) -> int:
    """Samples of each prompt that the time allows a round; as many as any run holds where no time was named."""
    if asked.seconds is None:
        return MOST_SEQUENCES
    left = asked.seconds - elapsed
    return 0 if left < SPARE * asked.seconds else int(PART * left / max(pace, 1e-9))


def _margin(pilot: Estimate) -> float:
    """What the true variance is at most times the pilot's, so often as `SURE` says."""
    from scipy.special import chdtri

    given = pilot.given_prompts
    freedom, skewness = (pilot.clusters - 1.0, pilot.skewness) if given is None else (given.freedom, given.skewness)
    freedom /= 1.0 + SKEWED * skewness**2
    return float(freedom / chdtri(freedom, SURE)) if freedom >= 1 else 1.0


def answer(asked: Wish, found: Estimate, *, samples: tuple[int, int], seconds: Mapping[str, float]) -> str:
    """Whether the wish was met, and what it would take otherwise, in sentences.

    Args:
        asked: the wish, with the pilot's samples.
        found: the estimate that is quoted, in nats a sequence.
        samples: of each prompt, in all and in the first round.
        seconds: that the pilot and everything took, as `pilot` and `all`.
    """
    reached, (drawn, first) = error_here(found), samples
    said = f"{drawn} samples of each prompt were drawn"
    if asked.piloted:
        more = f", and {drawn - first} more after looking at the error" if drawn > first else ""
        said += f": {first} by a pilot of {asked.samples}, which no estimate rests on{more}; it and they took"
    else:
        said += " in"
    said += f" {seconds['all']:.1f} s"
    if asked.seconds is not None:
        said += f", where {asked.seconds:g} were allowed"
    if asked.stderr is None:
        return f"{said}; the standard error for these prompts is {reached:.2g} nats a sequence"
    said += (
        f"; the standard error for these prompts is {reached:.3g} nats a sequence, where {asked.stderr:g} was wanted"
    )
    if reached > asked.stderr and not isinf(reached):
        needed = ceil(drawn * (reached / asked.stderr) ** 2)
        rate = (seconds["all"] - seconds["pilot"]) / drawn
        said += f": about {needed:,} samples of each prompt would do, in {needed * rate:,.0f} s"
    if np.isfinite(found.stderr) and found.given_prompts is not None and found.stderr > asked.stderr:
        prompts = ceil(found.clusters * (found.stderr / asked.stderr) ** 2)
        said += (
            f"; for prompts drawn anew it is {found.stderr:.2g}, and about {prompts:,} prompts with as many samples of "
            "each would take it there"
        )
    return said
