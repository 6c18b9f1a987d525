"""``kullback estimate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kullback.cli.gate import Limit, MaxKL, ThesePrompts, Undecided, asked_limit, settle
from kullback.cli.options import refuse
from kullback.cli.reporting import Report, check_report, line_of, write_report
from kullback.cli.screen import fail, shown
from kullback.cli.writing import check_file, write_outcome
from kullback.errors import InputError

if TYPE_CHECKING:
    from kullback.documents import Outcome
    from kullback.jobs.files.outcome import FilesEstimate
    from kullback.jobs.files.sides import SideBySide
    from kullback.jobs.gate import Gate
    from kullback.jobs.reports import Made


def estimate(
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILES...", help="What a trainer or a server wrote: files or folders.")
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column to tell rows apart by, or position; may be repeated. Always: step, environment."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Which rows count, as 'step > 100 and finish = end'.")] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="Such as k1; may be repeated. Default: rao_blackwell where token KLs are known, else k3."),
    ] = None,
    unit: Annotated[str | None, typer.Option(help="token or sequence. Default: both.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="Of the files. Default: by what is in them.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="OURS=THEIRS, as --map logprobs=old_log_probs; may be repeated."),
    ] = None,
    pool: Annotated[
        bool, typer.Option("--pool", help="Read two files as one dump, which are set side by side otherwise.")
    ] = False,
    max_log_ratio: Annotated[
        float | None,
        typer.Option(help="Bound on log(first/second) outside two files' top-k lists: gives their KL an upper bound."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be right, and say how many.")
    ] = False,
    max_kl: MaxKL = None,
    undecided: Undecided = "pass",
    these_prompts: ThesePrompts = False,
    report: Report = None,
    output: Annotated[Path | None, typer.Option(help="Also write what is shown here: .md, .html or .json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """KL(policy‖reference) and the mismatch of engine and trainer, from the log-probs that FILES hold.

    Two files (or folders) are set side by side, paired by prompt; three and more are one dump. For example:

        kullback estimate rollouts/ --by environment --where 'step > 100'

        kullback estimate before.jsonl after.jsonl

        kullback estimate rollouts/ --max-kl 0.02/token
    """
    limit = asked_limit(context, max_kl, undecided, these_prompts=these_prompts)
    two = len(files) == 2 and not pool
    if limit is not None and two:
        fail("--max-kl came with two dumps, but one KL is held against it: name one dump, or pass --pool")
    if len(files) != 2:
        refuse(context, ["pool"], "without two paths to read as one dump")
    if limit is not None and limit.unit is not None and unit is not None and limit.unit != unit:
        fail(f"--max-kl is in nats a {limit.unit} and --unit {unit} asks for another: leave one of them out")
    check_file("--output", output)
    check_report(report)
    from kullback.jobs.files.job import estimate_files
    from kullback.jobs.files.outcome import FilesEstimate

    with shown(as_json, "rows", starting="opening files", doing="estimating") as (on_progress, show):
        asked: dict[str, Any] = {
            "format": form,
            "estimator": estimator or None,
            "unit": unit,
            "by": by or (),
            "where": where,
            "map": names_of(mapping or ()),
            "pool": pool,
            "max_log_ratio": max_log_ratio,
            "skip_bad": skip_bad,
        }
        found = estimate_files([*files], sample=report is not None, on_progress=on_progress, **asked)
        gate = _gate(found, limit, unit) if limit is not None and isinstance(found, FilesEstimate) else None

        def write(said: Outcome) -> None:
            if output is not None:
                write_outcome(said, output)
            if report is not None:
                write_report(said, report, _made(context, found, report, asked))

        settle(found, gate, limit, show, write)


def _made(context: typer.Context, found: FilesEstimate | SideBySide, report: Path, asked: Mapping[str, object]) -> Made:
    """How a report came about, by which it can be computed again."""
    from kullback.jobs.files.outcome import FilesEstimate
    from kullback.jobs.reports import Made
    from kullback.jobs.reports.claims import from_folder

    dumps = [found] if isinstance(found, FilesEstimate) else [found.first, found.second]
    paths = [from_folder(Path(path), report.parent) for path in context.params["files"]]
    rests_on = [Path(source.path) for dump in dumps for source in dump.sources]
    return Made("estimate", line_of(context), {"paths": paths, **asked}, rests_on)


def names_of(mapping: Sequence[str]) -> dict[str, str] | None:
    """What the files call our columns."""
    names = {}
    for pair in mapping:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            fail(f"--map {pair} came, but OURS=THEIRS is needed, as in --map logprobs=old_log_probs")
        names[ours] = theirs
    return names or None


def _gate(found: FilesEstimate, limit: Limit, unit: str | None) -> Gate:
    """The first answer beside the limit; one whose weights do not hold, or of greedy tokens, decides nothing."""
    from kullback.jobs.gate import gate

    answer = found.main
    wanted: Literal["token", "sequence"] = "token" if (limit.unit or unit) == "token" else "sequence"
    estimate = None if answer is None else answer.estimates.get(wanted)
    if answer is None or estimate is None:
        raise InputError(f"no KL in nats a {wanted} could be given, so none can be held against --max-kl")
    clusters = "prompts" if found.prompts is not None else "sequences"
    held = gate(estimate, limit.nats, these_prompts=limit.these_prompts, of=answer.question.title, clusters=clusters)
    return replace(held, side="undecided", times=nan) if answer.unreliable or found.greedy else held
