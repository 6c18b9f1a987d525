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
import re
import reprlib
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class _Short(reprlib.Repr):
    """What a sentence has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits.
        return repr(x) if abs(x) < 10**30 else f"an integer of about {int(x.bit_length() * 0.30103) + 1:,} digits"


_SHORT = _Short()


def shown(value: object) -> str:
    """A value that came, as a sentence shows it: what is long is cut, with … in the middle or "..." at the end.

    Example:
        >>> shown("k7"), shown(10**5000)
        ("'k7'", 'an integer of about 5,001 digits')
    """
    return _SHORT.repr(value)


class KullbackError(Exception):
    """Root of every error this package raises on purpose; its text says what came and what to do.

    Attributes:
        result: what a job had finished when the error ended it, or None.

    Example:
        >>> import kullback as kb
        >>> try:
        ...     kb.estimate([[0.5]], [[-1.0]], estimator="k1")
        ... except kb.errors.KullbackError as error:
        ...     print(type(error).__name__, isinstance(error, ValueError))
        InputError True
    """

    result: Any = None

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InputError(KullbackError, ValueError):
    """Values or options that cannot be right.

    Example:
        >>> import kullback as kb
        >>> try:
        ...     kb.estimate([[-1.0]], [[-1.0]], estimator="k1", unit="word")
        ... except kb.errors.InputError as error:
        ...     print(error)
        unit='word' came, but a unit is 'sequence' or 'token'
    """


class ShapeError(InputError):
    """Arrays whose shapes do not fit together.

    Example:
        >>> import kullback as kb
        >>> try:
        ...     kb.estimate([[-1.0, -2.0]], [[-1.0]], estimator="k1")
        ... except kb.errors.ShapeError as error:
        ...     print(str(error).partition(":")[0])
        row 0 has 2 tokens in logprobs and 1 in ref_logprobs
    """


class NameUnknownError(KullbackError, KeyError):
    """No member of a family has the name that was asked for.

    Example:
        >>> import kullback as kb
        >>> try:
        ...     kb.ESTIMATORS["k7"]
        ... except kb.errors.NameUnknownError as error:
        ...     print(str(error).split(";")[0])
        there is no 'k7'
    """


class ModelError(KullbackError, OSError):
    """A model or tokenizer that cannot be loaded or used.

    Example:
        >>> isinstance(ModelError("no model there"), OSError)
        True
    """


class FileError(KullbackError, OSError):
    """A file that cannot be read or written.

    Example:
        >>> import kullback as kb
        >>> try:
        ...     kb.read_rollouts("nowhere.parquet")
        ... except kb.errors.FileError as error:
        ...     print(error)
        nowhere.parquet cannot be read as rollouts: there is no such file, check the path
    """


class UnfinishedError(FileError):
    """A file that ends in the middle: it is still being written, or its writer was stopped.

    Example:
        >>> issubclass(UnfinishedError, FileError)
        True
    """


class MissingPackageError(KullbackError, ImportError):
    """An optional package that is not installed.

    Example:
        >>> str(MissingPackageError("numba", "fast")).startswith("numba is needed for this and is not installed: ")
        True
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed for this and is not installed: {install_line(extra)}")


def install_line(extra: str) -> str:
    """The command that adds an extra to the package as it is installed: from a checkout, a wheel, a URL or an index.

    Where it came from is what the installer noted down (PEP 610), or the checkout that the code lies in. If that is
    gone, the packages of the extra are named themselves.

    Example:
        >>> install_line("hf").startswith(("pip install ", "uv pip install "))
        True
    """
    pip = "uv pip" if _noted("INSTALLER").strip() == "uv" else "pip"  # what uv makes has no pip
    return f"{pip} install {shlex.join(_wanted(extra))}"


def remedy(error: BaseException) -> str:
    """The command that installs what an import lacked, or "" where no extra of ours has it.

    Example:
        >>> remedy(ModuleNotFoundError("No module named 'my_rewards'", name="my_rewards"))
        ''
    """
    package = ((isinstance(error, ModuleNotFoundError) and error.name) or "").partition(".")[0]
    if not package or (package in sys.modules and sys.modules[package] is not None):
        return ""  # it is there, and what it lacks is no package of its own
    extra = _extra_of(package)
    return install_line(extra) if extra else ""


def _extra_of(package: str) -> str | None:
    from importlib import metadata

    wanted = [line.partition(";") for line in metadata.requires("kullback") or ()]
    named = [marker for line, _, marker in wanted if re.match(rf"{re.escape(package)}(?![\w-])", line)]
    extras = {found[1] for marker in named if (found := re.search(r"extra == ['\"](\w+)['\"]", marker))}
    extras -= {"all", "bench", "dev"}
    return package if package in extras else min(extras, default=None)


def _wanted(extra: str) -> list[str]:
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and Path(__file__).parent.parent.name == "src":
        return [_placed(checkout, extra)]
    url = _origin()
    if not url:
        return [f"kullback[{extra}]"]
    if not url.startswith("file:"):
        return [f"kullback[{extra}] @ {url}"]
    source = Path(unquote(urlsplit(url).path))
    return [_placed(source, extra)] if source.exists() else _packages(extra)


def _placed(source: Path, extra: str) -> str:
    return f"{'.' if source == Path.cwd() else source}[{extra}]"


def _origin() -> str:
    """The URL that the package was installed from, as pip takes it; "" where that was an index."""
    try:
        noted = json.loads(_noted("direct_url.json") or "{}")
        version = noted.get("vcs_info")
        return f"{version['vcs']}+{noted['url']}@{version['commit_id']}" if version else str(noted.get("url", ""))
    except (ValueError, KeyError, AttributeError):
        return ""


def _packages(extra: str) -> list[str]:
    """What the extra stands for, as the installed package says."""
    from importlib import metadata

    wanted = (line.partition(";") for line in metadata.requires("kullback") or ())
    return [name.strip() for name, _, marker in wanted if re.search(rf"extra == ['\"]{extra}['\"]", marker)]


def _noted(name: str) -> str:
    """A file that the installer left beside the package."""
    from importlib import metadata  # loads much, for a message that is seldom needed

    try:
        return metadata.distribution("kullback").read_text(name) or ""
    except metadata.PackageNotFoundError:
        return ""


class StoppedError(KullbackError, KeyboardInterrupt):
    """A job that its user stopped.

    Example:
        >>> isinstance(StoppedError("stopped after 3 of 20 prompts"), KeyboardInterrupt)
        True
    """
