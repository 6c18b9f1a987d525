"""Two files that hold the same tokens, scored by two models: joined into rollouts of two laws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from typing import Literal

import numpy as np

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.responses import TEXTS
from kullback.rollouts.record import FEATURES, LOGPROB_COLUMNS, TOKEN_COLUMNS, Rollout

By = Literal["order", "id", "tokens"]
Role = Literal["logprobs", "ref_logprobs"]
ROLES: tuple[Role, ...] = ("logprobs", "ref_logprobs")
"""What a second file is in what is joined, and a third."""

Pair = tuple[Rollout, Rollout]

IDENTITY = ("prompt_id", "sample", "step", "prompt_tokens", "reward", "text")
"""What is taken of the second file where the first does not know it."""


def join(
    first: Iterable[Rollout], second: Iterable[Rollout], *, role: Role = "logprobs", by: By = "order"
) -> Iterator[Rollout]:
    """The rollouts of the first file with the second's log-probs of the same tokens beside theirs.

    The first file is of what drew the tokens (`behavior_logprobs`); the second is of a model that scored them, and
    takes `role`. With "logprobs" alone the estimates are of KL(first‖second): how far a sampler is from its trainer, or
    one engine from another. A third file joins what two gave, as "ref_logprobs".

    Args:
        first: rollouts without a column of that role.
        second: rollouts with log-probs of one law, or with a column of that role.
        role: what the second's log-probs are in what is joined.
        by: "order", the n-th with the n-th, and the one row of a file with every row of the other; "id", by step,
            prompt_id and sample; "tokens". The last two hold the second file in memory, which may have rows to spare.

    Raises:
        InputError: a row that has no partner, whose tokens or prompt are not its partner's, or of which it is not known
            which tokens it holds; a token that counts in the first and has no log-prob in the second.

    Example:
        >>> import kullback as kb
        >>> from kullback.rollouts.joining import join
        >>> drawn = [kb.Rollout(behavior_logprobs=[-0.5, -1.0], tokens=[7, 2])]
        >>> scored = [kb.Rollout(behavior_logprobs=[-0.25, -1.5], tokens=[7, 2])]
        >>> [joined] = join(drawn, scored)
        >>> [float(x) for x in joined.behavior_logprobs - joined.logprobs]
        [-0.25, 0.5]
    """
    for row, (mine, other) in enumerate(pairs(first, second, by=by)):
        yield _joined(mine, other, role, row)


def joined_metadata(first: Metadata, second: Metadata, role: Role = "logprobs") -> Metadata:
    """What joined rollouts say about themselves: the law and the quantum of every column are its file's."""
    model = second.behavior or second.policy or second.reference
    source = next((name for name in (role, *LOGPROB_COLUMNS) if name in (*second.law, *second.quantum)), role)
    return replace(
        first,
        policy=model if role == "logprobs" else first.policy,
        reference=model if role == "ref_logprobs" else first.reference,
        law={**first.law, role: second.law.get(source, "unknown")},
        quantum={**first.quantum, **({role: second.quantum[source]} if source in second.quantum else {})},
        token_hash=None,
    )


def pairs(first: Iterable[Rollout], second: Iterable[Rollout], *, by: By = "order") -> Iterator[Pair]:
    """Rollouts of two files that hold the same tokens, the second's cut to the tokens of the first's.

    A file that scored a text may hold prompt and completion as one; the completion is then cut out of it.

    Raises:
        InputError: as `join`.
    """
    found = _in_order(first, second) if by == "order" else _FINDERS[by](first, second)
    for row, (mine, other) in enumerate(found):
        yield mine, _cut(other, _start(mine, other, row), mine.length)


def _in_order(first: Iterable[Rollout], second: Iterable[Rollout]) -> Iterator[Pair]:
    mine, other = iter(first), iter(second)
    heads = list(islice(mine, 2)), list(islice(other, 2))
    mine, other = chain(heads[0], mine), chain(heads[1], other)
    if sorted(map(len, heads)) == [1, 2]:
        yield from _one_beside_all(heads[0][0] if len(heads[0]) == 1 else None, heads[1][0], mine, other)
        return
    for row, (a, b) in enumerate(zip_longest(mine, other)):
        if a is None or b is None:
            short = "first" if a is None else "second"
            raise InputError(f"the {short} file ends after {row} rows and the other has more: join by id or by tokens")
        yield a, b


def _one_beside_all(
    alone: Rollout | None, second: Rollout, mine: Iterator[Rollout], other: Iterator[Rollout]
) -> Iterator[Pair]:
    """The one row of a file with every row of the other. They are of one prompt: no sample of its own is in each."""
    rows = ((alone, b) for b in other) if alone is not None else ((a, second) for a in mine)
    for a, b in rows:
        yield (a if a.prompt_id is not None else replace(a, prompt_id=0)), b


def _by_id(first: Iterable[Rollout], second: Iterable[Rollout]) -> Iterator[Pair]:
    held: dict[tuple[object, ...], Rollout] = {}
    for row, other in enumerate(second):
        key = _id(other, "second", row)
        if key in held:
            raise InputError(f"the second file has two rows of {_shown(key)}, the latter row {row}: an id is one row's")
        held[key] = other
    for row, mine in enumerate(first):
        key = _id(mine, "first", row)
        if key not in held:
            raise InputError(f"row {row} of the first file is {_shown(key)}, which the second does not have")
        yield mine, held[key]


