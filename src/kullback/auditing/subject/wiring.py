"""Which column each parameter of a function takes: said by the user, or decided by its name; never by its place."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kullback.auditing.subject.columns import BEHAVIOR, COLUMNS, DISTRIBUTIONS, POLICY, REFERENCE
from kullback.auditing.subject.containers import BATCHES, MODELS, PADDING_ID, Batch, Config, config
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.filled import Filled, filled
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.naming import column_of, is_coefficient, says_logits
from kullback.errors import InputError, shown

LEADING = ("logprobs", "ref_logprobs", "mask")
"""What `*args` takes, as kullback's own functions do, and what a refusal proposes."""

IDENTIFIERS = {"pad_token_id": PADDING_ID, "pad_id": PADDING_ID, "padding_id": PADDING_ID, "ignore_index": PADDING_ID}
IDENTIFIERS |= {"eos_token_id": 0, "eos_id": 0}
"""Parameters for the numbers of two tokens, and those of the exact worlds."""


@dataclass(frozen=True)
class Wires:
    """Which column each parameter takes.

    Attributes:
        positional: columns that are handed over by place.
        named: the column of each parameter that is handed over by its name.
        constants: values of further parameters.
        batches: parameters that take a whole batch by the names of its columns.
        models: parameters that take a model, of the policy or of the reference.
        labels: the names of the parameters that are handed over by place.
        pair: whether the behaviour's log-probs stand for the reference's, in a function of these two.
        coefficients: parameters, or ``cfg.beta`` within one, that are the KL's coefficient.
        of: the parameters of a batch that have been asked for, and their columns.
    """

    positional: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    batches: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    pair: bool = False
    coefficients: tuple[str, ...] = ()
    of: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """Every column that is handed over."""
        return {*self.positional, *self.named.values(), *self.of.values()}

    @property
    def wanted(self) -> set[str]:
        """Every column that may be handed over."""
        filled = {"logprobs"} if any(isinstance(value, Filled) for value in self.constants.values()) else set()
        return set(COLUMNS) if self.batches or self.models else self.columns | filled

    @property
    def logits(self) -> set[str]:
        """Columns of distributions whose taker calls them logits, or has them from a model."""
        takers = (*zip(self.labels, self.positional, strict=True), *self.named.items(), *self.of.items())
        return {column for name, column in takers if says_logits(name) and column in DISTRIBUTIONS}

    @property
    def table(self) -> dict[str, str]:
        """What each parameter gets, for people."""
        placed = dict(zip(self.labels, self.positional, strict=True))
        said = {
            **placed,
            **self.named,
            **self.of,
            **dict.fromkeys(self.batches, "a batch of columns"),
            **{name: f"a model of the {whose}" for name, whose in self.models.items()},
            **{name: _shown(value) for name, value in self.constants.items()},
        }
        if self.pair:
            paired = {"behavior_logprobs": "ref_logprobs", "behavior_log_distributions": "ref_log_distributions"}
            said = {name: paired.get(column, column) for name, column in said.items()}
        return said

    def with_old_policy(self) -> Wires:
        """The same where log-probs of what drew the samples are the only ones beside the reference's: the policy's."""
        if self.columns & POLICY or "behavior_logprobs" not in self.columns or not self.columns & REFERENCE:
            return self

        def of_policy(columns: Mapping[str, str]) -> dict[str, str]:
            return {name: "logprobs" if taken == "behavior_logprobs" else taken for name, taken in columns.items()}

        positional = ["logprobs" if taken == "behavior_logprobs" else taken for taken in self.positional]
        return replace(self, positional=tuple(positional), named=of_policy(self.named), of=of_policy(self.of))

    def parameter(self, column: str) -> str:
        """The user's own name for a column, or the column's where there is none."""
        return next((name for name, taken in self.table.items() if taken == column and name.isidentifier()), column)

    def call(self, fn: Function, given: Mapping[str, Any]) -> Any:
        """fn of the columns."""
        named: dict[str, object] = {name: given[column] for name, column in self.named.items()}
        for name in self.batches:
            named[name] = Batch(given, self.of)
        for name, whose in self.models.items():
            named[name] = Batch(given, self.of).model(whose)
        constants = {
            name: value.of(given["logprobs"]) if isinstance(value, Filled) else value
            for name, value in self.constants.items()
        }
        return fn(*(given[column] for column in self.positional), **named, **constants)

    def with_constant(self, name: str, value: object) -> Wires:
        """The same with another value of a constant, ``cfg.beta`` in an object."""
        first, _, rest = name.partition(".")
        held = self.constants.get(first)
        constant = held.having(rest, value) if isinstance(held, Config) else value
        return replace(self, constants={**self.constants, first: constant})


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Filled) else repr(value)[:60]


def wiring(fn: Function, names: Mapping[str, str], settings: Mapping[str, object]) -> Wires:
    """Parameters by `names`, then by what their own name says; `settings` are handed over as they are.

    Raises:
        CallFailed: a parameter that no rule decides; the sentence has the line that does.
        InputError: a column that does not exist, or a name that is none of the function's parameters.
    """
    if unknown := [name for name in names.values() if name not in COLUMNS]:
        raise InputError(f"{shown(unknown[0])} came as a column, but there are {', '.join(COLUMNS)}")
    constants = config({name: filled(value) for name, value in settings.items()})
    parameters = _parameters(fn)
    _check_names(parameters, (*names, *constants))
    return _Wiring(parameters, names, constants).wires()


