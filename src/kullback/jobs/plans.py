"""What is to be drawn and scored, batch by batch: frozen, without models, and so fit for another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from kullback.documents import Record
from kullback.errors import InputError, shown
from kullback.models.memory import rows_that_fit
from kullback.models.protocols import Scorer
from kullback.models.sampling import Sampling

Role = Literal["policy", "reference"]
"""Which of the two models was to be sampled."""

ROLES: tuple[Role, ...] = ("policy", "reference")
"""Their numbers are those of `kullback.models.randomness.Row`."""


class Draw(NamedTuple):
    """One completion that is asked for: of which prompt, and the how-manieth of it."""

    prompt: int
    sample: int


@dataclass(frozen=True)
class Batch:
    """Draws that are made together."""

    sampled_from: Role
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Laws:
    """The distribution that is meant by each model.

    Attributes:
        policy, reference: under which tokens are scored, and drawn unless something else draws.
        sampler: of what draws in the policy's place; None where the policy draws for itself.
    """

    policy: Sampling
    reference: Sampling
    sampler: Sampling | None = None

    def within(self, vocab: int | None) -> Laws:
        """The same laws, kept to the first `vocab` tokens wherever something is drawn."""
        sampler = None if self.sampler is None else replace(self.sampler, vocab=vocab)
        return Laws(replace(self.policy, vocab=vocab), replace(self.reference, vocab=vocab), sampler)

    def of(self, role: Role) -> Sampling:
        """Under which a model's tokens are scored."""
        return self.policy if role == "policy" else self.reference

    def drawn(self, role: Role) -> Sampling:
        """Under which tokens are drawn in a model's name."""
        return self.of(role) if self.on_policy(role) else self.sampler or self.policy

    def on_policy(self, role: Role) -> bool:
        """Whether what a model scores is what it drew."""
        return role == "reference" or self.sampler is None


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is drawn, but for the models.

    Attributes:
        prompts: token ids.
        samples: completions of each prompt.
        max_new_tokens: tokens after which a completion is cut.
        laws: the distributions that are meant.
        batches: what is drawn together, in order.
        batch_rows: sequences at a time, at most.
        seed: of the sampling; each row has random numbers of its own, whatever batch it is in.
        vocab: logits that both models share; None where one of them gives log-probs only.
        allow_outside_mass: whether one model may give more than rounding to tokens that the other lacks.
    """

    prompts: tuple[tuple[int, ...], ...]
    samples: int
    max_new_tokens: int
    laws: Laws
    batches: tuple[Batch, ...]
    batch_rows: int
    seed: int
    vocab: int | None
    allow_outside_mass: bool = False

    @property
    def total(self) -> int:
        """Sequences asked for."""
        return sum(len(batch.draws) for batch in self.batches)

    def resized(self, samples: int, seed: int, mixes_lengths: Mapping[Role, bool]) -> Plan:
        """The same with another number of samples of each prompt, from another seed; `mixes_lengths` see `batches`."""
        made = batches(self.prompts, samples, self.batch_rows, mixes_lengths)
        return replace(self, samples=samples, seed=seed, batches=made)

    def grown(self, samples: int, mixes_lengths: Mapping[Role, bool]) -> Plan:
        """The same with more samples of each prompt, in batches of their own after those that there are."""
        more = batches(self.prompts, samples, self.batch_rows, mixes_lengths, first=self.samples)
        return replace(self, samples=samples, batches=(*self.batches, *more))

    @property
    def settings(self) -> Record:
        """How the sequences are sampled and scored, for people and machines."""
        laws = self.laws
        return {
            "prompts": len(self.prompts),
            "samples": self.samples,
            "max_new_tokens": self.max_new_tokens,
            "temperature": laws.policy.temperature,
            "top_p": laws.policy.top_p,
            "top_k": laws.policy.top_k,
            "policy_logprobs": "raw" if laws.policy.raw else "processed",
            "reference_logprobs": "raw" if laws.reference.raw else "processed",
            "batch_size": self.batch_rows,
            "seed": self.seed,
            **({} if laws.policy.vocab is None else {"shared_vocab": laws.policy.vocab}),
        }


def batches(
    prompts: Sequence[Sequence[int]], samples: int, rows: int, mixes_lengths: Mapping[Role, bool], *, first: int = 0
) -> tuple[Batch, ...]:
    """Draws of every prompt, at most `rows` at a time.

    Args:
        prompts: token ids.
        samples: completions of each prompt.
        rows: sequences at a time.
        mixes_lengths: by model to be sampled, in order: whether prompts of different lengths may share a batch.
        first: the number of the first sample of each prompt; those before it are left out.
    """
    return tuple(
        Batch(role, draws)
        for role, mixes in mixes_lengths.items()
        for draws in _together(prompts, range(first, samples), rows, mixes=mixes)
    )


def _together(
    prompts: Sequence[Sequence[int]], samples: range, rows: int, *, mixes: bool
) -> Iterator[tuple[Draw, ...]]:
    # Prompts of like length stand together, so that little is padded.
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    batch: list[Draw] = []
    for draw in (Draw(number, sample) for number in order for sample in samples):
        apart = bool(batch) and not mixes and len(prompts[draw.prompt]) != len(prompts[batch[0].prompt])
        if len(batch) == rows or apart:
            yield tuple(batch)
            batch = []
        batch.append(draw)
    yield tuple(batch)


def batch_rows(
    batch_size: int | str, model: Scorer, vocab: int | None, length: int, *, other: Scorer | None = None
) -> int:
    """Sequences a batch: as asked, or as many as fit the memory that they take; see `rows_that_fit`.

    Raises:
        InputError: neither "auto" nor a positive number.
    """
    if batch_size == "auto":
        return rows_that_fit(model, vocab, length, other)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={shown(batch_size)} came, but it is 'auto' or at least 1")
    return batch_size
