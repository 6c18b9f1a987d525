"""From ``package.module:function`` or ``file.py:Class.method`` to the function."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kullback.auditing.subject.source.binding import Located, members_of
from kullback.auditing.subject.source.extraction import let_through, take
from kullback.auditing.subject.source.files import installed_file, shown
from kullback.errors import FileError, InputError


def locate(target: str, attributes: Mapping[str, object] | None = None) -> Located:
    """The function that ``package.module:function`` or ``path/to/file.py:Class.method`` names.

    Args:
        target: the module or file, a colon, and the function.
        attributes: what `self` has, for a method that needs one.

    Raises:
        InputError: a target that is not written like this, or a name that the file does not have.
        FileError: a file that is not there or is not Python.
    """
    where, _, qualname = target.rpartition(":")
    if not where or not qualname:
        raise InputError(f"{target!r} came, but a target is package.module:function, file.py:function or a trainer")
    if where.endswith(".py") and not Path(where).is_file():
        raise FileError(f"there is no file {where}")
    if not where.endswith(".py") and "/" in where:
        kind = "a folder" if Path(where).is_dir() else "a file of another kind" if Path(where).exists() else "not there"
        raise FileError(f"{where} is {kind}, but a target is package.module:function or file.py:function")
    try:
        module = _module_of(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        return _imported(module, qualname, where, attributes).bound(qualname, attributes)
    except _NotThere:
        raise InputError(f"{where} has no {qualname}") from None
    except InputError:
        raise
    except BaseException as error:
        # A module may do anything when it is imported, exit included.
        let_through(error)
        file = Path(where) if where.endswith(".py") else installed_file(where)
        if file is None:
            raise InputError(f"{where} cannot be imported: {type(error).__name__}: {error}") from None
        return taken_out(file, qualname, attributes, because=error)


def taken_out(
    path: Path, qualname: str, attributes: Mapping[str, object] | None = None, *, because: BaseException | None = None
) -> Located:
    """The function alone, with its own helpers; nothing else of its file runs.

    Raises:
        InputError: the file has no such function.
        FileError: the file cannot be read as Python.
    """
    return take(path, qualname, because=because).bound(qualname, attributes)


def _imported(module: ModuleType, qualname: str, where: str, attributes: Mapping[str, object] | None) -> Located:
    """The function of a module, with where it begins and with its class's other members."""
    found = _attribute(module, qualname)
    owner = _attribute(module, qualname.rpartition(".")[0]) if "." in qualname else None
    code = getattr(inspect.unwrap(getattr(found, "__func__", found)), "__code__", None)
    file, line = (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)
    members = members_of(owner, attributes or {}) if isinstance(owner, type) else None
    return Located(found, f"imported from {shown(where)}", shown(file), line, members)


class _NotThere(Exception):
    """A module without the name that is looked for."""


def _module_of(path: Path) -> ModuleType:
    name = f"_kullback_audited_{abs(hash(str(path.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module


def _attribute(module: ModuleType, qualname: str) -> Any:
    found: object = module
    for part in qualname.split("."):
        # Not getattr first: a method is bound to a stand-in for its object, not to its class.
        inside = vars(found)
        found = inside[part] if part in inside else getattr(found, part, None)
        if found is None and part not in inside:
            raise _NotThere(qualname)
    return found
