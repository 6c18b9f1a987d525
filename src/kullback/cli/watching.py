"""``kullback watch``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kullback.cli.estimation import names_of
from kullback.cli.options import within
from kullback.cli.screen import tell, write_record
from kullback.documents import visible

if TYPE_CHECKING:
    from kullback.jobs.watching import StepSeen
    from kullback.jobs.watching.trackers import Tracker


def watch(
    folder: Annotated[Path, typer.Argument(help="The folder that a run writes its dumps into.")],
    limit: Annotated[
        float | None,
        typer.Option(help="Nats a sequence that KL(policy‖reference) may have.", callback=within(0, above=True)),
    ] = None,
    mismatch_limit: Annotated[
        float | None, typer.Option(help="The same of KL(sampler‖policy).", callback=within(0, above=True))
    ] = None,
    run_length: Annotated[
        float, typer.Option(help="Steps, on average, before a false alarm of a kind.", callback=within(2))
    ] = 10_000,
    once: Annotated[bool, typer.Option("--once", help="Judge what is there and end.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between looks.", callback=within(0, above=True))] = 2.0,
    settle: Annotated[
        float, typer.Option(help="Seconds without a change after which a step is whole.", callback=within(0))
    ] = 5.0,
    log: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard:FOLDER, wandb:PROJECT or trackio:PROJECT; may be repeated."),
    ] = None,
    form: Annotated[str | None, typer.Option("--format", help="Of the files. Default: by what is in them.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="OURS=THEIRS, as --map logprobs=old_log_probs; may be repeated."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="What it remembers between calls. Default: .kullback-watch.json in FOLDER.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be read, and name them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a step.")] = False,
) -> None:
    """Follow a run: a line a step, an alarm when the KL leaves its limit or jumps. Ctrl-C ends it.

    A second call goes on where the first stopped. It ends with status 1 if there was an alarm. For example:

        kullback watch runs/rollouts --limit 5 --log tensorboard:runs/kl

        kullback watch runs/rollouts --once --json
    """
    names = names_of(mapping or ())
    from kullback.jobs.watching import watch as follow
    from kullback.jobs.watching.trackers import tracker
    from kullback.monitoring import KLMonitor

    monitor = KLMonitor(limit=limit, mismatch_limit=mismatch_limit, run_length=run_length)
    steps = alarms = 0
    with ExitStack() as open_trackers:
        trackers = [tracker(name) for name in log or ()]
        for one in trackers:
            open_trackers.callback(one.close)
        seen = follow(
            folder,
            monitor=monitor,
            format=form,
            map=names,
            follow=not once,
            every=every,
            settle=settle,
            state=state,
            skip_bad=skip_bad,
            tell=lambda sentence: tell(f"kullback: {sentence}"),
        )
        try:
            for step in seen:
                steps, alarms = steps + 1, alarms + len(step.alarms)
                _show(step, trackers, as_json=as_json)
        except KeyboardInterrupt:  # which is how one leaves
            tell("kullback: stopped; the same command goes on from here")
    if not steps:
        tell(f"kullback: {folder} holds no step that is new")
    if alarms:
        raise typer.Exit(1)


def _show(step: StepSeen, trackers: list[Tracker], *, as_json: bool) -> None:
    for one in trackers:
        one.log(step.metrics, step.step)
    if as_json:
        write_record(step.to_dict())
    else:
        print(visible(step.line()))
        for alarm in step.alarms:
            print(visible(f"  ALARM ({alarm.kind}): {alarm.message}"))
    sys.stdout.flush()
