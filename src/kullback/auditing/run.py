"""``kb.audit``: run a function on every exact world and say what it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from kullback.auditing.expectations import Credit, Moments, Placement, Weight, batch_moments, coupling, moments
from kullback.auditing.formula import form, numerics
from kullback.auditing.identification import Found, Identification, growth, identify
from kullback.auditing.masking import behavior, treatment, unseen_vocabulary
from kullback.auditing.probes import Probe, precision
from kullback.auditing.report import AuditReport, Finding
from kullback.auditing.subject.arrays import CallFailed
from kullback.auditing.subject.members import adapted
from kullback.auditing.subject.wiring import Subject, wiring
from kullback.auditing.worlds import (
    EXTREME,
    IDENTIFYING,
    LADDER,
    ONE_TOKEN,
    SAMPLERS,
    SMALL,
    SUPPORT_EDGE,
    Setting,
    columns,
    exact,
    torch_library,
)
from kullback.errors import InputError
from kullback.targets import REVERSE_KL, Target

MEETING = IDENTIFYING[2], [0, 4, 9, 14]
"""Sequences of a first call: more rows than tokens, so that the shape of the result tells what it is."""


def audit(
    fn: Callable[..., Any],
    *,
    placement: Placement,
    level: str | None = None,
    credit: Credit = "return",
    sampler: str = "on_policy",
    objective: Target | None = None,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    arrays: str = "torch",
    output: int | str | None = None,
    subject: str | None = None,
) -> AuditReport:
    """What a KL function estimates and whose gradient it follows, by exact computation over enumerated worlds.

    Args:
        fn: takes log-probs of sampled tokens, (batch, time), and returns a scalar, one number a row, or one a
            token (summed over the counted tokens). Parameters take columns by their name (`logprobs`,
            `ref_logprobs`, `mask`, `behavior_logprobs`, `log_ratio`, `ratio`, `token_kl`, `log_distributions`, …
            and trainers' usual names for them), the others `logprobs`, `ref_logprobs`, `mask` in this order. It
            is run as it is: audit only code that you would run.
        placement: "loss": the result is differentiated, the samples held fixed. "reward": it is a penalty,
            detached, and the log-probs carry it. "metric": only the value counts.
        level: "sequence" hands over sums over tokens, (batch, 1), to a function written for one token.
        credit: in the reward, what a token's log-prob is credited with: "return", the whole sequence's penalty;
            "reward_to_go"; "own_token".
        sampler: what draws the sequences: "on_policy", "off_policy" or "from_reference".
        objective: the target that is meant; without it the gradient is held against what the value is.
        names: the column that a parameter takes, such as ``{"new": "logprobs"}``.
        settings: values of further parameters.
        arrays: "torch", "jax" or "numpy": what the function takes.
        output: which element of the tuple or dict that the function returns.
        subject: what the report calls it.

    Returns:
        A report. A function that raises, or returns a wrong shape, gets a finding that says so.

    Raises:
        InputError: options that do not exist.
        MissingPackageError: torch is not installed.

    Example:
        k3 in the loss reports one KL and follows another:

        >>> import torch, kullback as kb
        >>> def k3(logprobs, ref_logprobs, mask):
        ...     return torch.expm1(ref_logprobs - logprobs) - (ref_logprobs - logprobs)
        >>> report = kb.audit(k3, placement="loss")
        >>> report.value.target, report.gradient.target
        (REVERSE_KL, STATEWISE_FORWARD_KL)
        >>> print(report.findings[0].code, report.findings[0].slug)
        KB202 other-gradient
    """
    _check("placement", placement, get_args(Placement))
    _check("credit", credit, get_args(Credit))
    _check("sampler", sampler, SAMPLERS)
    _check("level", level, (None, "token", "sequence"))
    torch_library()
    start = time.perf_counter()
    it = adapted(fn, placement, arrays)
    report = AuditReport(subject or it.name, placement, credit, sampler, objective)
    try:
        one = Subject(it.fn, wiring(it.fn, names or {}, settings or {}), arrays=it.arrays, output=output, level=level)
        report = _audited(one, it.placement, report)
    except CallFailed as failed:
        report = replace(report, findings=(_failure(failed),))
    else:
        report = replace(report, findings=tuple(_findings(report)))
    return replace(report, seconds=time.perf_counter() - start)


def _check(option: str, got: Any, known: Sequence[Any]) -> None:
    if got not in known:
        raise InputError(f"{option}={got!r} came, but it is one of {', '.join(repr(name) for name in known)}")


def _audited(one: Subject, placement: Placement, report: AuditReport) -> AuditReport:
    setting, rows = MEETING
    met = columns(setting)
    one.meet(met, rows)
    arithmetic = precision(one, met, rows)
    rows_are = coupling(one, setting)
    probe = Probe(one, rows_are != "coupled")
    found = form(probe, arithmetic)
    report = replace(
        report,
        kind=one.kind,
        coupling=rows_are,
        random=_random(one, met, rows),
        differentiable=bool(one(met, rows).requires_grad),
        form=found,
        numerics=numerics(probe, found, arithmetic),
        treatment=treatment(probe),
        behavior=behavior(probe),
        vocabulary=unseen_vocabulary(one),
        columns=tuple(sorted(one.columns)),
    )
    report = _coupled(one, placement, report) if rows_are == "coupled" else _separable(one, placement, report)
    return replace(report, printed=one.printed)


def _random(one: Subject, given: Mapping[str, Any], rows: Any) -> bool:
    first, second = (one(given, rows).detach().double().numpy() for _ in range(2))
    return not np.allclose(first, second, rtol=1e-12, atol=0, equal_nan=True)


def _separable(one: Subject, placement: Placement, report: AuditReport) -> AuditReport:
    weights: tuple[Weight, ...] = ("sequence",) if one.kind == "token" else ("sequence", "width", "length")

    def at(setting: Setting, sampler: str, weight: Weight = "sequence") -> Moments:
        return moments(one, setting, sampler, placement, report.credit, weight)  # type: ignore[arg-type]

    def look(settings: Sequence[Setting], sampler: str, kind: str, unit: float = 1.0) -> Identification:
        found: Found = {weight: [at(setting, sampler, weight) for setting in settings] for weight in weights}
        return identify(kind, found, settings, sampler, report.numerics.arithmetic, unit)

    values = {sampler: look(IDENTIFYING, sampler, "value") for sampler in SAMPLERS}
    main = values[report.sampler]
    unit = main.factor if main.named is not None and main.factor > 0 else 1.0
    gradients = {} if placement == "metric" else {s: look(IDENTIFYING, s, "gradient", unit) for s in SAMPLERS}
    value, gradient = (
        _further(kind, found[report.sampler], look, at, report.sampler) if found else report.gradient
        for kind, found in (("value", values), ("gradient", gradients))
    )
    edge, extreme = _ends(at)
    return replace(
        report, value=value, gradient=gradient, values=values, gradients=gradients, edge=edge, extreme=extreme
    )


def _further(kind: str, found: Identification, look: Any, at: Any, sampler: str) -> Identification:
    """What it is for one token, and how its error grows, where sequences do not make it a target."""
    if found.target is not None and found.target.place == "sequence":
        return found
    alone = look(ONE_TOKEN, sampler, kind)
    found = replace(found, one_token=alone.target, one_token_scale=alone.scale)
    if found.target is None and sampler == "on_policy":
        found = replace(found, growth=growth(kind, found.nearest, lambda s: at(s, "on_policy", found.weight), LADDER))
    return found


def _ends(at: Callable[[Setting, str], Moments]) -> tuple[float, bool]:
    """The value's error at the edge of the support, and whether it is finite at extreme log-ratios."""
    try:
        got = float(at(SUPPORT_EDGE, "on_policy").value[0])
        want = float(exact(SUPPORT_EDGE, "on_policy", REVERSE_KL, "value")[0])
        return abs(got - want) / abs(want), bool(np.isfinite(at(EXTREME, "on_policy").value).all())
    except CallFailed:
        return float("nan"), False


def _coupled(one: Subject, placement: Placement, report: AuditReport) -> AuditReport:
    """Two and three rows: what a batch couples depends on how many there are."""

    def look(rows: int, settings: Sequence[Setting], sampler: str, kind: str) -> Identification:
        found = [
            batch_moments(one, setting, sampler, placement, report.credit, rows)  # type: ignore[arg-type]
            for setting in settings
        ]
        return identify(kind, {"sequence": found}, settings, sampler, report.numerics.arithmetic)

    kinds = ("value",) if placement == "metric" else ("value", "gradient")
    two = {kind: look(2, SMALL, report.sampler, kind) for kind in kinds}
    three = {kind: look(3, SMALL[:1] + SMALL[3:4], report.sampler, kind) for kind in kinds}
    gradient = two.get("gradient", report.gradient)
    scales = {}
    if gradient.target is not None and three["gradient"].target is not None:
        scales = {2: gradient.scale, 3: three["gradient"].scale}
    return replace(
        report,
        value=two["value"],
        gradient=gradient,
        values={report.sampler: two["value"]},
        gradients={report.sampler: gradient} if "gradient" in two else {},
        batches=scales,
    )


def _findings(report: AuditReport) -> list[Finding]:
    from kullback.auditing.rules import RULES

    found = {rule.code: (rule, rule.find(report)) for rule in RULES}
    fired = {code for code, (_, message) in found.items() if message}
    return [
        Finding(rule.code, rule.slug, rule.group, message, rule.why, rule.instead)
        for rule, message in found.values()
        if message and not fired & set(rule.covered_by)
    ]


def _failure(failed: CallFailed) -> Finding:
    from kullback.auditing.rules import RULES

    rule = RULES[failed.code]
    return Finding(rule.code, rule.slug, rule.group, failed.message, rule.why, rule.instead)
