"""One change at a time, computed: what the value and the gradient of a function would be without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from kullback.auditing.expectations import Placed
from kullback.auditing.identification import Identification
from kullback.auditing.subject.columns import BEHAVIOR
from kullback.auditing.subject.failures import CallFailed
from kullback.targets import STATEWISE_REVERSE_KL, ZERO, Target

Look = Callable[[Placed], tuple[Identification, Identification]]
"""Value and gradient of a function where it stands."""


@dataclass(frozen=True)
class Repair:
    """What a function would be after one change.

    Attributes:
        change: the change, as the beginning of a sentence.
        value, gradient: what value and gradient would be.
        mends: whether the gradient (of a metric, the value) would be the goal's own.
    """

    change: str
    value: Identification
    gradient: Identification
    mends: bool


@dataclass(frozen=True)
class Fault:
    """What there is to mend.

    Attributes:
        goal: the target that is meant.
        clamped: whether anything is clamped.
        value, gradient: what they are now.
    """

    goal: Target
    clamped: bool
    value: Identification
    gradient: Identification


def repairs(placed: Placed, fault: Fault, look: Look) -> tuple[Repair, ...]:
    """The changes that make value or gradient a target's that they are not now; those that mend all of it first."""
    found = []
    for change, other in _changes(placed, fault):
        try:
            value, gradient = look(other)
        except CallFailed:
            continue
        made = value if placed.placement == "metric" else gradient
        now = fault.value if placed.placement == "metric" else fault.gradient
        if made.target in (None, ZERO, now.target) and not (made.target is now.target and made.scale * now.scale < 0):
            continue
        if made.scale < 0 or made.target is None:
            continue
        mends = made.target is fault.goal and made.weight == "sequence"
        if mends or _better(made, now, fault.goal):
            found.append(Repair(change, value, gradient, mends))
    return tuple(sorted(found, key=lambda repair: not repair.mends))


def _better(made: Identification, now: Identification, goal: Target) -> bool:
    """Whether a change that does not mend all of it is worth a word: it makes a target where there was none."""
    return now.named in (None, ZERO) or (now.named is not goal and made.target is STATEWISE_REVERSE_KL)


def _changes(placed: Placed, fault: Fault) -> Iterator[tuple[str, Placed]]:
    subject = placed.subject
    if BEHAVIOR & subject.columns and not subject.wires.pair:
        yield "without the weight", replace(placed, subject=subject.exchanging(behavior_logprobs="logprobs"))
    if placed.placement == "loss" and subject.arrays == "torch":
        yield "without the detach", replace(placed, subject=subject.without("detach"))
    if fault.clamped and subject.arrays == "torch":
        yield "without the clamp", replace(placed, subject=subject.without("clamp"))
    if {"logprobs", "ref_logprobs"} <= subject.columns and not subject.full:
        turned = subject.exchanging(logprobs="ref_logprobs", ref_logprobs="logprobs")
        yield "with the log-ratio turned around", replace(placed, subject=turned)
    if placed.placement in ("reward", "bonus"):
        if placed.credit == "own_token" and subject.kind == "token":
            yield "credited with the reward-to-go", replace(placed, credit="reward_to_go")
    elif placed.placement == "loss":
        yield "in the reward, credited with the return", replace(placed, placement="reward", credit="return")
