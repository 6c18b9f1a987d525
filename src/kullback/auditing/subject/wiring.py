"""Calling a user's function: which column each parameter takes, what came back, and what went wrong."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from kullback.arrays import Array
from kullback.auditing.subject.arrays import BRIDGES, CallFailed, Wires, failure
from kullback.errors import InputError

Kind = Literal["scalar", "row", "token"]

COLUMNS = {
    "logprobs": "log q of the sampled tokens",
    "ref_logprobs": "log p of the same tokens",
    "mask": "True where a token counts",
    "behavior_logprobs": "log μ of the same tokens, μ what drew them",
    "log_ratio": "log q − log p",
    "ratio": "q/μ of every token, differentiable",
    "tokens": "the sampled tokens",
    "token_kl": "exact KL(q_t‖p_t) at every prefix",
    "reverse_token_kl": "exact KL(p_t‖q_t) at every prefix",
    "log_distributions": "log q over the vocabulary, (batch, time, vocab); serves as logits",
    "ref_log_distributions": "log p over the vocabulary",
}
"""What a function can be handed."""

ALIASES = {
    "logprobs": ("log_probs", "logprob", "log_prob", "per_token_logps", "new_logprobs", "policy_logprobs", "logps"),
    "ref_logprobs": (
        "ref_log_probs",
        "ref_logprob",
        "ref_log_prob",
        "ref_per_token_logps",
        "reference_logprobs",
        "logprobs_reference",
        "log_probs_base",
        "base_logprobs",
        "ref_logps",
    ),
    "mask": ("response_mask", "action_mask", "loss_mask", "completion_mask", "attention_mask", "token_mask"),
    "behavior_logprobs": (
        "behavior_log_probs",
        "behaviour_logprobs",
        "old_logprobs",
        "old_log_probs",
        "old_logprob",
        "old_log_prob",
        "old_per_token_logps",
        "rollout_logprobs",
        "rollout_log_probs",
    ),
    "log_distributions": ("logits", "policy_logits"),
    "ref_log_distributions": ("ref_logits", "reference_logits"),
}
POSITIONAL = ("logprobs", "ref_logprobs", "mask")
"""What parameters of other names take, in this order."""


def wiring(fn: Callable[..., Any], names: Mapping[str, str], settings: Mapping[str, Any]) -> Wires:
    """Parameters by `names`, then by their own name, then by place; `settings` are handed over as they are.

    Raises:
        CallFailed: a parameter that no column fits.
    """
    if unknown := [name for name in names.values() if name not in COLUMNS]:
        raise InputError(f"{unknown[0]!r} came as a column, but there are {', '.join(COLUMNS)}")
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return Wires(("logprobs", "ref_logprobs"), {}, settings)
    known = {alias: column for column, aliases in ALIASES.items() for alias in (column, *aliases)} | {
        column: column for column in COLUMNS
    }
    _check_names(parameters, names, settings)
    found: dict[str, str] = {}
    for p in parameters:
        if p.name not in settings and (p.name in names or p.name in known):
            found[p.name] = names.get(p.name) or known[p.name]
    free = [column for column in POSITIONAL if column not in found.values()]
    positional: list[str] = []
    named: dict[str, str] = {}
    starred = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            positional += free
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.name in settings:
            continue
        column = found.get(p.name)
        if column is None:
            if p.default is not p.empty:
                continue
            if not free:
                raise CallFailed(
                    "KB001",
                    f"the function needs {p.name!r}, which no column fits: "
                    f"map it to a column (names={{{p.name!r}: …}}, --map {p.name}=COLUMN) "
                    f"or give it a value (settings={{{p.name!r}: …}}, --set {p.name}=VALUE)",
                )
            column = free.pop(0)
        if p.kind is p.POSITIONAL_ONLY or (starred and p.kind is not p.KEYWORD_ONLY):
            positional.append(column)
        else:
            named[p.name] = column
    return Wires(tuple(positional), named, settings)


def _check_names(parameters: list[inspect.Parameter], names: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    own = {p.name for p in parameters}
    for name in (*names, *settings):
        if name not in own:
            raise InputError(f"{name!r} came, but the function has the parameters {', '.join(own) or 'none'}")


class Subject:
    """A function that takes columns by name and returns a torch tensor, whatever it was written in.

    Attributes:
        kind: what it returns: one number, one a row, or one a token.
        printed: what it wrote to the terminal.
        warned: the first warning it gave.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        wires: Wires,
        *,
        arrays: str = "torch",
        output: int | str | None = None,
        level: str | None = None,
    ) -> None:
        if arrays not in BRIDGES:
            raise InputError(f"arrays={arrays!r} came, but a function takes {', '.join(BRIDGES)}")
        self.fn, self.wires, self.output, self.level = fn, wires, output, level
        self._call = BRIDGES[arrays](self._pick, wires)
        self.kind: Kind = "token"
        self.printed = self.warned = ""
        self.calls = 0

    @property
    def columns(self) -> set[str]:
        """The columns it reads."""
        return self.wires.columns

    def __call__(self, columns: Mapping[str, Array], rows: Any = slice(None)) -> Array:
        """What it makes of some rows of columns, in the shape of its kind."""
        return self._shaped(*self.raw(columns, rows))

    def raw(self, columns: Mapping[str, Array], rows: Any = slice(None)) -> tuple[Array, tuple[int, int]]:
        """What came back, and the (batch, time) that went in; the function has copies of its own."""
        given = self._given(columns, rows)
        shape = tuple(given["logprobs"].shape[:2])
        wanted = {name: given[name].clone() for name in self.columns}
        self.calls += 1
        with self._guarded():
            result = self._call(wanted)
        return result, (int(shape[0]), int(shape[1]))

    def _pick(self, *args: Any, **named: Any) -> Any:
        result = self.fn(*args, **named)
        if self.output is not None:
            result = (
                result[self.output]
                if not isinstance(self.output, str) or hasattr(result, "keys")
                else getattr(result, self.output)
            )
        return result

    def _given(self, columns: Mapping[str, Array], rows: Any) -> dict[str, Array]:
        given = {name: array[rows] for name, array in columns.items()}
        if self.level != "sequence":
            return given
        counted = given["mask"].to(given["logprobs"].dtype)
        summed = {
            name: (array * counted).sum(-1, keepdim=True)
            for name, array in given.items()
            if array.ndim == 2 and array.is_floating_point() and name != "ratio"
        }
        summed["ratio"] = (summed["logprobs"] - summed["behavior_logprobs"]).exp()
        return {**summed, "mask": given["mask"][:, :1]}

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        out = io.StringIO()
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
                warnings.catch_warnings(record=True) as caught,
            ):
                warnings.simplefilter("always")
                yield
        except CallFailed:
            raise
        except (Exception, SystemExit) as error:
            raise failure(error) from error
        finally:
            self.printed = self.printed or out.getvalue().strip()
        if caught:
            self.warned = self.warned or str(caught[0].message)

    def _shaped(self, result: Any, shape: tuple[int, int]) -> Array:
        kind = _kind(tuple(result.shape), shape, self.kind)
        if kind is None:
            raise CallFailed("KB002", _shape_message(tuple(result.shape), shape))
        if kind == "token":
            return result.reshape(shape)
        return result.reshape(shape[0] if kind == "row" else ())

    def meet(self, columns: Mapping[str, Array], rows: Any) -> None:
        """Learn from a first call, of more rows than tokens, what kind of thing comes back."""
        result, shape = self.raw(columns, rows)
        for kind in ("scalar", "row", "token"):
            if _kind(tuple(result.shape), shape, kind) is not None:
                self.kind = kind
                return
        raise CallFailed("KB002", _shape_message(tuple(result.shape), shape))


def _kind(got: tuple[int, ...], shape: tuple[int, int], expected: Kind) -> Kind | None:
    size = int(np.prod(got))
    fits = {
        "scalar": size == 1,
        "row": got in ((shape[0],), (shape[0], 1)),
        "token": got == shape,
    }
    return expected if fits[expected] else None


def _shape_message(got: tuple[int, ...], shape: tuple[int, int]) -> str:
    return (
        f"for arrays of shape {shape} the function returned shape {got}: "
        f"a scalar, one number a row {(shape[0],)} or one a token {shape} is needed"
    )
