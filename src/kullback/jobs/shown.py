"""Which sequences a page shows token by token, of as many as there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kullback.rollouts import Rollout

MOST_SEQUENCES, MOST_TOKENS = 500, 60_000
"""What a page holds token by token: with it a page has at most some 2.5 MB."""

MOST_LOOKED_AT = 27_000
"""Tokens where each has its likely words too: then a page has at most some 2.9 MB."""

MOST_PROMPTS = 2_000


class Group(NamedTuple):
    """A prompt's sequences: all of them, and those that are shown."""

    name: int | str
    rollouts: Sequence[Rollout]
    shown: Sequence[Rollout]


def shown_of(rollouts: Sequence[Rollout], *, most_tokens: int = MOST_TOKENS) -> list[Group]:
    """The prompts in the order of their first sequences, and of each the first sequences, as far as there is room.

    The first sequence of every prompt comes before the second of any.

    Example:
        >>> rows = [Rollout(logprobs=[-1.0], ref_logprobs=[-1.0], prompt_id=prompt) for prompt in (3, 3, 4)]
        >>> [(group.name, len(group.shown)) for group in shown_of(rows, most_tokens=2)]
        [(3, 1), (4, 1)]
    """
    by_prompt: dict[int | str, list[Rollout]] = {}
    for rollout in rollouts:
        by_prompt.setdefault(rollout.prompt_id or 0, []).append(rollout)
    groups: Mapping[int | str, list[Rollout]] = dict(list(by_prompt.items())[:MOST_PROMPTS])
    kept: dict[int | str, list[Rollout]] = {name: [] for name in groups}
    sequences = tokens = 0
    for turn in range(max(map(len, groups.values()), default=0)):
        for name, own in groups.items():
            if turn < len(own) and sequences < MOST_SEQUENCES and tokens + own[turn].length <= most_tokens:
                kept[name].append(own[turn])
                sequences, tokens = sequences + 1, tokens + own[turn].length
    return [Group(name, own, kept[name]) for name, own in groups.items()]
