"""The command line: ``kullback compare`` and, with later versions, its sisters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kullback.errors import InputError, KullbackError

if TYPE_CHECKING:
    from kullback.engines.local import Progress as Done

app = typer.Typer(
    name="kullback",
    help="How far a language-model policy is from its reference, with an error on every number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
WIDTH = 124
"""Columns of tables that do not go to a terminal."""


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kullback import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog="For example: `kullback compare` compares the pair of models that ships with the package.")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    policy: Annotated[str, typer.Argument(help="Hugging Face id, folder, or builtin:tuned.")] = "builtin:tuned",
    reference: Annotated[str, typer.Argument(help="Likewise, or builtin:base.")] = "builtin:base",
    prompts: Annotated[Path | None, typer.Option(help="Prompts: .txt (a line each), .jsonl or .parquet.")] = None,
    samples: Annotated[int, typer.Option(help="Completions of each prompt.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens after which a completion is cut.")] = 48,
    temperature: Annotated[float, typer.Option(help="Of the policy's sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the policy's sampling; 1 keeps all.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most likely tokens that are kept; 0 keeps all.")] = 0,
    process_reference: Annotated[bool, typer.Option(help="Apply the sampling settings to the reference too.")] = False,
    batch_size: Annotated[str, typer.Option(help="Sequences at a time, or auto.")] = "auto",
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="Estimator, or estimator:level; may be repeated. Default: a table of six."),
    ] = None,
    both: Annotated[
        bool, typer.Option("--both", help="Also sample from the reference, for KL(reference‖policy).")
    ] = False,
    text: Annotated[
        Path | None,
        typer.Option(help="Score this text under both models instead of sampling (.txt, .jsonl, .parquet)."),
    ] = None,
    context_length: Annotated[int, typer.Option(help="Tokens of a window, with --text.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Folder for rollouts.parquet and estimate.json.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results in --output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """How far POLICY is from REFERENCE: samples the policy, scores under both, and estimates the KL in every way.

    With no arguments it compares the built-in pair. For example:

        kullback compare ./my-model Qwen/Qwen3-0.6B --prompts prompts.jsonl --samples 8 --output results

        kullback compare ./my-model-int4 ./my-model --text wiki.txt
    """
    from kullback.compare import TABLE
    from kullback.compare import compare as run
    from kullback.report import terminal
    from kullback.textual import compare_text

    size = int(batch_size) if batch_size.isdecimal() else batch_size
    common: dict[str, Any] = {
        "batch_size": size,
        "device": device,
        "dtype": dtype,
        "output": output,
        "overwrite": overwrite,
    }
    if text is not None:
        with _shown(as_json, terminal.text_comparison, "windows") as (on_progress, show):
            show(
                compare_text(policy, reference, text, context_length=context_length, on_progress=on_progress, **common)
            )
        return
    with _shown(as_json, terminal.comparison, "sequences") as (on_progress, show):
        show(
            run(
                policy,
                reference,
                prompts,
                samples=samples,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                process_reference=process_reference,
                both=both,
                estimators=[_estimator(name) for name in estimator] if estimator else TABLE,
                seed=seed,
                on_progress=on_progress,
                **common,
            )
        )


@app.command()
def estimators(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Every estimator and every trainer's KL loss: what it is, whose gradient it follows, how noisy it is.

    All of it is computed by enumeration on exact worlds. For example:

        kullback estimators --json
    """
    from kullback.report import terminal
    from kullback.report.families import estimator_table, surrogate_table, target_table

    tables = (estimator_table(), surrogate_table(), target_table())
    if as_json:
        record = {t.title.lower(): [dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in tables}
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    for table in tables:
        _console().print(terminal.family_table(table))


def _estimator(name: str) -> Any:
    from kullback.estimators import ESTIMATORS, LEVELS

    name, _, level = name.partition(":")
    if level and level not in LEVELS:
        raise InputError(f"--estimator {name}:{level} came, but a level is token or sequence")
    found = ESTIMATORS[name]
    return found, level or ("sequence" if found.link else "token")


@contextmanager
def _shown(
    as_json: bool, table: Callable[[Any], Any], unit: str
) -> Iterator[tuple[Callable[[Done], None], Callable[[Any], None]]]:
    """A progress bar on a terminal; what is shown at the end, also of a job that an error ended half-way."""

    def show(result: Any) -> None:
        bar.stop()
        if as_json:
            typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
        else:
            _console().print(table(result))

    err = _console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
    task = bar.add_task("loading models", total=None, count="", rate="")

    def on_progress(done: Done) -> None:
        elapsed = bar.tasks[0].elapsed or 0.0
        rate = f"{done.tokens / elapsed:,.0f} tokens/s" if elapsed > 0 else ""
        count = f"{done.sequences}/{done.total} {unit}"
        bar.update(task, description="comparing", completed=done.sequences, total=done.total, count=count, rate=rate)

    try:
        with bar:
            yield on_progress, show
    except KullbackError as error:
        bar.stop()
        if error.result is not None:
            show(error.result)
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped before anything was finished")


def _fail(message: str) -> NoReturn:
    """One sentence on stderr and exit status 2."""
    _console(stderr=True).print(f"kullback: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def main() -> None:
    """Run the command line."""
    app()
