"""``kullback lab …``: a command an experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kullback.cli.options import refuse, within
from kullback.cli.reporting import Report, check_report, line_of, words_of, write_report
from kullback.cli.screen import fail, shown, tell
from kullback.jobs.limits import MOST

if TYPE_CHECKING:
    from kullback.documents import Outcome
    from kullback.jobs.progress import Progress
    from kullback.jobs.reports import Made
    from kullback.rollouts import Rollout

lab = typer.Typer(
    help="Experiments that redo and extend what has been published on KL estimation: tables, pictures and JSON.",
    no_args_is_help=True,
    epilog="For example: `kullback lab gaussian --output results` writes gaussian.json, gaussian.png and gaussian.svg.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Output = Annotated[Path | None, typer.Option(help="Folder for the JSON and the picture (PNG and SVG).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results in --output.")]
Samples = Annotated[int, typer.Option(help="Draws or sequences whose mean is the estimate.", callback=within(1))]
Seed = Annotated[int, typer.Option(help="Of the random numbers.", callback=within(0, 2**63 - 1))]


SHIFTS = [0.1, 1.0]
SIZES = [2, 3, 5, 10, 20, 50, 100]
BETAS = [0.5, 1.0]
APART = [0.1, 0.3, 1.0]
MODELS = ["builtin:tuned", "builtin:base"]


@dataclass
class Rerun:
    """Stands in a command's context where it is run to be verified: it computes, and shows and writes nothing."""

    found: Outcome | None = None


def _run(
    context: typer.Context, name: str, experiment: Callable[[Callable[[Progress], None]], Outcome], *, unit: str = ""
) -> None:
    """Run an experiment with a progress bar, print its tables or JSON, and write its files."""
    if isinstance(context.obj, Rerun):
        context.obj.found = experiment(lambda _: None)
        return
    output, overwrite, report = (context.params[option] for option in ("output", "overwrite", "report"))
    if overwrite and output is None:
        fail("--overwrite came without --output, and there is nothing to replace: leave it out")
    check_report(report)
    from kullback.jobs.outputs import results_in, write_json
    from kullback.report.pictures import draw, require_matplotlib

    with shown(context.params["as_json"], unit, starting=name, doing=name) as (on_progress, show):
        if output is not None:
            require_matplotlib()
        files = [f"{name}.{kind}" for kind in ("json", "png", "svg")]
        with results_in(output, overwrite=overwrite, names=files) as folder:
            result = experiment(on_progress)
            if report is not None:
                write_report(result, report, _made(context, name, report))
            show(result)
            if folder is None:
                return
            write_json(folder / files[0], result.to_dict())
            [chart] = result.document().charts
            draw(chart, [folder / file for file in files[1:]])
            tell(f"written to {folder}: {', '.join(files)}", style="dim")


def _made(context: typer.Context, name: str, report: Path) -> Made:
    """How a report came about: by the words of the command line, and a plan by its pilot's file."""
    from kullback.jobs.reports import Made
    from kullback.jobs.reports.claims import from_folder

    asked: dict[str, object] = {"words": words_of(context)}
    files = [Path(one) for one in context.params.get("pilot", ()) if Path(one).is_file()]
    if files:
        asked["pilot"] = [from_folder(path, report.parent) for path in files]
    return Made(f"lab {name}", line_of(context), asked, files)


def _steps(on_progress: Callable[[Progress], None]) -> Callable[[int, int], None]:
    from kullback.jobs.progress import Progress

    return lambda done, total: on_progress(Progress(done, total, 0))


