"""Running a function on every exact world, and gathering what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kullback.auditing.constancy import constancy, differs
from kullback.auditing.coupling import Coupling, coupling
from kullback.auditing.effects import effects
from kullback.auditing.expectations import (
    OF_WORDS,
    WEIGHTS,
    Expectation,
    Placed,
    Weight,
    batch_expectation,
    expectation,
)
from kullback.auditing.formula import Form, form
from kullback.auditing.handling import handling, without_words
from kullback.auditing.identification import UNKNOWN, Distance, Identification
from kullback.auditing.isolation import isolated, zero_keeps_nan
from kullback.auditing.lookup import Lookup, relative_error
from kullback.auditing.masking import masking
from kullback.auditing.numerics import Numerics, numerics
from kullback.auditing.options import SAMPLERS, Options, Sampler
from kullback.auditing.ordering import ordering
from kullback.auditing.probes import HALF, Probe, half_error, precision, rounding_step
from kullback.auditing.repairs import Fault, Repair, repairs
from kullback.auditing.report import Audited, Conduct, Limits
from kullback.auditing.sizes import Sizes, rows_change, sizes
from kullback.auditing.subject.columns import DISTRIBUTIONS
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.reading import Read
from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import differentiate
from kullback.auditing.vocabulary import Words, seen_vocabulary
from kullback.auditing.weighting import weighting
from kullback.auditing.worlds import (
    EXTREME,
    IDENTIFYING,
    LADDER,
    ONE_TOKEN,
    SMALL,
    SUPPORT_EDGE,
    Aspect,
    Setting,
    columns,
    exact,
)
from kullback.targets import REVERSE_KL, ZERO, Target

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

MEETING = IDENTIFYING[2]
FEWEST_WORDS = min(IDENTIFYING, key=lambda setting: setting.vocab)
ROWS = [0, 4, 9, 14]
"""Sequences of a first call: more rows than tokens, so that the shape of the result tells what it is."""


@dataclass(frozen=True)
class Identified:
    """What value and gradient are.

    Attributes:
        value, gradient: for the sampler that was asked for.
        values, gradients: by sampler.
        batches: the gradient's scale by the rows of a batch.
        limits: what happens at the ends.
        meant: how far value and gradient are from the target that was meant; None where they are it.
        repairs: what one change would make of it.
    """

    value: Identification
    gradient: Identification
    values: Mapping[Sampler, Identification]
    gradients: Mapping[Sampler, Identification]
    batches: Mapping[int, float]
    limits: Limits
    meant: Mapping[Aspect, Distance]
    repairs: tuple[Repair, ...] = ()


def examine(placed: Placed, options: Options, read: Read, *, name: str, origin: str) -> Audited:
    """Everything about a function but the findings.

    Args:
        placed: the function where it stands; a surrogate for the reward stands in the loss.
        options: how it is meant.
        read: what its code reads beside its parameters.
        name: what the report calls it.
        origin: how it was got hold of.

    Raises:
        CallFailed: it cannot be called.
    """
    met = columns(MEETING)
    placed = _met(placed, options, met)
    rounded = placed.subject
    placed, arithmetic, half = _widened(placed, met)
    subject = placed.subject
    first = subject(met, ROWS).detach().double().numpy()
    constant = constancy(subject, read, met, ROWS, half=arithmetic >= HALF or half > 0)
    rows_are = coupling(subject, MEETING)
    rows = None if constant.random else rows_change(subject, rows_are, arithmetic)
    # What changes with the rows of a batch is looked at row by row.
    probe = Probe(subject, rows_are != "coupled" and rows is None)
    found = form(probe, arithmetic)
    differentiable = bool(subject(met, ROWS).requires_grad)
    weighted = weighting(probe)
    clamped = (found is not None and found.clamped) or (weighted is not None and weighted.clipped)
    identified = _identified(placed, options, arithmetic, clamped=clamped, coupled=rows_are == "coupled")
    grown = Sizes() if constant.random else replace(sizes(probe, rows_are, found, arithmetic), rows=rows)
    words = seen_vocabulary(subject)
    handled = handling(subject, arithmetic, coupled=rows_are == "coupled")
    if not constant.random:
        constant = replace(constant, later=differs(subject, met, ROWS, first))
    return Audited(
        subject=name,
        options=options,
        value=identified.value,
        gradient=identified.gradient,
        values=identified.values,
        gradients=identified.gradients,
        batches=identified.batches,
        limits=identified.limits,
        meant=identified.meant,
        repairs=identified.repairs,
        form=found,
        numerics=_numerics(probe, found, arithmetic, half, identified.value),
        masking=masking(probe),
        handling=handled,
        effects=effects(probe),
        weighting=weighted,
        words=words,
        ordering="" if constant.random else ordering(subject, MEETING, arithmetic),
        sizes=grown,
        constancy=constant,
        unexamined=_unexamined(subject, options, read, (grown, words), rows_are),
        # Last, so that it has what any of the calls printed and asked for.
        wires=subject.wires,
        conduct=_conduct(
            subject, rows_are, differentiable=differentiable, random=constant.random, printed=rounded.printed
        ),
        findings=(),
        origin=origin,
        seconds=0.0,
    )


def _met(placed: Placed, options: Options, met: Columns) -> Placed:
    """A function that has been called once, alone with its KL."""
    subject = placed.subject
    subject.meet(met, ROWS, columns(FEWEST_WORDS))
    if placed.placement != "loss":
        if options.sampler == "on_policy" and (wires := subject.wires.with_old_policy()) is not subject.wires:
            subject = subject.wired(wires)
        if not _differentiable(subject, met):
            subject = subject.detached()
    return replace(placed, subject=isolated(subject, met, ROWS))


def _differentiable(subject: Subject, met: Columns) -> bool:
    """Whether a function's own backward pass runs; where nothing is differentiated it need not."""
    leaf = met["logprobs"].detach().requires_grad_()
    try:
        differentiate(subject({**met, "logprobs": leaf}, ROWS).double().sum(), [leaf])
    except CallFailed:
        return False
    return True


