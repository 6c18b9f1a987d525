"""Compare two language models: sample from one, score under both, estimate the KL in every way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kullback.documents import Record
from kullback.errors import InputError
from kullback.estimation.result import Estimate
from kullback.estimators import Estimator, Level
from kullback.jobs.bracketing import bracketed
from kullback.jobs.endings import handed_over
from kullback.jobs.engines.asked import asked_engine, check_names, noted_rows, shift_of
from kullback.jobs.engines.run import Shift, run_workers
from kullback.jobs.engines.shards import shards_in
from kullback.jobs.estimates import TABLE, check_levels, estimable, estimate_rows, quote, quoted
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.limits import check_counts, check_total
from kullback.jobs.local import run_here
from kullback.jobs.looks import Looks, looks
from kullback.jobs.mismatch import mismatch_of
from kullback.jobs.outcomes import Comparison
from kullback.jobs.outputs import check_output, results_in
from kullback.jobs.plans import Laws, Plan
from kullback.jobs.preparation import Request, prepared
from kullback.jobs.progress import OnProgress, unheard
from kullback.jobs.prompts import asked_prompts
from kullback.jobs.rounds import Rounds
from kullback.jobs.run import Run
from kullback.jobs.wishes import Wish, answer, planned, wish
from kullback.jobs.worker import Models
from kullback.models.outside import OUTSIDE, pair_notes
from kullback.models.pairs import gives_distributions, places
from kullback.models.protocols import Prompt, Sampler, Scorer
from kullback.models.randomness import Randomness, other_seed
from kullback.models.sampling import Sampling


def compare(
    policy: str | Scorer = "builtin:tuned",
    reference: str | Scorer = "builtin:base",
    prompts: str | Path | Sequence[Prompt] | None = None,
    *,
    prompt_column: str | None = None,
    samples: int | None = None,
    stderr: float | None = None,
    seconds: float | None = None,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    process_reference: bool = False,
    sampler: str | Sampler | None = None,
    sampler_law: Sampling | None = None,
    both: bool = False,
    estimators: Sequence[tuple[Estimator, Level]] = TABLE,
    batch_size: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    allow_outside_mass: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    address: str | None = None,
    likely: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: OnProgress = unheard,
) -> Comparison:
    """KL(policy‖reference) of two language models, by sampling completions of prompts from the policy.

    The distribution that is scored is the one that was sampled: temperature, top-k and top-p change the
    policy's log-probs too. The reference is scored raw unless `process_reference`. The exact token KL over the
    vocabulary comes from the same forward passes and gives the Rao-Blackwellised estimate.

    What sampled need not be what scored: with a `sampler` or a `sampler_law` something else draws, its log-probs
    are kept as `behavior_logprobs`, and the estimates are weighted so that they are still the policy's.

    Args:
        policy, reference: a Hugging Face id, a folder (an adapter's too), a GGUF file, ``builtin:tuned``,
            ``builtin:base``, or models: of transformers or peft, or whatever is a `kullback.models.Scorer`.
        prompts: a file (.txt, .jsonl, .json, .csv, .tsv, .parquet, each also as .gz), an id or folder of `datasets`, as
            ``openai/gsm8k:main:test``, a list of texts, chat messages or rows, or None for built-in ones.
        prompt_column: where in the rows the prompt is; None to look for prompt, messages, question and the like.
        samples: completions of each prompt; 16 where neither `stderr` nor `seconds` chooses them.
        stderr: the standard error that is wanted for these prompts, in nats a sequence, of the estimate to quote. A
            pilot of 64 sequences or more, which no estimate rests on, plans how many samples that takes; while the
            error of what was drawn is larger, more is drawn. A note says what came.
        seconds: the time that sampling and scoring may take, the pilot's included; it is filled in rounds, each planned
            by the pace of those before. With `stderr` the fewer samples are drawn.
        max_new_tokens: tokens after which a completion is cut; the KL is that of the cut processes.
        temperature, top_p, top_k: the policy's sampling.
        process_reference: apply the same sampling settings to the reference.
        sampler: what draws in the policy's place, named as models are, a server's URL too, or a
            `kullback.models.Sampler`; "vllm" for vLLM's engine with the policy's weights; None for the policy itself.
        sampler_law: the distribution it draws from; None for the policy's settings.
        both: also sample from the reference, for KL(reference‖policy).
        estimators: pairs of an estimator and a level.
        batch_size: sequences at a time; "auto" by the memory their logits take.
        seed: of the sampling; each row has random numbers of its own, so that the batch size changes rounding alone.
        device, dtype: "auto", or as torch calls them; for models that are loaded here.
        allow_outside_mass: go on where a model gives more than rounding to tokens that the other lacks, and say how
            much: what is sampled is then kept to the shared tokens, and what it is compared with keeps its whole law.
        engine: who the workers are: "local" processes of this machine, or actors of a "ray" cluster.
        workers: how many, each of which loads the models by name once; None to do all in this process. The rows are
            the same whatever their number.
        gpus_per_worker, address: of Ray; see `kullback.jobs.engines.pool.Engine`.
        likely: words of each model, likeliest first, that are kept at each token of the sequences that a page shows,
            and the policy's entropy there; 0 for none. Those sequences are read a second time.
        output: a folder for rollouts.parquet and estimate.json.
        overwrite: replace those files if they are there.
        resume: go on from what the workers of a run with the same settings had finished in `output`; needs workers.
        on_progress: called as sequences and tokens are finished.

    Raises:
        InputError, ModelError, FileError: what came, what was expected and what to do, in a sentence;
            `result` of the error is the comparison of the batches that were finished, if any.
        StoppedError: Ctrl-C; likewise. It is a KeyboardInterrupt.

    Example:
        >>> import kullback as kb
        >>> found = kb.compare(samples=2, max_new_tokens=8)
        >>> found.rows[0].per_sequence.estimator, found.complete
        ('k1', True)
    """
    check_counts({"max_new_tokens": max_new_tokens, **({"likely": likely} if likely else {})})
    asked_for = wish(samples, stderr, seconds, prompts=1)  # refuses what is no number before anything is read
    check_levels(estimators)
    Randomness(seed)  # refuses what is no seed before anything is loaded
    sampling = Sampling(temperature, top_p, top_k)
    other = None if sampler is None and sampler_law is None else sampler_law or sampling
    laws = Laws(sampling, sampling if process_reference else Sampling(), other)
    crew = asked_engine(engine, workers, gpus_per_worker, address, resume=resume, output=output)
    if crew is not None:
        check_names(policy, reference, sampler)
    check_output(output, overwrite=overwrite, resume=resume)
    asked, told = asked_prompts(prompts, prompt_column, models=(policy, reference))
    asked_for = wish(samples, stderr, seconds, prompts=len(asked))
    if crew is not None and asked_for.grows:
        raise InputError(
            "stderr or seconds came with workers, but how many samples they take is found in this process: "
            "give samples instead"
        )
    check_total(len(asked), asked_for.samples, 2 if both else 1)
    if resume and batch_size == "auto":
        batch_size = noted_rows(output) or "auto"
    request = Request(
        policy=policy,
        reference=reference,
        sampler=sampler,
        prompts=asked,
        samples=asked_for.samples,
        max_new_tokens=max_new_tokens,
        laws=laws,
        both=both,
        valued=any(estimator.valued for estimator, _ in estimators),
        batch_size=batch_size,
        seed=seed,
        device=device,
        dtype=dtype,
        allow_outside_mass=allow_outside_mass,
    )
    found, shift = (prepared(request), None) if crew is None else shift_of(crew, request)
    plan, models = found.plan, found.models
    table = estimable(estimators, exact=plan.vocab is not None)
    with results_in(output, overwrite=overwrite, resume=resume) as folder:
        if folder is not None and not resume:
            shards_in(folder).remove()
        work = _Work(plan, models, table, asked_for, shift, likely)
        done = _finished(work, folder=folder, on_progress=on_progress, told=(*told, *found.told))
        if folder is not None:
            shards_in(folder).remove()
        return done


@dataclass(frozen=True)
class _Work:
    """What is to be done: a plan, or the plan of a pilot that says how large the plan is."""

    plan: Plan
    models: Models
    table: Sequence[tuple[Estimator, Level]]
    asked_for: Wish
    shift: Shift | None = None
    likely: int = 0

    def run(self, rounds: Rounds, folder: Path | None, on_progress: OnProgress) -> tuple[Run, BaseException | None]:
        """What is finished of the plan and of what it grows to, here or by workers, and what ended it early."""
        if self.shift is None:
            grown = rounds if self.asked_for.grows else None
            return run_here(self.plan, self.models, folder=folder, on_progress=on_progress, grown=grown)
        return run_workers(self.shift, self.models, folder=folder, on_progress=on_progress)

    def quote(self, run: Run) -> Estimate:
        """The estimate that is quoted of a run, in nats a sequence."""
        return quote(run.rollouts, self.table, truncated=self.plan.laws.policy.truncates)

    def outcome(self, run: Run, seconds: float, *, complete: bool) -> Comparison:
        """The comparison that rests on a run."""
        found = _outcome(run, self.models, self.table, seconds=seconds, complete=complete)
        return replace(found, settings={**found.settings, **self.asked_for.settings})

    def looks(self, run: Run) -> Looks:
        """The likely words of the sequences that a page shows."""
        if not self.likely:
            return Looks({}, {})
        if self.shift is not None:
            return Looks({}, {}, "likely words are left out of the page: the models are the workers'")
        decode = self.models.samplers["policy"].decode
        return looks(self.plan, self.models, run.rollouts, words=self.likely, decode=decode)

    def sized(self, samples: int, seed: int) -> Plan:
        """The plan with so many samples of each prompt."""
        return self.plan.resized(samples, seed, self.models.mixes_lengths)

    def piloted(self, started: float, on_progress: OnProgress) -> tuple[_Work, Run, BaseException | None]:
        """With the plan whose samples a pilot chose; the pilot's run, and what ended it early.

        The stream of random numbers stays that of the seed asked for: what is then drawn is what samples= draws.
        """
        work, seed, directions = self, self.plan.seed, self.plan.total // self.plan.samples
        while True:
            seed, begun = other_seed(seed), time.perf_counter()
            pilot = work.sized(work.asked_for.samples, seed)
            run, ended = run_here(pilot, work.models, folder=None, on_progress=on_progress)
            if ended is not None:
                return replace(work, plan=pilot), run, ended
            now = time.perf_counter()
            found = work.quote(run)
            samples = planned(work.asked_for, found, taken=now - begun, elapsed=now - started, prompts=directions)
            work = replace(work, plan=work.sized(samples, self.plan.seed))
            again = work.asked_for.again(samples)
            if again is None or work.asked_for != self.asked_for:
                return work, run, None
            work = replace(work, asked_for=again)


def _quoted(found: Comparison) -> Estimate:
    truncated = found.settings["top_p"] < 1 or found.settings["top_k"] > 0
    return quoted(found.rows, truncated=truncated).per_sequence


def _finished(work: _Work, *, folder: Path | None, on_progress: OnProgress, told: Sequence[str]) -> Comparison:
    """The comparison, written; where something ended it early that error is raised, with what was finished in it."""
    started, ended, pilots = time.perf_counter(), None, 0.0
    if work.asked_for.piloted:
        work, run, ended = work.piloted(started, on_progress)
        pilots = time.perf_counter() - started
    rounds = Rounds(work.asked_for, work.models, work.quote, started)
    if ended is None:
        run, ended = work.run(rounds, folder, on_progress)
    if not run.rollouts:
        raise ended or InputError("no sequence was sampled")
    seconds = time.perf_counter() - started
    seen = Looks({}, {}) if ended is not None else work.looks(run)
    told = (*told, *([seen.missing] if seen.missing else []))
    with safe_interrupts():  # the seconds that the estimates take are too late to stop
        cut = ended is not None and work.asked_for.grows  # what would have come is not known
        found = work.outcome(run, seconds, complete=not cut and len(run.rollouts) == run.plan.total)
        found = replace(found, looks=seen.of, words={**seen.texts, **found.words})
        if work.asked_for.grows and found.complete and ended is None:
            taken = {"pilot": pilots, "all": seconds}
            drawn = run.plan.samples, rounds.first
            told = (answer(work.asked_for, _quoted(found), samples=drawn, seconds=taken), *told)
        return handed_over(replace(found, notes=(*told, *found.notes)), folder, ended)


def _outcome(
    run: Run, models: Models, estimators: Sequence[tuple[Estimator, Level]], *, seconds: float, complete: bool
) -> Comparison:
    return Comparison(
        policy=models.policy.name,
        reference=models.reference.name,
        settings=_settings(run.plan, models),
        rows=tuple(estimate_rows(run.rollouts, estimators)),
        hotspots=run.hotspots,
        rollouts=tuple(run.rollouts),
        seconds=seconds,
        complete=complete,
        mismatch=mismatch_of(run.rollouts),
        brackets={role: found for role in models.samplers if (found := bracketed(run.rollouts, role)) is not None},
        notes=tuple(dict.fromkeys([*_model_notes(run, models), *_notes(run.plan, models)])),
        words=run.words,
    )


def _settings(plan: Plan, models: Models) -> Record:
    law, policy = plan.laws.sampler, models.policy
    sampler = {} if law is None else {"sampler": {"name": models.samplers["policy"].name, **law.settings}}
    return {**plan.settings, **sampler, **places(policy, models.reference)}


def _model_notes(run: Run, models: Models) -> Iterator[str]:
    """How the models were loaded, and what they give to tokens that the other one lacks."""
    q, p = models.policy, models.reference
    for model in (q, p, models.samplers["policy"]):
        yield from getattr(model, "notes", ())
    yield from pair_notes(q, p)
    for outside, model, other in ((run.outside["policy"], q, p), (run.outside["reference"], p, q)):
        note = outside.note(model.name, other.name)
        if note is not None:
            yield f"{note}: {OUTSIDE}"


def _notes(plan: Plan, models: Models) -> Iterator[str]:
    law = plan.laws.sampler
    if law is not None and law.truncates:
        yield (
            "top-p or top-k of what sampled may cut off tokens that the policy draws: "
            "the estimates then leave out what the policy does there"
        )
    if plan.vocab is not None:
        return
    names = [model.name for model in (models.policy, models.reference) if not gives_distributions(model)]
    yield (
        f"no exact token KLs, since {' and '.join(names)} gave log-probs only: "
        "the Rao-Blackwell estimates are left out, and so is where the models differ most"
    )
    if plan.laws.policy.truncates:
        yield (
            "top-p or top-k cuts the policy off, and the reference's probability of what is cut off is not known: "
            "k3 and the control variates may be biased low; read k1"
        )
