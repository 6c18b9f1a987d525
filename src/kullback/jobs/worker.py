"""One batch of a plan: drawn, scored under both models, and made into rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.errors import InputError, ModelError
from kullback.jobs.bracketing import sums
from kullback.jobs.plans import ROLES, Batch, Draw, Plan, Role
from kullback.models.outside import check_outside, outside_of
from kullback.models.pairs import Scores, gives_distributions, score
from kullback.models.protocols import Completion, Sampler, Scorer, Tokens
from kullback.models.randomness import Randomness
from kullback.rollouts import Rollout, to_sequences

if TYPE_CHECKING:
    from kullback.models.bases import Basis
    from kullback.models.hidden import HiddenStates
    from kullback.models.sampling import Sampling

SAME = 1e-4
"""Nats a token, on average, up to which drawing and scoring are one reading; float32 rounds by 1e-6."""

APART = 0.2
"""Nats a token, on average, from which drawing and scoring are taken for two laws; bfloat16 rounds by about 0.02."""


@dataclass(frozen=True)
class Models:
    """Who does what: two models score, and one draws for each that is to be sampled.

    Attributes:
        policy, reference: what scores.
        samplers: what draws, by the model in whose name; the policy's need not be the policy.
        bases: directions in which states and tokens are written down, by the model that is sampled.
    """

    policy: Scorer
    reference: Scorer
    samplers: Mapping[Role, Sampler]
    bases: Mapping[Role, Basis | None] = field(default_factory=dict)

    @property
    def mixes_lengths(self) -> Mapping[Role, bool]:
        """By model to be sampled: whether prompts of different lengths may share a batch."""
        return {role: sampler.mixes_lengths for role, sampler in self.samplers.items()}

    def pair(self, first: Role) -> tuple[Scorer, Scorer]:
        """A model and the other one."""
        return (self.policy, self.reference) if first == "policy" else (self.reference, self.policy)


@dataclass(frozen=True)
class Finished:
    """A batch's rollouts, and what the models said of each: first the one that was to be sampled, then the other."""

    rollouts: tuple[Rollout, ...]
    scores: tuple[Scores, ...]


def finish_batch(
    plan: Plan, batch: Batch, models: Models, randomness: Randomness, *, on_tokens: Callable[[int], None]
) -> Finished:
    """Draw and score a batch: the same whoever does it, and whatever was done before.

    Raises:
        InputError: a model gave a log-prob that cannot be one, such as nan, or something drew a token that the models
            do not share.
        ModelError: a model gives more than rounding to tokens that the other lacks, and the plan does not allow it.
    """
    prompts = [plan.prompts[draw.prompt] for draw in batch.draws]
    completions = models.samplers[batch.sampled_from].sample(
        prompts,
        plan.laws.drawn(batch.sampled_from),
        max_new_tokens=plan.max_new_tokens,
        randomness=randomness.of([(ROLES.index(batch.sampled_from), *draw) for draw in batch.draws]),
        on_tokens=on_tokens,
    )
    check_tokens(plan.vocab, models.samplers[batch.sampled_from].name, [c.tokens for c in completions])
    scores = _scores(plan, batch.sampled_from, models, prompts, completions)
    check_mass(models.pair(batch.sampled_from), scores, allowed=plan.allow_outside_mass)
    if plan.laws.on_policy(batch.sampled_from):
        check_drawn(models.samplers[batch.sampled_from].name, completions, scores)
    rows = zip(batch.draws, completions, scores, strict=True)
    rollouts = [_rollout(plan, batch.sampled_from, *row) for row in rows]
    to_sequences(rollouts)  # refuses nan from a broken model before anything is kept
    return Finished(tuple(rollouts), tuple(scores))


def check_tokens(vocab: int | None, who: str, completions: Sequence[Tokens]) -> None:
    """Refuse tokens that one of the models has no logit for.

    Raises:
        InputError: by the first of them.
    """
    strange = next((t for c in completions for t in c if vocab is not None and not 0 <= t < vocab), None)
    if strange is not None and vocab is not None:
        raise InputError(
            f"{who} has the token {strange}, but the models share only 0 to {vocab - 1}: one of them cannot score it"
        )


