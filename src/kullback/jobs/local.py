"""Sampling and scoring on this machine, batch by batch; what is finished is kept whatever happens next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kullback.errors import KullbackError, ModelError, StoppedError
from kullback.jobs.hotspots import Hotspots
from kullback.jobs.interrupts import safe_interrupts
from kullback.rollouts import Metadata, Model, Rollout, RolloutWriter, law_of, to_sequences

if TYPE_CHECKING:
    from kullback.models import LanguageModel, Sampling


@dataclass(frozen=True)
class Progress:
    """How far a job is: sequences finished of all, tokens drawn so far."""

    sequences: int
    total: int
    tokens: int


@dataclass(frozen=True)
class Side:
    """A model and the distribution that is meant by it."""

    role: Literal["policy", "reference"]
    model: LanguageModel
    sampling: Sampling

    @property
    def kind(self) -> Literal["raw", "processed"]:
        """Whether its log-probs are the model's own or those of the sampling settings."""
        return "raw" if self.sampling.raw else "processed"


@dataclass
class Job:
    """Sampling from one model (or each in turn), scoring under both, and what of it is finished.

    Attributes:
        policy, reference: the two models and their distributions.
        prompts: token ids.
        samples: completions of each prompt.
        max_new_tokens: tokens after which a completion is cut.
        vocab: logits that both models share.
        batch_rows: sequences at a time.
        seed: of the sampling.
        both: sample from the reference too.
        on_progress: called as sequences and tokens are finished.
        rollouts, hotspots, tokens: what is finished.
    """

    policy: Side
    reference: Side
    prompts: list[list[int]]
    samples: int
    max_new_tokens: int
    vocab: int
    batch_rows: int
    seed: int
    both: bool
    on_progress: Callable[[Progress], None]
    rollouts: list[Rollout] = field(default_factory=list)
    hotspots: Hotspots = field(default_factory=Hotspots)
    tokens: int = 0

    @property
    def total(self) -> int:
        """Sequences asked for."""
        return (1 + self.both) * self.samples * len(self.prompts)

    @property
    def settings(self) -> dict[str, Any]:
        """How the sequences were sampled and scored."""
        sampling = self.policy.sampling
        return {
            "prompts": len(self.prompts),
            "samples": self.samples,
            "max_new_tokens": self.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "policy_logprobs": self.policy.kind,
            "reference_logprobs": self.reference.kind,
            "batch_size": self.batch_rows,
            "seed": self.seed,
            "device": str(self.policy.model.device),
            "dtype": self.policy.model.dtype,
        }

    @property
    def metadata(self) -> Metadata:
        """What the file of its rollouts says about itself."""
        sides = (self.policy, self.reference)
        policy, reference = (Model(side.model.name, asdict(side.sampling), side.model.dtype) for side in sides)
        laws = [law_of(**asdict(side.sampling)) for side in sides]
        return Metadata(policy=policy, reference=reference, law={"logprobs": laws[0], "ref_logprobs": laws[1]})

    def run(self, folder: Path | None) -> KullbackError | None:
        """Finish batch after batch, writing each at once; returns the error that ended it early, if one did."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        directions = [(self.policy, self.reference), (self.reference, self.policy)][: 1 + self.both]
        writing = RolloutWriter(folder / "rollouts.parquet", self.metadata) if folder else nullcontext()
        try:
            with safe_interrupts() as check, writing as writer:
                for sampler, other in directions:
                    for batch in self._batches(sampler.model):
                        rollouts = self._finish(sampler, other, batch, generator, check)
                        if writer is not None:
                            writer.write(rollouts)
                        self.rollouts += rollouts
                        self.on_progress(Progress(len(self.rollouts), self.total, self.tokens))
                        check()
        except KeyboardInterrupt:
            kept = f", kept in {folder}" if folder and self.rollouts else ""
            return StoppedError(
                f"stopped after {len(self.rollouts)} of {self.total} sequences{kept}: "
                + ("what is shown rests on those" if self.rollouts else "nothing was finished")
            )
        except KullbackError as error:
            return error
        except torch.OutOfMemoryError:
            return ModelError(
                f"{self.policy.model.device} ran out of memory with {self.batch_rows} sequences at a time: "
                "pass a smaller --batch-size"
            )
        return None

    def _batches(self, model: LanguageModel) -> Iterator[list[int]]:
        """Prompt numbers, a batch at a time, prompts of like length together."""
        order = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        queue = [number for number in order for _ in range(self.samples)]
        batch: list[int] = []
        for number in queue:
            # A model that does not take position ids cannot be padded on the left.
            apart = (
                bool(batch)
                and "position_ids" not in model.accepts
                and (len(self.prompts[number]) != len(self.prompts[batch[0]]))
            )
            if len(batch) == self.batch_rows or apart:
                yield batch
                batch = []
            batch.append(number)
        yield batch

    def _finish(
        self, sampler: Side, other: Side, batch: list[int], generator: Any, check: Callable[[], None]
    ) -> list[Rollout]:
        from kullback.models import sample, score

        prompts = [self.prompts[number] for number in batch]
        completions = sample(
            sampler.model,
            prompts,
            sampler.sampling,
            max_new_tokens=self.max_new_tokens,
            generator=generator,
            on_tokens=lambda tokens: self._count(tokens, check),
        )
        scores = score(
            sampler.model,
            other.model,
            prompts,
            completions,
            vocab=self.vocab,
            sampling=sampler.sampling,
            ref_sampling=other.sampling,
        )
        policy_first = sampler.role == "policy"
        rollouts = [
            Rollout(
                prompt_id=number,
                prompt_tokens=prompt,
                tokens=completion,
                mask=np.ones(len(completion), dtype=bool),
                logprobs=found.logprobs if policy_first else found.ref_logprobs,
                ref_logprobs=found.ref_logprobs if policy_first else found.logprobs,
                token_kl=found.token_kl,
                ref_mass=found.ref_mass,
                sampled_from=sampler.role,
            )
            for number, prompt, completion, found in zip(batch, prompts, completions, scores, strict=True)
        ]
        to_sequences(rollouts)  # refuses nan from a broken model before anything is kept
        if policy_first:
            for rollout, found in zip(rollouts, scores, strict=True):
                self.hotspots.add(rollout, found.top, found.ref_top, self.policy.model.decode)
        return rollouts

    def _count(self, tokens: int, check: Callable[[], None]) -> None:
        check()
        self.tokens += tokens
        self.on_progress(Progress(len(self.rollouts), self.total, self.tokens))
