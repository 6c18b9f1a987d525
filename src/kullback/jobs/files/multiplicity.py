"""Which of many groups differ from the rest by more than their number explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan, sqrt

from kullback.estimation import Estimate
from kullback.jobs.files.ledger import Group

LEVEL = 0.05
"""The chance that any group is said to stand apart where none does."""


@dataclass(frozen=True)
class Standing:
    """What looking at many groups at once tells.

    Attributes:
        judged: groups that have an error, and are held against the rest.
        apart: those that stand apart, by Holm's correction at 5%, as places in the sequence of groups.
    """

    judged: int
    apart: tuple[int, ...]


def standing(groups: Sequence[Group], whole: Estimate) -> Standing:
    """Hold every group against all others: two-sided, Student's t with the group's own degrees of freedom.

    Args:
        groups: that make up the whole.
        whole: their estimate together.

    Reference: Holm 1979, “A Simple Sequentially Rejective Multiple Test Procedure”; valid whatever the groups share.
    """
    total = sum(group.size for group in groups)
    chances = {place: _chance(group, whole, total) for place, group in enumerate(groups)}
    known = sorted((chance, place) for place, chance in chances.items() if not isnan(chance))
    apart = []
    for rank, (chance, place) in enumerate(known):
        if chance > LEVEL / (len(known) - rank):
            break
        apart.append(place)
    return Standing(len(known), tuple(sorted(apart)))


def _chance(group: Group, whole: Estimate, total: float) -> float:
    """Of a difference from the rest as large as this one, where there is none; nan where that is not known."""
    from scipy.special import stdtr

    found, rest = group.found, total - group.size
    if found.clusters < 2 or not found.stderr > 0 or not isfinite(found.stderr) or not rest > 0 or whole.clusters < 3:
        return nan
    others = (whole.value * total - found.value * group.size) / rest
    stderr = sqrt(found.stderr**2 + whole.stderr**2 * total / rest)
    return 2.0 * float(stdtr(min(found.clusters - 1.0, found.freedom), -abs(found.value - others) / stderr))
