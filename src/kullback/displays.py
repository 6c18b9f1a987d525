"""What results can do in a notebook: show themselves, become a table of pandas or polars, be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from kullback.documents import Chart, Document, Record
from kullback.errors import InputError

if TYPE_CHECKING:
    from typing import Protocol

    class Picture(Protocol):
        """A chart that shows itself in a notebook."""

        def _repr_svg_(self) -> str: ...

        def save(self, path: Any) -> None:
            """Write it, PNG or SVG by the name."""


FrameLibrary = Literal["pandas", "polars"]


class Displayed:
    """A result that shows itself in Jupyter and marimo, by its document.

    Example:
        >>> import kullback as kb
        >>> found = kb.estimate([[-0.5], [-0.7]], [[-0.7], [-0.6]], estimator="k1")
        >>> "0.05 ± 0.15 nats/sequence" in found._repr_html_()
        True
        >>> found.to_frame().loc[0, "estimator"]
        'k1'
        >>> found.plot()._repr_svg_()[:4]
        '<svg'
    """

    def document(self) -> Document:
        """What it has to say to people."""
        raise NotImplementedError

    def records(self) -> Sequence[Record]:
        """The rows of its table: one a number with its error, or one a finding."""
        raise NotImplementedError

    def chart(self) -> Chart:
        """What `plot` draws: the first picture of its document.

        Raises:
            InputError: it has none.
        """
        for chart in self.document().charts:
            return chart
        raise InputError("there is no picture of this result: to_frame() has its numbers")

    def _repr_html_(self) -> str:
        return str(_faces().fragment(self.document()))

    def to_frame(self, library: FrameLibrary | None = None) -> Any:
        """Its rows as a data frame: of pandas, where that is installed, else of polars.

        One row an estimate (of an audit, a finding), one column a number; records in records become columns with a dot
        in their names.

        Args:
            library: "pandas" or "polars".

        Raises:
            MissingPackageError: it is not installed, or none of the two.
            InputError: another name.
        """
        return _faces().frame(self.records(), library)

    def plot(self) -> Picture:
        """A picture that a notebook shows; `save(path)` writes it as PNG or SVG.

        Raises:
            MissingPackageError: matplotlib is not installed.
            InputError: there is nothing to draw.
        """
        picture: Picture = _faces().Picture(self.chart())
        return picture


def _faces() -> Any:
    # The faces lie above every result and are no import of theirs: they are looked up when a notebook asks.
    return import_module("kullback.report.notebooks")
