"""The function under audit: columns go in by name, a torch tensor of its kind comes out."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kullback.arrays import is_torch
from kullback.auditing.subject.columns import BESIDE, DISTRIBUTIONS, FULL
from kullback.auditing.subject.failures import CallFailed, failure
from kullback.auditing.subject.filled import SHAPES, Filled, Shape
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.layouts import LAYOUTS, Laid, Layout
from kullback.auditing.subject.libraries import CALLS, TOGETHER
from kullback.auditing.subject.memory import Memory
from kullback.auditing.subject.numbers import unseen_numbers
from kullback.auditing.subject.patches import Patch, without
from kullback.auditing.subject.shapes import Kind, fits, kind_of, wrong_shape
from kullback.auditing.subject.tensors import EVERY, Rows
from kullback.auditing.subject.wiring import Wires
from kullback.errors import InputError, shown

if TYPE_CHECKING:
    from kullback.auditing.subject.libraries import Call
    from kullback.auditing.subject.tensors import Columns, Tensor

MaskType = Literal["bool", "float", "int"]
MASK_TYPES: tuple[MaskType, ...] = ("bool", "float", "int")

VOCABULARIES = (0, 256, 4096)
"""To how many words vocabularies are filled up, where they have fewer, until a function can be run."""

RARE = -60.0
"""The log-prob of each of these words."""


@dataclass
class _Held:
    """How the batch of the call that is under way lies in memory, and whether and how many batches are run at once."""

    laid: Laid | None = None
    at_once: bool = True
    looked: int = 0
    memory: Memory = field(default_factory=Memory)
    together: dict[int, tuple[Wires, Call]] = field(default_factory=dict)


class Subject:
    """A function that takes columns by name and returns a torch tensor, whatever it was written in.

    Args:
        fn: the function.
        wires: which column each of its parameters takes.
        arrays: what it takes, "torch", "jax" or "numpy".
        output: which element of a tuple, a dict or an object that it returns.
        level: "sequence" hands over sums over tokens, (batch, 1).
        layout: "padded", or "ragged" for a list of rows, or "packed" for one array of all counted tokens.

    Attributes:
        kind: what it returns: one number, one a row, or one a token.
        mask_type: what its mask is made of.
        words: to how many words a vocabulary is filled up, for a function that cannot be run on fewer.
        shifted: whether what it calls logits is not normalised: each place has a constant of its own added.
        live: whether gradients may flow through it.
        printed: what it wrote to the terminal.
        isolation: what was done to have the KL's part of it alone.
    """

    def __init__(
        self,
        fn: Function,
        wires: Wires,
        *,
        arrays: str = "torch",
        output: int | str | None = None,
        level: str | None = None,
        layout: Layout = "padded",
    ) -> None:
        if arrays not in CALLS:
            raise InputError(f"arrays={shown(arrays)} came, but a function takes {', '.join(CALLS)}")
        self.wires, self.level, self.arrays, self.layout = wires, level, arrays, layout
        self._held = _Held()
        self._fn = self._lying(fn if output is None else _element(fn, output))
        self._call = CALLS[arrays](self._fn, wires)
        self._off: Wires | None = None
        self.isolation = ""
        self._without_kl = self._call
        self._patches: tuple[Patch, ...] = ()
        self._shape: Shape = "row"
        self.exchanged: dict[str, str] = {}
        self.kind: Kind = "token"
        self.mask_type: MaskType = "bool"
        self.words = 0
        self.shifted = self.live = True
        self.printed = ""

    @property
    def columns(self) -> set[str]:
        """The columns it reads."""
        return self.wires.columns

    @property
    def full(self) -> bool:
        """Whether it reads more than the log-probs of sampled tokens."""
        return bool(self.columns & FULL)

    @property
    def shape(self) -> Shape:
        """The shape of the arrays beside the KL."""
        return self._shape

    def without(self, *patches: Patch) -> Subject:
        """The same function with some operations left out."""
        other = copy(self)
        other._patches = (*self._patches, *patches)
        return other

    def normalised(self) -> Subject:
        """The same function, whose logits are handed over as log-probs."""
        other = copy(self)
        other.shifted = False
        return other

    def detached(self) -> Subject:
        """The same function of numbers alone, for one that raises where it is differentiated."""
        other = copy(self)
        other.live = False
        return other

    def exchanging(self, **columns: str) -> Subject:
        """The same function with other columns in the place of some."""
        other = copy(self)
        other.exchanged = {**self.exchanged, **columns}
        return other

    def isolating(self, off: Wires, said: str) -> Subject:
        """The same function without what it gives when it is wired like this."""
        other = copy(self)
        other._off, other.isolation = off, said
        other._without_kl = CALLS[self.arrays](self._fn, off)
        return other

    def wired(self, wires: Wires, said: str = "") -> Subject:
        """The same function with other constants."""
        other = copy(self)
        other.wires, other._call, other.isolation = wires, CALLS[self.arrays](self._fn, wires), said
        return other

    def meet(self, columns: Columns, rows: Rows, fewest: Columns | None = None) -> None:
        """Learn from a first call, of more rows than tokens, what kind of thing comes back, and what it can take.

        Args:
            columns, rows: of that call.
            fewest: columns of the smallest vocabulary that there will be, which a function of whole distributions
                has to take as well.
        """
        failed: CallFailed | None = None
        shapes = SHAPES if self._beside else SHAPES[:1]
        types = MASK_TYPES if "mask" in self.wires.wanted else MASK_TYPES[:1]
        words = VOCABULARIES if FULL & self.wires.wanted else VOCABULARIES[:1]
        for self.words, self.mask_type, self._shape in itertools.product(words, types, shapes):
            self._reshape()
            try:
                result, batch = self._raw(columns, rows)
                self.kind = kind_of(tuple(result.shape), batch)
                if fewest is not None and FULL & self.wires.wanted:
                    self._raw(fewest, EVERY)
                return
            except CallFailed as error:
                failed = failed or error
        self.words, self.mask_type, self._shape = 0, "bool", "row"
        if failed is not None:
            raise failed

    @property
    def _beside(self) -> bool:
        constants = (isinstance(value, Filled) for value in self.wires.constants.values())
        return bool(self.wires.batches) or any(constants) or bool(self.columns & set(BESIDE))

    def _reshape(self) -> None:
        """Take on a shape of the arrays beside the KL."""
        constants = {
            name: replace(value, shape=self._shape) if isinstance(value, Filled) else value
            for name, value in self.wires.constants.items()
        }
        if constants != dict(self.wires.constants):
            self.wires = replace(self.wires, constants=constants)
            self._call = CALLS[self.arrays](self._fn, self.wires)

    def __call__(self, columns: Columns, rows: Rows = EVERY) -> Tensor:
        """What it makes of some rows of columns, in the shape of its kind."""
        return self._shaped(*self._raw(columns, rows))

    def each(self, columns: Columns, batches: Sequence[list[int]]) -> Tensor:
        """What it makes of each of several batches of as many rows, in one call where that works."""
        import torch

        if len(batches) > 2 and self._held.at_once and self.arrays in TOGETHER and self.layout == "padded":
            kept = self._held.memory.now()
            try:
                more = [list(batches[-1])] * self.spare(len(batches))
                found = self._together(columns, torch.tensor([*batches, *more]))[: len(batches)]
                if kept.same() and self._agrees(found, columns, batches):
                    return found
            except (CallFailed, RuntimeError):  # The latter from a result that the function kept of another call.
                pass
            kept.take_back()
            self.one_by_one()
        return torch.stack([self(columns, rows) for rows in batches])

    def _agrees(self, found: Tensor, columns: Columns, batches: Sequence[list[int]]) -> bool:
        """Whether the first of several results, or the last, in turn, is that of a call of its own."""
        import torch

        self._held.looked += 1
        i = -(self._held.looked % 2)
        alone = self(columns, batches[i]).detach()
        return torch.allclose(found[i].detach(), alone, rtol=1e-12, atol=0, equal_nan=True)

    def one_by_one(self) -> None:
        """Run every batch in a call of its own from now on, as code that keeps something between calls has to be."""
        self._held.at_once = False

    def watch(self, memory: Memory) -> None:
        """What the function may keep something in: where a call of many batches changes it, it is put back."""
        self._held.memory = memory

    def spare(self, count: int) -> int:
        """How many more may as well come along: JAX traces every size of a call anew, so that there are but a few."""
        return next(size for size in (16, 64, 256, 1024, count) if size >= count) - count if self.arrays == "jax" else 0

    def _together(self, columns: Columns, index: Tensor) -> Tensor:
        import torch

        given = {name: array[index].clone() for name, array in columns.items()}
        with self._guarded(), without(*self._patches), unseen_numbers():
            wanted = torch.vmap(lambda one: self._wanted(one)[0])(given)
            result = self._all_at_once(self.wires)(wanted)
            if self._off is not None:
                result = result - self._all_at_once(self._off)(wanted)
        batch = (index.shape[1], 1 if self.level == "sequence" else given["logprobs"].shape[2])
        return torch.stack([self._shaped(one, batch) for one in result])

    def _all_at_once(self, wires: Wires) -> Call:
        """What calls the function on many batches, kept for as long as what JAX traced of it is of use."""
        known = self._held.together
        if id(wires) not in known:
            known[id(wires)] = wires, TOGETHER[self.arrays](self._fn, wires)
        return known[id(wires)][1]

    def _shaped(self, result: Tensor, batch: tuple[int, ...]) -> Tensor:
        if not fits(self.kind, tuple(result.shape), batch):
            raise wrong_shape(tuple(result.shape), batch)
        return result.reshape({"token": batch, "row": batch[:1], "scalar": ()}[self.kind])

    def _raw(self, columns: Columns, rows: Rows) -> tuple[Tensor, tuple[int, ...]]:
        """What came back, and the (batch, time) that went in; the function has copies of its own."""
        given = {name: array[rows] for name, array in columns.items()}
        wanted, batch = self._wanted(given)
        mask = self._wanted_mask(given)
        result = self._result(self._call, wanted, mask)
        if self._off is not None:
            result = result - self._result(self._without_kl, wanted, mask)
        return result, batch

    def _wanted_mask(self, given: Columns) -> Tensor:
        return given["mask"][:, :1] if self.level == "sequence" else given["mask"]

    def _wanted(self, given: Columns) -> tuple[Columns, tuple[int, ...]]:
        """The columns of a batch that are handed over, and its (batch, time)."""
        if self.level == "sequence":
            given = _summed(given)
        if self.words:
            given = {
                name: _widened(array, self.words) if name in DISTRIBUTIONS else array for name, array in given.items()
            }
        given = dict(self._completed(given))
        if self.wires.pair:
            given = {
                **given,
                "behavior_logprobs": given["ref_logprobs"],
                **(
                    {"behavior_log_distributions": given["ref_log_distributions"]}
                    if "ref_log_distributions" in given
                    else {}
                ),
            }
        given = {**given, **{taker: given[column] for taker, column in self.exchanged.items()}}
        if self.shifted:
            given |= {name: _shifted(name, given[name]) for name in self.wires.logits if name in given}
        wanted = {name: self._typed(name, given[name]) for name in self.wires.wanted if name in given}
        if not self.live:
            wanted = {name: array.detach() for name, array in wanted.items()}
        return wanted, tuple(given["logprobs"].shape[:2])

    def _result(self, call: Call, wanted: Columns, mask: Tensor) -> Tensor:
        self._held.laid = None if self.layout == "padded" else LAYOUTS[self.layout](mask)
        with self._guarded(), without(*self._patches):
            return call({name: array.clone() for name, array in wanted.items()})

    def _lying(self, fn: Function) -> Function:
        """fn of columns that lie as its layout says, and its result padded again."""
        if self.layout == "padded":
            return fn
        held = self._held

        def call(*args: Any, **named: Any) -> Any:
            laid = held.laid
            if laid is None:
                return fn(*args, **named)
            given = {name: laid.out(value) if is_torch(value) else value for name, value in named.items()}
            return laid.back(fn(*(laid.out(value) if is_torch(value) else value for value in args), **given))

        return call

    def _typed(self, name: str, array: Tensor) -> Tensor:
        import torch

        types = {"bool": torch.bool, "float": torch.float64, "int": torch.int64}
        return array.to(types[self.mask_type]) if name == "mask" else array

    def _completed(self, given: Columns) -> Columns:
        """The columns with those that follow from others."""
        import torch

        q = given["logprobs"]
        more: dict[str, Tensor] = {"groups": torch.zeros(len(q), dtype=torch.int64)}
        for name in self.wires.wanted & set(BESIDE):
            more[name] = Filled("zeros", self._shape).of(q.detach())  # type: ignore[assignment]
        for name, source in (("distributions", "log_distributions"), ("ref_distributions", "ref_log_distributions")):
            if name in self.wires.wanted and source in given:
                more[name] = given[source].exp()
        for name, whose in (("processed_logprobs", ""), ("processed_ref_logprobs", "ref_")):
            if name in self.wires.wanted and f"{whose}log_distributions" in given:
                more[name] = after_top_p(given[f"{whose}log_distributions"], given[f"{whose}logprobs"])
        if "log_distributions" in given and "behavior_log_distributions" not in given:
            more["behavior_log_distributions"] = given["log_distributions"].detach()
        if "tokens" in given and "tokens" in self.columns and any("pad" in name for name in self.wires.constants):
            more["tokens"] = given["tokens"].masked_fill(~given["mask"].bool(), -100)
        return {**more, **given, **{name: more[name] for name in ("tokens",) if name in more}}

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


def after_top_p(log_distributions: Tensor, logprobs: Tensor, keep: float = 0.9) -> Tensor:
    """Log-probs after top-p: tokens of the most likely words that together have `keep`, renormalised.

    A token that top-p leaves out keeps its raw log-prob less that of what is kept, as if it had been let through.
    """
    import torch

    ordered = log_distributions.exp().sort(-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    return logprobs - torch.where(before < keep, ordered, torch.zeros_like(ordered)).sum(-1).log()


def _widened(array: Tensor, words: int) -> Tensor:
    """Log-distributions of more words, of which the others hardly ever come."""
    import torch

    more = max(0, words - array.shape[-1])
    return torch.cat([array, torch.full((*array.shape[:-1], more), RARE, dtype=array.dtype)], -1)


def _shifted(name: str, array: Tensor) -> Tensor:
    """Logits of the same distributions: a constant more at every place, another one for every model."""
    import torch

    place = torch.arange(array.shape[-2], dtype=torch.float64)[:, None]
    return array + (0.3 + 0.25 * torch.cos(place + DISTRIBUTIONS.index(name))).to(array.dtype)


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
