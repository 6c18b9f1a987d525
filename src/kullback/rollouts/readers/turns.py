"""Turns of one conversation, each with its whole prompt: joined where a prompt goes on from the turn before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Turn:
    """What a model was given and what it said.

    Attributes:
        prompt: the ids of all that it was given, the history included.
        tokens: the ids of what it said.
        logprobs: log μ of `tokens`.
        counts: whether it counts; a turn that was copied from elsewhere does not.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    logprobs: np.ndarray
    counts: bool = True


@dataclass(frozen=True)
class Conversation:
    """Turns as one sequence of tokens, in which what was put in between does not count."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    logprobs: np.ndarray
    mask: np.ndarray


def conversations(turns: Sequence[Turn]) -> list[Conversation]:
    """The sequences that the turns make: one where each prompt begins with all that came before it.

    A chat template that drops the thinking of earlier turns makes another prompt of them, and another sequence begins.
    """
    whole: list[list[Turn]] = []
    for turn in turns:
        if whole and _goes_on(whole[-1][-1], turn):
            whole[-1].append(turn)
        else:
            whole.append([turn])
    return [_joined(_from_counted(part)) for part in whole if any(turn.counts for turn in part)]


def _goes_on(before: Turn, turn: Turn) -> bool:
    history = [*before.prompt, *before.tokens]
    return list(turn.prompt[: len(history)]) == history


def _from_counted(turns: Sequence[Turn]) -> Sequence[Turn]:
    """From the first that counts: what was said before it is its prompt."""
    return turns[next(i for i, turn in enumerate(turns) if turn.counts) :]


def _joined(turns: Sequence[Turn]) -> Conversation:
    first = turns[0]
    tokens: list[int] = []
    logprobs: list[np.ndarray] = []
    mask: list[bool] = []
    for turn in turns:
        between = turn.prompt[len(first.prompt) + len(tokens) :]
        tokens += [*between, *turn.tokens]
        logprobs += [np.zeros(len(between)), turn.logprobs]
        mask += [False] * len(between) + [turn.counts] * len(turn.tokens)
    return Conversation(first.prompt, tokens, np.concatenate(logprobs), np.array(mask, dtype=bool))
