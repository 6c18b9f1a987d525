"""``--max-kl``: a limit that a KL is to keep, and the exit status that says whether it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kullback.cli.options import refuse
from kullback.cli.screen import fail, tell

if TYPE_CHECKING:
    from kullback.documents import Outcome
    from kullback.jobs.gate import Gate

MaxKL = Annotated[
    str | None,
    typer.Option(
        help="Exit with 1 if the KL's 95% interval is above this: nats a sequence (a token with --text), or 0.02/token."
    ),
]
Undecided = Annotated[
    Literal["pass", "fail"],
    typer.Option(help="With --max-kl: the exit status, 0 or 1, where the interval holds the limit."),
]
ThesePrompts = Annotated[
    bool,
    typer.Option("--these-prompts", help="With --max-kl: judge these very prompts, not prompts drawn anew."),
]

UNITS = ("sequence", "token")


@dataclass(frozen=True)
class Limit:
    """What ``--max-kl`` asks for.

    Attributes:
        nats: the limit.
        unit: "sequence" or "token", where one was named.
        undecided: what it is to be where the interval holds the limit.
        these_prompts: whether these very prompts are judged.
    """

    nats: float
    unit: str | None = None
    undecided: Literal["pass", "fail"] = "pass"
    these_prompts: bool = False


def asked_limit(
    context: typer.Context, max_kl: str | None, undecided: Literal["pass", "fail"], *, these_prompts: bool
) -> Limit | None:
    """The limit, before anything is loaded; options that would do nothing without one are refused."""
    if max_kl is None:
        refuse(context, ("undecided", "these_prompts"), "without --max-kl")
        return None
    nats, unit = _number_and_unit(max_kl)
    return Limit(nats, unit, undecided, these_prompts)


def _number_and_unit(text: str) -> tuple[float, str | None]:
    number, slash, unit = (part.strip() for part in text.partition("/"))
    if slash and unit not in UNITS:
        fail(f"--max-kl {text} came, but its unit is sequence or token, as in --max-kl 0.02/token")
    try:
        nats = float(number)
    except ValueError:
        fail(f"--max-kl {text} came, but it is a number of nats, as in --max-kl 2.5 or --max-kl 0.02/token")
    if not (isfinite(nats) and nats >= 0):
        fail(f"--max-kl {text} came, but a finite number of nats, at least 0, is needed")
    return nats, unit if slash else None


def settle(
    outcome: Outcome,
    gate: Gate | None,
    limit: Limit | None,
    show: Callable[[Outcome], None],
    write: Callable[[Outcome], None] | None = None,
) -> None:
    """Show what was found, and write it, with the gate's answer at its head if there is one; leave with 1 where it
    is bad.

    Raises:
        typer.Exit: with 1.
    """
    from kullback.jobs.gate import Gated

    said = outcome if gate is None else Gated(outcome, gate)
    if write is not None:
        write(said)
    show(said)
    if gate is None or limit is None:
        return
    if gate.side == "undecided":
        tell(f"kullback: undecided, and --undecided {limit.undecided} has it {limit.undecided}", style="yellow")
    if gate.side == "above" or (gate.side, limit.undecided) == ("undecided", "fail"):
        raise typer.Exit(1)
