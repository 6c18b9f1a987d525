"""The command line: a file a command, put together in `app`."""

from kullback.cli.app import main

__all__ = ["main"]
