"""What every experiment returns: numbers for machines, and tables and a picture for people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kullback.displays import Displayed
from kullback.documents import Chart, Document, Record, Table, plain


@dataclass(frozen=True)
class ExperimentOutcome(Displayed, ABC):
    """What an experiment found; follows `kullback.documents.Outcome`."""

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        return dict(plain(asdict(self)))

    @abstractmethod
    def document(self) -> Document:
        """Its tables, and then its picture."""

    def records(self) -> list[Record]:
        """Its rows: of the first list of records that it has, each with those within it."""
        return next(([*_rows(value)] for value in self.to_dict().values() if _is_table(value)), [self.to_dict()])

    def tables(self) -> tuple[Table, ...]:
        """The tables of its document."""
        return self.document().tables

    def chart(self) -> Chart:
        """The picture of its document."""
        return self.document().charts[0]


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _rows(records: list[Record]) -> Iterator[Record]:
    """Records, and where one holds a table of its own, a row for each of that table's."""
    for record in records:
        inner = next((name for name, value in record.items() if _is_table(value)), None)
        if inner is None:
            yield record
        else:
            outer = {name: value for name, value in record.items() if name != inner}
            yield from ({**outer, **row} for row in _rows(record[inner]))
