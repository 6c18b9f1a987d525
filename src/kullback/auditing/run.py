"""``kb.audit``: run a function on every exact world and say what it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from kullback.auditing.options import CREDITS, LEVELS, PLACEMENTS, SAMPLERS, Credit, Options, Placement, known
from kullback.auditing.report import Audited, AuditReport, Failed, Finding
from kullback.auditing.subject.functions import Function
from kullback.targets import Target


def audit(
    fn: Function,
    *,
    placement: Placement,
    level: str | None = None,
    credit: Credit = "return",
    sampler: str = "on_policy",
    objective: Target | None = None,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
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
    options = Options(
        placement=known("placement", placement, PLACEMENTS),
        credit=known("credit", credit, CREDITS),
        sampler=known("sampler", sampler, SAMPLERS),
        level=known("level", level, LEVELS),
        objective=objective,
        names=names or {},
        settings=settings or {},
        arrays=arrays,
        output=output,
    )
    return report_of(fn, options, subject=subject)


def report_of(fn: Function, options: Options, *, subject: str | None = None, origin: str = "") -> AuditReport:
    """The audit of a function whose options are put together; `origin` says how it was got hold of."""
    # Here, so that `import kullback` stays light: an audit runs on torch, and rules are many files.
    from kullback.auditing.examination import examine
    from kullback.auditing.expectations import Placed
    from kullback.auditing.rules import RULES
    from kullback.auditing.subject.failures import CallFailed
    from kullback.auditing.subject.members import plain_function
    from kullback.auditing.subject.subject import Subject
    from kullback.auditing.subject.tensors import require_torch
    from kullback.auditing.subject.wiring import wiring

    require_torch()
    start = time.perf_counter()
    plain = plain_function(fn, options)
    name = subject or plain.name
    try:
        wires = wiring(plain.fn, options.names, options.settings)
        placed = Placed(
            Subject(plain.fn, wires, arrays=plain.arrays, output=options.output, level=options.level),
            plain.placement,
            options.credit,
        )
        report = examine(placed, options, name=name, origin=origin)
    except CallFailed as failed:
        stopped = RULES[failed.code].finding(failed.message)
        seconds = time.perf_counter() - start
        return Failed(subject=name, options=options, findings=(stopped,), origin=origin, seconds=seconds)
    return replace(report, findings=_findings(report), seconds=time.perf_counter() - start)


def _findings(report: Audited) -> tuple[Finding, ...]:
    """What the rules find, without what another rule says more exactly."""
    from kullback.auditing.rules import RULES

    messages = {rule.code: rule.find(report) for rule in RULES}
    fired = {code for code, message in messages.items() if message}
    return tuple(
        rule.finding(messages[rule.code]) for rule in RULES if rule.code in fired and not fired & set(rule.covered_by)
    )
