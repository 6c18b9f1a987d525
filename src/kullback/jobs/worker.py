"""One batch of a plan: drawn, scored under both models, and made into rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kullback.jobs.plans import Batch, Draw, Plan, Role
from kullback.models.pairs import Scores, score
from kullback.models.protocols import Completion, Sampler, Scorer, Tokens
from kullback.models.randomness import Randomness
from kullback.rollouts import Rollout, to_sequences


@dataclass(frozen=True)
class Models:
    """Who does what: two models score, and one draws for each that is to be sampled.

    Attributes:
        policy, reference: what scores.
        samplers: what draws, by the model in whose name; the policy's need not be the policy.
    """

    policy: Scorer
    reference: Scorer
    samplers: Mapping[Role, Sampler]

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
    """Draw and score a batch; nothing is changed but the state of `randomness`.

    Raises:
        InputError: a model gave a log-prob that cannot be one, such as nan.
    """
    prompts = [plan.prompts[draw.prompt] for draw in batch.draws]
    completions = models.samplers[batch.sampled_from].sample(
        prompts,
        plan.laws.drawn(batch.sampled_from),
        max_new_tokens=plan.max_new_tokens,
        randomness=randomness,
        on_tokens=on_tokens,
    )
    scores = _scores(plan, batch.sampled_from, models, prompts, [c.tokens for c in completions])
    rows = zip(batch.draws, completions, scores, strict=True)
    rollouts = [_rollout(plan, batch.sampled_from, *row) for row in rows]
    to_sequences(rollouts)  # refuses nan from a broken model before anything is kept
    return Finished(tuple(rollouts), tuple(scores))


def _scores(
    plan: Plan, role: Role, models: Models, prompts: Sequence[Tokens], completions: Sequence[Tokens]
) -> list[Scores]:
    first, second = models.pair(role)
    return score(
        first,
        second,
        prompts,
        completions,
        vocab=plan.vocab,
        sampling=plan.laws.of(role),
        ref_sampling=plan.laws.of("reference" if role == "policy" else "policy"),
        drawn=plan.laws.on_policy(role),
    )


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
        sampled_from=role,
        finish=completion.finish,
    )
