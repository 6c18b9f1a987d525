"""``kullback audit``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from kullback.cli.reporting import Report, check_report, line_of, write_faces
from kullback.cli.screen import console, fail, tell, write_record
from kullback.cli.writing import check_file, write_one
from kullback.documents import json_of, visible
from kullback.errors import InputError, KullbackError

if TYPE_CHECKING:
    from kullback.auditing import AuditReport
    from kullback.auditing.assignments import Assignment, Request
    from kullback.targets import Target

FORMATS = ("text", "json", "github")


def audit(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="package.module:function, file.py:function, file.py:Class.method, or a trainer."
        ),
    ],
    placement: Annotated[
        str | None,
        typer.Option(
            help="Where the result goes: loss, reward, bonus (what is added) or metric. Default: a trainer's own, "
            "else both loss and reward."
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="PARAMETER=COLUMN, as --map new=logprobs; may be repeated.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE of a further parameter, cfg.NAME=VALUE for an object, self.NAME=VALUE for a method; "
            "zeros, ones and signs are arrays, as in advantages=zeros.",
        ),
    ] = None,
    credit: Annotated[str, typer.Option(help="In the reward: return, reward_to_go or own_token.")] = "return",
    level: Annotated[str | None, typer.Option(help="sequence hands over sums over tokens.")] = None,
    sampler: Annotated[str, typer.Option(help="What drew the samples: on_policy, off_policy, from_reference.")] = (
        "on_policy"
    ),
    objective: Annotated[str | None, typer.Option(help="The target that is meant, as statewise_reverse_kl.")] = None,
    arrays: Annotated[
        str, typer.Option(help="What it takes: torch, jax or numpy. Others are tried where it raises.")
    ] = "torch",
    element: Annotated[str | None, typer.Option(help="Which element of a tuple or dict is the KL.")] = None,
    role: Annotated[str, typer.Option(help="value, or surrogate where the gradient alone counts.")] = "value",
    layout: Annotated[
        str, typer.Option(help="How rows lie in memory: padded, ragged (a list) or packed (one array).")
    ] = "padded",
    source: Annotated[Path | None, typer.Option(help="A trainer's checkout, instead of the installed package.")] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="Codes, names or groups of findings, by commas, that count. Default: all.")
    ] = None,
    report: Report = None,
    output: Annotated[Path | None, typer.Option(help="Also write what is shown here: .md, .html or .json.")] = None,
    form: Annotated[
        str, typer.Option("--format", help="What is printed: text, json, or github for annotations of a pull request.")
    ] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What TARGET's KL code really estimates, and whose gradient it follows, by exact computation.

    The function runs on enumerated worlds: audit only code that you would run. One that cannot be imported is
    taken out of its file with its own helpers. Exit status 1: something was found; 2: something could not be run,
    whatever --fail-on says.
    For example:

        kullback audit my_trainer/losses.py:kl_penalty --placement loss --set kind=k3

        kullback audit my_trainer.losses:kl --placement reward --fail-on biased-gradient,KB401

        kullback audit trl verl:k3

        kullback audit openrlhf --source ./OpenRLHF
    """
    # Compiling takes longer than an audit, and every world has its own shape.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    from kullback.auditing.assignments import Request

    try:
        wanted = _wanted(fail_on)
        check_file("--output", output)
        check_report(report)
        if form not in FORMATS:
            raise InputError(f"--format {form} came, but it is one of {', '.join(FORMATS)}")
        request = Request(
            placement=placement,
            names=dict(_pair(text, "--map") for text in mapping or ()),
            settings={key: _value(text) for key, text in (_pair(one, "--set") for one in values or ())},
            credit=credit,
            level=level,
            sampler=sampler,
            objective=_objective(objective),
            arrays=arrays,
            output=int(element) if element is not None and element.isdecimal() else element,
            role=role,
            layout=layout,
        )
    except KullbackError as error:
        fail(str(error))
    reports, failures = audited(targets, source, request)
    _show(reports, "json" if as_json else form, output)
    if report is not None and reports:
        _report(reports, report, line_of(context), {"targets": list(targets), **asked_of(request, source)})
    for message in failures:
        tell(f"kullback: {message}", style="red")
    if failures or any(one.failed for one in reports):
        sys.exit(2)
    found = {label for r in reports for f in r.findings for label in (f.code, f.slug, f.group)}
    sys.exit(1 if (found & wanted if wanted else found) else 0)


def audited(targets: Sequence[str], source: Path | None, request: Request) -> tuple[list[AuditReport], list[str]]:
    """Every audit that could be made, and a sentence for each target that could not."""
    from kullback.auditing.assignments import assignments, compared

    reports: list[AuditReport] = []
    failures: list[str] = []
    for target in targets:
        try:
            _audit_all(list(assignments(target, source, request)), reports, failures)
        except KullbackError as error:
            failures.append(str(error))
        except KeyboardInterrupt:
            failures.append("stopped")
            break
    # Both placements of a target fail alike where it cannot be found.
    return (compared(reports) if request.placement is None else reports), list(dict.fromkeys(failures))


