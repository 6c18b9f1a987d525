"""How far off an estimate from n samples is: the record that the categorical and the language experiment share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf, isinf, nan, sqrt
from typing import Literal

import numpy as np

from kullback.documents import Cell, Chart, Document, Panel, Series, Table
from kullback.errors import InputError
from kullback.lab.cells import Relative, numbers, settled
from kullback.lab.outcome import ExperimentOutcome

Sweep = Literal["distance", "vocab", "horizon"]

AXES: dict[Sweep, str] = {
    "distance": "KL(q‖p), nats a sequence",
    "vocab": "vocabulary, tokens",
    "horizon": "horizon, tokens",
}


TITLES: dict[Sweep, str] = {"distance": "distance", "vocab": "vocabulary", "horizon": "horizon"}
MEASURES = {"rmse": "error at n = {n}", "stdev": "stdev", "bias": "bias"}
UNBIASED = 1e-9
"""Relative biases below this are rounding."""


@dataclass(frozen=True)
class PairSetting:
    """A pair of models: how many tokens there are, how long sequences get, how far the policy's logits moved."""

    vocab: int
    horizon: int
    distance: float


@dataclass(frozen=True)
class SequenceMoments:
    """What an estimator makes of one sequence of one world, exactly: the truth, its mean and its variance."""

    estimator: str
    truth: float
    mean: float
    variance: float


@dataclass(frozen=True)
class Accuracy:
    """One estimator in one setting, medians over worlds; all but `kl` over the truth.

    Attributes:
        sweep: what was varied when this setting was met.
        kl: KL(q‖p), nats a sequence.
        bias: (mean − truth)/truth.
        stdev: of one sequence.
        rmse: √(bias² + stdev²/n) of the mean of n sequences.
        least, most: of `rmse` over the worlds.

    Example:
        >>> from kullback import lab
        >>> k1 = lab.categorical([0.5], [16], samples=100, worlds=1).rows[0]
        >>> k1.estimator, k1.setting.vocab, round(k1.rmse - k1.stdev / 10, 12)
        ('k1', 256, 0.0)
    """

    sweep: Sweep
    setting: PairSetting
    estimator: str
    kl: float
    bias: float
    stdev: float
    rmse: float
    least: float
    most: float


