"""Whose gradient every surrogate follows and how noisy it is, exactly, as the policy moves away from the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import acos, degrees, nan
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Array, Float64, to_numpy
from kullback.documents import Chart, Document, Number, Panel, Series, Table
from kullback.errors import InputError, MissingPackageError
from kullback.estimators import K1, K3, RAO_BLACKWELL, ControlVariate, Estimator
from kullback.lab.cells import Columns, numbers, settled, table_of
from kullback.lab.outcome import ExperimentOutcome
from kullback.losses import Baseline, kl_loss, kl_reward
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments, reference_world
from kullback.surrogates import SURROGATES
from kullback.surrogates.formulas import squared_about
from kullback.targets import REVERSE_KL

if TYPE_CHECKING:
    import torch

Loss = Callable[..., Array]

CHARTED = {
    "k1_loss": "k1 in the loss",
    "k3_loss": "k3 in the loss (GRPO)",
    "k3_token_ratio": "ρ·k3 in the loss (V3.2)",
    "k3_reward": "k3 in the reward",
    "k1_reward": "k1 in the reward",
    "kl_loss, rao_blackwell": "kl_loss, Rao-Blackwell",
}
"""What the picture shows, and what it calls them."""

ZERO_GRADIENT = 1e-9
"""Norms of expected gradients below this, over that of ∇KL, are rounding."""

ALIGNED = 1e-4
"""Angles below this, in degrees, are rounding: the arc cosine of 1 − 1e-16 is 1e-6 degrees."""


@dataclass(frozen=True)
class ExpectedGradient:
    """The expected gradient of one surrogate in one world, against G = ∇KL(q‖p) of sequences.

    Attributes:
        way: the surrogate, or the call of `kullback.kl_loss`.
        distance, staleness: of the world; staleness 0 is on-policy.
        kl: KL(q‖p) of the world, nats.
        follows: the target its record promises for this sampler, or None.
        angle: between E[∇L] and G, degrees; nan where E[∇L] is 0.
        scale: the part of G in E[∇L], ⟨E[∇L], G⟩/‖G‖².
        error: ‖E[∇L] − G‖/‖G‖.
        variance: trace of Cov[∇L] of one row, over ‖G‖².
    """

    way: str
    distance: float
    staleness: float
    kl: float
    follows: str | None
    angle: float
    scale: float
    error: float
    variance: float


@dataclass(frozen=True)
class Constant:
    """½(c + ℓ)² in the loss, whose gradient is unbiased for every c: how the constant changes its variance.

    Attributes:
        distance, kl: of the world.
        best: c* = −E[ℓ‖s‖²]/E[‖s‖²], s = ∇log q of the sequence.
        at_best, at_zero, at_one: variance over ‖G‖² at c*, at 0 (k2 of the sequence) and at 1.
        at_mean: at c = −KL(q‖p), the baseline of mean return.
    """

    distance: float
    kl: float
    best: float
    at_best: float
    at_zero: float
    at_one: float
    at_mean: float


@dataclass(frozen=True)
class Gradients(ExperimentOutcome):
    """What `gradients` found.

    Attributes:
        directions: every surrogate in every world, on-policy first.
        constants: of f_X.
        ways: (way, world, variance) of every unbiased way to ∇KL(q‖p), a row, over ‖G‖².

    Example:
        Off-policy, k1 in the reward no longer follows ∇KL(q‖p):

        >>> from kullback import lab
        >>> found = lab.gradients([1.0], surrogates=["k1_reward"])
        >>> on, off = (found.at("k1_reward", stale=stale)[0] for stale in (False, True))
        >>> on.error < 1e-9, off.error > 0.1
        (True, True)
    """

    directions: tuple[ExpectedGradient, ...]
    constants: tuple[Constant, ...]
    ways: tuple[tuple[str, str, float], ...]

    def at(self, way: str, *, stale: bool = False) -> list[ExpectedGradient]:
        """One surrogate along the distances, on- or off-policy."""
        return [row for row in self.directions if row.way == way and bool(row.staleness) == stale]

    def document(self) -> Document:
        """Directions and variances on-policy and off-policy, the constant of f_X, and the unbiased ways."""
        stales = dict.fromkeys(row.staleness for row in self.directions)
        tables = [*(_directions(self, stale) for stale in stales), _constants(self)]
        if self.ways:
            tables.append(_ways(self))
        return Document("Whose gradient every KL term follows", (*tables, _chart(self)))


def gradients(
    distances: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0),
    *,
    staleness: float = 0.3,
    surrogates: Sequence[str] | None = None,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> Gradients:
    """Direction and variance of every surrogate's gradient, exactly, as the policy moves away; on- and off-policy.

    The worlds are those of `kullback.oracle.reference_world`: 40 sequences of up to three of four tokens, whose
    logits differ from the reference's by `distance`. Off-policy the rows come from a policy `staleness` away.

    Args:
        distances: how far the policy's logits are moved.
        staleness: how far the policy that draws the rows is behind, for the second half of the rows.
        surrogates: names in `kullback.SURROGATES`; by default all of them, and then the unbiased ways too.
        on_setting: called with how many worlds are done, of how many.

    Raises:
        InputError: a distance or staleness that is not positive, or no distance.
        MissingPackageError: torch is not installed.

    Reference: docs/theory.md, “Gradients”; Wei Xu for f_X and f_S.

    Example:
        >>> from kullback import lab
        >>> found = lab.gradients([1.0], surrogates=["k1_reward", "k3_loss", "k3_reward"])
        >>> [round(row.angle) for row in found.directions if not row.staleness][:3]
        [0, 7, 138]
    """
    if not distances or min(distances) <= 0 or staleness <= 0:
        raise InputError(f"distances={list(distances)} and staleness={staleness} came, but they must be positive")
    _require_torch()
    named = [(name, SURROGATES[name].fn) for name in (SURROGATES.names if surrogates is None else surrogates)]
    losses = [*named, *((f"kl_loss, {e.name}", _kl_loss(e)) for e in (K1, K3, RAO_BLACKWELL))]
    rows: list[ExpectedGradient] = []
    settings = [(distance, stale) for stale in (0.0, staleness) for distance in distances]
    for done, (distance, stale) in enumerate(settings, 1):
        at = reference_world(distance, torch=True, staleness=stale)
        rows += [_direction(at, way, loss, distance, stale) for way, loss in losses]
        on_setting(done, len(settings))
    constants = tuple(_constant(distance) for distance in distances)
    return Gradients(tuple(rows), constants, tuple(unbiased_ways()) if surrogates is None else ())


def unbiased_ways() -> Iterator[tuple[str, str, float]]:
    """(way, world, variance) of every unbiased way to ∇KL(q‖p), on-policy.

    Raises:
        ArithmeticError: a way that turns out not to be unbiased.
    """
    worlds = {name: reference_world(name, torch=True) for name in ("near", "apart")} | {"crossed": crossed()}
    wanted = {name: exact_gradient(at, REVERSE_KL) for name, at in worlds.items()}
    for way, loss, rows in WAYS:
        for name, at in worlds.items():
            moments, want = loss_moments(at, loss, rows=rows), wanted[name]
            if abs(moments.gradient - want).max() > 1e-9 * abs(want).max():
                raise ArithmeticError(f"{way} does not follow the reverse KL")
            yield way, name, rows * moments.variance / float((want**2).sum())


def crossed() -> World:
    """A world in which the first token decides how far apart the second ones are."""
    import torch

    def tree(chances: tuple[float, float, float], leaf: bool) -> TreeLM:
        rows = torch.tensor([[1 - c, c, 1e-12] for c in chances], dtype=torch.float64).log()
        return TreeLM(rows.requires_grad_(leaf), eos=2, horizon=2)

    return World(tree((0.5, 0.5, 0.99), True), tree((0.75, 0.5, 0.01), False))


def _reward_to_go(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """k1 in the reward, credited with what follows."""
    import torch

    penalty = torch.as_tensor(kl_reward(q, p, mask, estimator=K1))
    return (penalty.flip(-1).cumsum(-1).flip(-1) * q * mask).sum(-1)


def _kl_loss(estimator: Estimator, baseline: Baseline | None = None) -> Loss:
    """kl_loss of the reverse KL, weighted to the policy."""

    def loss(q: Array, p: Array, mask: Array, token_kl: Array, behavior_logprobs: Array) -> Array:
        return kl_loss(
            q,
            p,
            mask,
            objective=REVERSE_KL,
            estimator=estimator,
            token_kl=token_kl if estimator is RAO_BLACKWELL else None,
            behavior_logprobs=behavior_logprobs,
            baseline=baseline,
        )

    return loss


LOSSES = (K1, K3, ControlVariate(0.5), RAO_BLACKWELL)
WAYS: tuple[tuple[str, Loss, int], ...] = (
    ("k1 in the reward, return", SURROGATES["k1_reward"].fn, 1),
    ("k1 in the reward, reward-to-go", _reward_to_go, 1),
    ("k2 of the sequence in the loss (f_X, c = 0)", SURROGATES["k2_sequence_loss"].fn, 1),
    ("f_X, c = 1", SURROGATES["f_X"].fn, 1),
    *((f"kl_loss, {e.name}", _kl_loss(e), 1) for e in LOSSES),
    *((f"kl_loss, {e.name}, leave-one-out", _kl_loss(e, "leave_one_out"), 2) for e in LOSSES),
)
"""(name, loss, rows of a batch) of the unbiased ways."""


def _direction(at: World, way: str, loss: Loss, distance: float, stale: float) -> ExpectedGradient:
    moments, want = loss_moments(at, loss), exact_gradient(at, REVERSE_KL)
    got, size = moments.gradient, float(np.linalg.norm(want))
    record = SURROGATES[way] if way in SURROGATES.names else None
    promise = REVERSE_KL if record is None else record.gradient_of["off_policy" if stale else "on_policy"]
    return ExpectedGradient(
        way=way,
        distance=distance,
        staleness=stale,
        kl=float(to_numpy(at.exact(REVERSE_KL))),
        follows=None if promise is None else promise.name,
        angle=_between(got, want),
        scale=float(np.sum(got * want)) / size**2,
        error=float(np.linalg.norm(got - want)) / size,
        variance=moments.variance / size**2,
    )


def _between(got: Float64, want: Float64) -> float:
    """The angle between two gradients, degrees."""
    size = float(np.linalg.norm(got))
    if size <= ZERO_GRADIENT * float(np.linalg.norm(want)):
        return nan
    return degrees(acos(min(1.0, max(-1.0, float(np.sum(got * want)) / size / float(np.linalg.norm(want))))))


def _constant(distance: float) -> Constant:
    at = reference_world(distance, torch=True)
    kl, size = float(to_numpy(at.exact(REVERSE_KL))), float(np.sum(exact_gradient(at, REVERSE_KL) ** 2))
    low, zero, one = (loss_moments(at, partial(squared_about, constant=c)).variance / size for c in (-1.0, 0.0, 1.0))
    # E‖(c + ℓ)s‖² is a quadratic of c, and the mean does not depend on c.
    slope, curvature = 0.5 * (one - low), 0.5 * (one + low) - zero
    best = -0.5 * slope / curvature

    def variance(c: float) -> float:
        return zero + c * slope + c**2 * curvature

    return Constant(
        distance=distance,
        kl=kl,
        best=best,
        at_best=variance(best),
        at_zero=zero,
        at_one=one,
        at_mean=variance(-kl),
    )


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingPackageError("torch", "torch") from None


def _directions(found: Gradients, stale: float) -> Table:
    rows = [row for row in found.directions if row.staleness == stale]
    kls = {row.distance: row.kl for row in rows}
    at = {(row.way, row.distance): row for row in rows}
    angles = tuple(f"∠ {kl:.1g}" for kl in kls.values())
    noises = tuple(f"var {kl:.1g}" for kl in kls.values())
    drawn = "the policy" if not stale else f"a policy whose logits are {stale:g} away"
    return Table(
        title=f"Gradients, rows drawn from {drawn}",
        note=(
            "∠: angle between the expected gradient and ∇KL(q‖p) of sequences, degrees, – where it is zero; var: "
            "trace of one row's covariance over ‖∇KL(q‖p)‖². Columns: KL(q‖p) of the world, nats: "
            + ", ".join(f"{kl:.3g}" for kl in kls.values())
            + ". Exact."
        ),
        columns=("surrogate", *angles, *noises),
        rows=tuple(
            (
                way,
                *numbers(settled(at[way, place].angle, ALIGNED) for place in kls),
                *numbers(at[way, place].variance for place in kls),
            )
            for way in dict.fromkeys(row.way for row in rows)
        ),
        right=(*angles, *noises),
    )


def _constants(found: Gradients) -> Table:
    return table_of(
        found.constants,
        CONSTANTS,
        title="½(c + ℓ)² of the sequence in the loss (f_X): the best constant",
        note="Unbiased for ∇KL(q‖p) whatever c; c* = −E[ℓ‖s‖²]/E‖s‖². Variances as above. Exact.",
    )


CONSTANTS: Columns[Constant] = {
    "KL(q‖p), nats": lambda row: Number(row.kl, ".3g"),
    "c*": lambda row: Number(row.best, ".3g"),
    "var at c*": lambda row: Number(row.at_best, ".3g"),
    "at 0": lambda row: Number(row.at_zero, ".3g"),
    "at −KL": lambda row: Number(row.at_mean, ".3g"),
    "at 1": lambda row: Number(row.at_one, ".3g"),
}


def _ways(found: Gradients) -> Table:
    ways = dict.fromkeys(way for way, _, _ in found.ways)
    worlds = tuple(dict.fromkeys(world for _, world, _ in found.ways))
    at = {(way, world): variance for way, world, variance in found.ways}
    return Table(
        title="Unbiased ways to ∇KL(q‖p)",
        note=(
            "Trace of the exact covariance, per row, over ‖∇KL(q‖p)‖²; leave-one-out over pairs. near: KL 0.015; "
            "apart: 0.39; crossed: the first token decides how far apart the second ones are."
        ),
        columns=("way to ∇KL(q‖p)", *worlds),
        rows=tuple((way, *numbers(at[way, world] for world in worlds)) for way in ways),
        right=worlds,
    )


def _chart(found: Gradients) -> Chart:
    panels = []
    for stale, title in ((False, "on-policy"), (True, "off-policy")):
        charted = {label: rows for way, label in CHARTED.items() if (rows := found.at(way, stale=stale))}
        angles = tuple(Series.of(label, ((row.kl, row.angle) for row in rows)) for label, rows in charted.items())
        noises = tuple(Series.of(label, ((row.kl, row.variance) for row in rows)) for label, rows in charted.items())
        x = "KL(q‖p), nats a sequence"
        panels += [
            Panel(f"direction, {title}", x, "angle to ∇KL, degrees", angles, "x", bottom=-4, top=150),
            Panel(f"noise, {title}", x, "Var / ‖∇KL‖²", noises, "xy", bottom=0.1, top=1000),
        ]
    return Chart(
        name="gradients",
        text=(
            "Angle between the expected gradient of six KL terms and the gradient of the sequence KL, and their "
            "variance, against the KL, on-policy and off-policy. k1 in the reward and kl_loss stay at 0 degrees "
            "on-policy; only kl_loss does off-policy; k1 in the loss has no expected gradient on-policy."
        ),
        panels=tuple(panels),
    )
