"""``kb.audit``: run a function on every exact world and say what it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kullback.auditing.options import (
    CREDITS,
    LAYOUTS,
    LEVELS,
    PLACEMENTS,
    ROLES,
    SAMPLERS,
    Credit,
    Options,
    Placement,
    Role,
    known,
)
from kullback.auditing.report import Audited, AuditReport, Failed, Finding, Severity
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.layouts import Layout
from kullback.targets import Target

if TYPE_CHECKING:
    from kullback.auditing.rules.record import Rule
    from kullback.auditing.subject.wiring import Wires


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
    role: Role = "value",
    layout: Layout = "padded",
    subject: str | None = None,
) -> AuditReport:
    """What a KL function estimates and whose gradient it follows, by exact computation over enumerated worlds.

    Args:
        fn: takes log-probs of sampled tokens, (batch, time), and returns a scalar, one number a row, or one a
            token (summed over the counted tokens). Parameters take columns by their name (`logprobs`,
            `ref_logprobs`, `mask`, `behavior_logprobs`, `log_ratio`, `ratio`, `token_kl`, `log_distributions`, …
            and trainers' usual names for them); a name that no rule decides is refused, and mapped with `names`. A
            function of the policy's and the behaviour's log-probs alone has the latter for p. It is run as it is:
            audit only code that you would run.
        placement: "loss": the result is differentiated, the samples held fixed. "reward": it is a penalty,
            detached, and the log-probs carry it. "bonus": the same for what is added, as −β·KL is. "metric": only
            the value counts.
        level: "sequence" hands over sums over tokens, (batch, 1), to a function written for one token.
        credit: in the reward, what a token's log-prob is credited with: "return", the whole sequence's penalty;
            "reward_to_go"; "own_token".
        sampler: what draws the sequences: "on_policy", "off_policy" or "from_reference".
        objective: the target that is meant; without it the gradient is held against what the value is.
        names: the column that a parameter takes, such as ``{"new": "logprobs"}``.
        settings: values of further parameters.
        arrays: "torch", "jax" or "numpy": what the function takes. One that raises on torch's tensors, and whose
            code names another of these libraries, is tried on its arrays; the report says so.
        output: which element of the tuple or dict that the function returns.
        role: "surrogate" judges the gradient alone, of a loss whose value is no KL and is not meant to be.
        layout: "padded"; "ragged" for lists of rows, "packed" for one array of all counted tokens.
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
        role=known("role", role, ROLES),
        layout=known("layout", layout, LAYOUTS),
    )
    return report_of(fn, options, subject=subject)


def report_of(
    fn: Function, options: Options, *, subject: str | None = None, origin: str = "", place: tuple[str, int] = ("", 0)
) -> AuditReport:
    """The audit of a function whose options are put together; `origin` says how it was got hold of."""
    # Here, so that `import kullback` stays light: an audit runs on torch, and rules are many files.
    from kullback.auditing.examination import examine
    from kullback.auditing.expectations import Placed
    from kullback.auditing.rules import RULES
    from kullback.auditing.subject.failures import CallFailed
    from kullback.auditing.subject.members import plain_function
    from kullback.auditing.subject.processes import one_process
    from kullback.auditing.subject.reading import EXCHANGES, other_arrays, read_by
    from kullback.auditing.subject.subject import Subject
    from kullback.auditing.subject.tensors import require_torch
    from kullback.auditing.subject.wiring import wiring

    require_torch()
    start = time.perf_counter()
    plain = plain_function(fn, options)
    name = subject or plain.name
    wires: Wires | None = None
    try:
        wires = wiring(plain.fn, options.names, options.settings)
        if wires.pair and options.sampler == "on_policy":
            options = replace(options, sampler="from_reference")
        handed = Subject(
            plain.fn, wires, arrays=plain.arrays, output=options.output, level=options.level, layout=options.layout
        )
        read = read_by(plain.fn)
        with one_process(exchanging=EXCHANGES in read.unexamined):
            report = examine(Placed(handed, plain.placement, options.credit), options, read, name=name, origin=origin)
    except CallFailed as failed:
        if failed.code == "KB001" and plain.arrays == "torch":
            for library in other_arrays(plain.fn):
                other = _on_arrays_of(library, fn, options, subject=name, origin=origin, place=place)
                if not other.failed:
                    return other
        stopped = RULES[failed.code].finding(_handed(failed.message, failed.code, wires))
        seconds = time.perf_counter() - start
        return Failed(
            subject=name,
            options=options,
            findings=(stopped,),
            origin=origin,
            seconds=seconds,
            wires=wires,
            place=place,
        )
    return replace(report, findings=_findings(report), seconds=time.perf_counter() - start, place=place)


def _on_arrays_of(
    library: str, fn: Function, options: Options, *, subject: str, origin: str, place: tuple[str, int]
) -> AuditReport:
    """The audit of a function that raised on torch's tensors."""
    said = f"takes arrays of {LIBRARIES[library]}, as it raises on torch's"
    whole = f"{origin}; {said}" if origin else said
    return report_of(fn, replace(options, arrays=library), subject=subject, origin=whole, place=place)


LIBRARIES = {"jax": "JAX", "numpy": "NumPy"}


def _handed(message: str, code: str, wires: Wires | None) -> str:
    """What the user's own code raised, with what it was handed."""
    # Names that are the columns' own say it already.
    if wires is None or code not in ("KB001", "KB002") or all(name == column for name, column in wires.table.items()):
        return message
    table = ", ".join(f"{name} → {column}" for name, column in wires.table.items())
    return f"{message} (handed: {table})"


def _findings(report: Audited) -> tuple[Finding, ...]:
    """What the rules find, without what another rule says more exactly."""
    from kullback.auditing.rules import RULES

    messages = {rule.code: rule.find(report) for rule in RULES if _counts(rule, report)}
    fired = {code for code, message in messages.items() if message}
    return _alone(
        tuple(
            rule.finding(messages[rule.code], report)
            for rule in RULES
            if rule.code in fired and not fired & set(rule.covered_by)
        )
    )


UNSTEADY = ("KB006", "KB008")
"""Of code that gives another result for the same input: what else is found is of one draw, or of the calls before."""


def _alone(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Findings, but of unsteady code that it is so alone, as grave as what it stands for, and what holds anyway."""
    first = next((finding for finding in findings if finding.code in UNSTEADY), None)
    if first is None:
        return findings
    kept = [one for one in findings if one.code == "KB407" or (one.group == "call" and one.code != "KB009")]
    others = [one for one in findings if one not in kept]
    if not others:
        return findings
    grave: Severity = "wrong" if any(one.severity == "wrong" for one in others) else first.severity
    codes = ", ".join(one.code for one in others)
    said = f"{first.message}; what was found beside it ({codes}) may come of it: mend this first, and audit again"
    return tuple(replace(one, message=said, severity=grave) if one is first else one for one in kept)


def _counts(rule: Rule, report: Audited) -> bool:
    """Whether a rule is asked: of a surrogate only the gradient counts, and of a loss with the gradient that was
    asked for so too. That a whole loss is no KL is nothing against it, if its gradient is one's.
    """
    if rule.group != "biased-value" or report.placement != "loss":
        return True
    if rule.code in ("KB101", "KB111") and report.whole_loss and report.gradient.follows:
        return False
    asked_for = (
        report.objective is not None and report.gradient.target is report.objective and report.gradient.scale > 0
    )
    return report.options.role != "surrogate" and not (asked_for and report.gradient.weight == "sequence")
