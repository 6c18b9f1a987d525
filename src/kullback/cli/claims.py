"""``kullback claims``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from kullback.cli.screen import console, fail

if TYPE_CHECKING:
    from kullback.claims import Claim

VERDICTS = ("holds", "condition", "fails", "undecided")


def claims(
    claim_id: Annotated[str, typer.Argument(metavar="[ID]", help="Show this claim, its numbers computed now.")] = "",
    source: Annotated[str, typer.Option(help="Only claims of a source: 000 to 004, schulman, amini, trl, …")] = "",
    verdict: Annotated[str, typer.Option(help="Only holds, condition, fails or undecided.")] = "",
    seed: Annotated[int, typer.Option(help="The random world that a general claim is computed in.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What has been published about estimating a KL divergence, and what a computation makes of it.

    For example, all that fails, then one claim with its numbers and the code behind them:

        kullback claims --verdict fails

        kullback claims 004-gradient-of-fS
    """
    from kullback.claims import CLAIMS
    from kullback.errors import KullbackError

    sources = dict.fromkeys(key for claim in CLAIMS for key in claim.sources)
    _known(source, ["", *sources], "source")
    _known(verdict, ["", *VERDICTS], "verdict")
    try:
        if claim_id:
            _show(CLAIMS[_known(claim_id, CLAIMS.names, "claim")], seed, as_json)
            return
        wanted = (claim for claim in CLAIMS if not source or source in claim.sources)
        _list([claim for claim in wanted if not verdict or claim.verdict.name == verdict.upper()], as_json)
    except KullbackError as error:
        fail(str(error))


def _known(name: str, names: Iterable[str], what: str) -> str:
    """The name, or an error with the nearest that there are."""
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, [name for name in names if name], n=3, cutoff=0.0)
        fail(f"there is no {what} {name!r}; the nearest are {', '.join(near)}")
    return name


def _list(chosen: list[Claim], as_json: bool) -> None:
    from kullback.claims.pages import claim_table, record
    from kullback.report import terminal

    if as_json:
        typer.echo(json.dumps({"claims": [record(claim) for claim in chosen]}, ensure_ascii=False))
    else:
        console().print(terminal.family_table(claim_table(chosen)))


def _show(claim: Claim, seed: int, as_json: bool) -> None:
    from kullback.claims.pages import record, shown

    if as_json:
        typer.echo(json.dumps(record(claim, claim.findings(seed)), ensure_ascii=False))
    else:
        screen = console()
        screen.print(shown(claim, seed))
        # Not folded to the width of the terminal, so that it can be copied.
        screen.print(claim.code, soft_wrap=True, markup=False, highlight=False)
