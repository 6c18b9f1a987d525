"""What can go wrong, as exceptions that are one sentence for people.

::

    KullbackError
    ├── InputError          (ValueError)    log-probs, masks or options that cannot be right
    │   └── ShapeError                      arrays whose shapes do not fit together
    ├── NameUnknownError    (KeyError)      no member of a family has that name
    ├── ModelError          (OSError)       a model or tokenizer that cannot be used
    ├── FileError           (OSError)       a file that cannot be read or written
    ├── MissingPackageError (ImportError)   an optional package that is not installed
    └── StoppedError        (KeyboardInterrupt)  a job the user stopped

An error that ends a job half-way carries what was finished in `result`.
"""

from __future__ import annotations

from typing import Any


class KullbackError(Exception):
    """Root of every error this package raises on purpose; its text says what came and what to do.

    Attributes:
        result: what a job had finished when the error ended it, or None.
    """

    result: Any = None

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InputError(KullbackError, ValueError):
    """Values or options that cannot be right."""


class ShapeError(InputError):
    """Arrays whose shapes do not fit together."""


class NameUnknownError(KullbackError, KeyError):
    """No member of a family has the name that was asked for."""


class ModelError(KullbackError, OSError):
    """A model or tokenizer that cannot be loaded or used."""


class FileError(KullbackError, OSError):
    """A file that cannot be read or written."""


class MissingPackageError(KullbackError, ImportError):
    """An optional package that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed for this and is not installed: pip install 'kullback[{extra}]'")


class StoppedError(KullbackError, KeyboardInterrupt):
    """A job that its user stopped."""
