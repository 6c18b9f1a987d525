"""What an audit comes to: a function that was audited, or one that could not be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from kullback.auditing import words
from kullback.auditing.identification import UNKNOWN, Identification
from kullback.auditing.subject.naming import column_of
from kullback.displays import Displayed
from kullback.documents import Chart, Document, Record, plain
from kullback.errors import InputError
from kullback.targets import REVERSE_KL, TARGETS, ZERO, Target

if TYPE_CHECKING:
    from kullback.auditing.constancy import Constancy
    from kullback.auditing.coupling import Coupling
    from kullback.auditing.effects import Effects
    from kullback.auditing.formula import Form
    from kullback.auditing.handling import Handling
    from kullback.auditing.identification import Distance
    from kullback.auditing.masking import Masking
    from kullback.auditing.numerics import Numerics
    from kullback.auditing.options import Credit, Options, Placement, Sampler
    from kullback.auditing.ordering import Ordering
    from kullback.auditing.repairs import Repair
    from kullback.auditing.sizes import Sizes
    from kullback.auditing.subject.shapes import Kind
    from kullback.auditing.subject.wiring import Wires
    from kullback.auditing.vocabulary import Words
    from kullback.auditing.weighting import Weighting
    from kullback.auditing.worlds import Aspect


Severity = Literal["warn", "wrong"]
Status = Literal["ok", "warn", "wrong", "not audited"]

SCHEMA = "kullback.audit/2"
"""Of `to_dict`; keys are added and not renamed."""


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
        severity: "wrong" where the number or the gradient is not what it is taken for, "warn" where that holds
            only under conditions.
        note: what else there is to say, such as that it is so in one placement only.
    """

    code: str
    slug: str
    group: str
    message: str
    why: str
    instead: str
    severity: Severity = "wrong"
    note: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.slug}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class AuditReport(Displayed):
    """What a function's value and gradient are, exactly, and what was found on the way.

    It is either `Audited` or `Failed`: a function that could not be called has one finding, which says why.

    Attributes:
        subject: what was audited.
        options: how it was meant: `placement`, `credit`, `sampler`, `objective`.
        value: which target the expectation of the result equals.
        gradient: which target's gradient the expectation of the gradient equals; not computed for a metric.
        values, gradients: the same for sequences from the policy, another policy and the reference.
        findings: in order of their codes, causes before their consequences.
        origin: how the function was got hold of.
        seconds: how long it took.
        wires: which parameter got which column; None where that could not be decided.
        place: file and line of the function, "" and 0 where they are not known.
        default: whether it is what a trainer does where nobody says otherwise.

    Example:
        >>> import kullback as kb
        >>> report = kb.audit(lambda logprobs, ref_logprobs: logprobs - ref_logprobs, placement="reward")
        >>> print(report.status, report.value.target, report.gradient.target, report.findings)
        ok REVERSE_KL REVERSE_KL ()
    """

    subject: str
    options: Options
    value: Identification
    gradient: Identification
    values: Mapping[Sampler, Identification]
    gradients: Mapping[Sampler, Identification]
    findings: tuple[Finding, ...]
    origin: str
    seconds: float
    wires: Wires | None = None
    place: tuple[str, int] = ("", 0)
    default: bool = False

    failed: ClassVar[bool]
    """Whether the function could not be audited at all."""

    @property
    def placement(self) -> Placement:
        """Where the result goes: "loss", "reward", "bonus" or "metric"."""
        return self.options.placement

    @property
    def credit(self) -> Credit:
        """In the reward, what each token's log-prob is credited with."""
        return self.options.credit

    @property
    def sampler(self) -> Sampler:
        """What drew the sequences that `value` and `gradient` are for."""
        return self.options.sampler

    @property
    def objective(self) -> Target | None:
        """The target that was asked for, or None."""
        return self.options.objective

    @property
    def columns(self) -> tuple[str, ...]:
        """What the function was handed."""
        return ()

    @property
    def wiring(self) -> dict[str, str]:
        """What each of the function's parameters got, by its name."""
        return {} if self.wires is None else self.wires.table

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a word and is not held against the function."""
        return ()

    @property
    def status(self) -> Status:
        """The verdict in a word: "ok", "warn", "wrong" or "not audited"."""
        if self.failed:
            return "not audited"
        found = {finding.severity for finding in self.findings}
        return "wrong" if "wrong" in found else "warn" if found else "ok"

    @property
    def main(self) -> Finding | None:
        """The finding that matters most, or None: of equally grave ones first those that say why."""
        return min(self.findings, key=lambda found: (found.severity != "wrong", *_unexplained(found)), default=None)

    @property
    def goal(self) -> Target:
        """The target whose gradient this should follow: the one asked for, or the one that its value is."""
        if self.objective is not None:
            return self.objective
        target = self.value.named
        return target if target is not None and target is not ZERO else REVERSE_KL

    @property
    def title(self) -> str:
        """What was audited, and where it stands."""
        return f"{self.subject}, {words.PLACES[self.placement]}"

    @property
    def answer(self) -> str:
        """What it reports and what it follows, in one or two sentences."""
        raise NotImplementedError

    @property
    def instead(self) -> str:
        """The call that does what this should."""
        own = (lambda column: column) if self.wires is None else self.wires.parameter
        off_policy = self.sampler == "off_policy" or "behavior_logprobs" in self.columns
        full = "logprobs" not in self.columns and {"log_distributions", "ref_log_distributions"} <= set(self.columns)
        return words.instead(self.options, self.goal, own, off_policy=off_policy and not self.paired, full=full)

    @property
    def whole_loss(self) -> bool:
        """Whether it is a trainer's loss with more in it than a KL: it takes advantages or rewards."""
        if self.placement != "loss" or self.wires is None:
            return False
        taken = {*self.columns, *map(column_of, self.wires.constants)}
        return bool(taken & {"advantages", "rewards"})

    @property
    def paired(self) -> bool:
        """Whether the function compares the policy with what drew the samples, which is then p."""
        return self.wires is not None and self.wires.pair

    @property
    def verdict(self) -> str:
        """What it reports, what it follows, and what to use instead."""
        return self.answer

    def to_dict(self) -> Record:
        """For JSON; numbers that are not finite become null, and so does what a failed call leaves unknown."""
        facts = self._facts()
        record: Record = {
            "schema": SCHEMA,
            "subject": self.subject,
            "placement": self.placement,
            "credit": self.credit if self.options.credited else None,
            "sampler": self.sampler,
            "objective": self.objective and self.objective.name,
            "origin": self.origin,
            "verdict": self.verdict,
            "status": self.status,
            "main": self.main and self.main.code,
            "wiring": self.wiring,
            "notes": list(self.notes),
            "instead": self.instead,
            "file": self.place[0] or None,
            "line": self.place[1] or None,
            "default": self.default,
            "value": None if self.failed else self.value.to_dict(),
            "gradient": None if self.failed or self.placement == "metric" else self.gradient.to_dict(),
            "values": {sampler: found.to_dict() for sampler, found in self.values.items()},
            "gradients": {sampler: found.to_dict() for sampler, found in self.gradients.items()},
            **{name: facts.get(name) for name in FACTS},
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": self.seconds,
        }
        clean: Record = plain(record)
        return clean

    def _facts(self) -> Record:
        return {}

    def records(self) -> list[Record]:
        """A record for each finding; of clean code one, without a code."""
        about = {name: self.to_dict()[name] for name in ("subject", "placement", "status")}
        clean = [{"code": None, "severity": None, "message": self.answer}]
        return [{**about, **one} for one in ([asdict(finding) for finding in self.findings] or clean)]

    def document(self) -> Document:
        """The report as a page."""
        from kullback.auditing.pages import page

        return page(self)

    def chart(self) -> Chart:
        """How the errors grow as the models move apart, of what is no target's.

        Raises:
            InputError: value and gradient are a target's, exactly.
        """
        from kullback.auditing.pages import growth

        chart = growth([self])
        if chart is None:
            raise InputError("there is no picture of this audit: nothing is off by an amount that grows")
        return chart

    def __str__(self) -> str:
        return "\n".join([self.title, self.verdict, *map(str, self.findings)])


