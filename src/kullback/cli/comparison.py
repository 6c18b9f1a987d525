"""``kullback compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kullback.cli.gate import Limit, MaxKL, ThesePrompts, Undecided, asked_limit, settle
from kullback.cli.options import given, refuse, within
from kullback.cli.reporting import Report, check_report, kept, line_of, write_report
from kullback.cli.screen import fail, shown
from kullback.errors import InputError
from kullback.jobs.limits import MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kullback.documents import Outcome
    from kullback.estimators import Estimator, Level
    from kullback.jobs.gate import Gate
    from kullback.jobs.outcomes import Comparison, TextComparison


def compare(
    context: typer.Context,
    policy: Annotated[str, typer.Argument(help="Hugging Face id, folder, or builtin:tuned.")] = "builtin:tuned",
    reference: Annotated[str, typer.Argument(help="Likewise, or builtin:base.")] = "builtin:base",
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts: .txt (a line each), .jsonl, .json, .csv, .parquet, or an id of datasets."),
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Where in --prompts they are. Default: prompt, …")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Completions of each prompt. Default: 16.", callback=within(1, MOST["samples"]))
    ] = None,
    stderr: Annotated[
        float | None,
        typer.Option(
            help="Instead: as many as this standard error for these prompts takes, nats a sequence.",
            callback=within(0, above=True),
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Instead: as many as this time allows.", callback=within(0, above=True)),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens after which a completion is cut.", callback=within(1, MOST["max_new_tokens"]))
    ] = 48,
    temperature: Annotated[float, typer.Option(help="Of the policy's sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the policy's sampling; 1 keeps all.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most likely tokens that are kept; 0 keeps all.", callback=within(0))] = 0,
    sampler: Annotated[
        str | None, typer.Option(help="What draws in POLICY's place: a model, a server's URL, or vllm for its engine.")
    ] = None,
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
        typer.Option(help="Score this text under both models instead of sampling (.txt, .jsonl, .parquet, …)."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Where in --text it is. Default: text, content, …")] = None,
    context_length: Annotated[
        int, typer.Option(help="Tokens of a window, with --text.", callback=within(4, MOST["context_length"]))
    ] = 512,
    windows: Annotated[
        Literal["overlapping", "llama.cpp"],
        typer.Option(help="With --text: score every token once, or those that llama.cpp scores."),
    ] = "overlapping",
    allow_outside_mass: Annotated[
        bool,
        typer.Option("--allow-outside-mass", help="Go on where a model gives probability to tokens the other lacks."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …, or split.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="What the workers are: processes here, or actors of Ray.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Workers, each with the models. Default: this process.", callback=within(1, 4096))
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs that Ray keeps for each.", callback=within(0, 64))] = 0.0,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster: auto, ray://host:10001, …")] = None,
    max_kl: MaxKL = None,
    undecided: Undecided = "pass",
    these_prompts: ThesePrompts = False,
    report: Report = None,
    output: Annotated[Path | None, typer.Option(help="Folder for rollouts.parquet and estimate.json.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results in --output.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what the workers had finished in --output.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """How far POLICY is from REFERENCE: samples the policy, scores under both, and estimates the KL in every way.

    With no arguments it compares the built-in pair. For example:

        kullback compare ./my-model Qwen/Qwen3-0.6B --prompts prompts.jsonl --samples 8 --output results

        kullback compare ./my-model-int4 ./my-model --text wiki.txt
    """
    _check_together(context, policy, text)
    asked = list(dict.fromkeys(_estimator(name) for name in estimator or ()))
    limit = asked_limit(context, max_kl, undecided, these_prompts=these_prompts)
    if limit is not None:
        _check_limit(limit, asked, samples=samples, text=text is not None)
    settings: dict[str, Any] = {
        "allow_outside_mass": allow_outside_mass,
        "batch_size": size_of(batch_size),
        "device": device,
        "dtype": dtype,
        "output": output,
        "overwrite": overwrite,
    }
    if text is not None:
        with shown(as_json, "windows") as (on_progress, show):
            from kullback.jobs.text import compare_text  # the bar is there before what takes time to load

            on_text = compare_text(
                policy,
                reference,
                text,
                context_length=context_length,
                text_column=text_column,
                windows=windows,
                on_progress=on_progress,
                **settings,
            )
            settle(on_text, None if limit is None else _gate_on_text(on_text, limit), limit, show, _writing(context))
        return
    with shown(as_json, "sequences") as (on_progress, show):
        from kullback.jobs.comparison import compare as run
        from kullback.jobs.estimates import TABLE

        found = run(
            policy,
            reference,
            prompts,
            prompt_column=prompt_column,
            samples=samples,
            stderr=stderr,
            seconds=seconds,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            process_reference=process_reference,
            sampler=sampler,
            both=both,
            estimators=asked or TABLE,
            seed=seed,
            engine=engine,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            address=address,
            resume=resume,
            on_progress=on_progress,
            likely=LIKELY if report is not None and report.suffix == ".html" else 0,
            **settings,
        )
        settle(found, None if limit is None else _gate(found, limit), limit, show, _writing(context))


LIKELY = 5
"""Words of both models that a page shows of every token."""


def _writing(context: typer.Context) -> Callable[[Outcome], None] | None:
    """What writes the report, if one was asked for."""
    path, output, text = (context.params[name] for name in ("report", "output", "text"))
    if path is None:
        return None

    def write(found: Outcome) -> None:
        from kullback.jobs.gate import Gated
        from kullback.jobs.reports import Made

        bare = found.outcome if isinstance(found, Gated) else found
        kind = "compare" if text is None else "compare --text"
        write_report(found, path, Made(kind, line_of(context), rests_on=kept(bare, path, output)))

    return write


ENGINE = ("engine", "workers", "gpus_per_worker", "address", "resume")
"""Who does the work."""

SAMPLED = (
    "prompts",
    "prompt_column",
    "samples",
    "stderr",
    "seconds",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "process_reference",
    "sampler",
    "estimator",
    "both",
    "seed",
    *ENGINE,
)
"""What has to do with sampling, and with --text nothing."""

SCORED = ("text_column", "context_length", "windows")
"""What has to do with --text alone."""


def _check_together(context: typer.Context, policy: str, text: Path | None) -> None:
    """Refuse options that would do nothing, a report without a place, and a policy without its reference."""
    check_report(context.params["report"], keeps=text is None and context.params["output"] is None)
    names = {option.name for option in context.command.params}
    if text is not None:
        refuse(context, SAMPLED, "with --text, which samples nothing")
    else:
        refuse(context, [name for name in SCORED if name in names], "without --text")
    if given(context, ["prompt_column"]) and not given(context, ["prompts"]):
        fail("--prompt-column came without --prompts: name the file that has that column")
    choosing = given(context, ["stderr", "seconds"])
    if choosing and given(context, ["samples"]):
        fail(f"--samples came with {' and '.join(choosing)}, which chooses them: leave one of the two out")
    if given(context, ["overwrite"]) and not given(context, ["output"]):
        fail("--overwrite came without --output, and there is nothing to replace: leave it out")
    if policy != "builtin:tuned" and not given(context, ["reference"]):
        fail(f"{policy} came without what it is to be compared with: kullback compare {policy} REFERENCE")


def _check_limit(limit: Limit, asked: Sequence[tuple[Estimator, Level]], *, samples: int | None, text: bool) -> None:
    """Refuse a limit against which nothing could be held, before anything is loaded."""
    from kullback.jobs.estimates import QUOTED

    if asked and not any(estimator.name in QUOTED for estimator, _ in asked):
        fail(f"--max-kl came, but no --estimator is of this KL: ask for one of {', '.join(QUOTED)} too")
    if text and limit.unit == "sequence":
        fail("--max-kl is in nats a token with --text, which has no sequences: leave out /sequence")
    if limit.these_prompts and text:
        fail("--these-prompts came with --text, which has no prompts: leave it out")
    if limit.these_prompts and samples == 1:
        fail("--these-prompts came with --samples 1, but two samples of a prompt are needed for its error")


def _gate(found: Comparison, limit: Limit) -> Gate:
    """Of the estimate that is to be quoted."""
    from kullback.jobs.estimates import quoted
    from kullback.jobs.gate import gate

    truncated = found.settings["top_p"] < 1 or found.settings["top_k"] > 0
    row = quoted(found.rows, truncated=truncated)
    return gate(
        row.per_token if limit.unit == "token" else row.per_sequence, limit.nats, these_prompts=limit.these_prompts
    )


def _gate_on_text(found: TextComparison, limit: Limit) -> Gate:
    """Of what quantisers call KLD."""
    from kullback.jobs.gate import gate

    clusters = f"{found.settings['clustered_by']}s"
    return gate(found.forward, limit.nats, of="the mean KL(reference‖policy) of the text", clusters=clusters)


def size_of(text: str) -> int | Literal["auto"]:
    """What --batch-size asks for."""
    if text.isdecimal() and len(text) < 10 and int(text) > 0:
        return int(text)
    if text != "auto":
        raise InputError(f"--batch-size {text} came, but it is 'auto' or at least 1")
    return "auto"


def _estimator(text: str) -> tuple[Estimator, Level]:
    from kullback.estimators import ESTIMATORS, LEVELS

    name, colon, wished = text.partition(":")
    found = ESTIMATORS[name]
    if not colon:
        return found, "sequence" if found.link else "token"
    for level in LEVELS:
        if level == wished:
            return found, level
    raise InputError(f"--estimator {text} came, but a level is token or sequence")
