"""Which column each parameter of a function takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.functions import Function
from kullback.errors import InputError

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


KNOWN = {alias: column for column in COLUMNS for alias in (column, *ALIASES.get(column, ()))}


@dataclass(frozen=True)
class Wires:
    """Which column each parameter takes.

    Attributes:
        positional: columns that are handed over by place.
        named: the column of each parameter that is handed over by its name.
        constants: values of further parameters.
    """

    positional: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """Every column that is handed over."""
        return {*self.positional, *self.named.values()}

    def call(self, fn: Function, given: Mapping[str, object]) -> Any:
        """fn of the columns."""
        named = {name: given[column] for name, column in self.named.items()}
        return fn(*(given[column] for column in self.positional), **named, **self.constants)


def wiring(fn: Function, names: Mapping[str, str], settings: Mapping[str, object]) -> Wires:
    """Parameters by `names`, then by their own name, then by place; `settings` are handed over as they are.

    Raises:
        CallFailed: a parameter that no column fits.
        InputError: a column that does not exist, or a name that is none of the function's parameters.
    """
    if unknown := [name for name in names.values() if name not in COLUMNS]:
        raise InputError(f"{unknown[0]!r} came as a column, but there are {', '.join(COLUMNS)}")
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return Wires(("logprobs", "ref_logprobs"), {}, settings)
    _check_names(parameters, (*names, *settings))
    open_ones = [p for p in parameters if p.name not in settings]
    by_name = {**KNOWN, **names}
    free = _Free({by_name[p.name] for p in open_ones if p.name in by_name})
    starred = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    positional: list[str] = []
    named: dict[str, str] = {}
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            positional += free.columns
        elif p.kind is not p.VAR_KEYWORD and p.name not in settings:
            column = by_name.get(p.name) or free.column(p)
            if column is None:
                continue
            if p.kind is p.POSITIONAL_ONLY or (starred and p.kind is not p.KEYWORD_ONLY):
                positional.append(column)
            else:
                named[p.name] = column
    return Wires(tuple(positional), named, settings)


class _Free:
    """The columns that parameters of other names take, in this order."""

    def __init__(self, taken: set[str]) -> None:
        self.columns = [column for column in POSITIONAL if column not in taken]

    def column(self, p: inspect.Parameter) -> str | None:
        """The next one; None for a parameter that has a value of its own."""
        if p.default is not p.empty:
            return None
        if not self.columns:
            raise CallFailed(
                "KB001",
                f"the function needs {p.name!r}, which no column fits: "
                f"map it to a column (names={{{p.name!r}: …}}, --map {p.name}=COLUMN) "
                f"or give it a value (settings={{{p.name!r}: …}}, --set {p.name}=VALUE)",
            )
        return self.columns.pop(0)


def _check_names(parameters: Sequence[inspect.Parameter], given: Sequence[str]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    own = {p.name: p for p in parameters}
    for name in given:
        if name not in own:
            raise InputError(f"{name!r} came, but the function has the parameters {', '.join(own) or 'none'}")
