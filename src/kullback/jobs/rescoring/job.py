"""Score the rows of files under models, and write them as a table of rollouts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from kullback.errors import InputError, KullbackError, ModelError, StoppedError
from kullback.jobs.endings import handed_over
from kullback.jobs.engines.apart import apart
from kullback.jobs.engines.asked import asked_engine, check_names
from kullback.jobs.engines.pool import Engine
from kullback.jobs.engines.run import said
from kullback.jobs.engines.standins import without_weights
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.local import place
from kullback.jobs.progress import OnProgress, Progress, unheard
from kullback.jobs.rescoring.additions import Additions
from kullback.jobs.rescoring.crew import Columns, Crew, Reviewing, shards_of
from kullback.jobs.rescoring.destination import check_destination
from kullback.jobs.rescoring.entries import Entry, Reading, entry_of, is_text
from kullback.jobs.rescoring.judges import COLUMN, Judges
from kullback.jobs.rescoring.outcome import Rescored
from kullback.jobs.rescoring.tally import Tally
from kullback.models.memory import out_of_memory
from kullback.models.outside import Outside
from kullback.models.protocols import Scorer
from kullback.models.sampling import Sampling
from kullback.paths import path_of
from kullback.rollouts import Rollout, Rollouts, RolloutWriter
from kullback.rollouts.readers import read_scorable

WINDOW = 64
"""Rows that are read, put together by length, scored and written at a time: what a kill loses at most."""


def score_files(
    path: str | Path,
    output: str | Path,
    *,
    policy: str | Scorer | None = None,
    reference: str | Scorer | None = None,
    temperature: float = 1.0,
    overwrite_columns: bool = False,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    allow_outside_mass: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    dtype: str = "auto",
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    address: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: OnProgress = unheard,
) -> Rescored:
    """Add the log-probs of models to the rows of a file or folder of rollouts, by reading their tokens again.

    A policy fills `logprobs` and a reference `ref_logprobs`; where both are the models', the exact token KL over the
    vocabulary comes from the same passes as `token_kl`. Everything else of a row stays. A column that the file has is
    kept and compared with the model's score: the mean absolute difference is the mismatch of engine and trainer.

    Texts without log-probs (verl's, TRL's, AReaL's and ROLL's dumps, or any rows with a prompt and a completion) are
    read by the policy's tokenizer as they are written, without a chat template. Both models are needed then, and the
    texts are taken as drawn from the policy. Special tokens that were not written, the end token among them, are lost.

    Args:
        path: whatever `kullback.read_rollouts` knows, or texts.
        output: the Parquet file to be written. Until the end NAME.part holds what is finished, also after a kill.
        policy, reference: as in `kullback.compare`; at least one.
        temperature: logits of both models are divided by it: that at which the tokens were drawn, or 1 for the
            models' own laws.
        overwrite_columns: put the models' scores in the place of log-probs that the file has. Those of what drew the
            tokens are kept as `behavior_logprobs`, unless the file has such a column.
        format, map, skip_bad: as in `kullback.read_rollouts`; rows that cannot be scored are left out too.
            For texts `map` also names "prompt" and "completion".
        allow_outside_mass, batch_size, device, dtype: as in `kullback.compare`.
        engine, workers, gpus_per_worker, address: as in `kullback.compare`: who scores, 64 rows at a time.
        overwrite: replace `output` if it is there.
        resume: go on from what the workers of a run with the same settings had finished; needs workers.
        on_progress: called as rows are finished.

    Raises:
        InputError, ModelError, FileError: what came, what was expected and what to do, in a sentence, with file and
            row; `result` of the error says what was finished, if anything.
        StoppedError: Ctrl-C; likewise. It is a KeyboardInterrupt.

    Example:
        >>> import json, tempfile, kullback as kb
        >>> folder = tempfile.mkdtemp()
        >>> with open(f"{folder}/texts.jsonl", "w") as file:
        ...     _ = file.write(json.dumps({"prompt": "Once upon a time", "completion": " there was a dog."}))
        >>> found = kb.score_files(
        ...     f"{folder}/texts.jsonl", f"{folder}/scored.parquet", policy="builtin:tuned", reference="builtin:base"
        ... )
        >>> found.written, found.rows
        (('logprobs', 'ref_logprobs', 'token_kl', 'ref_mass'), 1)
        >>> print(kb.estimate_files(found.output, unit="sequence").estimates[0].n)
        1
    """
    if policy is None and reference is None:
        raise InputError("no model came to score with: name one with policy= (--policy) or reference= (--reference)")
    Sampling(temperature)  # refuses what is no temperature before anything is loaded
    source, target = path_of(path, "a file of rollouts"), path_of(output, "a file to write")
    asked = asked_engine(engine, workers, gpus_per_worker, address, resume=resume, output=target)
    if asked is not None:
        check_names(policy, reference)
    check_destination(target, source, shards=shards_of(target).folder, overwrite=overwrite, resume=resume)
    if not resume:
        shards_of(target).remove()
    rollouts = read_scorable(path, format, map=map, skip_bad=skip_bad)
    first = next(iter(rollouts), None)  # not [0], which counts the rows of a file of others by reading it all
    if first is None:
        raise InputError(f"{path} holds no row")
    if is_text(first) and (policy is None or reference is None):
        lacking = "reference" if reference is None else "policy"
        raise InputError(
            f"{path} holds texts without log-probs, and a KL takes two laws: name the {lacking} too, "
            f"{lacking}= (--{lacking})"
        )
    job = Reviewing(policy, reference, device, dtype, temperature, allow_outside_mass, batch_size)
    judges, crew = (job.judges(), None) if asked is None else _crewed(asked, job, target)
    given = tuple(COLUMN[side] for side in COLUMN if COLUMN[side] in judges.models)
    additions = Additions.of(first, given, overwrite=overwrite_columns, exact=judges.exact)
    return Job(
        rollouts=rollouts,
        judges=judges,
        additions=additions,
        texts=is_text(first),
        batch_size=batch_size,
        skip_bad=skip_bad,
        on_progress=on_progress,
        crew=crew,
    ).run(target)


def _crewed(crew: Engine, job: Reviewing, target: Path) -> tuple[Judges, Crew]:
    """Models that are known here without their weights, and those who have them."""
    return apart(crew, judged, job), Crew(crew, job, shards_of(target))


def judged(job: Reviewing) -> Judges:
    """Who scores, without weights."""
    found = job.judges()
    return replace(found, models={name: without_weights(model) for name, model in found.models.items()})


@dataclass
class Job:
    """Rows that are scored window by window; what is written stays, whatever ends it.

    Attributes:
        rollouts: that are read.
        judges, additions: who scores, and what becomes of columns.
        texts: whether they are texts.
        batch_size: sequences of a forward pass, or "auto".
        skip_bad: whether rows that cannot be scored are left out.
        on_progress: told how far it is.
        crew: who scores in this process's place.
        tally: what is written so far.
    """

    rollouts: Rollouts
    judges: Judges
    additions: Additions
    texts: bool
    batch_size: int | Literal["auto"]
    skip_bad: bool
    on_progress: OnProgress
    crew: Crew | None = None
    tally: Tally = field(default_factory=Tally)

    def run(self, output: Path) -> Rescored:
        """What was written; where something ended it early that error is raised, with what was finished in it."""
        started = time.perf_counter()
        ended: BaseException | None = None
        try:
            self._write_all(output)
        except KeyboardInterrupt:
            held = (
                f"after {self.tally.rows:,} rows, which {output} holds" if self.tally.rows else "before any was written"
            )
            ended = StoppedError(f"stopped {held}{self._kept()}")
        except Exception as error:
            ended = said(self._said(error), self._kept())
        if not self.tally.rows:
            raise ended or InputError(f"{self.rollouts.path} holds no row that can be scored: {self._why()}")
        return handed_over(self._outcome(output, time.perf_counter() - started, complete=ended is None), None, ended)

    def _write_all(self, output: Path) -> None:
        names = {name: model.name for name, model in self.judges.models.items()}
        metadata = self.additions.described(self.rollouts, self.judges.described(), self._of_texts())
        with safe_interrupts() as check, RolloutWriter(output, metadata) as writer:
            for entries, columns in self._scored(check):
                scores = [entry.whole(row) for entry, row in zip(entries, columns, strict=True)]
                writer.write([self.additions.applied(*row) for row in zip(entries, scores, strict=True)])
                for row in zip(entries, scores, strict=True):
                    self.tally.add(*row, names)
        if self.crew is not None:
            self.crew.shards.remove()

    def _windows(self) -> Iterator[list[Entry]]:
        """Rows that can be scored, some at a time, each file's on their own."""
        for file in self.rollouts.parts:
            number = 0
            for block in file.blocks(WINDOW):
                found = [self._entry(file, row, number + i) for i, row in enumerate(block)]
                number += len(block)
                if entries := [entry for entry in found if entry is not None]:
                    yield entries

    def _entry(self, file: Rollouts, rollout: Rollout, number: int) -> Entry | None:
        """A row to be scored; None where it is left out."""
        where = f"{file.path}, row {number}"
        try:
            self.additions.check(rollout)
            entry = entry_of(rollout, where, self.judges.first)
            self.judges.check(entry)
        except InputError as error:
            if not self.skip_bad:
                raise InputError(f"{where}: {error}; skip_bad=True (--skip-bad) leaves such rows out") from error
            self.tally.bad.append(f"{where}: {error}")
            return None
        if entry.text and not entry.completion:
            self.tally.empty += 1
            return None
        return entry

    def _scored(self, check: Callable[[], None]) -> Iterator[tuple[list[Entry], Columns]]:
        """Windows with their columns."""
        if self.crew is None:
            for entries in self._windows():
                readings = [entry.reading for entry in entries]
                yield entries, self.judges.batched(readings, self.batch_size, self._heard(check))
            return
        source = str(self.rollouts.path)
        for entries, columns, outside in self.crew.scored(self._windows(), source, check):
            for name, one in outside.items():
                self.judges.outside[name] = self.judges.outside.get(name, Outside()) + one
            self._heard(check)([entry.reading for entry in entries])
            yield entries, columns

    def _heard(self, check: Callable[[], None]) -> Callable[[Sequence[Reading]], None]:
        """What is told of rows that are scored, on top of those that are written."""
        rows, tokens = self.tally.rows, self.tally.tokens

        def heard(batch: Sequence[Reading]) -> None:
            nonlocal rows, tokens
            rows += len(batch)
            tokens += sum(len(one.completion) for one in batch)
            self.on_progress(Progress(rows, self._total, tokens))
            check()

        return heard

    @cached_property
    def _total(self) -> int:
        """Rows of all files; 0 where that takes reading them."""
        parts = self.rollouts.parts
        return sum(map(len, parts)) if all(part.format == "kullback" for part in parts) else 0

    def _of_texts(self) -> tuple[str, ...]:
        """What the written file says of itself where it was made of texts."""
        if not self.texts:
            return ()
        names = {name: model.name for name, model in self.judges.models.items()}
        lost = self.rollouts.lost
        return (
            f"texts were read again by the tokenizer of {self.judges.first.name} as they are written, without a chat "
            "template: ids can differ from those that were sampled",
            f"they are taken as drawn from {names['logprobs']} at temperature {self.judges.sampling.temperature:g}: of "
            "texts that something else drew, no estimate is of this KL",
            *([lost] if lost else []),
        )

    def _outcome(self, output: Path, seconds: float, *, complete: bool) -> Rescored:
        additions, judges = self.additions, self.judges
        notes = (*self._of_texts(), *additions.notes(), *judges.notes(), *self.tally.notes(self.rollouts))
        return Rescored(
            source=str(self.rollouts.path),
            format=self.rollouts.format,
            output=str(output),
            models={name: model.name for name, model in judges.models.items()},
            written=additions.all_written,
            kept=tuple(name for name in additions.given if name not in additions.written),
            agreements=tuple(self.tally.agreements.values()),
            rows=self.tally.rows,
            tokens=self.tally.tokens,
            temperature=judges.sampling.temperature,
            seconds=seconds,
            complete=complete,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _said(self, error: Exception) -> Exception:
        """What ended the job, for people."""
        # Each library has an error of its own for this, and none may be imported to name it.
        if isinstance(error, KullbackError) or not out_of_memory(error):
            return error
        return ModelError(f"{place(self.judges.first)} ran out of memory: pass a smaller --batch-size")

    def _kept(self) -> str:
        """From what a job with workers goes on."""
        return "" if self.crew is None else f"; {self.crew.shards.folder} is what --resume goes on from"

    def _why(self) -> str:
        """Why no row was left."""
        return next(iter([*self.tally.bad, *self.rollouts.bad]), "every completion is empty")
