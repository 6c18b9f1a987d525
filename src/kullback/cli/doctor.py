"""``kullback doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from kullback.cli.screen import show


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What this installation has, and what each command would need. For example:

    kullback doctor --json
    """
    from kullback.jobs.doctor import diagnosed

    show(diagnosed(), as_json)
