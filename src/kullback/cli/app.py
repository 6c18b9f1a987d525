"""The commands, put together."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kullback.cli.audits import audit
from kullback.cli.claims import claims
from kullback.cli.comparison import compare
from kullback.cli.doctor import doctor
from kullback.cli.estimation import estimate
from kullback.cli.estimators import estimators
from kullback.cli.experiments import lab
from kullback.cli.net import DEBUG, run
from kullback.cli.scoring import score
from kullback.cli.verification import verify
from kullback.cli.watching import watch

app = typer.Typer(
    name="kullback",
    help="How far a language-model policy is from its reference, with an error on every number.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (compare, estimate, score, watch, audit, verify, estimators, claims, doctor):
    app.command()(command)
app.add_typer(lab, name="lab")


def _print_version(wanted: bool) -> None:
    if wanted:
        from kullback import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog="For example: `kullback compare` compares the pair of models that ships with the package.")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of whatever goes wrong.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run the command line."""
    run(app)