def _identified(placed: Placed, options: Options, arithmetic: float, *, clamped: bool, coupled: bool) -> Identified:
    """What value and gradient are, world by world."""
    world_by_world = Coupled if coupled else Separable
    with np.errstate(all="ignore"):
        return world_by_world(placed, options.sampler, arithmetic, options.objective, clamped).identified()


def _conduct(subject: Subject, rows_are: Coupling, *, differentiable: bool, random: bool, printed: str) -> Conduct:
    """What calling it showed, once it has been called for the last time."""
    return Conduct(
        kind=subject.kind,
        coupling=rows_are,
        columns=tuple(sorted(subject.columns)),
        differentiable=differentiable,
        random=random,
        printed=printed or subject.printed,
        isolated=subject.isolation,
    )


def _numerics(probe: Probe, found: Form | None, arithmetic: float, half: float, value: Identification) -> Numerics:
    """What rounding does, of single tokens and of whole distributions."""
    return replace(
        numerics(probe, found, arithmetic),
        half_error=half,
        step=rounding_step(probe) if value.target in (None, ZERO) else 0.0,
        excluded_words=without_words(probe.subject, arithmetic),
        zero_keeps=zero_keeps_nan(probe.subject),
    )


def _widened(placed: Placed, met: Columns) -> tuple[Placed, float, float]:
    """A function without its own half precision, its arithmetic, and what half precision does to its result.

    What half precision leaves of a formula is told apart from the formula.
    """
    rounded = placed.subject
    arithmetic = precision(rounded, met, ROWS)
    wide = rounded.without("half")
    if arithmetic < HALF or rounded.arrays != "torch" or precision(wide, met, ROWS) >= HALF:
        return placed, arithmetic, 0.0
    half = half_error(rounded, wide, met, ROWS)
    return replace(placed, subject=wide), precision(wide, met, ROWS), half


def _unexamined(
    subject: Subject, options: Options, read: Read, grown: tuple[Sizes, Words | None], rows_are: Coupling
) -> tuple[str, ...]:
    """What this audit leaves open."""
    found = [*read.unexamined]
    if rows_are == "coupled":
        found.append("batches of more than three rows by enumeration, as rows depend on one another")
    if subject.words:
        found.append(f"vocabularies of fewer than {subject.words} words, on which it raises")
    for looked in grown:
        found += looked.unexamined if looked is not None else ()
    if options.credited:
        found.append("what becomes of the result afterwards, such as whitening of rewards or advantages")
    return tuple(found)


