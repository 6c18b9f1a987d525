"""Which fit is taken and how much of it, by what the training folds say of one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64

SAME = 2.0
"""Sequences' worth by which a prompt's mean is drawn to the mean of all."""


@dataclass(frozen=True)
class Care:
    """What holds a control back where few sequences speak for it.

    Attributes:
        square: how large the square of the weight's t has to be before any of a control is subtracted. With 1 in its
            place the mean squared error of 16 sequences of a random world is up to 1.5 times Rao-Blackwell's.
        few: sequences; with n of them the square has to be few/n times larger still.
        rows_a_gain: sequences for each time that the variance may be less; a control that would leave less is
            subtracted in part. What a nearly perfect control leaves rests on tokens too rare to have been drawn: with
            all of it, the interval of 64 sequences of the crossed world holds the truth in 37 to 45%. Of the random
            worlds the two where rare sequences have most of the variance are covered in 91.5 and 88.5% with 24, and in
            95.0 and 91.0% with 40 and the degrees of freedom of `freedom_of`; Rao-Blackwell in 94 and 93%.
    """

    square: float = 4.0
    few: float = 10.0
    rows_a_gain: float = 40.0


CARE = Care()


@dataclass(frozen=True)
class Choice:
    """A candidate, by number, and the weight that it is subtracted with: 0 where nothing says that it helps."""

    candidate: int
    weight: float


def choose(total: Float64, prompt: np.ndarray, controls: Float64, care: Care = CARE) -> Choice:
    """The candidate with the largest gain, and its weight shrunk by how well it is known.

    Args:
        total: what is averaged, of the sequences of the training folds, (rows,).
        prompt: their prompts, (rows,).
        controls: what each candidate would subtract, fitted without the sequence's own fold, (rows, candidates).
        care: what holds the weight back.
    """
    y = centred(total, prompt)
    common, squares = y @ controls, np.sum(controls**2, axis=0)
    fitted = np.divide(common, squares, out=np.zeros_like(common), where=squares > 0)
    fitted = np.clip(fitted, 0.0, 1.0)  # more than all of it: the ridge was too large, and another has more to say
    gain = fitted * (2.0 * common - fitted * squares)
    best = int(np.argmax(gain))
    if len(y) < 2 or not gain[best] > 0:
        return Choice(best, 0.0)
    c, weight = controls[:, best], float(fitted[best])
    rest = (y - weight * c) ** 2
    # The larger of what the weight's square is uncertain by where spreads are alike and where they are not.
    noise = max(float(rest.mean()) / squares[best], float(rest @ c**2) / squares[best] ** 2) * len(y) / (len(y) - 1)
    needed = care.square * (1.0 + care.few / len(y)) * noise
    shrunk = weight * max(0.0, 1.0 - needed / weight**2)
    return Choice(best, min(shrunk, _most(y, c, care.rows_a_gain)))


def _most(y: Float64, control: Float64, rows_a_gain: float) -> float:
    """The weight that leaves rows_a_gain/n of the variance; all of it where no weight leaves so little."""
    squares, common, whole = float(control @ control), float(y @ control), float(y @ y)
    off = 1.0 - min(1.0, rows_a_gain / len(y))
    under = common**2 - squares * off * whole
    return 1.0 if under <= 0.0 else (common - under**0.5) / squares


def centred(total: Float64, prompt: np.ndarray) -> Float64:
    """What a sequence has beyond its prompt's mean, which few sequences draw to the mean of all."""
    mean = total.mean()
    count = np.maximum(np.bincount(prompt), 1)
    own = np.bincount(prompt, total - mean) / (count + SAME * (count < 4))
    return np.asarray(total - mean - own[prompt])
