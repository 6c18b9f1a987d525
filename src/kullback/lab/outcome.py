"""What every experiment returns: numbers for machines, and tables and a picture for people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

from kullback.documents import Chart, Document, Record, Table, plain


@dataclass(frozen=True)
class ExperimentOutcome(ABC):
    """What an experiment found; follows `kullback.documents.Outcome`."""

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        return dict(plain(asdict(self)))

    @abstractmethod
    def document(self) -> Document:
        """Its tables, and then its picture."""

    def tables(self) -> tuple[Table, ...]:
        """The tables of its document."""
        return self.document().tables

    def chart(self) -> Chart:
        """The picture of its document."""
        return self.document().charts[0]
