"""``kullback doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from kullback.cli.screen import show


def doctor(
    server: Annotated[
        str | None, typer.Option(help="Ask this server what it can say: http://host:port/v1#MODEL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What this installation has, and what each command would need; or what a server can say. For example:

    kullback doctor --json

    kullback doctor --server http://127.0.0.1:8000/v1
    """
    if server is not None:
        from kullback.jobs.servers import diagnosed_server

        show(diagnosed_server(server), as_json)
        return
    from kullback.jobs.doctor import diagnosed

    show(diagnosed(), as_json)