def goal_of(objective: Target | None, value: Identification) -> Target:
    """The target whose gradient something should follow: the one asked for, or the one that its value is."""
    if objective is not None:
        return objective
    return value.named if value.named is not None and value.named is not ZERO else REVERSE_KL


@dataclass(frozen=True)
class Separable:
    """A function whose every row can be had from a batch of its own.

    Attributes:
        placed: the function where it stands.
        sampler: what drew the sequences that the answer is for.
        tolerance: relative, what rounding allows.
        objective: the target that is meant, if anybody said so.
        clamped: whether anything is clamped.
    """

    placed: Placed
    sampler: Sampler
    tolerance: float
    objective: Target | None
    clamped: bool
    _results: dict[tuple[Setting, Sampler], Tensor] = field(default_factory=dict, init=False, repr=False)
    _known: dict[tuple[Setting, Sampler, Weight], Expectation] = field(default_factory=dict, init=False, repr=False)

    def identified(self) -> Identified:
        """What value and gradient are, for every sampler."""
        values = {sampler: self._look("value", IDENTIFYING, sampler) for sampler in SAMPLERS}
        value = values[self.sampler]
        unit = self._unit(value)
        gradients: dict[Sampler, Identification] = {}
        if self.placed.placement != "metric":
            gradients = {sampler: self._look("gradient", IDENTIFYING, sampler, unit) for sampler in SAMPLERS}
        gradient = gradients[self.sampler] if gradients else UNKNOWN
        goal = goal_of(self.objective, value)
        return Identified(
            value=self._further("value", value),
            gradient=self._further("gradient", gradient) if gradients else UNKNOWN,
            values=values,
            gradients=gradients,
            batches={},
            limits=self._limits(),
            meant=self._meant(goal, unit),
            repairs=self._repairs(Fault(goal, self.clamped, value, gradient)),
        )

    def _unit(self, value: Identification) -> float:
        """A coefficient of the term, which is not held against its gradient."""
        factor = -value.factor if self.placed.placement == "bonus" else value.factor
        return factor if value.named is not None and factor > 0 else 1.0

    def _at(self, setting: Setting, sampler: Sampler, weight: Weight = "sequence") -> Expectation:
        key = (setting, sampler, weight)
        if key not in self._known:
            self._known[key] = expectation(self.placed, setting, sampler, self._results, weight)
        return self._known[key]

    @property
    def _weights(self) -> tuple[Weight, ...]:
        subject = self.placed.subject
        words = OF_WORDS if subject.columns & {*DISTRIBUTIONS, "distributions"} else ()
        return ("sequence", *words[:1]) if subject.kind == "token" else (*WEIGHTS, *words)

    def _look(self, aspect: Aspect, settings: Sequence[Setting], sampler: Sampler, unit: float = 1.0) -> Identification:
        lookup = Lookup(aspect, settings, sampler, self.tolerance)
        found: dict[Weight, list[Expectation]] = {}
        for weight in self._weights:
            found[weight] = [self._at(setting, sampler, weight) for setting in settings]
            if (met := lookup.met(weight, found[weight])) is not None:
                return met
        return lookup.nearest(found, unit)

    def _meant(self, goal: Target, unit: float) -> Mapping[Aspect, Distance]:
        across = [self._at(setting, self.sampler) for setting in IDENTIFYING]
        sign = -1.0 if self.placed.placement == "bonus" else 1.0
        units: dict[Aspect, float] = {"value": sign * unit, "gradient": unit}
        aspects: tuple[Aspect, ...] = ("value",) if self.placed.placement == "metric" else ("value", "gradient")
        return {
            aspect: Lookup(aspect, IDENTIFYING, self.sampler, self.tolerance).distance(across, goal, units[aspect])
            for aspect in aspects
        }

    def _repairs(self, fault: Fault) -> tuple[Repair, ...]:
        now = fault.value if self.placed.placement == "metric" else fault.gradient
        if now.target is fault.goal and now.scale > 0 and now.weight == "sequence":
            return ()
        return repairs(self.placed, fault, lambda other: replace(self, placed=other).answer())

    def answer(self) -> tuple[Identification, Identification]:
        """Value and gradient for the sampler that was asked for, and no more."""
        value = self._look("value", IDENTIFYING, self.sampler)
        if self.placed.placement == "metric":
            return value, UNKNOWN
        return value, self._look("gradient", IDENTIFYING, self.sampler, self._unit(value))

    def _further(self, aspect: Aspect, found: Identification) -> Identification:
        """What it is for one token, and how its error grows, where sequences do not make it a target."""
        if found.target is not None and found.target.place == "sequence":
            return found
        alone = self._look(aspect, ONE_TOKEN, self.sampler)
        found = replace(found, one_token=alone.target, one_token_scale=alone.scale)
        if found.target is None and self.sampler == "on_policy":
            found = replace(found, growth=self._growth(aspect, found))
        return found

    def _growth(self, aspect: Aspect, found: Identification) -> tuple[tuple[float, float], ...]:
        """(KL(q‖p), relative error to the nearest target) as the models move apart."""
        rows = []
        for setting in LADDER:
            got = self._at(setting, "on_policy", found.weight).of(aspect)
            kl = float(exact(setting, "on_policy", REVERSE_KL, "value")[0])
            rows.append((kl, relative_error(got, exact(setting, "on_policy", found.nearest, aspect))))
        return tuple(rows)

    def _limits(self) -> Limits:
        try:
            got = float(self._at(SUPPORT_EDGE, "on_policy").value[0])
            want = float(exact(SUPPORT_EDGE, "on_policy", REVERSE_KL, "value")[0])
            finite = bool(np.isfinite(self._at(EXTREME, "on_policy").value).all())
        except CallFailed:
            return Limits(extreme=False)
        return Limits(abs(got - want) / abs(want), finite)