def _audit_all(wanted: Sequence[Assignment], reports: list[AuditReport], failures: list[str]) -> None:
    """Add the audits that could be made, one by one, so that Ctrl-C keeps those that are there."""
    from kullback.auditing.crews import Crew

    crew = Crew(wanted)
    try:
        for number, assignment in enumerate(wanted):
            crew.prepare(number)
            of = f" ({number + 1} of {len(wanted)})" if len(wanted) > 1 else ""
            with _status(f"auditing {assignment.subject}{of}"):
                made = crew.made(number)
            if isinstance(made, KullbackError):
                # Another version of a trainer may lack one of its terms, and has the others.
                failures.append(f"{assignment.subject}: {made}" if len(wanted) > 1 else str(made))
            else:
                reports.append(made)
    finally:
        crew.close()


def _status(text: str) -> AbstractContextManager[object]:
    err = console(stderr=True)
    return err.status(Text(visible(text))) if err.is_terminal else nullcontext()


def asked_of(request: Request, source: Path | None) -> dict[str, object]:
    """What an audit was asked for, as plain values."""
    asked = {one.name: getattr(request, one.name) for one in fields(request)}
    objective = request.objective and request.objective.name
    return {**asked, "objective": objective, "source": None if source is None else str(source)}


def _report(reports: list[AuditReport], path: Path, line: str, asked: dict[str, object]) -> None:
    from kullback.auditing.pages import comment, site
    from kullback.auditing.report import SCHEMA
    from kullback.jobs.reports import Made

    places = dict.fromkeys(Path(report.place[0]) for report in reports if report.place[0])
    made = Made("audit", line, asked, [place for place in places if place.is_file()])
    record = {"schema": SCHEMA, "audits": [report.to_dict() for report in reports]}
    write_faces(path, made, record, page=lambda: site(reports), card=lambda: comment(reports), linked=_linked)


def _show(reports: list[AuditReport], form: str, output: Path | None) -> None:
    from kullback.auditing.pages import comment, overview, site
    from kullback.auditing.report import SCHEMA
    from kullback.report import html, markdown, terminal

    record = {"schema": SCHEMA, "audits": [report.to_dict() for report in reports]}
    if form == "json":
        write_record(record)
    elif form == "github":
        for report in reports:
            for line in _annotations(report):
                typer.echo(line)
    elif reports:
        terminal.show(overview(reports), console())
    if output is None:
        return
    write_one(
        {
            ".md": lambda: markdown.render(comment(reports)),
            ".html": lambda: _linked(html.render(site(reports))),
            ".json": lambda: json_of(record),
        },
        output,
    )


def _annotations(report: AuditReport) -> Iterator[str]:
    """A report as workflow commands, which a pull request shows beside the line."""
    file, line = report.place
    where = f"file={_escaped(file, ',:')},line={line}," if file and line else ""
    for finding in report.findings:
        level = "error" if finding.severity == "wrong" else "warning"
        title = _escaped(f"{finding.code} {finding.slug}", ",:")
        text = f"{report.title}: {finding.message}. Instead: {finding.instead}"
        yield f"::{level} {where}title={title}::{_escaped(text)}"
    yield f"{report.title}: {report.status}"


def _escaped(text: str, more: str = "") -> str:
    """As workflow commands ask for it."""
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _linked(page: str) -> str:
    """A page whose codes lead to its rules."""
    return re.sub(
        r"\b(KB\d{3})\b(?=[^<>]*</(?:td|p|dt|dd)>)",
        lambda found: f'<a href="#{found[1].lower()}">{found[1]}</a>',
        page,
    )


def _wanted(fail_on: str | None) -> set[str]:
    from kullback.auditing.rules import RULES

    wanted = {part.strip() for part in (fail_on or "").split(",") if part.strip()}
    known = {label for rule in RULES for label in (rule.code, rule.slug, rule.group)}
    if unknown := sorted(wanted - known):
        raise InputError(
            f"--fail-on {unknown[0]} came, but a finding is a code such as KB202, a name such as other-gradient, "
            f"or a group: {', '.join(dict.fromkeys(rule.group for rule in RULES))}"
        )
    return wanted


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"{option} {text} came, but NAME=VALUE is needed")
    return key, value


def _value(text: str) -> object:
    """JSON where it is JSON, Python's None, True and False, else the text itself."""
    named = {"None": None, "True": True, "False": False}
    if text in named:
        return named[text]
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def _objective(given: str | None) -> Target | None:
    from kullback.targets import TARGETS

    return None if given is None else TARGETS[given.lower()]
