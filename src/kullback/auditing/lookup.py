"""Looking an expectation up in the table of targets: the one it equals in every world up to a scale, or the nearest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.expectations import Expectation, Weight
from kullback.auditing.identification import Distance, Identification
from kullback.auditing.options import Sampler
from kullback.auditing.worlds import Aspect, Setting, exact
from kullback.targets import REVERSE_KL, STATEWISE_REVERSE_KL, TARGETS, ZERO, Target

FLOOR = 1e-3
"""Below this share of the size of KL(q‖p) a difference is rounding, where a target is itself near 0."""

SIMPLE_SCALES = tuple(sign * scale for scale in (1, 2, 3, 4, 1 / 2, 1 / 3, 2 / 3, 1 / 4, 3 / 4) for sign in (1.0, -1.0))

ByWeight = Mapping[Weight, Sequence[Expectation]]
"""Expectations by what each sequence's result was multiplied by, one for each world."""


@dataclass(frozen=True)
class Lookup:
    """The table of targets in some worlds.

    Attributes:
        aspect: whether values are looked up, or gradients.
        settings: the worlds.
        sampler: what drew the sequences.
        tolerance: relative, what rounding allows.
    """

    aspect: Aspect
    settings: Sequence[Setting]
    sampler: Sampler
    tolerance: float

    def identify(self, found: ByWeight, unit: float = 1.0) -> Identification:
        """The target that is met in every world, or the nearest one.

        Args:
            found: expectations in this table's worlds.
            unit: a coefficient that the nearest target is looked for without.
        """
        met = (self.met(weight, across) for weight, across in found.items())
        return next((one for one in met if one is not None), None) or self.nearest(found, unit)

    def nearest(self, found: ByWeight, unit: float = 1.0) -> Identification:
        """The target that comes nearest to what meets none."""
        if not all(np.isfinite(v).all() for across in found.values() for v in self._vectors(across)):
            return self._not_finite(found)
        ranked = [self._nearest(weight, [v / unit for v in self._vectors(across)]) for weight, across in found.items()]
        nearest = min(ranked, key=lambda candidate: candidate.rank).identification
        return self._within(found, nearest)

    def distance(self, across: Sequence[Expectation], target: Target, unit: float = 1.0) -> Distance:
        """How far it is from a target that was meant, whatever it comes nearest to."""
        got, want = [v / unit for v in self._vectors(across)], self._exact(target)
        errors = [relative_error(g, w) for g, w in zip(got, want, strict=True)]
        cosines = self._by_world([cosine(g, w) for g, w in zip(got, want, strict=True)])
        return Distance(target, self._by_world(errors), cosines)

    def _not_finite(self, found: ByWeight) -> Identification:
        """What is met in the worlds where it is a number, and how far it is from the KL in these."""
        across = found["sequence"]
        got, want = self._vectors(across), self._exact(REVERSE_KL)
        errors = [relative_error(g, w) for g, w in zip(got, want, strict=True)]
        nearest = Identification(
            target=None,
            scale=1.0,
            nearest=REVERSE_KL,
            relative_error=max(errors),
            errors=self._by_world(errors),
            cosine=min(cosine(g, w) for g, w in zip(got, want, strict=True)),
            got=self._values(got),
        )
        return self._within(found, nearest)

    def _vectors(self, across: Sequence[Expectation]) -> list[Float64]:
        return [expectation.of(self.aspect) for expectation in across]

    def _exact(self, target: Target) -> list[Float64]:
        return [exact(setting, self.sampler, target, self.aspect) for setting in self.settings]

    def _by_world(self, numbers: Sequence[float]) -> dict[str, float]:
        return {setting.name: number for setting, number in zip(self.settings, numbers, strict=True)}

    def _values(self, got: Sequence[Float64]) -> dict[str, float]:
        return self._by_world([float(v[0]) for v in got]) if got[0].size == 1 else {}

    def met(self, weight: Weight, across: Sequence[Expectation]) -> Identification | None:
        """The target that is met in every world; one that is met once wins over multiples."""
        got = self._vectors(across)
        if not all(np.isfinite(g).all() for g in got):
            return None
        slack = self._slack(across)
        table = zip(TARGETS, _sized(tuple(self.settings), self.sampler, self.aspect), strict=True)
        scales = ((_scale(got, want, slack, self.tolerance), target) for target, want in table)
        matches = [(scale, target) for scale, target in scales if scale is not None]
        if not matches:
            return None
        scale, target = min(matches, key=lambda match: match[0] != 1.0)
        target = (target.value_of or target) if self.aspect == "value" else target
        want = self._exact(target)
        errors = [relative_error(g, scale * w) if target is not ZERO else 0.0 for g, w in zip(got, want, strict=True)]
        return Identification(
            target=target,
            scale=scale,
            nearest=target,
            relative_error=max(errors),
            errors=self._by_world(errors),
            cosine=float(np.sign(scale)),
            weight=weight,
            got=self._values(got),
        )

    def _slack(self, across: Sequence[Expectation]) -> list[float]:
        """What counts as the size of a target that is itself about 0."""
        references = zip(*(self._exact(target) for target in (REVERSE_KL, STATEWISE_REVERSE_KL)), strict=True)
        spreads = [min(found.spread, 100.0) if self.aspect == "value" else 0.0 for found in across]
        sizes = [[float(np.linalg.norm(reference)) for reference in pair] for pair in references]
        return [FLOOR * max(*size, spread) for size, spread in zip(sizes, spreads, strict=True)]

    def _nearest(self, weight: Weight, got: list[Float64]) -> Candidate:
        """The nearest target; targets that share their value with another one stand back for values."""
        targets = (t for t in TARGETS if t is not ZERO and (self.aspect == "gradient" or t.value_of is None))
        candidates = [self._candidate(target, weight, got) for target in targets]
        # Targets that are one quantity for this sampler differ by rounding: the first of them is named.
        return min(candidates, key=lambda candidate: candidate.rank)

    def _candidate(self, target: Target, weight: Weight, got: list[Float64]) -> Candidate:
        want = self._exact(target)
        errors = [relative_error(g, w) for g, w in zip(got, want, strict=True)]
        close = sum(error < 1e-6 for error in errors)
        near = [min(e, 10.0) for e, s in zip(errors, self.settings, strict=True) if not s.far] or errors
        # KL(q‖p) is what readers compare with.
        mean = round(float(np.mean(near)) / (2 if target is REVERSE_KL else 1), 9)
        flat, size = np.concatenate(want), max(float(np.sum(np.concatenate(want) ** 2)), 1e-300)
        identification = Identification(
            target=None,
            scale=float(np.concatenate(got) @ flat / size),
            nearest=target,
            relative_error=max(errors),
            errors=self._by_world(errors),
            cosine=min(cosine(g, w) for g, w in zip(got, want, strict=True)),
            weight=weight,
            got=self._values(got),
        )
        return Candidate((-close, mean), identification)

    def _within(self, found: ByWeight, nearest: Identification) -> Identification:
        """The nearest target with the one that is met in the worlds that are not far, if there is one."""
        near = [i for i, setting in enumerate(self.settings) if not setting.far]
        if len(near) == len(self.settings) or len(near) < 2:
            return nearest
        inside = replace(self, settings=[self.settings[i] for i in near])
        for weight, across in found.items():
            if (met := inside.met(weight, [across[i] for i in near])) is not None:
                return replace(nearest, within=met.target, within_scale=met.scale, within_weight=met.weight)
        return nearest