@dataclass(frozen=True)
class Coupled:
    """A function whose rows depend on the others of their batch: on how many there are, so two and three are tried.

    Attributes:
        placed: the function where it stands.
        sampler: what drew the sequences.
        tolerance: relative, what rounding allows.
        objective: the target that is meant, if anybody said so.
        clamped: whether anything is clamped.
    """

    placed: Placed
    sampler: Sampler
    tolerance: float
    objective: Target | None
    clamped: bool
    _known: dict[tuple[Setting, int], Expectation] = field(default_factory=dict, init=False, repr=False)

    def identified(self) -> Identified:
        """What value and gradient are, for the sampler that was asked for alone."""
        value = self._look("value", SMALL, rows=2)
        values, gradients, batches = {self.sampler: value}, {}, {}
        gradient = UNKNOWN
        if self.placed.placement != "metric":
            gradient = gradients[self.sampler] = self._look("gradient", SMALL, rows=2)
            three = self._look("gradient", SMALL[:1] + SMALL[3:4], rows=3)
            if gradient.target is not None and three.target is not None:
                batches = {2: gradient.scale, 3: three.scale}
        meant = self._meant(goal_of(self.objective, value))
        return Identified(value, gradient, values, gradients, batches, Limits(), meant)

    def _look(self, aspect: Aspect, settings: Sequence[Setting], rows: int) -> Identification:
        found = self._found(settings, rows)
        return Lookup(aspect, settings, self.sampler, self.tolerance).identify({"sequence": found})

    def _found(self, settings: Sequence[Setting], rows: int) -> list[Expectation]:
        return [self._batches(setting, rows) for setting in settings]

    def _batches(self, setting: Setting, rows: int) -> Expectation:
        if (setting, rows) not in self._known:
            self._known[setting, rows] = batch_expectation(self.placed, setting, self.sampler, rows)
        return self._known[setting, rows]

    def _meant(self, goal: Target) -> Mapping[Aspect, Distance]:
        across = self._found(SMALL, 2)
        aspects: tuple[Aspect, ...] = ("value",) if self.placed.placement == "metric" else ("value", "gradient")
        return {
            aspect: Lookup(aspect, SMALL, self.sampler, self.tolerance).distance(across, goal) for aspect in aspects
        }
