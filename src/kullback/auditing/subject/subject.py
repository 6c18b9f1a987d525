"""The function under audit: columns go in by name, a torch tensor of its kind comes out."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kullback.auditing.subject.failures import CallFailed, failure
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.libraries import CALLS
from kullback.auditing.subject.shapes import Kind, fits, kind_of, wrong_shape
from kullback.auditing.subject.tensors import EVERY, Rows
from kullback.auditing.subject.wiring import Wires
from kullback.errors import InputError

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor


class Subject:
    """A function that takes columns by name and returns a torch tensor, whatever it was written in.

    Args:
        fn: the function.
        wires: which column each of its parameters takes.
        arrays: what it takes, "torch", "jax" or "numpy".
        output: which element of a tuple, a dict or an object that it returns.
        level: "sequence" hands over sums over tokens, (batch, 1).

    Attributes:
        kind: what it returns: one number, one a row, or one a token.
        printed: what it wrote to the terminal.
    """

    def __init__(
        self,
        fn: Function,
        wires: Wires,
        *,
        arrays: str = "torch",
        output: int | str | None = None,
        level: str | None = None,
    ) -> None:
        if arrays not in CALLS:
            raise InputError(f"arrays={arrays!r} came, but a function takes {', '.join(CALLS)}")
        self.wires, self.level = wires, level
        self._call = CALLS[arrays](fn if output is None else _element(fn, output), wires)
        self.kind: Kind = "token"
        self.printed = ""

    @property
    def columns(self) -> set[str]:
        """The columns it reads."""
        return self.wires.columns

    def meet(self, columns: Columns, rows: Rows) -> None:
        """Learn from a first call, of more rows than tokens, what kind of thing comes back."""
        result, batch = self._raw(columns, rows)
        self.kind = kind_of(tuple(result.shape), batch)

    def __call__(self, columns: Columns, rows: Rows = EVERY) -> Tensor:
        """What it makes of some rows of columns, in the shape of its kind."""
        result, batch = self._raw(columns, rows)
        if not fits(self.kind, tuple(result.shape), batch):
            raise wrong_shape(tuple(result.shape), batch)
        return result.reshape({"token": batch, "row": batch[:1], "scalar": ()}[self.kind])

    def _raw(self, columns: Columns, rows: Rows) -> tuple[Tensor, tuple[int, ...]]:
        """What came back, and the (batch, time) that went in; the function has copies of its own."""
        given = {name: array[rows] for name, array in columns.items()}
        if self.level == "sequence":
            given = _summed(given)
        wanted = {name: given[name].clone() for name in self.columns}
        with self._guarded():
            result = self._call(wanted)
        return result, tuple(given["logprobs"].shape[:2])

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Nothing that the function prints or warns of reaches the terminal, and what it raises is a finding."""
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                yield
        except CallFailed:
            raise
        except (Exception, SystemExit) as error:
            raise failure(error) from error
        finally:
            self.printed = self.printed or out.getvalue().strip()


def _element(fn: Function, output: int | str) -> Function:
    """fn's result without the rest of what it returns."""

    def call(*args: object, **named: object) -> object:
        result = fn(*args, **named)
        if isinstance(output, str) and not hasattr(result, "keys"):
            return getattr(result, output)
        return result[output]

    return call


def _summed(given: Columns) -> dict[str, Tensor]:
    """The columns of a function for whole sequences: sums over the counted tokens, (batch, 1)."""
    counted = given["mask"].to(given["logprobs"].dtype)
    summed = {
        name: (array * counted).sum(-1, keepdim=True)
        for name, array in given.items()
        if array.ndim == 2 and array.is_floating_point() and name != "ratio"
    }
    summed["ratio"] = (summed["logprobs"] - summed["behavior_logprobs"]).exp()
    return {**summed, "mask": given["mask"][:, :1]}