@dataclass(frozen=True)
class Candidate:
    """A target that is not met, and its rank: in how many worlds it is (negative), and its mean error where near."""

    rank: tuple[int, float]
    identification: Identification


Sized = tuple[Sequence[Float64], Sequence[float]]
"""A target in each of several worlds, and its sizes there."""


@lru_cache(maxsize=128)
def _sized(settings: tuple[Setting, ...], sampler: Sampler, aspect: Aspect) -> list[Sized]:
    """Every target in some worlds; an audit asks for the same ones some 25 times."""
    wanted = [[exact(setting, sampler, target, aspect) for setting in settings] for target in TARGETS]
    return [(want, [_size(w) for w in want]) for want in wanted]


def _scale(got: list[Float64], wanted: Sized, slack: list[float], tolerance: float) -> float | None:
    """The one c with got = c·want in every world, or None; got is finite."""
    want, sizes = wanted
    if max(sizes) == 0.0:
        rounding = 1e-6 if tolerance < 1e-6 else 1e3 * tolerance
        zero = all(_size(g) <= rounding * s for g, s in zip(got, slack, strict=True))
        return 1.0 if zero else None
    lead = int(np.argmax([size / s for size, s in zip(sizes, slack, strict=True)]))
    scale = _rounded(float(got[lead] @ want[lead]) / sizes[lead] ** 2, tolerance)
    if abs(scale) < 1e-6:
        return None
    for g, w, size, s in zip(got, want, sizes, slack, strict=True):
        if not _size(g - scale * w) <= tolerance * max(abs(scale) * size, s):
            return None
    return scale


def _size(vector: Float64) -> float:
    """|v|; np.linalg.norm takes four times as long, and this is asked for 25,000 times in an audit."""
    return math.sqrt(vector @ vector)


def _rounded(scale: float, tolerance: float) -> float:
    """A scale as a simple fraction where it is one to rounding, else to as many digits as it is good for."""
    scale = next((s for s in SIMPLE_SCALES if abs(scale - s) <= 10 * tolerance), scale)
    return float(f"{scale:.{7 if tolerance < 1e-6 else 4}g}")


def relative_error(got: Float64, want: Float64) -> float:
    """|got − want|/|want|, infinite where want is 0 or got is not finite."""
    size = _size(want)
    error = _size(got - want) / size if size > 0 else float("inf")
    return error if np.isfinite(error) else float("inf")


def cosine(a: Float64, b: Float64) -> float:
    """cos of the angle between two gradients; 0 where one is 0."""
    sizes = _size(a) * _size(b)
    return round(float(a @ b) / sizes, 12) + 0.0 if sizes > 0 and np.isfinite(sizes) else 0.0
