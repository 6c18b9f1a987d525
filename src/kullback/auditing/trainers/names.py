"""What a trainer calls things: names of columns, and options with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option that has a say in the KL.

    Attributes:
        name: as its users write it.
        default: what it is where nobody says otherwise.
        about: what it does.
    """

    name: str
    default: object
    about: str


@dataclass(frozen=True, kw_only=True)
class Names:
    """A trainer's words.

    Attributes:
        title: how it is written.
        columns: the column that each of its own names is.
        options: those that have a say in the KL, with their defaults.
    """

    title: str
    columns: Mapping[str, str]
    options: tuple[Option, ...] = ()

    def of(self, column: str) -> tuple[str, ...]:
        """The trainer's own names of a column.

        Example:
            >>> from kullback.auditing.trainers import TRAINERS
            >>> TRAINERS["trl"].names.of("ref_logprobs")
            ('ref_per_token_logps',)
        """
        return tuple(name for name, taken in self.columns.items() if taken == column)
