"""Compare two language models: sample from one, score under both, estimate the KL in every way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kullback.documents import plain
from kullback.errors import FileError, InputError, KullbackError
from kullback.estimation.accumulator import estimate
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimators import (
    K1,
    K3,
    RAO_BLACKWELL,
    RAO_BLACKWELL_CONTROLLED,
    ControlVariate,
    Estimator,
    Level,
)
from kullback.jobs.hotspots import Hotspots
from kullback.jobs.local import Job, Progress, Side
from kullback.jobs.prompts import Prompt, check_prompts, read_prompts
from kullback.rollouts import Rollout, count_tokens, to_sequences

if TYPE_CHECKING:
    from kullback.models import LanguageModel

TABLE: tuple[tuple[Estimator, Level], ...] = (
    (K1, "token"),
    (K3, "token"),
    (K3, "sequence"),
    (ControlVariate("fit"), "token"),
    (RAO_BLACKWELL, "token"),
    (RAO_BLACKWELL_CONTROLLED, "token"),
)
"""What compare estimates unless told otherwise."""

LOGIT_BYTES = 1 << 29
"""Memory that the two models' logits of one batch may take on the CPU; a quarter of the free memory on CUDA."""

Direction = Literal["reverse", "forward"]


@dataclass(frozen=True)
class Row:
    """One estimator's answer.

    Attributes:
        direction: "reverse" KL(policy‖reference), from the policy's samples; "forward" KL(reference‖policy).
        per_sequence, per_token: the estimate in the two units.
        relative_variance: variance of `per_sequence` over that of k1 on the same samples.
        sequences_for_one_percent: sequences at which its 95% interval would be ±1% of the value.
    """

    direction: Direction
    per_sequence: Estimate
    per_token: Estimate
    relative_variance: float
    sequences_for_one_percent: float

    def to_dicts(self) -> list[dict[str, Any]]:
        """The two records that ``--json`` prints."""
        extra = {
            "direction": self.direction,
            "relative_variance": plain(self.relative_variance),
            "sequences_for_one_percent": plain(self.sequences_for_one_percent),
        }
        return [{**estimate.to_dict(), **extra} for estimate in (self.per_sequence, self.per_token)]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        policy, reference: the models' names.
        settings: how they were sampled and scored.
        rows: the estimates, reverse first.
        hotspots: where the models differ most.
        rollouts: every sampled sequence.
        seconds: wall time of sampling and scoring.
        complete: False where the job was stopped before its end.
    """

    policy: str
    reference: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    hotspots: Hotspots
    rollouts: tuple[Rollout, ...] = field(repr=False)
    seconds: float
    complete: bool

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Every estimate, in nats a sequence and nats a token."""
        return tuple(e for row in self.rows for e in (row.per_sequence, row.per_token))

    @property
    def tokens(self) -> int:
        """Sampled tokens that count."""
        return count_tokens(self.rollouts)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints and estimate.json holds."""
        return {
            "policy": self.policy,
            "reference": self.reference,
            "settings": self.settings,
            "complete": self.complete,
            "sequences": len(self.rollouts),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "estimates": [record for row in self.rows for record in row.to_dicts()],
            "differences": plain(self.hotspots.to_dict()),
        }

    def __str__(self) -> str:
        lines = [f"{self.policy} against {self.reference}, {len(self.rollouts)} sequences"]
        lines += [
            f"  {row.direction} {row.per_sequence.level} {row.per_sequence.estimator}: {row.per_sequence}"
            for row in self.rows
        ]
        return "\n".join(lines)


def compare(
    policy: str | LanguageModel = "builtin:tuned",
    reference: str | LanguageModel = "builtin:base",
    prompts: str | Path | Sequence[Prompt] | None = None,
    *,
    samples: int = 16,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    process_reference: bool = False,
    both: bool = False,
    estimators: Sequence[tuple[Estimator, Level]] = TABLE,
    batch_size: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Comparison:
    """KL(policy‖reference) of two language models, by sampling completions of prompts from the policy.

    The distribution that is scored is the one that was sampled: temperature, top-k and top-p change the
    policy's log-probs too. The reference is scored raw unless `process_reference`. The exact token KL over the
    vocabulary comes from the same forward passes and gives the Rao-Blackwellised estimate.

    Args:
        policy, reference: a Hugging Face id, a folder, ``builtin:tuned``, ``builtin:base``, or loaded models.
        prompts: a file (.txt, .jsonl, .parquet), a list of texts or chat messages, or None for built-in ones.
        samples: completions of each prompt.
        max_new_tokens: tokens after which a completion is cut; the KL is that of the cut processes.
        temperature, top_p, top_k: the policy's sampling.
        process_reference: apply the same sampling settings to the reference.
        both: also sample from the reference, for KL(reference‖policy).
        estimators: pairs of an estimator and a level.
        batch_size: sequences at a time; "auto" by the memory their logits take.
        seed: of the sampling; the result also depends on the batch size.
        device, dtype: "auto", or as torch calls them.
        output: a folder for rollouts.parquet and estimate.json.
        overwrite: replace those files if they are there.
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
    from kullback.models import BUILTIN_PROMPTS, Sampling, check_vocabulary

    for name, count in {"samples": samples, "max_new_tokens": max_new_tokens}.items():
        if count < 1:
            raise InputError(f"{name}={count} came, but at least 1 is needed")
    sampling = Sampling(temperature, top_p, top_k)
    folder = None if output is None else prepare_output(output, overwrite=overwrite)
    source = BUILTIN_PROMPTS if prompts is None else prompts
    asked = read_prompts(source) if isinstance(source, str | Path) else check_prompts(source)
    first = Side("policy", loaded(policy, device, dtype), sampling)
    second = Side("reference", loaded(reference, device, dtype), sampling if process_reference else Sampling())
    vocab = check_vocabulary(first.model, second.model)
    encoded = [_encode(first, second, prompt, number, max_new_tokens) for number, prompt in enumerate(asked)]
    job = Job(
        policy=first,
        reference=second,
        prompts=encoded,
        samples=samples,
        max_new_tokens=max_new_tokens,
        vocab=vocab,
        batch_rows=batch_rows(batch_size, first.model, vocab, max(map(len, encoded)) + max_new_tokens),
        seed=seed,
        both=both,
        on_progress=on_progress,
    )
    started = time.perf_counter()
    ended = job.run(folder)
    if not job.rollouts:
        raise ended or InputError("no sequence was sampled")
    return _concluded(job, estimators, folder, time.perf_counter() - started, ended)


