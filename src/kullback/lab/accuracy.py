"""How far off an estimate from n samples is: the record that the categorical and the language experiment share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf, isinf, nan, sqrt
from typing import Any, Literal

import numpy as np

from kullback.documents import Chart, Panel, Series, Table, plain
from kullback.errors import InputError

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
class Setting:
    """A pair of models: how many tokens there are, how long sequences get, how far the policy's logits moved."""

    vocab: int
    horizon: int
    distance: float


@dataclass(frozen=True)
class Moments:
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
    """

    sweep: Sweep
    setting: Setting
    estimator: str
    kl: float
    bias: float
    stdev: float
    rmse: float
    least: float
    most: float


@dataclass(frozen=True)
class Accuracies:
    """What `categorical` and `language` found.

    Attributes:
        name: of the experiment.
        samples: n, sequences (or draws) whose mean is the estimate.
        worlds: random worlds a setting.
        rows: one for each estimator and setting.
        charted: the estimators that the picture shows.
    """

    name: str
    samples: int
    worlds: int
    rows: tuple[Accuracy, ...]
    charted: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return dict(plain(asdict(self)))

    @property
    def estimators(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(dict.fromkeys(row.estimator for row in self.rows))

    def of(self, sweep: Sweep, estimator: str) -> list[Accuracy]:
        """One estimator along a sweep."""
        return [row for row in self.rows if (row.sweep, row.estimator) == (sweep, estimator)]

    def tables(self) -> tuple[Table, ...]:
        """Bias, standard deviation and error along each sweep."""
        return tuple(self._table(sweep) for sweep in dict.fromkeys(row.sweep for row in self.rows))

    def _table(self, sweep: Sweep) -> Table:
        rows = [row for row in self.rows if row.sweep == sweep]
        places = list(dict.fromkeys(getattr(row.setting, sweep) for row in rows))
        found = {(getattr(row.setting, sweep), row.estimator): row for row in rows}
        fixed = ", ".join(f"{name} {getattr(rows[0].setting, name):g}" for name in AXES if name != sweep)
        columns = tuple(f"{place:g}" for place in places)
        lines = [("KL(q‖p), nats", "", *(f"{found[place, self.estimators[0]].kl:.3g}" for place in places))]
        for measure, what in MEASURES.items():
            for name in self.estimators:
                cells = [getattr(found[place, name], measure) for place in places]
                if measure != "bias" or any(abs(cell) > UNBIASED for cell in cells):
                    lines.append((name, what.format(n=self.samples), *map(_cell, cells)))
        return Table(
            title=f"{self.name}, by {sweep}",
            note=(
                f"Over the true value, exact, medians over {self.worlds} random worlds; {fixed}. error: root mean "
                f"squared error of the mean of {self.samples:,}; stdev: of one; no bias row, no bias."
            ),
            columns=("estimator", sweep, *columns),
            rows=tuple(lines),
            right=columns,
        )

    def chart(self) -> Chart:
        """The error along each sweep."""
        sweeps = tuple(dict.fromkeys(row.sweep for row in self.rows))
        return Chart(
            name=self.name,
            text=(
                f"Root mean squared error of the mean of {self.samples} samples over the true KL, exact, for "
                f"{', '.join(self.charted)}, by {', '.join(sweeps)}."
            ),
            panels=tuple(
                Panel(
                    f"by {TITLES[sweep]}",
                    AXES[sweep],
                    f"error / KL, n = {self.samples}",
                    tuple(self._series(sweep, name) for name in self.charted),
                    "xy",
                    bottom=0.01,
                    top=10.0,
                )
                for sweep in sweeps
            ),
        )

    def _series(self, sweep: Sweep, name: str) -> Series:
        rows = self.of(sweep, name)
        return Series.of(
            name, ((row.kl if sweep == "distance" else getattr(row.setting, sweep), row.rmse) for row in rows)
        )


def measured(
    name: str,
    world: Callable[[Setting, np.random.Generator], Sequence[Moments]],
    base: Setting,
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
            setting = Setting(**{**asdict(base), sweep: kind(place)})
            found = [world(setting, np.random.default_rng([seed, number])) for number in range(worlds)]
            rows += [_accuracy(sweep, setting, column, samples) for column in zip(*found, strict=True)]
            on_setting(len({(row.sweep, row.setting) for row in rows}), total)
    return Accuracies(name, samples, worlds, tuple(rows), tuple(charted))


def _accuracy(sweep: Sweep, setting: Setting, found: Sequence[Moments], samples: int) -> Accuracy:
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


def _cell(value: float) -> str:
    if isinf(value):
        return "∞"
    return "0" if abs(value) < UNBIASED else f"{value:.3g}" if abs(value) < 1000 else f"{value:.1e}".replace("e+0", "e")
