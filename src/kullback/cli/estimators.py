"""``kullback estimators``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kullback.cli.screen import console


def estimators(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Every estimator and every trainer's KL loss: what it is, whose gradient it follows, how noisy it is.

    All of it is computed by enumeration on exact worlds. For example:

        kullback estimators --json
    """
    from kullback.jobs.catalogue import estimator_table, surrogate_table, target_table
    from kullback.report import terminal

    tables = (estimator_table(), surrogate_table(), target_table())
    if as_json:
        record = {t.title.lower(): [dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in tables}
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    for table in tables:
        console().print(terminal.family_table(table))
