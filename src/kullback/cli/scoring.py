"""``kullback score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kullback.cli.comparison import size_of
from kullback.cli.estimation import names_of
from kullback.cli.options import within
from kullback.cli.screen import fail, shown


def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What a trainer or a server wrote: a file or a folder.")],
    policy: Annotated[str | None, typer.Option(help="Fills logprobs: Hugging Face id, folder, builtin:tuned.")] = None,
    reference: Annotated[str | None, typer.Option(help="Fills ref_logprobs. Likewise, or builtin:base.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The table to write. Default: FILE's name with .scored.parquet, here.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Logits of both models are divided by it.")] = 1.0,
    overwrite_columns: Annotated[
        bool, typer.Option("--overwrite-columns", help="Replace log-probs that FILE has, which are compared otherwise.")
    ] = False,
    form: Annotated[str | None, typer.Option("--format", help="Of FILE. Default: by what is in it.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="OURS=THEIRS, as --map completion=answer; may be repeated."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be scored, and say how many.")
    ] = False,
    allow_outside_mass: Annotated[
        bool,
        typer.Option("--allow-outside-mass", help="Go on where a model gives probability to tokens the other lacks."),
    ] = False,
    batch_size: Annotated[str, typer.Option(help="Sequences at a time, or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="What the workers are: processes here, or actors of Ray.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(help="Workers, each with the models. Default: this process.", callback=within(1, 4096)),
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs that Ray keeps for each.", callback=within(0, 64))] = 0.0,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster: auto, ray://host:10001, …")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --output if it is there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what the workers had finished for --output.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Add the log-probs of models to the rows of FILE, texts without log-probs too, by reading their tokens again.

    A policy and a reference together also give exact token KLs. For example:

        kullback score rollouts.jsonl --reference Qwen/Qwen3-0.6B

        kullback score verl_dump/ --policy ./checkpoint-200 --reference ./base --output scored.parquet
    """
    if policy is None and reference is None:
        fail(f"no model came to score with: kullback score {file} --policy MODEL --reference MODEL, or one of them")
    size: int | Literal["auto"] = size_of(batch_size)
    names = names_of(mapping or ())
    path = Path(file)
    target = output or Path(f"{_stem(path)}.scored.parquet")
    with shown(as_json, "rows", doing="scoring") as (on_progress, show):
        from kullback.jobs.rescoring.job import score_files  # the bar is there before what takes time to load

        show(
            score_files(
                path,
                target,
                policy=policy,
                reference=reference,
                temperature=temperature,
                overwrite_columns=overwrite_columns,
                format=form,
                map=names,
                skip_bad=skip_bad,
                allow_outside_mass=allow_outside_mass,
                batch_size=size,
                device=device,
                dtype=dtype,
                engine=engine,
                workers=workers,
                gpus_per_worker=gpus_per_worker,
                address=address,
                overwrite=overwrite,
                resume=resume,
                on_progress=on_progress,
            )
        )


def _stem(path: Path) -> str:
    """The name of a file or a folder without its endings."""
    name = path.resolve().name
    for ending in (".part", ".gz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(ending)
    return Path(name).stem or "rollouts"
