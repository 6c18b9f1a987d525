"""``kullback estimators``."""

from __future__ import annotations

from typing import Annotated

import typer

from kullback.cli.screen import show


def estimators(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Every estimator and every trainer's KL loss: what it is, whose gradient it follows, how noisy it is.

    All of it is computed by enumeration on exact worlds. For example:

        kullback estimators --json
    """
    from kullback.jobs.catalogue import catalogued

    show(catalogued(), as_json)