def _concluded(
    job: Job,
    estimators: Sequence[tuple[Estimator, Level]],
    folder: Path | None,
    seconds: float,
    ended: KullbackError | None,
) -> Comparison:
    """The comparison of what a job finished; raised with the error that ended it, if one did."""
    result = Comparison(
        policy=job.policy.model.name,
        reference=job.reference.model.name,
        settings=job.settings,
        rows=tuple(_rows(job.rollouts, estimators)),
        hotspots=job.hotspots,
        rollouts=tuple(job.rollouts),
        seconds=seconds,
        complete=ended is None,
    )
    if folder is not None:
        write_json(folder / "estimate.json", result.to_dict())
    if ended is not None:
        ended.result = result
        raise ended
    return result


def _rows(rollouts: Sequence[Rollout], estimators: Sequence[tuple[Estimator, Level]]) -> Iterator[Row]:
    for role, direction in (("policy", "reverse"), ("reference", "forward")):
        part = [rollout for rollout in rollouts if rollout.sampled_from == role]
        if not part:
            continue
        batch = to_sequences(part)
        outside = float(np.mean([np.sum(1.0 - rollout.column("ref_mass")[rollout.counted]) for rollout in part]))
        baseline = _estimate(batch, K1, "token", "sequence", outside)
        for estimator, level in estimators:
            value = _estimate(batch, estimator, level, "sequence", outside)
            wanted = (1.96 * value.stderr / (0.01 * value.value)) ** 2 * value.n if value.value else float("inf")
            yield Row(
                direction=direction,  # type: ignore[arg-type]
                per_sequence=value,
                per_token=_estimate(batch, estimator, level, "token", outside),
                relative_variance=(value.stderr / baseline.stderr) ** 2 if baseline.stderr else float("nan"),
                sequences_for_one_percent=wanted,
            )


def _estimate(batch: Sequences, estimator: Estimator, level: Level, unit: Any, outside: float) -> Estimate:
    found = estimate(
        batch.logprobs,
        batch.ref_logprobs,
        batch.mask,
        estimator=estimator,
        level=level,
        unit=unit,
        token_kl=batch.token_kl,
        ref_mass=batch.ref_mass,
        groups=batch.groups,
    )
    corrected = level == "token" and "ratio" in estimator.controls  # by ref_mass
    slope = 1.0 if "ratio" in estimator.controls else estimator.slope
    if corrected or slope * outside < 1e-4:
        return found
    warning = (
        f"biased low by about {slope * outside:.3g} nats a sequence: the other model gives that much probability to "
        "tokens that top-p or top-k excludes and that are never drawn; read k1 or rao_blackwell"
    )
    return replace(found, warnings=(*found.warnings, warning))


def prepare_output(
    output: str | Path, *, overwrite: bool, names: Sequence[str] = ("rollouts.parquet", "estimate.json")
) -> Path:
    """The folder, made and tried before any work is done.

    Raises:
        FileError: it cannot be written to, or holds results already.
    """
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".kullback-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written to ({error.strerror or error}): choose another --output"
        ) from error
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise FileError(f"{folder} already holds {' and '.join(there)}: choose another --output or pass --overwrite")
    return folder


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    try:
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} cannot be written ({error.strerror or error})") from error


def loaded(model: str | LanguageModel, device: str, dtype: str) -> LanguageModel:
    """The model itself, or loaded by its name."""
    from kullback.models import load

    return load(model, device=device, dtype=dtype) if isinstance(model, str) else model


def _encode(policy: Side, reference: Side, prompt: Prompt, number: int, new: int) -> list[int]:
    tokens = policy.model.encode(prompt)
    if not tokens:
        raise InputError(f"prompt {number + 1} has no token: a model needs at least one to go on from")
    context = min(policy.model.context, reference.model.context)
    if len(tokens) + new > context:
        raise InputError(
            f"prompt {number + 1} has {len(tokens)} tokens and {new} new ones are asked for, but the models read "
            f"{context} in all: shorten the prompt or lower --max-new-tokens"
        )
    return tokens


def batch_rows(batch_size: int | str, model: LanguageModel, vocab: int, length: int) -> int:
    """Sequences a batch: as asked, or as many as fit the memory that their logits take."""
    if batch_size != "auto":
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size={batch_size!r} came, but it is 'auto' or at least 1")
        return batch_size
    budget = LOGIT_BYTES
    if model.device.type == "cuda":
        import torch

        budget = torch.cuda.mem_get_info(model.device)[0] // 4
    return int(min(max(budget // (2 * 4 * vocab * length), 1), 128))