@lab.command()
def gaussian(
    context: typer.Context,
    shift: Annotated[
        list[float], typer.Option(help="Mean of p; may be repeated.", callback=within(-100, 100))
    ] = SHIFTS,
    scale: Annotated[float, typer.Option(help="Standard deviation of p.", callback=within(1e-3, 1e3))] = 1.0,
    samples: Annotated[
        int, typer.Option(help="Draws behind the sampled columns.", callback=within(2, 10_000_000))
    ] = 1_000_000,
    seed: Seed = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Schulman's two tables by closed form and by sampling, for q = N(0, 1) and any p = N(shift, scale²).

    Bias and standard deviation of k1, k2, k3 and the best control variate, the KL above which k3 is worse than
    k1, and where the variance is infinite. For example:

        kullback lab gaussian --shift -0.5 --scale 5
    """
    from kullback.lab import gaussian as run

    _run(
        context,
        "gaussian",
        lambda _: run(shift, scale=scale, samples=samples, seed=seed),
    )


@lab.command()
def categorical(
    context: typer.Context,
    estimator: Annotated[
        list[str] | None, typer.Option(help="Of `kullback estimators`; may be repeated. Default: those of KL(q‖p).")
    ] = None,
    distance: Annotated[
        float, typer.Option(help="Of the policy's logits, while the vocabulary is swept.", callback=within(1e-3, 100))
    ] = 0.5,
    vocab: Annotated[
        int, typer.Option(help="Tokens, while the distance is swept.", callback=within(2, 1_000_000))
    ] = 256,
    samples: Samples = 100,
    worlds: Annotated[int, typer.Option(help="Random pairs a setting.", callback=within(1, 10_000))] = 10,
    seed: Seed = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Bias, spread and error of estimators on random categorical pairs, exactly: one token, any vocabulary.

    For example:

        kullback lab categorical --estimator k3 --estimator forward_k3 --distance 1
    """
    from kullback.estimators import ESTIMATORS
    from kullback.lab import categorical as run
    from kullback.lab.categorical_worlds import DEFAULT

    _run(
        context,
        "categorical",
        lambda on_progress: run(
            distance=distance,
            vocab=vocab,
            estimators=[ESTIMATORS[name] for name in estimator] if estimator else DEFAULT,
            samples=samples,
            worlds=worlds,
            seed=seed,
            on_setting=_steps(on_progress),
        ),
        unit="settings",
    )


@lab.command()
def language(
    context: typer.Context,
    distance: Annotated[
        float, typer.Option(help="Of the policy's logits, while others are swept.", callback=within(1e-3, 100))
    ] = 0.2,
    vocab: Annotated[int, typer.Option(help="Tokens, while others are swept.", callback=within(2, 4096))] = 32,
    horizon: Annotated[
        int, typer.Option(help="Most tokens of a sequence, while others are swept.", callback=within(1, 100_000))
    ] = 64,
    samples: Samples = 100,
    worlds: Annotated[int, typer.Option(help="Random pairs a setting.", callback=within(1, 10_000))] = 5,
    seed: Seed = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """The same for sequences of random language models, by distance, horizon and vocabulary: token or sequence level.

    By dynamic programming, so nothing is sampled. For example:

        kullback lab language --distance 0.1 --horizon 256
    """
    from kullback.lab import language as run

    _run(
        context,
        "language",
        lambda on_progress: run(
            distance=distance,
            vocab=vocab,
            horizon=horizon,
            samples=samples,
            worlds=worlds,
            seed=seed,
            on_setting=_steps(on_progress),
        ),
        unit="settings",
    )


@lab.command()
def gradients(
    context: typer.Context,
    staleness: Annotated[
        float,
        typer.Option(
            help="How far the policy that draws the rows is behind, in its logits, off-policy.",
            callback=within(1e-3, 100),
        ),
    ] = 0.3,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Direction and variance of every surrogate's gradient, exactly, as the policy moves away, on- and off-policy.

    Also the best constant of ½(c + ℓ)², and how noisy each unbiased way to the gradient is. For example:

        kullback lab gradients --staleness 1 --output results
    """
    from kullback.lab import gradients as run

    _run(
        context,
        "gradients",
        lambda on_progress: run(staleness=staleness, on_setting=_steps(on_progress)),
        unit="worlds",
    )


@lab.command(name="lambda")
def coefficients(
    context: typer.Context,
    q: Annotated[str, typer.Option("--policy", help="Probabilities of the policy, with commas.")] = "0.5,0.3,0.2",
    p: Annotated[str, typer.Option("--reference", help="Probabilities of the reference.")] = "0.2,0.3,0.5",
    n: Annotated[
        list[int], typer.Option("-n", help="Draws of a batch; may be repeated.", callback=within(2, 100_000))
    ] = SIZES,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """What each way of choosing λ in k1 + λ(r − 1) gains, and the bias of fitting it on the same batch, exactly.

    For example:

        kullback lab lambda --policy 0.8,0.2 --reference 0.5,0.5 -n 4 -n 16
    """
    from kullback.lab import coefficients as run

    _run(context, "lambda", lambda _: run(_numbers(q), _numbers(p), sizes=n))


def _numbers(text: str) -> list[float]:
    from kullback.errors import InputError, shown

    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{shown(text)} came, but probabilities with commas are needed, such as 0.5,0.3,0.2") from None


@lab.command()
def variance(
    context: typer.Context,
    distance: Annotated[
        list[float],
        typer.Option(help="Of the two models' logits; may be repeated.", callback=within(1e-3, 100)),
    ] = APART,
    vocab: Annotated[int, typer.Option(help="Tokens of a world.", callback=within(2, 1000))] = 4,
    horizon: Annotated[int, typer.Option(help="Tokens of a sequence, at most.", callback=within(2, 1000))] = 5,
    worlds: Annotated[int, typer.Option(help="Random pairs a distance.", callback=within(1, 10_000))] = 20,
    seed: Seed = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """What controls, strata, branching, lattices and others gain over Rao-Blackwell, exactly, and what they cost.

    For example:

        kullback lab variance --vocab 3 --horizon 6 --distance 0.5
    """
    from kullback.lab import variance as run

    _run(
        context,
        "variance",
        lambda on_progress: run(
            distance, vocab=vocab, horizon=horizon, worlds=worlds, seed=seed, on_setting=_steps(on_progress)
        ),
        unit="worlds",
    )


@lab.command()
def training(
    context: typer.Context,
    beta: Annotated[
        list[float], typer.Option(help="Weight of the KL term; may be repeated.", callback=within(1e-6, 1e6))
    ] = BETAS,
    steps: Annotated[int, typer.Option(help="Gradient steps of every run.", callback=within(1, 10_000_000))] = 2000,
    samples: Annotated[int, typer.Option(help="Sequences of a batch.", callback=within(2, 100_000))] = 16,
    seeds: Annotated[int, typer.Option(help="Runs of each KL term.", callback=within(1, 100_000))] = 8,
    seed: Seed = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """One small RL problem trained with each KL term: reward against the exact KL, and what the log says of it.

    For example:

        kullback lab training --beta 0.7 --seeds 4 --output results
    """
    from kullback.lab import training as run

    _run(
        context,
        "training",
        lambda on_progress: run(beta, steps=steps, samples=samples, seeds=seeds, seed=seed, on_progress=on_progress),
        unit="sequences",
    )


@lab.command()
def plan(
    context: typer.Context,
    pilot: Annotated[
        list[str],
        typer.Argument(help="A rollouts.parquet, or a policy and a reference to sample a pilot from, as for compare."),
    ] = MODELS,
    relative: Annotated[
        float | None,
        typer.Option(help="Wished standard error over the KL; 0.05 unless told.", callback=within(1e-6, 10)),
    ] = None,
    stderr: Annotated[
        float | None, typer.Option(help="Wished standard error, nats a sequence.", callback=within(1e-9, 1e9))
    ] = None,
    most_prompts: Annotated[
        int | None, typer.Option(help="Prompts that can be had; unset: as many as needed.", callback=within(2))
    ] = None,
    read_cost: Annotated[
        float, typer.Option(help="Cost of reading a prompt token, in generated tokens.", callback=within(0, 1e6))
    ] = 0.1,
    prompts: Annotated[Path | None, typer.Option(help="Of the pilot, with two models.")] = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Completions of each prompt of the pilot, with two models.", callback=within(1, MOST["samples"])
        ),
    ] = 8,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens after which a completion is cut.", callback=within(1, MOST["max_new_tokens"]))
    ] = 48,
    seed: Seed = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """How many prompts and samples a prompt, with which estimator, for a wished standard error; from a pilot.

    For example:

        kullback lab plan results/rollouts.parquet --relative 0.01

        kullback lab plan ./my-model Qwen/Qwen3-0.6B --prompts prompts.jsonl --stderr 0.1 --most-prompts 500
    """
    if len(pilot) == 1:
        refuse(context, ("prompts", "samples", "max_new_tokens"), f"with {pilot[0]}, a file of rollouts")
    if relative is not None and stderr is not None:
        fail("--relative and --stderr came, but they are two ways to say the same: leave one of them out")
    from kullback.errors import InputError
    from kullback.jobs.comparison import compare
    from kullback.lab import plan as run

    def experiment(on_progress: Callable[[Progress], None]) -> Outcome:
        if len(pilot) > 2:
            raise InputError(f"{len(pilot)} names came, but a file of rollouts or two models are needed")
        drawn: str | Sequence[Rollout] = pilot[0]
        if len(pilot) == 2:
            drawn = compare(
                pilot[0],
                pilot[1],
                prompts,
                samples=samples,
                max_new_tokens=max_new_tokens,
                seed=seed,
                on_progress=on_progress,
            ).rollouts
        wished = 0.05 if relative is None and stderr is None else relative
        return run(drawn, relative=wished, stderr=stderr, most_prompts=most_prompts, read_cost=read_cost, seed=seed)

    _run(context, "plan", experiment, unit="sequences")
