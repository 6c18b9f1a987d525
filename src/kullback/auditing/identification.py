"""Which named target a value or a gradient equals in every world, up to one scale; or which is nearest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.expectations import WEIGHTS, Moments, Weight
from kullback.auditing.worlds import Setting, exact
from kullback.targets import REVERSE_KL, STATEWISE_REVERSE_KL, TARGETS, ZERO, Target

FLOOR = 1e-3
"""Below this share of the size of KL(q‖p) a difference is rounding, where a target is itself near 0."""

SIMPLE_SCALES = tuple(sign * scale for scale in (1, 2, 3, 4, 1 / 2, 1 / 3, 2 / 3, 1 / 4, 3 / 4) for sign in (1.0, -1.0))


@dataclass(frozen=True)
class Identification:
    """What a value or a gradient is.

    Attributes:
        target: the target it equals `scale` times in every world, or None.
        scale: how many times; for the nearest one the best fit over the worlds.
        weight: "sequence"; "length" where it is so only after each sequence's result is multiplied by its own
            length, "width" by the padded width: the function divides by it.
        nearest: the target it equals, or else comes nearest to: KL(q‖p), unless another one is twice as near.
        relative_error: the largest of `errors`.
        errors: |got − target|/|target| by world, to `scale` × `target` or, where there is none, to `nearest`.
        cosine: between gradients, the smallest over the worlds; 1 or −1 for values.
        one_token: the target it equals where sequences have one token.
        one_token_scale: how many times.
        within: the target it equals in the worlds that are not far, where no clamp binds, if not in all.
        within_scale, within_weight: how many times, and as for `weight`.
        growth: (KL(q‖p), relative error) as the same models move apart; empty where a target is met.
        got: E by world, for values.
    """

    target: Target | None
    scale: float
    nearest: Target
    relative_error: float
    errors: dict[str, float] = field(default_factory=dict)
    cosine: float = 1.0
    weight: Weight = "sequence"
    one_token: Target | None = None
    one_token_scale: float = 1.0
    within: Target | None = None
    within_scale: float = 1.0
    within_weight: Weight = "sequence"
    growth: tuple[tuple[float, float], ...] = ()
    got: dict[str, float] = field(default_factory=dict)

    @property
    def named(self) -> Target | None:
        """The target it equals everywhere, or at least where the models are not far apart."""
        return self.target or self.within

    @property
    def factor(self) -> float:
        """How many times."""
        return self.scale if self.target is not None or self.within is None else self.within_scale

    @property
    def per(self) -> Weight:
        """What it divides by, where a target was found."""
        return self.weight if self.target is not None else self.within_weight

    @property
    def exact(self) -> bool:
        """Whether it is a target itself: once, and over sequences."""
        return self.target is not None and self.scale == 1.0 and self.weight == "sequence"

    def __str__(self) -> str:
        if self.target is None:
            return (
                f"no named quantity; nearest {name(self.nearest)}, relative error up to {self.relative_error:.2g} "
                f"(cosine down to {self.cosine:.3f})"
            )
        return f"{times(self.scale)}{name(self.target)}" + (
            "" if self.weight == "sequence" else f" per {WEIGHTS[self.weight].removeprefix('a ')}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target and self.target.name,
            "scale": self.scale,
            "per": self.weight,
            "nearest": self.nearest.name,
            "relative_error": self.relative_error,
            "cosine": self.cosine,
            "errors": self.errors,
            "within": self.within and self.within.name,
            "one_token": self.one_token and self.one_token.name,
            "growth": [{"kl": kl, "relative_error": error} for kl, error in self.growth],
        }


def name(target: Target) -> str:
    """A target as reports write it."""
    return "0" if target is ZERO else f"{target.formula} ({target.name})"


def times(scale: float) -> str:
    """A scale as reports write it; nothing for 1."""
    if scale == 1.0:
        return ""
    return "−" if scale == -1.0 else f"{scale:.6g} × ".replace("-", "−")


Found = Mapping[Weight, Sequence[Moments]]


def identify(
    kind: str, found: Found, settings: Sequence[Setting], sampler: str, tolerance: float, unit: float = 1.0
) -> Identification:
    """Look a value or a gradient up in the table of targets.

    Args:
        kind: "value" or "gradient".
        found: expectations by weight, one for each setting.
        settings: the worlds.
        sampler: what drew the sequences.
        tolerance: relative, what rounding allows.
        unit: a coefficient that the nearest target is looked for without.
    """
    names = [setting.name for setting in settings]
    for weight, across in found.items():
        got = _vectors(kind, across)
        slack = _slack(kind, across, settings, sampler)
        matches = []
        for target in TARGETS:
            scale = _scale(got, _wanted(kind, target, settings, sampler), slack, tolerance)
            if scale is not None:
                matches.append((scale != 1.0, scale, target))
        if matches:
            _, scale, target = min(matches, key=lambda match: match[0])
            target = (target.value_of or target) if kind == "value" else target
            want = _wanted(kind, target, settings, sampler)
            errors = [_relative(g, scale * w) if target is not ZERO else 0.0 for g, w in zip(got, want, strict=True)]
            by_world, sign = dict(zip(names, errors, strict=True)), float(np.sign(scale))
            return Identification(target, scale, target, max(errors), by_world, sign, weight, got=_got(got, names))
    ranked = [
        _nearest(kind, [v / unit for v in _vectors(kind, across)], settings, sampler, w) for w, across in found.items()
    ]
    nearest = min(ranked, key=lambda one: one[0])[1]
    near = [i for i, setting in enumerate(settings) if not setting.far]
    if len(near) == len(settings) or not len(near) > 1:
        return nearest
    inside = {weight: [across[i] for i in near] for weight, across in found.items()}
    within = identify(kind, inside, [settings[i] for i in near], sampler, tolerance)
    if within.target is None:
        return nearest
    return replace(nearest, within=within.target, within_scale=within.scale, within_weight=within.weight)


def _got(got: list[Float64], names: list[str]) -> dict[str, float]:
    return {n: float(v[0]) for n, v in zip(names, got, strict=True)} if got[0].size == 1 else {}


def _vectors(kind: str, across: Sequence[Moments]) -> list[Float64]:
    return [at.value if kind == "value" else at.gradient for at in across]


def _wanted(kind: str, target: Target, settings: Sequence[Setting], sampler: str) -> list[Float64]:
    return [exact(setting, sampler, target, kind) for setting in settings]


def _slack(kind: str, across: Sequence[Moments], settings: Sequence[Setting], sampler: str) -> list[float]:
    """What counts as the size of a target that is itself about 0."""
    sizes = []
    for at, setting in zip(across, settings, strict=True):
        one = [float(np.linalg.norm(exact(setting, sampler, t, kind))) for t in (REVERSE_KL, STATEWISE_REVERSE_KL)]
        sizes.append(FLOOR * max(*one, min(at.spread, 100.0) if kind == "value" else 0.0))
    return sizes


def _scale(got: list[Float64], want: list[Float64], slack: list[float], tolerance: float) -> float | None:
    """The one c with got = c·want in every world, or None."""
    if not all(np.isfinite(g).all() for g in got):
        return None
    sizes = [float(np.linalg.norm(w)) for w in want]
    if max(sizes) == 0.0:
        rounding = 1e-6 if tolerance < 1e-6 else 1e3 * tolerance
        zero = all(np.linalg.norm(g) <= rounding * s for g, s in zip(got, slack, strict=True))
        return 1.0 if zero else None
    lead = int(np.argmax([size / s for size, s in zip(sizes, slack, strict=True)]))
    scale = float(got[lead] @ want[lead]) / sizes[lead] ** 2
    scale = next((s for s in SIMPLE_SCALES if abs(scale - s) <= 10 * tolerance), scale)
    scale = float(f"{scale:.{7 if tolerance < 1e-6 else 4}g}")
    if abs(scale) < 1e-6:
        return None
    for g, w, size, s in zip(got, want, sizes, slack, strict=True):
        if not np.linalg.norm(g - scale * w) <= tolerance * max(abs(scale) * size, s):
            return None
    return scale


def _nearest(
    kind: str, got: list[Float64], settings: Sequence[Setting], sampler: str, weight: Weight
) -> tuple[tuple[int, float], Identification]:
    """The nearest target, and how near: in how many worlds it is met, and its mean error in those not far."""
    best: tuple[Any, ...] | None = None
    names = [setting.name for setting in settings]
    for target in TARGETS:
        if target is ZERO or (kind == "value" and target.value_of is not None):
            continue
        want = _wanted(kind, target, settings, sampler)
        errors = [_relative(g, w) for g, w in zip(got, want, strict=True)]
        close = sum(error < 1e-6 for error in errors)
        # Targets that are one quantity for this sampler differ by rounding: the first of them is named.
        seen = [min(e, 10.0) for e, s in zip(errors, settings, strict=True) if not s.far] or errors
        # KL(q‖p) is what readers compare with.
        rank = (-close, round(float(np.mean(seen)) / (2 if target is REVERSE_KL else 1), 9))
        if best is None or rank < best[0]:
            best = (rank, target, errors, want)
    assert best is not None
    rank, target, errors, want = best
    flat = np.concatenate(got) @ np.concatenate(want) / max(float(np.sum(np.concatenate(want) ** 2)), 1e-300)
    cosines = [cosine(g, w) for g, w in zip(got, want, strict=True)]
    by_world = dict(zip(names, errors, strict=True))
    return rank, Identification(
        None, float(flat), target, max(errors), by_world, min(cosines), weight, got=_got(got, names)
    )


def _relative(got: Float64, want: Float64) -> float:
    size = float(np.linalg.norm(want))
    error = float(np.linalg.norm(got - want)) / size if size > 0 else float("inf")
    return error if np.isfinite(error) else float("inf")


def cosine(a: Float64, b: Float64) -> float:
    """cos of the angle between two gradients; 0 where one is 0."""
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / sizes, 12) + 0.0 if sizes > 0 and np.isfinite(sizes) else 0.0


def growth(
    kind: str, target: Target, at: Callable[[Setting], Moments], ladder: Sequence[Setting]
) -> tuple[tuple[float, float], ...]:
    """(KL(q‖p), relative error to a target) as the models move apart."""
    rows = []
    for setting in ladder:
        got = _vectors(kind, [at(setting)])[0]
        kl = float(exact(setting, "on_policy", REVERSE_KL, "value")[0])
        rows.append((kl, _relative(got, exact(setting, "on_policy", target, kind))))
    return tuple(rows)
