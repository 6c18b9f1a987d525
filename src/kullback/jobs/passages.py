"""The sequences of a comparison that a page shows token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Channel, Likely, Passage, PassageGroup, Passages
from kullback.jobs.looks import Look
from kullback.jobs.shown import MOST_LOOKED_AT, MOST_TOKENS, Group, shown_of
from kullback.rollouts import Rollout

if TYPE_CHECKING:
    from kullback.jobs.outcomes import Comparison

CHANNELS = (
    Channel("token KL", "nats"),
    Channel("log-ratio", "nats", signed=True),
    Channel("probability, policy", ""),
    Channel("probability, reference", ""),
)
"""Of a token: KL(policy‖reference) at its place, log q − log p, q and p."""

ENTROPY = Channel("entropy, policy", "nats")
TO_SAMPLER = Channel("log-ratio to the sampler", "nats", signed=True)
"""The entropy of q at the token's place, and log q − log μ of what drew it."""


def log_ratio(rollout: Rollout) -> Float64:
    """log q − log p of its tokens."""
    return np.asarray(rollout.column("logprobs") - rollout.column("ref_logprobs"), np.float64)


def passages_of(found: Comparison, rollouts: Sequence[Rollout]) -> Passages:
    """Of the policy's sequences as many as there is room for."""
    groups = groups_shown(found, rollouts)
    shown = sum(len(group.shown) for group in groups)
    prompts = len({rollout.prompt_id for rollout in rollouts})
    of = "every prompt" if len(groups) == prompts else f"the first {len(groups):,} prompts"
    which = "all" if shown == len(rollouts) else f"{shown:,}, some of {of} as far as there is room,"
    drawn = any(rollout.behavior_logprobs is not None for rollout in rollouts)
    channels = (*CHANNELS, *([ENTROPY] if found.looks else []), *([TO_SAMPLER] if drawn else []))
    looks = [found.looks.get((one.prompt_id, one.sample)) for group in groups for one in group.shown]
    ids = sorted({int(word) for look in looks if look for word in np.union1d(look.words, look.ref_words)})
    numbers = {word: place for place, word in enumerate(ids)}
    return Passages(
        title="Token by token",
        note=f"Of {len(rollouts):,} sequences {which} are here. Choose a prompt, then read; darker is more.",
        channels=channels,
        groups=tuple(_group(found, group.name, group.rollouts) for group in groups),
        unit="nats a sequence",
        passages=tuple(
            Passage(
                number,
                name_of(rollout),
                _texts(found, rollout),
                _values(rollout, channels, found.looks.get((rollout.prompt_id, rollout.sample))),
                _likely(found.looks.get((rollout.prompt_id, rollout.sample)), numbers),
            )
            for number, group in enumerate(groups)
            for rollout in group.shown
        ),
        words=tuple(found.words[word] for word in ids),
    )


def groups_shown(found: Comparison, rollouts: Sequence[Rollout]) -> list[Group]:
    """The prompts with their sequences that are shown: fewer tokens where each has its likely words."""
    return shown_of(rollouts, most_tokens=MOST_LOOKED_AT if found.looks else MOST_TOKENS)


def name_of(rollout: Rollout) -> str:
    """What tells a sequence from the others of its prompt."""
    return "sequence" if rollout.sample is None else f"sample {rollout.sample}"


def _group(found: Comparison, name: int | str, rollouts: Sequence[Rollout]) -> PassageGroup:
    """A prompt: its mean exact KL, or where there is none of the log-ratio."""
    sums = [float(np.sum((log_ratio(one) if one.token_kl is None else one.token_kl)[one.counted])) for one in rollouts]
    number = int(name) if isinstance(name, int) else -1
    text = found.hotspots.texts.get(number) or f"prompt {number + 1 if number >= 0 else name}"
    return PassageGroup(text, float(np.mean(sums)), len(rollouts))


def _texts(found: Comparison, rollout: Rollout) -> tuple[str, ...]:
    return tuple(found.words.get(token, f"[{token}]") for token in rollout.tokens or range(rollout.length))


def _values(rollout: Rollout, channels: Sequence[Channel], look: Look | None) -> Float64:
    q, p = rollout.column("logprobs"), rollout.column("ref_logprobs")
    missing = np.full(rollout.length, np.nan)
    drawn = rollout.behavior_logprobs
    rows = {
        CHANNELS[0]: missing if rollout.token_kl is None else rollout.token_kl,
        CHANNELS[1]: q - p,
        CHANNELS[2]: np.exp(q),
        CHANNELS[3]: np.exp(p),
        ENTROPY: missing if look is None else look.entropy,
        TO_SAMPLER: missing if drawn is None else q - drawn,
    }
    return np.where(rollout.counted, np.array([rows[channel] for channel in channels], np.float64), np.nan)


def _likely(look: Look | None, numbers: Mapping[int, int]) -> tuple[Likely, ...]:
    if look is None:
        return ()
    sides = (
        ("policy", look.words, look.logprobs),
        ("reference", look.ref_words, look.ref_logprobs),
    )
    return tuple(Likely(who, np.vectorize(numbers.__getitem__)(words), logs) for who, words, logs in sides)
