"""Rows in which several sequences lie one behind another, as trainers pack them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.rollouts.readers.values import Fields, same_length


def sequences(
    row: Fields, columns: Mapping[str, str], *, ids: str, mask: str, positions: str | None
) -> Iterator[dict[str, Any]]:
    """What `Rollout` takes of each sequence of a row.

    A sequence begins where positions do not go on. Its first token never counts: what stands there was made from the
    sequence before it, or from nothing.

    Args:
        row: the row.
        columns: the log-probs of a rollout, and their fields; those that are absent are left out.
        ids, mask, positions: the fields of token ids, of what counts and of places in a sequence; None where a
            row holds one sequence.
    """
    tokens, counts = row.ids(ids), row.mask(mask)
    found = row.columns(columns)
    places = np.arange(len(tokens)) if positions is None else row.numbers(positions)
    same_length(**{ids: tokens, mask: counts, positions or "positions": places}, **found)
    starts = _starts(places)
    counts[starts] = False
    for first, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if counts[first:end].any():
            begin = first + int(counts[first:end].argmax())
            yield {
                **{name: column[begin:end] for name, column in found.items()},
                "prompt_tokens": tokens[first:begin],
                "tokens": tokens[begin:end],
                "mask": counts[begin:end],
            }


def _starts(positions: np.ndarray) -> list[int]:
    """Where a sequence begins: at position 0, and at the row's first token."""
    right = (np.diff(positions) == 1) | (positions[1:] == 0)
    if not right.all():
        at = int(np.argmin(right)) + 1
        raise InputError(
            f"position_ids[{at}] is {positions[at]:g} after {positions[at - 1]:g}, but positions go on by 1 or are 0"
        )
    return [0, *(np.flatnonzero(positions[1:] == 0) + 1).tolist()]