FACTS = (
    "returns",
    "rows",
    "formula",
    "clamp",
    "numerics",
    "treatment",
    "behavior",
    "vocabulary",
    "support_edge_error",
    "meant",
    "handling",
    "effects",
    "repairs",
    "isolated",
    "sizes",
    "constancy",
    "words",
    "unexamined",
)
"""What `to_dict` has beside the identifications and the findings."""


@dataclass(frozen=True, kw_only=True)
class Failed(AuditReport):
    """A function that could not be audited: its one finding says why."""

    value: Identification = field(default=UNKNOWN, init=False)
    gradient: Identification = field(default=UNKNOWN, init=False)
    values: Mapping[Sampler, Identification] = field(default_factory=dict, init=False)
    gradients: Mapping[Sampler, Identification] = field(default_factory=dict, init=False)

    failed: ClassVar[bool] = True

    @property
    def answer(self) -> str:
        """Why it was not audited."""
        return f"Not audited: {self.findings[0].message}."


@dataclass(frozen=True)
class Conduct:
    """How a function behaves when it is called.

    Attributes:
        kind: what it returns: "scalar", "row" or "token".
        coupling: how a batch's rows are put together: "mean", "sum", "token mean" or "coupled".
        columns: what it was handed.
        differentiable: whether any gradient flows.
        random: whether two calls on the same input differ.
        printed: what it wrote to the terminal.
        isolated: what was done to have the KL's part of a whole loss alone.
    """

    kind: Kind
    coupling: Coupling
    columns: tuple[str, ...]
    differentiable: bool
    random: bool
    printed: str
    isolated: str = ""


