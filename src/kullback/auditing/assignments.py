"""What a target of the command line stands for: a function, where it is placed, or a trainer's many terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kullback.auditing import words
from kullback.auditing.options import (
    CREDITS,
    LAYOUTS,
    LEVELS,
    PLACEMENTS,
    ROLES,
    SAMPLERS,
    Options,
    Placement,
    known,
)
from kullback.auditing.report import AuditReport, Finding
from kullback.auditing.run import report_of
from kullback.auditing.subject.source import Located, locate
from kullback.auditing.trainers import TRAINERS, Member, Trainer
from kullback.errors import InputError
from kullback.targets import Target

BOTH: tuple[Placement, ...] = ("loss", "reward")
"""Where a function is audited when nobody says where its result goes."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for, which leaves open what a trainer's term knows of itself.

    Attributes:
        placement: "loss", "reward", "bonus" or "metric"; None for a trainer's own, else for both of the first two.
        settings: values of further parameters; ``self.NAME`` is an attribute of a method's object.

    The others are those of `Options`.
    """

    placement: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    credit: str = "return"
    level: str | None = None
    sampler: str = "on_policy"
    objective: Target | None = None
    arrays: str = "torch"
    output: int | str | None = None
    role: str = "value"
    layout: str = "padded"

    @property
    def attributes(self) -> dict[str, object]:
        """What `self` has, for a method that needs one."""
        return {k.removeprefix("self."): value for k, value in self.settings.items() if k.startswith("self.")}

    def options(self, placement: str) -> Options:
        """The options of one audit.

        Raises:
            InputError: a word that is none of an option's.
        """
        return Options(
            placement=known("placement", placement, PLACEMENTS),
            names=self.names,
            settings={key: value for key, value in self.settings.items() if not key.startswith("self.")},
            credit=known("credit", self.credit, CREDITS),
            level=known("level", self.level, LEVELS),
            sampler=known("sampler", self.sampler, SAMPLERS),
            objective=self.objective,
            arrays=self.arrays,
            output=self.output,
            role=known("role", self.role, ROLES),
            layout=known("layout", self.layout, LAYOUTS),
        )

    def member_options(self, member: Member) -> Options:
        """The options of a trainer's term: what the trainer does wins over what was left open."""
        given = self.options(self.placement or member.placement)
        return replace(
            given,
            names={**member.names, **given.names},
            settings={**member.settings, **given.settings},
            credit=member.credit if given.credit == "return" else given.credit,
            sampler=member.sampler if given.sampler == "on_policy" else given.sampler,
            output=member.output if given.output is None else given.output,
            role=member.role if given.role == "value" else given.role,
            arrays=member.arrays if given.arrays == "torch" else given.arrays,
        )


@dataclass(frozen=True)
class OwnCode:
    """A function of somebody's module or file, and what `self` has."""

    target: str
    attributes: Mapping[str, object]

    def located(self) -> Located:
        """The function."""
        return locate(self.target, self.attributes)


@dataclass(frozen=True)
class Term:
    """A trainer's KL term, out of the package or the checkout under a folder."""

    trainer: Trainer
    member: Member
    root: Path

    def located(self) -> Located:
        """The function, and the version that it is of."""
        found = self.member.function(self.root)
        return replace(found, origin=f"{self.trainer.version(self.root)}: {found.origin}")


@dataclass(frozen=True)
class Assignment:
    """One audit that is to be made.

    Attributes:
        subject: what its report calls it.
        code: where the function is.
        options: how it is meant.
    """

    subject: str
    code: OwnCode | Term
    options: Options

    def report(self) -> AuditReport:
        """Make it."""
        found = self.code.located()
        place = (found.file, found.line)
        made = report_of(found.fn, self.options, subject=self.subject, origin=found.origin, place=place)
        return replace(made, default=isinstance(self.code, Term) and self.code.member.default)


def compared(reports: Sequence[AuditReport]) -> list[AuditReport]:
    """The reports of a function in several placements, each finding with a word where it is of one placement only."""
    by_subject: dict[str, list[AuditReport]] = {}
    for report in reports:
        by_subject.setdefault(report.subject, []).append(report)
    return [_noted(report, by_subject[report.subject]) for report in reports]


def _noted(report: AuditReport, all_of_it: Sequence[AuditReport]) -> AuditReport:
    others = [other for other in all_of_it if other.placement != report.placement and not other.failed]
    if not others or report.failed:
        return report

    def noted(finding: Finding) -> Finding:
        without = [words.PLACES[o.placement] for o in others if finding.code not in {f.code for f in o.findings}]
        if not without:
            return finding
        return replace(finding, note=f"Only {words.PLACES[report.placement]}: {' and '.join(without)} it is not found")

    return replace(report, findings=tuple(map(noted, report.findings)))


def assignments(target: str, source: Path | None, request: Request) -> Iterator[Assignment]:
    """Every audit that a target asks for.

    Args:
        target: ``package.module:function``, ``file.py:function``, a trainer or ``trainer:member``.
        source: a trainer's checkout, instead of the installed package.
        request: what was asked for.

    Raises:
        InputError: a trainer, a member or an option that does not exist.
    """
    name, _, member = target.partition(":")
    trainer = next((t for t in TRAINERS if t.name == name), None)
    if trainer is not None:
        root = trainer.root(source)
        for term in [trainer.members[member]] if member else trainer.members:
            subject = f"{trainer.name}:{term.name}"
            yield Assignment(subject, Term(trainer, term, root), request.member_options(term))
        return
    if ":" not in target:
        raise InputError(
            f"{target!r} came, but a target is package.module:function, file.py:function or one of the trainers "
            f"{', '.join(TRAINERS.names)}"
        )
    subject = target.rpartition(":")[2] if len(target) > 60 else target
    for placement in [request.placement] if request.placement else BOTH:
        yield Assignment(subject, OwnCode(target, request.attributes), request.options(placement))
