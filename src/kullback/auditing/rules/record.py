"""What a rule is, and what rules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kullback.auditing.identification import Identification
from kullback.auditing.options import Sampler
from kullback.auditing.report import Audited, Finding, Severity, statewise
from kullback.auditing.subject.columns import BESIDE
from kullback.auditing.subject.naming import column_of
from kullback.auditing.words import away, name, percent
from kullback.auditing.worlds import Aspect
from kullback.targets import FORWARD_KL, REVERSE_KL, SAMPLED_FORWARD_KL, SAMPLED_REVERSE_KL, Target

OTHER_SIDE: dict[Sampler, Sampler] = {"on_policy": "from_reference", "from_reference": "on_policy"}


def _nothing(report: Audited) -> str:
    return ""


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with KL code.

    Attributes:
        code: stable; the first digit is the group's.
        slug: the same in words, as `--fail-on` takes it.
        group: "call", "biased-value", "biased-gradient", "numerics", "masking" or "off-policy".
        title: one line.
        checks: what is computed.
        why: what it means in practice.
        example: code that does it.
        instead: what to do.
        references: where more is said.
        find: what a report shows, in one or two sentences; empty where it does not.
        covered_by: codes that say the same more exactly; where one of them is found, this is not.
        severity: "wrong" where the number or the gradient is not what it is taken for, else "warn".
        call: whether what to do instead is the call that the report proposes, in the user's own names.
        stops: whether it stops the audit: the call itself says so, and no report is left to look at.
    """

    code: str
    slug: str
    group: str
    title: str
    checks: str
    why: str
    example: str
    instead: str
    references: tuple[str, ...]
    find: Callable[[Audited], str] = _nothing
    covered_by: tuple[str, ...] = ()
    severity: Severity = "wrong"
    stops: bool = False
    call: bool = False

    @property
    def name(self) -> str:
        """Its code, by which a family finds it."""
        return self.code

    def finding(self, message: str, report: Audited | None = None) -> Finding:
        """What a report says where the rule applies."""
        instead = self.instead if report is None or not self.call else report.instead
        return Finding(self.code, self.slug, self.group, message, self.why, instead, self.severity)


def versions(goal: Target) -> tuple[Target, ...]:
    """What is the same as a sequence's target for one token: the statewise target, over anyone's prefixes."""
    if goal.place != "sequence":
        return ()
    found = statewise(goal)
    sampled = {REVERSE_KL: (SAMPLED_REVERSE_KL,), FORWARD_KL: (SAMPLED_FORWARD_KL,)}.get(goal, ())
    return (*((found,) if found else ()), *sampled)


def on_the_other_side(report: Audited) -> Identification | None:
    """What the value is for samples of the other of the two models, where it was looked at."""
    other = OTHER_SIDE.get(report.sampler)
    return None if other is None else report.values.get(other)


def off_policy(report: Audited, ratio: str, what: str) -> str:
    """What a function that takes behaviour log-probs with this ratio is off-policy, where it should not be."""
    seen = report.weighting
    if seen is None or (ratio and seen.ratio != ratio) or "off_policy" not in report.values:
        return ""
    here, there = report.values["on_policy"], report.values["off_policy"]
    parts = []
    if here.named is not None and (there.named is not here.named or there.factor != here.factor):
        nearest = name(there.named) if there.named else f"off by up to {percent(there.relative_error)}"
        parts.append(f"the value is {nearest} instead of {name(here.named)}")
    if report.placement == "loss":
        own, other = report.gradients["on_policy"], report.gradients["off_policy"]
        if own.named is not None and (other.named is not own.named or other.factor != own.factor):
            nearest = f"that of {name(other.named)}" if other.named else "no named target's"
            parts.append(f"the gradient is {nearest} instead of that of {name(own.named)}")
    return f"{what}; off-policy {' and '.join(parts)}" if parts else ""


def whole(report: Audited) -> bool:
    """Whether it is a whole loss, whose policy gradient is switched off and may have a weight of its own."""
    beside = set(report.columns) | {column_of(name) for name in report.wiring}
    return bool(report.conduct.isolated) or bool(beside & set(BESIDE))


def meant(report: Audited, aspect: Aspect) -> str:
    """How far it is from the target that was meant, and words that lead to the nearest; nothing if these are one."""
    distance = report.meant.get(aspect)
    nearest = report.value.nearest if aspect == "value" else report.gradient.nearest
    of = "that of " if aspect == "gradient" else ""
    if distance is None or distance.target is nearest or (distance.target.value_of or distance.target) is nearest:
        return "the nearest, "
    return f"{of}{name(distance.target)}, which is meant, is missed by {away(distance)}; the nearest, "
