"""What both models find likeliest at each token of the sequences that a page shows, by reading those once more.

Scoring keeps nothing of a distribution but sums, and a run may have any number of sequences: a second reading of the
few that are shown costs less than the first, and nothing where no page was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.errors import KullbackError
from kullback.jobs.hotspots import Decode
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.plans import Plan
from kullback.jobs.shown import MOST_LOOKED_AT, shown_of
from kullback.jobs.worker import Models
from kullback.models.pairs import gives_distributions
from kullback.models.protocols import DistributionScorer
from kullback.rollouts import Rollout

Key = tuple[int | str | None, int | None]
"""A prompt and the how-manieth of its completions."""


@dataclass(frozen=True)
class Look:
    """The likeliest words at each token of one sequence, likeliest first.

    Attributes:
        entropy: of the policy's law at each token's place, (tokens,), nats.
        words, ref_words: ids under the policy and under the reference, (tokens, k).
        logprobs, ref_logprobs: of those, (tokens, k), nats; −inf where a word cannot come.
    """

    entropy: Float64
    words: np.ndarray
    logprobs: Float64
    ref_words: np.ndarray
    ref_logprobs: Float64


@dataclass(frozen=True)
class Looks:
    """Looks at sequences by prompt and sample, with the texts of their words; `missing` says why there are none."""

    of: Mapping[Key, Look]
    texts: Mapping[int, str]
    missing: str = ""


def looks(plan: Plan, models: Models, rollouts: Sequence[Rollout], *, words: int, decode: Decode) -> Looks:
    """Read the sequences that a page shows once more; Ctrl-C keeps what is there, and so does a model's failure.

    Args:
        plan: under whose laws they were scored.
        models: that scored them.
        rollouts: of which those are chosen that the policy was sampled for.
        words: at each token, of each model.
        decode: the text of a token.
    """
    policy, reference = models.policy, models.reference
    if not (gives_distributions(policy) and gives_distributions(reference)):
        return Looks({}, {})
    own = [rollout for rollout in rollouts if rollout.sampled_from == "policy"]
    shown = [rollout for group in shown_of(own, most_tokens=MOST_LOOKED_AT) for rollout in group.shown]
    found: dict[Key, Look] = {}
    missing = ""
    try:
        with safe_interrupts() as check:
            for rollout, look in _looked(plan, (policy, reference), shown, words, check):
                found[rollout.prompt_id, rollout.sample] = look
    except KeyboardInterrupt:
        missing = "likely words are known of the first sequences alone: reading them was stopped"
    except (KullbackError, RuntimeError, MemoryError) as error:
        missing = f"likely words are known of {len(found)} sequences alone: {error}"
    ids = {int(word) for look in found.values() for word in np.union1d(look.words, look.ref_words)}
    return Looks(found, {word: decode([word]) for word in sorted(ids)}, missing)


def _looked(
    plan: Plan,
    models: tuple[DistributionScorer, DistributionScorer],
    shown: Sequence[Rollout],
    words: int,
    check: Callable[[], None],
) -> Iterator[tuple[Rollout, Look]]:
    from kullback.models.likeliest import likeliest  # torch

    order = sorted(shown, key=lambda one: len(one.prompt_tokens or ()) + one.length)
    rows = max(1, plan.batch_rows)
    for start in range(0, len(order), rows):
        check()
        batch = [one for one in order[start : start + rows] if one.tokens]
        columns = likeliest(
            models,
            (plan.laws.policy, plan.laws.reference),
            [list(one.prompt_tokens or ()) for one in batch],
            [list(one.tokens or ()) for one in batch],
            words=words,
        )
        for place, one in enumerate(batch):
            yield one, Look(**{name: column[place] for name, column in columns.items()})
