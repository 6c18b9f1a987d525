"""What each way to less variance gains over Rao-Blackwell in random worlds, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kullback.documents import Cell, Chart, Document, Panel, Series, Table
from kullback.errors import InputError, shown
from kullback.lab.cells import numbers, settled
from kullback.lab.gradient_ways import GRADIENT_WAYS, Gradients, GradientSpread
from kullback.lab.outcome import ExperimentOutcome
from kullback.lab.variance_ways import WAYS, Sequences, Spread
from kullback.oracle import TreeLM, World
from kullback.oracle.tree import prefix_count

MOST_SEQUENCES = 3_000
"""Of a world: pairs of them are looked at."""

ROUNDING = 1e-12
"""Relative variances below this are rounding."""

BASE = "Rao-Blackwell"


@dataclass(frozen=True)
class Way:
    """One way in the worlds of one distance, as geometric means over Rao-Blackwell's.

    Attributes:
        name: as in `kullback.lab.variance_ways.WAYS`.
        distance: of the two models' logits.
        variance: of the mean of as many sequences.
        cost: variance times the tokens drawn.
        worst: of `cost`, in any of the worlds.
        bias: the largest |mean − KL|/KL of any world.
    """

    name: str
    distance: float
    variance: float
    cost: float
    worst: float
    bias: float


@dataclass(frozen=True)
class GradientWay:
    """One unbiased way to ∇KL(q‖p) in the worlds of one distance, over Rao-Blackwell's.

    Attributes:
        name: as in `kullback.lab.gradient_ways.GRADIENT_WAYS`.
        distance: of the two models' logits.
        variance: trace of the covariance of the mean of as many rows, the geometric mean of the worlds.
        worst: the same in any of the worlds.
        bias: the largest ‖mean − ∇KL‖/‖∇KL‖ of any world.
    """

    name: str
    distance: float
    variance: float
    worst: float
    bias: float


@dataclass(frozen=True)
class Variances(ExperimentOutcome):
    """What `variance` found.

    Attributes:
        vocab, horizon, worlds, seed: of the worlds.
        ways: every way to the KL at every distance.
        gradient_ways: every way to its gradient.

    Example:
        >>> from kullback import lab
        >>> found = lab.variance([0.5], worlds=2)
        >>> [way.variance < 1e-12 for way in found.of("… less the KL to come")]
        [True]
        >>> max(way.bias for way in found.ways) < 1e-10
        True
    """

    vocab: int
    horizon: int
    worlds: int
    seed: int
    ways: tuple[Way, ...]
    gradient_ways: tuple[GradientWay, ...]

    def of(self, name: str) -> list[Way]:
        """One way along the distances."""
        return [way for way in self.ways if way.name == name]

    def document(self) -> Document:
        """Variance, variance times tokens, and the worst world's."""
        return _document(self)


