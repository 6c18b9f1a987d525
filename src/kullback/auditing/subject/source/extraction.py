"""Taking a function out of its file by its syntax tree, with what it uses and nothing else."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from kullback.auditing.subject.source.binding import Located, Members
from kullback.auditing.subject.source.files import Package, module_file, relative_file, shown
from kullback.auditing.subject.source.syntax import (
    bare,
    dotted_names,
    first_assignments,
    function_of,
    names_bound,
    names_read,
)
from kullback.errors import FileError, InputError, remedy

SCRIPT = "__main__"
"""In the place of a function: the statements of the file itself."""

DEFINES = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Luggage:
    """What came along with one function, out of its own file and others.

    Attributes:
        helpers: functions, classes and constants of the same package.
        missing: names that could not be resolved.
        dropped: decorators that were left out.
        seen: names of files that are on their way, so that two files may import each other.
        found: those of them that have arrived, for every file that asks again.
    """

    helpers: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    seen: set[tuple[Path, str]] = field(default_factory=set)
    found: dict[tuple[Path, str], Any] = field(default_factory=dict)


def take(path: Path, qualname: str, *, because: BaseException | None = None) -> Located:
    """The function as its file has it, a method with its `self`; ``f>a>b`` is f's first assignments to a and to b.

    The latter become a function of the names that they read, which returns the last one.
    """
    qualname, *variables = qualname.split(">")
    taker = Taker(path, Luggage())
    fn = taker.take(qualname, variables)
    along = taker.luggage
    said = [
        f"the statements of {qualname} that assign {' and '.join(variables)}, " if variables else "",
        f"taken out of {shown(path)}, line {taker.line}",
        f" with {', '.join(along.helpers)}" if along.helpers else "",
        "" if because is None else f", because importing it failed ({_reason(because)})",
        f"; without decorator {', '.join(along.dropped)}" if along.dropped else "",
        f"; not resolved: {', '.join(dict.fromkeys(along.missing))}" if along.missing else "",
        "; nothing else of the file ran",
    ]
    owner = qualname.rpartition(".")[0]
    members = taker.members(owner) if owner and not variables else None
    return Located(fn, "".join(said), shown(path), taker.line, members)


@lru_cache(maxsize=64)
def _parsed(path: Path, _changed: int) -> ast.Module:
    """A file's code, read once for all that is taken out of it."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def one_line(error: BaseException) -> str:
    """An error's message, short enough for a line."""
    return " ".join(str(error).split())[:120]


def _reason(error: BaseException) -> str:
    command = remedy(error)
    return f"{type(error).__name__}: {one_line(error)}{f'; {command} brings it' if command else ''}"


def let_through(error: BaseException) -> None:
    """Raise what stops the program; everything else is the audited code's own affair."""
    if isinstance(error, KeyboardInterrupt):
        raise error


