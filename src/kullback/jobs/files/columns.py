"""What rows are told apart by: step, environment, reward, length, and whatever else their file says of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches

from kullback.errors import InputError
from kullback.rollouts import Rollout

Value = int | float | str | bool
"""What a column holds of a row."""

POSITION = "position"
"""By ranges of positions within a sequence: no column, for it tells tokens apart and not rows."""

KNOWN: Mapping[str, Callable[[Rollout], Value | None]] = {
    "step": lambda row: row.step,
    "prompt_id": lambda row: row.prompt_id,
    "sample": lambda row: row.sample,
    "reward": lambda row: row.reward,
    "finish": lambda row: row.finish,
    "length": lambda row: int(row.counted.sum()),
    "sampled_from": lambda row: row.sampled_from,
    "missing_end": lambda row: row.missing_end,
}
"""Columns that every table of rollouts can have."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "environment": ("environment", "env", "env_id", "env_name", "task", "task_name", "data_source", "dataset"),
    "prompt": ("prompt_id",),
    "group": ("prompt_id",),
}
"""Names that stand for the first of these that a row has."""


def value_of(row: Rollout, name: str, file: str = "") -> Value | None:
    """What a row holds in a column, None where it holds nothing.

    Example:
        >>> row = Rollout(logprobs=[-0.1], ref_logprobs=[-0.2], step=3, extra={"env_id": "maths"})
        >>> value_of(row, "step"), value_of(row, "environment"), value_of(row, "length")
        (3, 'maths', 1)
    """
    if name == "file":
        return file
    if name in KNOWN:
        return KNOWN[name](row)
    found = (row.extra.get(each) for each in ALIASES.get(name, (name,)) if each not in KNOWN)
    other = (KNOWN[each](row) for each in ALIASES.get(name, ()) if each in KNOWN)
    return next((value for value in (*found, *other) if value is not None), None)


def names_in(rows: Iterable[Rollout]) -> list[str]:
    """The columns that rows can be told apart by."""
    rows = list(rows)
    extra = dict.fromkeys(name for row in rows for name in row.extra)
    known = [name for name in KNOWN if any(value_of(row, name) is not None for row in rows)]
    alias = [name for name in ("environment",) if any(value_of(row, name) is not None for row in rows)]
    return list(dict.fromkeys([*known, *alias, *extra, "file", POSITION]))


def check_names(asked: Sequence[str], rows: Sequence[Rollout], option: str) -> None:
    """Refuse a column that the rows have not.

    Raises:
        InputError: by name, with the columns that are there.
    """
    there = names_in(rows)
    for name in asked:
        if name not in _meant(there):
            close = get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]}? They" if close else "they"
            raise InputError(
                f"{option} {name} came, but the rows have no such column: {hint} have {', '.join(sorted(there))}"
            )


def _meant(there: Collection[str]) -> set[str]:
    return {*there, *(alias for alias, names in ALIASES.items() if any(name in there for name in names))}
