"""``kullback claims``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

import typer

from kullback.cli.options import within
from kullback.cli.screen import fail, show

VERDICTS = ("holds", "condition", "fails", "undecided")


def claims(
    claim_id: Annotated[str, typer.Argument(metavar="[ID]", help="Show this claim, its numbers computed now.")] = "",
    source: Annotated[str, typer.Option(help="Only claims of a source: 000 to 004, schulman, amini, trl, …")] = "",
    verdict: Annotated[str, typer.Option(help="Only holds, condition, fails or undecided.")] = "",
    seed: Annotated[
        int, typer.Option(help="The random world that a general claim is computed in.", callback=within(0, 2**63 - 1))
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What has been published about estimating a KL divergence, and what a computation makes of it.

    For example, all that fails, then one claim with its numbers and the code behind them:

        kullback claims --verdict fails

        kullback claims 004-gradient-of-fS
    """
    from kullback.claims import CLAIMS
    from kullback.claims.pages import ClaimList, decided
    from kullback.errors import KullbackError

    sources = dict.fromkeys(key for claim in CLAIMS for key in claim.sources)
    _known(source, ["", *sources], "source")
    _known(verdict, ["", *VERDICTS], "verdict")
    try:
        if claim_id:
            show(decided(CLAIMS[_known(claim_id, CLAIMS.names, "claim")], seed), as_json)
            return
        wanted = (claim for claim in CLAIMS if not source or source in claim.sources)
        show(ClaimList(tuple(c for c in wanted if not verdict or c.verdict.name == verdict.upper())), as_json)
    except KullbackError as error:
        fail(str(error))


def _known(name: str, names: Iterable[str], what: str) -> str:
    """The name, or an error with the nearest that there are."""
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, [name for name in names if name], n=3, cutoff=0.0)
        fail(f"there is no {what} {name!r}; the nearest are {', '.join(near)}")
    return name