class Taker:
    """Takes names out of one file, and what they need of the same package out of other files.

    Attributes:
        namespace: what has been defined so far.
        line: where the function that was taken begins.
        luggage: what came along.
    """

    def __init__(self, path: Path, luggage: Luggage) -> None:
        self.path = path.resolve()
        self.luggage = luggage
        self.line = 0
        try:
            tree = _parsed(path, path.stat().st_mtime_ns)
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise FileError(f"{path} cannot be read as Python: {one_line(error)}") from None
        self.tree = tree
        self.top = dict(names_bound(tree.body))
        self._package = Package.of(self.path)
        self.namespace: dict[str, Any] = {"__name__": f"taken out of {path.name}", "__file__": str(path)}

    def take(self, qualname: str, variables: list[str]) -> Any:
        """The function, with all it uses in its globals."""
        whole = self.tree if qualname == SCRIPT and variables else None
        node = self._find(qualname) if whole is None else None
        self.line = 0 if node is None else node.lineno
        if node is None or variables:
            node, self.line = self._statements(whole or self._find(qualname), variables)
        self.need(node, set() if "." in qualname else {node.name})
        self._define(node)
        return self.namespace[node.name]

    def members(self, owner: str) -> Members:
        """The members of a class of this file and of the bases that are in it, taken out one by one when asked for."""

        def member(name: str) -> Any:
            node = self._member(owner, name)
            if node is None:
                raise AttributeError(name)
            kept = self.namespace.get(name)
            self.need(node, set())
            self._define(node)
            found = self.namespace.pop(name, None)
            if kept is not None:
                self.namespace[name] = kept
            return found

        return member

    def _member(self, owner: str, name: str) -> ast.stmt | None:
        """The statement that gives a class a member, its own or a base's."""
        node = self.top.get(owner)
        if not isinstance(node, ast.ClassDef):
            return None
        own = dict(names_bound(node.body)).get(name)
        bases = (base.id for base in node.bases if isinstance(base, ast.Name))
        return own or next((found for base in bases if (found := self._member(base, name)) is not None), None)

    def need(self, node: ast.AST, having: set[str]) -> None:
        """Define everything that a statement's names stand for."""
        for name in dict.fromkeys(names_read(node)):
            if name in having or name in self.namespace or hasattr(builtins, name) or name not in self.top:
                continue
            having.add(name)
            statement = self.top[name]
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._bring(name, statement)
                continue
            self.need(statement, having)
            self._define(statement)
            if name in self.namespace:
                self.luggage.helpers.append(name)

    def _find(self, qualname: str) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef:
        name, _, member = qualname.partition(".")
        node = self.top.get(name)
        if member:
            node = self._member(name, member)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            raise InputError(f"{self.path} has no function {qualname}")
        return node

    def _statements(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module, variables: list[str]
    ) -> tuple[ast.FunctionDef, int]:
        """A function of the first assignments to some variables, and the line of the first."""
        found = first_assignments(node)
        if lacking := [name for name in variables if name not in found]:
            raise InputError(f"{self.path} does not assign {lacking[0]} in {getattr(node, 'name', 'the script')}")
        body = [found[name] for name in variables]
        read = dict.fromkeys(name for statement in body for name in names_read(statement))
        # A script's own variables are given, too: nothing of it is run.
        known = {n for n, bound in self.top.items() if not isinstance(node, ast.Module) or isinstance(bound, DEFINES)}
        free = [n for n in read if n not in variables and n not in known and not hasattr(builtins, n)]
        return function_of(free, body, variables[-1]), body[0].lineno

    def _define(self, node: ast.stmt) -> None:
        stripped, dropped = bare(node)
        self.luggage.dropped += dropped
        for chain in dotted_names(stripped):
            self._bring_submodules(chain)
        # Lines as in the file, so that a traceback points there.
        ast.increment_lineno(ast.fix_missing_locations(stripped), node.lineno - 1)
        try:
            exec(compile(stripped, str(self.path), "exec"), self.namespace)
        except Exception:
            if isinstance(node, ast.FunctionDef):
                raise
            self.luggage.missing += [name for name, _ in names_bound([node])]

    def _bring(self, name: str, statement: ast.Import | ast.ImportFrom) -> None:
        """One imported name: out of its own file where it is of the same package, else by importing it."""
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
        try:
            if isinstance(statement, ast.ImportFrom):
                self._bring_from(name, statement, alias)
            elif alias.asname and (own := self._package.file(alias.name)) is not None:
                self.namespace[name] = Lazy(own, self.luggage)
            else:
                imported = importlib.import_module(alias.name)
                self.namespace[name] = imported if alias.asname else sys.modules[name]
        except BaseException as error:
            let_through(error)
            self.luggage.missing.append(name)

    def _bring_submodules(self, chain: list[str]) -> None:
        """The modules of ``torch.distributed.tensor.DTensor`` that nobody has loaded: the rest of its package would."""
        found = self.namespace.get(chain[0])
        for name in chain[1:]:
            if not isinstance(found, ModuleType):
                return
            if not hasattr(found, name):
                with contextlib.suppress(Exception):
                    importlib.import_module(f"{found.__name__}.{name}")
            found = getattr(found, name, None)

    def _bring_from(self, name: str, statement: ast.ImportFrom, alias: ast.alias) -> None:
        module = statement.module or ""
        if statement.level:
            own = relative_file(self.path.parents[statement.level - 1], module, alias.name)
        else:
            own = self._package.file(module)
        if own is not None:
            self._bring_from_file(own, alias.name, name)
            return
        source = importlib.import_module(module)
        found = getattr(source, alias.name, None)
        self.namespace[name] = found or importlib.import_module(f"{module}.{alias.name}")

    def _bring_from_file(self, file: Path, wanted: str, name: str) -> None:
        other = Taker(file, self.luggage)
        inside = module_file(file.parent, [wanted]) if file.name == "__init__.py" else None
        if wanted not in other.top and inside is not None:
            self.namespace[name] = Lazy(inside, self.luggage)
            return
        if (file, wanted) in self.luggage.seen:
            if (file, wanted) in self.luggage.found:
                self.namespace[name] = self.luggage.found[file, wanted]
            return
        self.luggage.seen.add((file, wanted))
        other.need(ast.parse(wanted), set())
        if wanted not in other.namespace:
            raise ImportError(wanted)
        self.namespace[name] = self.luggage.found[file, wanted] = other.namespace[wanted]


class Lazy:
    """A module of the same package, out of which a name is taken when it is used."""

    def __init__(self, file: Path, luggage: Luggage) -> None:
        self._file, self._luggage = file, luggage

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        taker = Taker(self._file, replace(self._luggage, seen=set()))
        taker.need(ast.parse(name), set())
        if name not in taker.namespace:
            raise AttributeError(f"{self._file} has no {name} that could be resolved")
        found = taker.namespace[name]
        setattr(self, name, found)
        return found
