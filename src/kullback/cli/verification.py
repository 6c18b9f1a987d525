"""``kullback verify``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kullback.cli.screen import show
from kullback.errors import InputError, KullbackError

if TYPE_CHECKING:
    from kullback.documents import Record
    from kullback.jobs.reports import Again

MALFORMED = (KeyError, TypeError, AttributeError, ValueError, IndexError)
"""What a record that kullback did not write may raise anywhere."""


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="The numbers of a report, beside its page.")],
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run the code that an audit is of: only code that you would run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compute the numbers of a report again from the files that it rests on, and say what was and was not verified.

    Exit status 0: every number that was computed agrees; 1: something differs; 2: no number could be computed.
    For example:

        kullback compare ./my-model ./its-original --report report.html && kullback verify report.json
    """
    from kullback.jobs.reports import read_report, verified

    record = read_report(file)
    try:
        found = verified(file, record, _again(record, file.parent, run_code=run_code))
    except MALFORMED as error:
        if isinstance(error, KullbackError):
            raise
        raise InputError(f"{file} is not what kullback writes ({type(error).__name__}: {error})") from error
    show(found, as_json)
    if found.status:
        sys.exit(found.status)


def _again(record: Record, folder: Path, *, run_code: bool) -> Again | str:
    """The numbers computed again; or why they are not."""
    from kullback.jobs.reports import again_from_files
    from kullback.jobs.reports.verification import unchanged

    report = record["report"]
    kind = report["kind"]
    if not unchanged(report, folder):
        return "a file that they rest on is not there, or is another than it was"
    try:
        if kind.startswith("lab "):
            return _experiment(report, folder)
        if kind == "audit":
            return _audits(report["asked"]) if run_code else "that would run the code: pass --run-code if you trust it"
        found = again_from_files(record, folder)
    except KullbackError as error:
        return f"they cannot be computed again: {error}"
    return "they need both models, and no file has the sequences: run the command again" if found is None else found


def _experiment(report: Mapping[str, Any], folder: Path) -> Again | str:
    import click

    from kullback.cli.experiments import Rerun, lab
    from kullback.jobs.reports import Again

    name, asked = report["kind"].removeprefix("lab "), report["asked"]
    group: Any = typer.main.get_command(lab)
    if name not in group.commands:
        return f"there is no kullback lab {name}"
    rerun = Rerun()
    try:
        with group.commands[name].make_context(name, list(asked["words"]), obj=rerun) as context:
            if "pilot" in context.params:
                if len(asked.get("pilot", ())) != 1:
                    return "the pilot was drawn from models, which are not loaded here: run the command again"
                context.params["pilot"] = [str(folder / asked["pilot"][0])]
            group.commands[name].invoke(context)
    except click.ClickException as error:
        return f"they cannot be computed again: {error.format_message()}"
    if rerun.found is None:
        return "the experiment did not run"
    return Again(rerun.found.to_dict(), f"the experiment was run again: {report.get('command', '')}")


def _audits(asked: Mapping[str, Any]) -> Again | str:
    from kullback.auditing.assignments import Request
    from kullback.cli.audits import audited
    from kullback.jobs.reports import Again
    from kullback.targets import TARGETS

    known = {one.name for one in fields(Request)}
    options = {name: value for name, value in asked.items() if name in known}
    options["objective"] = None if asked["objective"] is None else TARGETS[asked["objective"]]
    source = None if asked["source"] is None else Path(asked["source"])
    reports, failures = audited(list(asked["targets"]), source, Request(**options))
    if failures or not reports:
        return f"they cannot be computed again: {'; '.join(failures)}"
    return Again({"audits": [report.to_dict() for report in reports]}, "every audit was made again")
