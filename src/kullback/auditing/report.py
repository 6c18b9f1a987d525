"""What an audit found: the value, the gradient, the facts, and the findings in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from kullback.auditing.formula import Form, Numerics
from kullback.auditing.identification import Identification, name, times
from kullback.auditing.masking import Behavior, Treatment
from kullback.targets import FORWARD_KL, REVERSE_KL, STATEWISE_FORWARD_KL, STATEWISE_REVERSE_KL, TARGETS, ZERO, Target

UNKNOWN = Identification(None, float("nan"), ZERO, float("inf"), cosine=0.0)
"""What stands for a value or a gradient that was not computed."""

PLACES = {"loss": "in the loss", "reward": "in the reward", "metric": "as a metric"}
CREDIT_WORDS = {
    "return": "every token credited with the sequence's return",
    "reward_to_go": "every token credited with its reward-to-go",
    "own_token": "every token credited with its own penalty only",
}
LOSS_OBJECTIVES = (REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL, STATEWISE_FORWARD_KL)


@dataclass(frozen=True)
class Finding:
    """One thing that a function does and its users may not know.

    Attributes:
        code: stable, ``KB101``; docs/rules.md explains it.
        slug: the same in words, ``biased-value``.
        group: what it is about, ``biased-value``, ``biased-gradient``, ``numerics``, ``masking`` ….
        message: what this function does, in one or two sentences.
        why: what it means in practice.
        instead: what to do.
    """

    code: str
    slug: str
    group: str
    message: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.code} {self.slug}: {self.message}"


@dataclass(frozen=True)
class AuditReport:
    """What a function's value and gradient are, exactly, and what was found on the way.

    Attributes:
        subject: what was audited.
        placement: "loss", "reward" or "metric".
        credit: in the reward, what each token's log-prob is credited with.
        sampler: what drew the sequences that `value` and `gradient` are for.
        objective: the target that was asked for, or None.
        value: which target the expectation of the result equals.
        gradient: which target's gradient the expectation of the gradient equals.
        values, gradients: the same for sequences from the policy, another policy and the reference.
        kind: "scalar", "row" or "token".
        coupling: how a batch's rows are put together: "mean", "sum", "token mean" or "coupled".
        form, numerics, treatment, behavior: facts, where they could be computed.
        vocabulary: (tokens that have an effect, vocabulary) for a function of whole distributions.
        batches: gradient's scale by the rows of a batch, for functions that couple them.
        edge: relative error of the value where the policy never samples a token that the reference allows.
        extreme: whether the value stays finite at log-ratios of hundreds of nats.
        differentiable: whether any gradient flows.
        columns: what the function was handed.
        findings: in order of their codes, causes before their consequences.
        origin: how the function was got hold of.
        seconds: how long it took.
    """

    subject: str
    placement: str
    credit: str = "return"
    sampler: str = "on_policy"
    objective: Target | None = None
    value: Identification = UNKNOWN
    gradient: Identification = UNKNOWN
    values: Mapping[str, Identification] = field(default_factory=dict)
    gradients: Mapping[str, Identification] = field(default_factory=dict)
    kind: str = ""
    coupling: str = ""
    form: Form | None = None
    numerics: Numerics = field(default_factory=Numerics)
    treatment: Treatment = field(default_factory=lambda: Treatment(False))
    behavior: Behavior | None = None
    vocabulary: tuple[int, int] | None = None
    batches: Mapping[int, float] = field(default_factory=dict)
    edge: float = float("nan")
    extreme: bool = True
    differentiable: bool = False
    random: bool = False
    printed: str = ""
    columns: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    origin: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the function could not be audited at all."""
        return any(finding.group == "call" and finding.code <= "KB004" for finding in self.findings)

    @property
    def goal(self) -> Target:
        """The target whose gradient this should follow: the one asked for, or the one that its value is."""
        if self.objective is not None:
            return self.objective
        target = self.value.named
        return target if target is not None and target is not ZERO else REVERSE_KL

    @property
    def verdict(self) -> str:
        """What it reports, what it follows, and what to use instead."""
        if self.failed:
            return f"Not audited: {self.findings[0].message}."
        parts = [f"Its value is {_phrase(self.value, 'value')}."]
        if self.placement != "metric":
            parts.append(f"Its gradient {PLACES[self.placement]} is {_phrase(self.gradient, 'gradient')}.")
        if not self.findings:
            return " ".join([*parts, "Nothing was found against it."])
        return " ".join([*parts, f"Instead: {self.instead}"])

    @property
    def instead(self) -> str:
        """The call that does what this should."""
        target = self.goal if self.goal in LOSS_OBJECTIVES else REVERSE_KL
        arguments = "logprobs, ref_logprobs, mask"
        if self.placement == "loss":
            more = ", behavior_logprobs=behavior_logprobs" if "behavior_logprobs" in self.columns else ""
            return f"kb.kl_loss({arguments}, objective=kb.{target!r}{more})"
        if self.placement == "reward":
            return f"kb.kl_reward({arguments}, estimator=kb.K1), credited with the return or the reward-to-go"
        return f"kb.estimate({arguments}, estimator=kb.K3)"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite become null."""
        record = {
            "subject": self.subject,
            "placement": self.placement,
            "credit": self.credit if self.placement == "reward" else None,
            "sampler": self.sampler,
            "objective": self.objective and self.objective.name,
            "origin": self.origin,
            "verdict": self.verdict,
            "value": None if self.failed else self.value.to_dict(),
            "gradient": None if self.failed or self.placement == "metric" else self.gradient.to_dict(),
            "values": {sampler: found.to_dict() for sampler, found in self.values.items()},
            "gradients": {sampler: found.to_dict() for sampler, found in self.gradients.items()},
            "returns": self.kind,
            "rows": self.coupling,
            "formula": formula(self.form),
            "clamp": None if self.form is None else [self.form.clamp_below, self.form.clamp_above],
            "numerics": asdict(self.numerics),
            "treatment": asdict(self.treatment),
            "behavior": self.behavior and asdict(self.behavior),
            "vocabulary": self.vocabulary,
            "support_edge_error": self.edge,
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": self.seconds,
        }
        clean: dict[str, Any] = _finite(record)
        return clean

    def __str__(self) -> str:
        lines = [f"{self.subject}, {PLACES[self.placement]}", self.verdict, *map(str, self.findings)]
        return "\n".join(lines)


def formula(form: Form | None) -> str | None:
    """One token's formula as reports write it."""
    if form is None or form.kernel is None:
        return None
    text = f"{times(form.scale)}{form.kernel.name}: {form.kernel.formula}"
    return text + (f", times the {form.weighted_by}'s probability of the token" if form.weighted_by else "")


