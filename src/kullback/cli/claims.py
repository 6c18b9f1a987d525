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
    question: Annotated[
        str,
        typer.Option(
            help="Only what answers a question: estimator, noise, placement, level, direction, mismatch, memory, "
            "log, training.",
        ),
    ] = "",
    document: Annotated[
        str, typer.Option(help="What a document says, 000 to 004, in its own order with verdicts and numbers.")
    ] = "",
    source: Annotated[str, typer.Option(help="Only claims of a source: 000 to 004, schulman, amini, trl, …")] = "",
    verdict: Annotated[str, typer.Option(help="Only holds, condition, fails or undecided.")] = "",
    seed: Annotated[
        int, typer.Option(help="The random world that a general claim is computed in.", callback=within(0, 2**63 - 1))
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What has been published about estimating a KL divergence, and what a computation makes of it.

    For example, what is known of a question, what a document says, then one claim with its numbers and code:

        kullback claims --question mismatch

        kullback claims --document 000

        kullback claims 004-gradient-of-fS
    """
    from kullback.claims import CLAIMS
    from kullback.claims.pages import ClaimList, StatementList, decided
    from kullback.claims.questions import QUESTIONS
    from kullback.claims.statements import STATEMENTS
    from kullback.errors import KullbackError

    titles = {place.key: place.title for statement in STATEMENTS for place, _ in statement.quotes}
    _known(question, ["", *QUESTIONS.names], "question")
    _known(document, ["", *titles], "document")
    _known(source, ["", *dict.fromkeys(key for claim in CLAIMS for key in claim.sources)], "source")
    _known(verdict, ["", *VERDICTS], "verdict")
    filters = [name for name in (question, source, verdict) if name]
    if (claim_id and (filters or document)) or (document and filters):
        fail("an ID and --document each stand alone: leave out --question, --source and --verdict")
    try:
        if claim_id:
            show(decided(CLAIMS[_known(claim_id, CLAIMS.names, "claim")], seed), as_json)
            return
        if document:
            show(StatementList(document, titles[document], seed), as_json)
            return
        asked = QUESTIONS[question] if question else None
        wanted = asked.claims if asked else tuple(CLAIMS)
        kept = (c for c in wanted if (not source or source in c.sources) and verdict.upper() in ("", c.verdict.name))
        show(ClaimList(tuple(kept), asked), as_json)
    except KullbackError as error:
        fail(str(error))


def _known(name: str, names: Iterable[str], what: str) -> str:
    """The name, or an error with the nearest that there are."""
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, [name for name in names if name], n=3, cutoff=0.0)
        fail(f"there is no {what} {name!r}; the nearest are {', '.join(near)}")
    return name
