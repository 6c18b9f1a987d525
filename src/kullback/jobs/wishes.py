"""How many samples a wished error or a wished time allow, by a pilot that no estimate rests on."""

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
"""Samples of each prompt that are drawn whatever the pilot says: from four on the error for these prompts covers."""

SURE = 0.8
"""How often the error that was asked for should be reached: the pilot's own variance is uncertain too."""

SHARE = 0.9
"""Of the time that is left after the pilot: how much is planned with, since rows and batches differ in length."""


@dataclass(frozen=True)
class Wish:
    """What was asked for: a number of samples, or an error or a time that say how many.

    How many samples are drawn is decided by a pilot, and by nothing that is drawn after it; the estimates rest on what
    is drawn after it alone. So given the pilot they are those of a run whose size was fixed: exactly unbiased where
    that is, with the same coverage. To draw until the error of what was drawn looks small enough is neither, since
    samples with small values have small spreads.

    Attributes:
        samples: of each prompt; of the pilot where there is one.
        stderr: the standard error that is wanted for these prompts, nats a sequence, of the estimate that is quoted.
        seconds: the time that sampling and scoring may take, the pilot's included.
    """

    samples: int
    stderr: float | None = None
    seconds: float | None = None

    @property
    def piloted(self) -> bool:
        """Whether a pilot decides."""
        return self.stderr is not None or self.seconds is not None

    @property
    def settings(self) -> Record:
        """What was asked for, and the pilot's samples of each prompt; empty where there is none."""
        asked = {"stderr": self.stderr, "seconds": self.seconds}
        named = {f"asked_{name}": value for name, value in asked.items() if value is not None}
        return {**named, "pilot_samples": self.samples} if named else {}

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
    asked = Wish(max(2, ceil(PILOT / max(prompts, 1))), stderr, seconds)
    if samples is None:
        return asked if asked.piloted else Wish(SAMPLES)
    check_counts({"samples": samples})
    if asked.piloted:
        chooser = "stderr" if stderr is not None else "seconds"
        raise InputError(f"samples={samples} came with {chooser}, which chooses them: leave one of the two out")
    return Wish(samples)


def error_here(found: Estimate) -> float:
    """For these prompts where it is known, since no estimator can do anything about which prompts were drawn."""
    return found.stderr if found.given_prompts is None else found.given_prompts.stderr


def chosen(asked: Wish, pilot: Estimate, *, taken: float, elapsed: float, prompts: int) -> int:
    """Samples of each prompt, by what the pilot found and by the time that it took.

    Args:
        asked: the wish, with the pilot's samples.
        pilot: its estimate, in nats a sequence.
        taken: its seconds.
        elapsed: seconds since the first sequence.
        prompts: how many, with the directions in which they are sampled.

    Raises:
        InputError: the error would take more sequences than a run holds.
    """
    most = min(MOST["samples"], MOST_SEQUENCES // max(prompts, 1))
    ways = []
    if asked.stderr is not None:
        ways.append(_for_error(asked.samples, asked.stderr, pilot))
        if ways[0] > most and asked.seconds is None:
            raise InputError(
                f"a standard error of {asked.stderr:g} nats a sequence would take about {ways[0]:,.0f} samples of each "
                f"prompt, by a pilot of {asked.samples}, and a run holds at most {most:,}: ask for a larger error"
            )
    if asked.seconds is not None:
        left = SHARE * (asked.seconds - elapsed)
        ways.append(max(LEAST["seconds"], int(asked.samples * left / max(taken, 1e-9))))
    return min(*ways, most)


def _for_error(samples: int, stderr: float, pilot: Estimate) -> int:
    """Samples with which the error is reached in four of five runs where the pilot's summands are normal."""
    found = error_here(pilot)
    if not isfinite(found):  # every draw gave one number, or a KL is infinite
        return SAMPLES
    return max(LEAST["stderr"], ceil(min(samples * (found / stderr) ** 2 * _margin(pilot), 1e15)))


def _margin(pilot: Estimate) -> float:
    """What the true variance is at most times the pilot's, so often as `SURE` says."""
    from scipy.special import chdtri

    freedom = pilot.clusters - 1.0 if pilot.given_prompts is None else pilot.given_prompts.freedom
    return float(freedom / chdtri(freedom, SURE)) if freedom >= 1 else 1.0


def answer(asked: Wish, found: Estimate, *, samples: int, seconds: Mapping[str, float]) -> str:
    """Whether the wish was met, and what it would take otherwise, in sentences.

    Args:
        asked: the wish, with the pilot's samples.
        found: the estimate that is quoted, in nats a sequence.
        samples: of each prompt, that the pilot chose.
        seconds: that the pilot and everything took, as `pilot` and `all`.
    """
    reached = error_here(found)
    said = (
        f"{samples} samples of each prompt were chosen by a pilot of {asked.samples}, which no estimate rests on; "
        f"it and they took {seconds['all']:.1f} s"
    )
    if asked.seconds is not None:
        said += f", where {asked.seconds:g} were allowed"
    if asked.stderr is None:
        return f"{said}; the standard error for these prompts is {reached:.2g} nats a sequence"
    said += (
        f"; the standard error for these prompts is {reached:.3g} nats a sequence, where {asked.stderr:g} was wanted"
    )
    if reached > asked.stderr and not isinf(reached):
        needed = ceil(samples * (reached / asked.stderr) ** 2)
        rate = (seconds["all"] - seconds["pilot"]) / samples
        said += f": about {needed:,} samples of each prompt would do, in {needed * rate:,.0f} s"
    if np.isfinite(found.stderr) and found.given_prompts is not None and found.stderr > asked.stderr:
        prompts = ceil(found.clusters * (found.stderr / asked.stderr) ** 2)
        said += (
            f"; for prompts drawn anew it is {found.stderr:.2g}, and about {prompts:,} prompts with as many samples of "
            "each would take it there"
        )
    return said
