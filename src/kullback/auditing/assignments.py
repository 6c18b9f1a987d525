"""What a target of the command line stands for: one audit, or a trainer's many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kullback.auditing.report import AuditReport
from kullback.auditing.run import audit
from kullback.auditing.subject.source import locate
from kullback.auditing.trainers import TRAINERS, Member, Trainer
from kullback.errors import InputError


@dataclass(frozen=True)
class Job:
    """One function and its options, ready to be audited."""

    subject: str
    options: Mapping[str, Any]
    target: str = ""
    trainer: Trainer | None = None
    member: Member | None = None
    source: Path | None = None


def jobs(target: str, source: Path | None, options: Mapping[str, Any]) -> Iterator[Job]:
    """Every audit that a target asks for.

    Raises:
        InputError: a trainer or a member that does not exist.
    """
    name, _, member = target.partition(":")
    trainer = next((t for t in TRAINERS if t.name == name), None)
    if trainer is None:
        if ":" not in target:
            raise InputError(
                f"{target!r} came, but a target is package.module:function, file.py:function or one of the trainers "
                f"{', '.join(TRAINERS.names)}"
            )
        subject = target.rpartition(":")[2] if len(target) > 60 else target
        for placement in [options["placement"]] if options.get("placement") else ["loss", "reward"]:
            yield Job(subject, {**options, "placement": placement}, target=target)
        return
    root = trainer.root(source)
    chosen = [trainer.members[member]] if member else list(trainer.members)
    for one in chosen:
        yield Job(f"{trainer.name}:{one.name}", options, trainer=trainer, member=one, source=root)


def audits(job: Job) -> list[AuditReport]:
    """The audit of a job."""
    options = {key: value for key, value in job.options.items() if key != "settings"}
    settings = dict(job.options.get("settings") or {})
    attributes = {key.removeprefix("self."): settings.pop(key) for key in list(settings) if key.startswith("self.")}
    if job.trainer is None or job.member is None:
        found = locate(job.target, attributes)
        return [replace(audit(found.fn, subject=job.subject, settings=settings, **options), origin=found.origin)]
    assert job.source is not None
    member = job.member
    fn, origin = member.function(job.source)
    # What the trainer does wins over what the command line leaves open.
    options |= {"placement": options["placement"] or member.placement, "names": {**member.names, **options["names"]}}
    options["credit"] = member.credit if options["credit"] == "return" else options["credit"]
    options["sampler"] = member.sampler if options["sampler"] == "on_policy" else options["sampler"]
    options["output"] = member.output if options["output"] is None else options["output"]
    report = audit(fn, subject=job.subject, settings={**member.settings, **settings}, **options)
    return [replace(report, origin=f"{job.trainer.version(job.source)}: {origin}")]