def _id(rollout: Rollout, which: str, row: int) -> tuple[object, ...]:
    if rollout.prompt_id is None:
        raise InputError(f"row {row} of the {which} file has no prompt_id: join in order or by tokens")
    return rollout.step, rollout.prompt_id, rollout.sample


def _shown(key: tuple[object, ...]) -> str:
    names = zip(("step", "prompt_id", "sample"), key, strict=True)
    return ", ".join(f"{name} {value}" for name, value in names if value is not None)


def _by_tokens(first: Iterable[Rollout], second: Iterable[Rollout]) -> Iterator[Pair]:
    held: dict[object, list[Rollout]] = defaultdict(list)
    for row, other in enumerate(second):
        held[_tokens(other, "second", row)].append(other)
    for row, mine in enumerate(first):
        there = held.get(_tokens(mine, "first", row), [])
        same = [other for other in there if _prompts_agree(mine, other)]
        if not same:
            raise InputError(f"the tokens of row {row} of the first file are not those of any row of the second")
        if mine.prompt_tokens is None and len({tuple(other.prompt_tokens or ()) for other in same}) > 1:
            raise InputError(f"row {row} of the first file has no prompt, and its tokens follow several in the second")
        if len(same) > 1:
            there.remove(same[0])
        yield mine, same[0]


def _tokens(rollout: Rollout, which: str, row: int) -> object:
    if rollout.tokens is not None:
        return tuple(rollout.tokens)
    if TEXTS in rollout.extra:
        return rollout.extra[TEXTS]
    raise InputError(f"row {row} of the {which} file has no tokens: it is not known which ones its log-probs are of")


_FINDERS = {"id": _by_id, "tokens": _by_tokens}


def _prompts_agree(mine: Rollout, other: Rollout) -> bool:
    """Whether the prompts are the same, as far as is known."""
    known = mine.prompt_tokens is not None and other.prompt_tokens is not None
    return not known or list(mine.prompt_tokens or ()) == list(other.prompt_tokens or ())


def _start(mine: Rollout, other: Rollout, row: int) -> int:
    """Where the first's tokens begin in the second's."""
    if not _prompts_agree(mine, other):
        raise InputError(f"row {row} has another prompt in the second file than in the first")
    if mine.tokens is None or other.tokens is None:
        _tokens(mine, "first", row)
        _tokens(other, "second", row)
        if mine.extra.get(TEXTS) is None or mine.extra.get(TEXTS) != other.extra.get(TEXTS):
            raise InputError(f"row {row} holds other tokens in the second file than in the first, going by their texts")
        return 0
    drawn, scored = list(mine.tokens), list(other.tokens)
    whole = [*(mine.prompt_tokens or ()), *drawn]
    if drawn != scored and len(drawn) < len(scored) and scored in (whole, whole[1:]):
        return len(scored) - len(drawn)
    _check_tokens(drawn, scored, row)
    return 0


def _check_tokens(drawn: Sequence[int], scored: Sequence[int], row: int) -> None:
    for place, (a, b) in enumerate(zip_longest(drawn, scored)):
        if a != b:
            ours, theirs = ("nothing more" if one is None else str(one) for one in (a, b))
            raise InputError(f"row {row} differs at token {place}: {ours} in the first file and {theirs} in the second")


def _cut(rollout: Rollout, start: int, length: int) -> Rollout:
    """The rollout without the tokens before and after a span."""
    if start == 0 and rollout.length == length:
        return rollout
    names = (*TOKEN_COLUMNS, *FEATURES, "mask", "tokens", "top")
    held = {name: value for name in names if (value := getattr(rollout, name)) is not None}
    return replace(rollout, **{name: value[start : start + length] for name, value in held.items()})


def _joined(mine: Rollout, other: Rollout, role: Role, row: int) -> Rollout:
    if getattr(mine, role) is not None:
        raise InputError(f"row {row} of the first file has {role} already, so that the second cannot be its {role}")
    lost = np.flatnonzero(mine.counted & ~other.counted)
    if len(lost):
        raise InputError(f"row {row}: token {lost[0]} counts in the first file, but not in the second")
    known = {name: getattr(other, name) for name in IDENTITY if getattr(mine, name) is None}
    finish = other.finish if mine.finish == "unknown" else mine.finish
    return replace(
        mine,
        **{**known, role: _scores(other, role, row)},
        finish=finish,
        missing_end=mine.missing_end or (mine.finish == "unknown" and other.missing_end),
        extra={**other.extra, **mine.extra},
    )


def _scores(other: Rollout, role: Role, row: int) -> np.ndarray:
    """The second's log-probs: of the role, or of the one law it has."""
    found = [one for name in LOGPROB_COLUMNS if (one := getattr(other, name)) is not None]
    mine: np.ndarray | None = getattr(other, role)
    if mine is None and len(found) > 1:
        raise InputError(f"row {row} of the second file has log-probs of several laws, but no {role}")
    return found[0] if mine is None else mine