def check_drawn(name: str, completions: Sequence[Completion], scores: Sequence[Scores]) -> None:
    """Refuse a model that draws from one law and scores under another.

    Raises:
        ModelError: the log-probs with which its tokens were drawn are not those that they are scored with.
    """
    apart = np.concatenate([np.abs(c.logprobs - s.logprobs) for c, s in zip(completions, scores, strict=True)])
    apart = apart[np.isfinite(apart)]
    if len(apart) and apart.mean() > APART:
        raise ModelError(
            f"{name} drew tokens with log-probs that are {apart.mean():.2g} nats a token from those of scoring: "
            "its step-by-step reading is not its forward pass; try another version of transformers, or sample with "
            "sampler=…"
        )


def check_mass(pair: tuple[Scorer, Scorer], scores: Sequence[Scores], *, allowed: bool) -> None:
    """Refuse models of which one puts more than rounding on tokens that the other lacks; raises as `check_outside`."""
    first, second = pair
    if gives_distributions(first) and gives_distributions(second):
        found = outside_of([s.outside for s in scores]), outside_of([s.ref_outside for s in scores])
        check_outside((first, second), found, allowed=allowed)


def _scores(
    plan: Plan, role: Role, models: Models, prompts: Sequence[Tokens], completions: Sequence[Completion]
) -> list[Scores]:
    first, second = models.pair(role)
    sampler: object = models.samplers[role]
    said = None
    # Of one model twice both readings round alike, and the KL is 0 exactly.
    if plan.laws.on_policy(role) and sampler is first and first.name != second.name:
        said = _said(first, plan.laws.of(role), prompts, completions)
    return score(
        first,
        second,
        prompts,
        [completion.tokens for completion in completions],
        vocab=plan.vocab,
        sampling=plan.laws.of(role),
        ref_sampling=plan.laws.of("reference" if role == "policy" else "policy"),
        drawn=plan.laws.on_policy(role),
        basis=models.bases.get(role) if plan.laws.on_policy(role) else None,
        said=said,
    )


def _said(
    model: Any, law: Sampling, prompts: Sequence[Tokens], completions: Sequence[Completion]
) -> HiddenStates | None:
    """The states that a model drew from, for it not to read all that again; it reads one row, the most padded one.

    None where that row says that the two readings are further apart than float32 rounds, as with TF32.

    Raises:
        ModelError: that row has other log-probs when it is read at once.
    """
    kept = getattr(model, "kept_hidden", None)
    found: HiddenStates | None = None if kept is None else kept(completions)
    if found is not None:
        row = min(range(len(prompts)), key=lambda number: len(prompts[number]))
        (read,) = model.logprobs([prompts[row]], [completions[row].tokens], law, drawn=True)
        check_drawn(model.name, [completions[row]], [Scores(read, read)])
        if not np.abs(completions[row].logprobs - read).mean() < SAME:
            return None
    return found


def _rollout(plan: Plan, role: Role, draw: Draw, completion: Completion, found: Scores) -> Rollout:
    policy_first = role == "policy"
    return Rollout(
        prompt_id=draw.prompt,
        sample=draw.sample,
        prompt_tokens=list(plan.prompts[draw.prompt]),
        tokens=completion.tokens,
        mask=np.ones(len(completion.tokens), dtype=bool),
        logprobs=found.logprobs if policy_first else found.ref_logprobs,
        ref_logprobs=found.ref_logprobs if policy_first else found.logprobs,
        behavior_logprobs=None if plan.laws.on_policy(role) else completion.logprobs,
        token_kl=found.token_kl,
        ref_mass=found.ref_mass,
        state=found.state,
        deviation=found.deviation,
        sampled_from=role,
        finish=completion.finish,
        extra=sums(found.bracket) if plan.laws.on_policy(role) else {},
    )