@dataclass(frozen=True)
class Limits:
    """What happens at the ends of what models can be.

    Attributes:
        edge: relative error of the value where the policy never samples a token that the reference allows.
        extreme: whether the value stays finite at log-ratios of hundreds of nats.
    """

    edge: float = float("nan")
    extreme: bool = True


@dataclass(frozen=True, kw_only=True)
class Audited(AuditReport):
    """A function that was audited.

    Attributes:
        conduct: what calling it showed.
        form: the formula of one token and its clamps; None where it does not take single tokens.
        numerics: how far float32 and bfloat16 are from that formula.
        masking: what it does with padding, lengths and ends.
        weighting: the importance ratio it uses; None where it takes no behaviour log-probs.
        words: what a function of whole distributions makes of vocabularies.
        ordering: what becomes of rows that change places.
        sizes: from which sizes on it is another function.
        constancy: whether it stays the same between calls, in other modes and in other precisions.
        unexamined: what the audit leaves open.
        batches: the gradient's scale by the rows of a batch, for functions that couple them.
        limits: the edge of the support, and extreme log-ratios.
        handling: what it does with batches as they really are.
        effects: what has an effect on it, and how much.
        meant: how far value and gradient are from the target that was meant.
        repairs: what one change would make of it.
    """

    conduct: Conduct
    form: Form | None
    numerics: Numerics
    masking: Masking
    weighting: Weighting | None
    words: Words | None
    ordering: Ordering
    sizes: Sizes
    constancy: Constancy
    unexamined: tuple[str, ...]
    batches: Mapping[int, float]
    limits: Limits
    handling: Handling
    effects: Effects
    meant: Mapping[Aspect, Distance]
    repairs: tuple[Repair, ...]

    failed: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """What the function was handed."""
        return self.conduct.columns

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a word and is not held against the function."""
        return tuple(words.notes(self))

    @property
    def vocabulary(self) -> tuple[int, int] | None:
        """(words that have an effect, vocabulary) for a function of whole distributions."""
        return None if self.words is None else self.words.part or (self.words.seen, self.words.of)

    @property
    def treatment(self) -> Masking:
        """`masking` under the name that JSON has for it."""
        return self.masking

    @property
    def behavior(self) -> Weighting | None:
        """`weighting` under the name that JSON has for it."""
        return self.weighting

    @property
    def answer(self) -> str:
        """What it reports and what it follows, in one or two sentences."""
        value = f"Its value is {words.value_phrase(self.value)}."
        if self.placement == "metric":
            return value
        return f"{value} Its gradient {words.PLACES[self.placement]} is {words.gradient_phrase(self.gradient)}."

    @property
    def verdict(self) -> str:
        """What it reports, what it follows, and what to use instead."""
        return f"{self.answer} {f'Instead: {self.instead}' if self.findings else words.NOTHING_FOUND}"

    def _facts(self) -> Record:
        return {
            "returns": self.conduct.kind,
            "rows": self.conduct.coupling,
            "formula": words.one_token_formula(self.form),
            "clamp": None if self.form is None else [self.form.below.at, self.form.above.at],
            "numerics": asdict(self.numerics),
            "treatment": asdict(self.masking),
            "behavior": self.weighting and asdict(self.weighting),
            "vocabulary": self.vocabulary,
            "support_edge_error": self.limits.edge,
            "meant": {aspect: distance.to_dict() for aspect, distance in self.meant.items()},
            "handling": asdict(self.handling),
            "effects": asdict(self.effects),
            "repairs": [words.repaired(repair, self.placement) for repair in self.repairs],
            "isolated": self.conduct.isolated or None,
            "sizes": asdict(self.sizes),
            "constancy": asdict(self.constancy),
            "words": self.words and asdict(self.words),
            "unexamined": list(self.unexamined),
        }


MISPLACED = ("KB116", "KB410")
"""Rows or tokens that are taken for others: what else is found may come of it."""

UNEXPLAINED = ("KB201", "KB507", "KB101", "KB204")
"""What says that something is not a target, and not why; another finding beside it may."""


def _unexplained(finding: Finding) -> tuple[int, bool, str]:
    """How little a finding explains."""
    rank = UNEXPLAINED.index(finding.code) + 1 if finding.code in UNEXPLAINED else 0
    return rank, finding.code not in MISPLACED, finding.code


def statewise(target: Target) -> Target | None:
    """The statewise version of a sequence's target."""
    wanted = f"statewise_{target.name}"
    return TARGETS[wanted] if wanted in TARGETS.names else None