def variance(
    distances: Sequence[float] = (0.1, 0.3, 1.0),
    *,
    vocab: int = 4,
    horizon: int = 5,
    worlds: int = 20,
    seed: int = 0,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> Variances:
    """Variance of estimators and designs over Rao-Blackwell's, by summing over every sequence of random worlds.

    Controls have the best coefficients there are, which a fit reaches with more data only: they are limits. Strata are
    those of infinitely many samples too. What depends on how many sequences are drawn together is at 16 (4 branches).

    Args:
        distances: standard deviations of what is added to the logits that the two models share, for each.
        vocab: tokens, of which one ends a sequence.
        horizon: tokens after which a sequence is cut.
        worlds: random pairs for each distance.
        seed: of the worlds.
        on_setting: told how many worlds are done, of how many.

    Raises:
        InputError: a world with too many sequences, or none to look at.

    Example:
        >>> found = variance((0.3,), worlds=1)
        >>> found.worlds, found.vocab, found.horizon
        (1, 4, 5)
    """
    if vocab < 2 or horizon < 2 or worlds < 1 or not distances or min(distances) <= 0:
        raise InputError(
            f"vocab={vocab}, horizon={horizon}, worlds={worlds} and distances={shown(list(distances))} came, but two "
            "tokens, two steps, one world and a distance above 0 are needed"
        )
    if horizon > MOST_SEQUENCES or prefix_count(vocab, horizon) * vocab > MOST_SEQUENCES:
        raise InputError(
            f"vocab={vocab} and horizon={horizon} make worlds of more than {MOST_SEQUENCES:,} sequences: lower one"
        )
    found: list[Way] = []
    gradients: list[GradientWay] = []
    total = len(distances) * worlds
    for place, distance in enumerate(distances):
        spreads: list[tuple[float, dict[str, Spread]]] = []
        slopes: list[dict[str, GradientSpread]] = []
        for number in range(worlds):
            world = _world(vocab, horizon, distance, np.random.default_rng([seed, number]))
            at, gradient = Sequences(world), Gradients(world)
            spreads.append((at.mean(at.total), {name: way(at) for name, way in WAYS.items()}))
            slopes.append({name: way(gradient) for name, way in GRADIENT_WAYS.items()})
            on_setting(place * worlds + number + 1, total)
        found += [_way(name, distance, spreads) for name in WAYS]
        gradients += [_gradient_way(name, distance, slopes) for name in GRADIENT_WAYS]
    return Variances(vocab, horizon, worlds, seed, tuple(found), tuple(gradients))


def _world(vocab: int, horizon: int, distance: float, rng: np.random.Generator) -> World:
    shape = (prefix_count(vocab, horizon), vocab)
    base = rng.normal(size=shape)
    models = (TreeLM(base + distance * rng.normal(size=shape), eos=0, horizon=horizon) for _ in range(2))
    return World(*models)


def _way(name: str, distance: float, spreads: Sequence[tuple[float, dict[str, Spread]]]) -> Way:
    variances = np.array([max(one[name].variance, 0.0) / one[BASE].variance for _, one in spreads])
    tokens = np.array([one[name].tokens / one[BASE].tokens for _, one in spreads])
    return Way(
        name=name,
        distance=distance,
        variance=_geometric(variances),
        cost=_geometric(variances * tokens),
        worst=settled(float((variances * tokens).max()), ROUNDING),
        bias=max(abs(one[name].mean - truth) / truth for truth, one in spreads),
    )


def _gradient_way(name: str, distance: float, spreads: Sequence[dict[str, GradientSpread]]) -> GradientWay:
    variances = np.array([one[name].variance / one[BASE].variance for one in spreads])
    off = [np.linalg.norm(one[name].mean - one[BASE].mean) / np.linalg.norm(one[BASE].mean) for one in spreads]
    return GradientWay(name, distance, _geometric(variances), float(variances.max()), float(max(off)))


def _geometric(values: np.ndarray) -> float:
    """The geometric mean; 0 where all are of rounding's size."""
    return 0.0 if values.max() < ROUNDING else float(np.exp(np.log(np.maximum(values, ROUNDING)).mean()))


def _document(found: Variances) -> Document:
    note = (
        f"Geometric means over {found.worlds} worlds of {found.vocab} tokens and at most {found.horizon} steps, by the "
        "distance of the models. Exact; every way's mean is the KL to 1e-10."
    )
    tables = (
        _table(found, "Variance of as many sequences, Rao-Blackwell's = 1", note, lambda way: way.variance),
        _table(
            found,
            "Variance × tokens drawn, Rao-Blackwell's = 1",
            "What an error costs; a row that has ended costs nothing more.",
            lambda way: way.cost,
        ),
        _table(found, "The same in the worst of the worlds", "", lambda way: way.worst),
        _gradient_table(found),
    )
    chart = Chart(
        name="variance",
        text="Variance times tokens over Rao-Blackwell's against the distance of the models, for each way.",
        panels=(
            Panel(
                "what an error costs",
                "distance of the logits",
                "variance × tokens, Rao-Blackwell's = 1",
                tuple(Series.of(name, ((w.distance, w.cost) for w in found.of(name))) for name in WAYS),
                "xy",
            ),
        ),
    )
    return Document("Less variance than Rao-Blackwell's", (*tables, chart))


def _table(found: Variances, title: str, note: str, number: Callable[[Way], float]) -> Table:
    places = tuple(f"{distance:g} apart" for distance in dict.fromkeys(way.distance for way in found.ways))
    rows: list[tuple[Cell, ...]] = [(name, *numbers(map(number, found.of(name)))) for name in WAYS]
    return Table(title=title, note=note, columns=("", *places), rows=tuple(rows), right=places)


def _gradient_table(found: Variances) -> Table:
    distances = tuple(dict.fromkeys(way.distance for way in found.gradient_ways))
    at = {(way.name, way.distance): way for way in found.gradient_ways}
    places = tuple(f"{distance:g} apart" for distance in distances)
    worst = tuple(f"worst at {distance:g}" for distance in distances)
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            *numbers(at[name, distance].variance for distance in distances),
            *numbers(at[name, distance].worst for distance in distances),
        )
        for name in GRADIENT_WAYS
    ]
    return Table(
        title="Variance of the gradient of as many rows, Rao-Blackwell's = 1",
        note=(
            "Trace of the covariance in the policy's logits, and in the worst of the worlds. Exact; each mean is "
            "∇KL(q‖p) to 1e-10. The token value is the KL still to come after every next token; learned by "
            "kullback.TokenCritic in batches of 16."
        ),
        columns=("way to ∇KL(q‖p)", *places, *worst),
        rows=tuple(rows),
        right=(*places, *worst),
    )