@dataclass(frozen=True)
class Accuracies(ExperimentOutcome):
    """What `categorical` and `language` found.

    Attributes:
        name: of the experiment.
        samples: n, sequences (or draws) whose mean is the estimate.
        worlds: random worlds a setting.
        rows: one for each estimator and setting.
        charted: the estimators that the picture shows.

    Example:
        >>> from kullback import lab
        >>> found = lab.categorical([0.1, 1.0], [16], worlds=1)
        >>> near, far = found.of("distance", "k1")
        >>> near.kl < far.kl, near.stdev > far.stdev
        (True, True)
        >>> [table.title for table in found.document().tables]
        ['categorical, by distance', 'categorical, by vocab']
    """

    name: str
    samples: int
    worlds: int
    rows: tuple[Accuracy, ...]
    charted: tuple[str, ...]

    @property
    def estimators(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(dict.fromkeys(row.estimator for row in self.rows))

    def of(self, sweep: Sweep, estimator: str) -> list[Accuracy]:
        """One estimator along a sweep."""
        return [row for row in self.rows if (row.sweep, row.estimator) == (sweep, estimator)]

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """What was varied, in order."""
        return tuple(dict.fromkeys(row.sweep for row in self.rows))

    def document(self) -> Document:
        """Bias, standard deviation and error along each sweep."""
        return _document(self)


def measured(
    name: str,
    world: Callable[[PairSetting, np.random.Generator], Sequence[SequenceMoments]],
    base: PairSetting,
    sweeps: dict[Sweep, Sequence[float]],
    *,
    samples: int,
    worlds: int,
    seed: int,
    charted: Sequence[str],
    on_setting: Callable[[int, int], None],
) -> Accuracies:
    """Every estimator in `worlds` random worlds at every place of every sweep."""
    if samples < 1 or worlds < 1 or not all(sweeps.values()):
        raise InputError(
            f"samples={samples} and worlds={worlds} came, with places {sweeps}: at least one of each is needed"
        )
    rows: list[Accuracy] = []
    total = sum(map(len, sweeps.values()))
    for sweep, places in sweeps.items():
        for place in places:
            kind = float if sweep == "distance" else int
            setting = PairSetting(**{**asdict(base), sweep: kind(place)})
            found = [world(setting, np.random.default_rng([seed, number])) for number in range(worlds)]
            rows += [_accuracy(sweep, setting, column, samples) for column in zip(*found, strict=True)]
            on_setting(len({(row.sweep, row.setting) for row in rows}), total)
    return Accuracies(name, samples, worlds, tuple(rows), tuple(charted))


def _accuracy(sweep: Sweep, setting: PairSetting, found: Sequence[SequenceMoments], samples: int) -> Accuracy:
    bias = [m.mean / m.truth - 1.0 for m in found]
    stdev = [sqrt(m.variance) / m.truth if m.variance < inf else inf for m in found]
    rmse = [sqrt(b**2 + s**2 / samples) for b, s in zip(bias, stdev, strict=True)]
    return Accuracy(
        sweep=sweep,
        setting=setting,
        estimator=found[0].estimator,
        kl=_median([m.truth for m in found]),
        bias=_median(bias),
        stdev=_median(stdev),
        rmse=_median(rmse),
        least=min(rmse),
        most=max(rmse),
    )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2 if not isinf(high) else (inf if isinf(low) else nan)


def _document(found: Accuracies) -> Document:
    return Document(
        title=f"How far off an estimate is: {found.name}",
        blocks=(*(_table(found, sweep) for sweep in found.sweeps), _chart(found)),
    )


def _table(found: Accuracies, sweep: Sweep) -> Table:
    rows = [row for row in found.rows if row.sweep == sweep]
    places = list(dict.fromkeys(getattr(row.setting, sweep) for row in rows))
    at = {(getattr(row.setting, sweep), row.estimator): row for row in rows}
    fixed = ", ".join(f"{name} {getattr(rows[0].setting, name):g}" for name in AXES if name != sweep)
    columns = tuple(f"{place:g}" for place in places)
    lines: list[tuple[Cell, ...]] = [
        ("KL(q‖p), nats", "", *numbers(at[place, found.estimators[0]].kl for place in places))
    ]
    for measure, what in MEASURES.items():
        for name in found.estimators:
            values = [getattr(at[place, name], measure) for place in places]
            if measure != "bias" or any(abs(value) > UNBIASED for value in values):
                cells = (Relative(settled(value, UNBIASED), ".3g") for value in values)
                lines.append((name, what.format(n=found.samples), *cells))
    return Table(
        title=f"{found.name}, by {sweep}",
        note=(
            f"Over the true value, exact, medians over {found.worlds} random worlds; {fixed}. error: root mean "
            f"squared error of the mean of {found.samples:,}; stdev: of one; no bias row, no bias."
        ),
        columns=("estimator", sweep, *columns),
        rows=tuple(lines),
        right=columns,
    )


def _chart(found: Accuracies) -> Chart:
    return Chart(
        name=found.name,
        text=(
            f"Root mean squared error of the mean of {found.samples} samples over the true KL, exact, for "
            f"{', '.join(found.charted)}, by {', '.join(found.sweeps)}."
        ),
        panels=tuple(
            Panel(
                f"by {TITLES[sweep]}",
                AXES[sweep],
                f"error / KL, n = {found.samples}",
                tuple(_series(found, sweep, name) for name in found.charted),
                "xy",
                bottom=0.01,
                top=10.0,
            )
            for sweep in found.sweeps
        ),
    )


def _series(found: Accuracies, sweep: Sweep, name: str) -> Series:
    rows = found.of(sweep, name)
    return Series.of(name, ((row.kl if sweep == "distance" else getattr(row.setting, sweep), row.rmse) for row in rows))
