"""Packages of an extra, or the line that installs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kullback.errors import MissingPackageError


def needed(package: str, extra: str = "hf") -> Any:
    """A package that is not there without its extra.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        raise MissingPackageError(package, extra) from None
