"""A row as models read it: the tokens before, and those that are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from kullback.errors import InputError
from kullback.models.protocols import Reader
from kullback.rollouts import Rollout


@dataclass(frozen=True)
class Reading:
    """What a model is told of a row.

    Attributes:
        place: of the row, for people.
        prompt, completion: token ids.
        drew: the model in whose name the completion was drawn.
    """

    place: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    drew: str

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Entry:
    """A row that can be scored.

    Attributes:
        place: of the row, for people.
        rollout: as it was read; of a text, with the tokens that it was read as.
        prompt, completion: token ids.
        lead: tokens of the row that are read as the prompt, and have no log-prob.
        text: whether it was a text, which has no log-probs of its own.
        respelled: whether a text comes out otherwise when its tokens are written.
    """

    place: str
    rollout: Rollout
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    lead: int = 0
    text: bool = False
    respelled: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def reading(self) -> Reading:
        """What a model is told of it."""
        return Reading(self.place, self.prompt, self.completion, self.rollout.sampled_from)

    def held(self, name: str) -> np.ndarray | None:
        """A column that the file has of the row."""
        column: np.ndarray | None = None if self.text else getattr(self.rollout, name)
        return column

    def whole(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Scores with a gap for each token that was read as the prompt; none of those counts."""
        gap = np.full(self.lead, np.nan)
        return {name: np.concatenate([gap, column]) for name, column in scores.items()}


def is_text(rollout: Rollout) -> bool:
    """Whether a row is a text that is still to be read; see `Format.texts`."""
    return rollout.tokens is None and not rollout.length and rollout.text is not None and "prompt" in rollout.extra


def entry_of(rollout: Rollout, place: str, reader: Reader) -> Entry:
    """A row as models read it; a text is read by the tokenizer of `reader`.

    Raises:
        InputError: it has no tokens, or no prompt.
    """
    return _of_text(rollout, place, reader) if is_text(rollout) else _of_tokens(rollout, place)


def _of_tokens(rollout: Rollout, place: str) -> Entry:
    if rollout.tokens is None:
        raise InputError(
            "it has no token ids: its log-probs are of tokens that are not known, and a model cannot be asked for them"
        )
    tokens = tuple(rollout.tokens)
    if rollout.prompt_tokens is not None and len(rollout.prompt_tokens):
        return Entry(place, rollout, tuple(rollout.prompt_tokens), tokens)
    # Where a row is the whole sequence, what does not count at its beginning is the prompt.
    lead = int(np.argmax(rollout.counted)) if rollout.counted.any() else len(tokens)
    if not lead:
        raise InputError(
            "it has no prompt_tokens, and what a model gives to a token hangs on all before it: write the prompt's "
            "token ids with the row"
        )
    return Entry(place, rollout, tokens[:lead], tokens[lead:], lead)


def _of_text(rollout: Rollout, place: str, reader: Reader) -> Entry:
    text, before = str(rollout.text), str(rollout.extra["prompt"])
    prompt, completion = tuple(reader.encode(before)), _bare(reader, text)
    if not prompt:
        raise InputError("its prompt is empty: a model needs at least one token to go on from")
    ends = bool(completion) and completion[-1] in getattr(reader, "end_tokens", ())
    known: dict[str, Any] = {"finish": "end", "missing_end": False} if ends else {}
    read = replace(
        rollout, tokens=completion, prompt_tokens=prompt, behavior_logprobs=np.zeros(len(completion)), **known
    )
    return Entry(place, read, prompt, completion, text=True, respelled=reader.decode(completion) != text)


def _bare(reader: Reader, text: str) -> tuple[int, ...]:
    """The tokens of a text alone, without those that a tokenizer puts before a text or after it."""
    tokenizer = cast(Any, getattr(reader, "tokenizer", None))
    if tokenizer is not None:
        return tuple(int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    start, tokens = reader.encode(""), reader.encode(text)
    return tuple(tokens[len(start) :] if tokens[: len(start)] == start else tokens)
