"""Where the files of a package are, found without running any of it."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """The package that a file belongs to.

    Attributes:
        root: the folder that holds the package.
        name: the package's; empty for a file of its own.
    """

    root: Path
    name: str

    @classmethod
    def of(cls, path: Path) -> Package:
        """By the highest folder with an __init__.py above the file; folders without one count between."""
        folders = [folder for folder in path.parents if (folder / "__init__.py").is_file()]
        return cls(folders[-1].parent, folders[-1].name) if folders else cls(path.parent, "")

    def file(self, module: str) -> Path | None:
        """The file of one of the package's modules; None for a module of another package."""
        parts = module.split(".")
        return module_file(self.root, parts) if self.name and parts[0] == self.name else None


def shown(path: str | Path) -> str:
    """A path as reports show it: from the working folder or from its package on, never from the machine's root.

    Example:
        >>> shown("/usr/lib/python3/site-packages/trl/trainer/utils.py")
        'trl/trainer/utils.py'
    """
    given = Path(path)
    if not given.is_absolute():
        return str(path)
    with contextlib.suppress(ValueError):
        return str(given.relative_to(Path.cwd()))
    parts = given.parts
    for mark in ("site-packages", "dist-packages"):
        if mark in parts:
            return str(Path(*parts[len(parts) - parts[::-1].index(mark) :]))
    package = Package.of(given)
    return str(given.relative_to(package.root)) if package.name else given.name


def installed_file(module: str) -> Path | None:
    """The file of an installed module, found without running its package."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    files = (module_file(Path(root), rest) for root in spec.submodule_search_locations or [])
    return next((file for file in files if file is not None), None)


def module_file(root: Path, parts: list[str]) -> Path | None:
    """The file of ``a.b``, parts ["a", "b"], under a folder: a/b.py or a/b/__init__.py."""
    base = root.joinpath(*parts)
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def relative_file(folder: Path, module: str, name: str) -> Path | None:
    """The file that ``from .module import name`` speaks of in a folder."""
    if module:
        return module_file(folder, module.split("."))
    package = folder / "__init__.py"
    return module_file(folder, [name]) or (package if package.is_file() else None)
