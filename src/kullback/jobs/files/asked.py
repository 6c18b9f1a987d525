"""What is asked of a dump, checked before a row is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kullback.errors import InputError, shown
from kullback.estimation.recipe import UNITS, Unit
from kullback.estimators import Estimator, member
from kullback.jobs.files.columns import POSITION
from kullback.jobs.files.conditions import Condition, condition

ALWAYS = ("step", "environment")
"""What rows are told apart by without being asked, where they have more than one of it."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a dump.

    Attributes:
        estimators: by which; None for Rao-Blackwell where exact token KLs are known, else k3.
        units: nats a token, nats a sequence or both.
        by: columns to tell rows apart by, beside step and environment; "position" for ranges of positions.
        where: which rows count; None for all.
        skip_bad: whether rows that cannot be right are left out.
        sample: whether some rows are kept to be shown token by token.
    """

    estimators: tuple[Estimator, ...] | None
    units: tuple[Unit, ...]
    by: tuple[str, ...]
    where: Condition | None
    skip_bad: bool
    sample: bool = False

    @classmethod
    def of(
        cls,
        *,
        estimator: Estimator | str | Sequence[Estimator | str] | None = None,
        unit: str | None = None,
        by: str | Sequence[str] = (),
        where: str | None = None,
        skip_bad: bool = False,
        sample: bool = False,
    ) -> Asked:
        """What the options of `estimate_files` mean.

        Raises:
            InputError: a unit or a condition that is none, or an estimator of other columns.
            NameUnknownError: no estimator has the name.
        """
        if unit is not None and unit not in UNITS:
            raise InputError(f"unit={shown(unit)} came, but a unit is 'sequence' or 'token'")
        listed = [estimator] if isinstance(estimator, str | Estimator) else estimator
        return cls(
            estimators=None if listed is None else _estimators(listed, unit),
            units=tuple(each for each in UNITS if unit in (None, each)),
            by=tuple(dict.fromkeys([by] if isinstance(by, str) else by)),
            where=None if where is None else condition(where),
            skip_bad=skip_bad,
            sample=sample,
        )

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What rows or positions are told apart by."""
        return tuple(dict.fromkeys([*self.by, *ALWAYS]))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values are remembered of every row."""
        return tuple(name for name in self.dimensions if name != POSITION)


def _estimators(listed: Sequence[Estimator | str], unit: str | None) -> tuple[Estimator, ...]:
    found = tuple(dict.fromkeys(member(each) for each in listed))
    if not found:
        raise InputError("no estimator was asked for: name one, such as k3, or leave the choice to kullback")
    for each in found:
        if each.link is not None and unit == "token":
            raise InputError(f"{each.name} is a function of a mean over sequences: ask for it with unit='sequence'")
    return found