def _parameters(fn: Function) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        pass
    if (schema := getattr(fn, "schema", None)) is not None:  # of torch.jit
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return [inspect.Parameter(argument.name, kind) for argument in schema.arguments]
    raise CallFailed(
        "KB001",
        f"the parameters of {getattr(fn, '__name__', fn)!r} cannot be read: "
        "wrap it in a function whose parameters have names, as lambda logprobs, ref_logprobs: …",
    )


class _Wiring:
    """The parameters of one function on their way to columns."""

    def __init__(
        self, parameters: Sequence[inspect.Parameter], names: Mapping[str, str], constants: Mapping[str, object]
    ) -> None:
        self.names, self.constants = names, dict(constants)
        self.open = [p for p in parameters if p.name not in constants]
        self.starred = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        # “logp” is the policy's log-prob, but beside a q it is the reference's.
        own = {p.name.lower().strip("_") for p in self.open}
        self.beside_q = bool(own & {"q", "logq", "log_q", "logqs"})
        self.batches: list[str] = []
        self.models: dict[str, str] = {}

    def wires(self) -> Wires:
        """What each of them takes."""
        # A term that is switched off is audited as it is when it is on.
        self.constants |= {
            p.name: 1.0 for p in self.open if is_coefficient(p.name) and _number(p.default) and p.default == 0
        }
        self.open = [p for p in self.open if p.name not in self.constants]
        found = [(p, self._column(p)) for p in self.open]
        self._refuse([p.name for p, column in found if column is None and self._needed(p)])
        self._refuse(
            _twice([(p.name, column) for p, column in found if column is not None and p.name not in self.names])
        )
        positional: list[str] = []
        labels: list[str] = []
        named: dict[str, str] = {}
        for p, column in found:
            if p.kind is p.VAR_POSITIONAL:
                free = [c for c in LEADING if c not in {c for _, c in found}]
                labels += [f"*{p.name}[{i}]" for i in range(len(free))]
                positional += free
            elif column is not None and (
                p.kind is p.POSITIONAL_ONLY or (self.starred and p.kind is not p.KEYWORD_ONLY)
            ):
                positional.append(column)
                labels.append(p.name)
            elif column is not None:
                named[p.name] = column
        columns = {*positional, *named.values()}
        return Wires(
            tuple(positional),
            named,
            self.constants,
            batches=tuple(self.batches),
            models=self.models,
            labels=tuple(labels),
            coefficients=tuple(self._coefficients()),
            pair=bool(columns & (BEHAVIOR - {"ratio"})) and not columns & REFERENCE and not self.batches,
        )

    def _coefficients(self) -> Iterator[str]:
        """Numbers whose names are those of the KL's coefficient, given or with a value of their own."""
        for name, value in self.constants.items():
            if isinstance(value, Config):
                yield from (
                    f"{name}.{inner}" for inner, number in value.flat() if _number(number) and is_coefficient(inner)
                )
            elif _number(value) and is_coefficient(name):
                yield name
        for p in self.open:
            if p.name not in self.constants and _number(p.default) and is_coefficient(p.name):
                yield p.name

    def _column(self, p: inspect.Parameter) -> str | None:
        if p.name in self.names:
            return self.names[p.name]
        # What has a value of its own keeps it, unless the value says that nothing was given.
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default not in (p.empty, None):
            return None
        if p.default is None and p.name != "ratio" and column_of(p.name) == "ratio":
            # A weight that is off by default stays off.
            return None
        if self.beside_q and p.name.lower().strip("_") in ("logp", "log_p", "logps", "p"):
            return "ref_logprobs"
        return column_of(p.name)

    def _needed(self, p: inspect.Parameter) -> bool:
        """Whether a parameter without a column is to be decided; those that have a value by their name get it."""
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty:
            return False
        if p.name in BATCHES:
            self.batches.append(p.name)
        elif p.name in MODELS:
            self.models[p.name] = MODELS[p.name]
        elif is_coefficient(p.name):
            self.constants[p.name] = 1.0
        elif p.name in IDENTIFIERS:
            self.constants[p.name] = IDENTIFIERS[p.name]
        else:
            return True
        return False

    def _refuse(self, lost: list[str]) -> None:
        if not lost:
            return
        known = {column for p in self.open if (column := self._column(p)) is not None and p.name not in lost}
        free = [column for column in LEADING if column not in known]
        proposed = dict(zip(lost, [*free, *["COLUMN"] * len(lost)], strict=False))
        which = " and ".join(map(repr, lost))
        maps = " ".join(f"--map {name}={column}" for name, column in proposed.items())
        names = ", ".join(f"{name!r}: {column!r}" for name, column in proposed.items())
        raise CallFailed(
            "KB001",
            f"no rule says which column {which} {'takes' if len(lost) == 1 else 'take'}, and place is not trusted: "
            f"say so, for example with {maps} (names={{{names}}}), or give a value with --set {lost[0]}=VALUE "
            f"(settings={{{lost[0]!r}: …}}); columns are {', '.join(COLUMNS)}",
        )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _twice(found: Sequence[tuple[str, str]]) -> list[str]:
    """Names that say the same column where one column must not be taken twice."""
    for column in ("logprobs", "ref_logprobs", "log_distributions", "ref_log_distributions", "distributions"):
        takers = [name for name, taken in found if taken == column]
        if len(takers) > 1:
            return takers
    return []


def _check_names(parameters: Sequence[inspect.Parameter], given: Sequence[str]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    own = {p.name: p for p in parameters}
    for name in given:
        if name not in own:
            raise InputError(f"{shown(name)} came, but the function has the parameters {', '.join(own) or 'none'}")
