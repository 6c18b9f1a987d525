"""What can go wrong, as exceptions that are one sentence for people.

::

    KullbackError
    ├── InputError          (ValueError)    log-probs, masks or options that cannot be right
    │   └── ShapeError                      arrays whose shapes do not fit together
    ├── NameUnknownError    (KeyError)      no member of a family has that name
    ├── ModelError          (OSError)       a model or tokenizer that cannot be used
    ├── FileError           (OSError)       a file that cannot be read or written
    │   └── UnfinishedError                 a file whose writer may not have come to its end
    ├── MissingPackageError (ImportError)   an optional package that is not installed
    └── StoppedError        (KeyboardInterrupt)  a job the user stopped

An error that ends a job half-way carries what was finished in `result`.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
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


class UnfinishedError(FileError):
    """A file that ends in the middle: it is still being written, or its writer was stopped."""


class MissingPackageError(KullbackError, ImportError):
    """An optional package that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed for this and is not installed: {install_line(extra)}")


def install_line(extra: str) -> str:
    """The command that adds an extra to the package as it is installed: from a checkout, a wheel or an index.

    Where it came from is what the installer noted down (PEP 610), or the checkout that the code lies in.

    Example:
        >>> install_line("hf").startswith("pip install ")
        True
    """
    source = _source()
    if source is None:
        return f"pip install 'kullback[{extra}]'"
    place = "." if source == Path.cwd() else str(source)
    return f"pip install {shlex.quote(f'{place}[{extra}]')}"


def _source() -> Path | None:
    """The checkout or wheel that the package was installed from, if it is still there."""
    from importlib import metadata  # loads much, for a message that is seldom needed
    from urllib.parse import unquote, urlsplit

    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and Path(__file__).parent.parent.name == "src":
        return checkout
    try:
        noted = metadata.distribution("kullback").read_text("direct_url.json")
        url = urlsplit(json.loads(noted or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    found = Path(unquote(url.path))
    return found if url.scheme == "file" and found.exists() else None


class StoppedError(KullbackError, KeyboardInterrupt):
    """A job that its user stopped."""