def statewise(target: Target) -> Target | None:
    """The statewise version of a sequence's target."""
    wanted = f"statewise_{target.name}"
    return TARGETS[wanted] if wanted in TARGETS.names else None


def percent(error: float) -> str:
    """A relative error for people."""
    if not isfinite(error):
        return "without bound"
    if error < 1e-6:
        return "0%"
    return f"{100 * error:.3g}%" if error < 10 else f"a factor of {error:.3g}"


def _phrase(found: Identification, kind: str) -> str:
    if found.within is not None:
        if found.within is ZERO:
            return "zero on average where the models are close, and not where they are far apart"
        what = f"{times(found.within_scale)}{name(found.within)}"
        that = "that of " if kind == "gradient" else ""
        return (
            f"{that}{what} where the models are close, and misses it by up to {percent(found.relative_error)} "
            "where they are far apart"
        )
    if found.target is None:
        text = f"none of the named {'gradients' if kind == 'gradient' else 'quantities'}"
        text += f"; the nearest is {name(found.nearest)}, off by {percent(min(found.errors.values(), default=0.0))}"
        text += f" to {percent(found.relative_error)} in the exact worlds"
        if found.weight != "sequence":
            text += f" once each sequence is multiplied back by its {found.weight}"
        if kind == "gradient":
            text += f", cosine {found.cosine:.2f} at worst"
        if found.one_token is not None and kind == "gradient":
            text += f"; for a single token it is {times(found.one_token_scale)}{name(found.one_token)}"
        return text
    text = f"{times(found.scale)}{name(found.target)}"
    if kind == "gradient":
        text = "zero on average" if found.target is ZERO else f"that of {text}"
    if found.weight != "sequence":
        divisor = {"length": "its own length", "width": "the padded width"}[found.weight]
        return f"{text}, once each sequence is multiplied back by {divisor}, which the function divides by"
    return f"{text}, exactly"


def _finite(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _finite(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [_finite(value) for value in record]
    return record if not isinstance(record, float) or isfinite(record) else None
