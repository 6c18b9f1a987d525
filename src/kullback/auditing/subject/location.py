"""Getting hold of a function by its name: imported, or taken out of its file where that is not possible.

Many trainers' KL functions are a few lines of torch in a module that imports a whole training stack. Such a
function is taken out of its file by its syntax tree, together with the helpers, constants and imports that it
uses, and nothing else of the file runs.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kullback.errors import FileError, InputError

Statement = ast.stmt
HARMLESS = (
    "staticmethod",
    "classmethod",
    "property",
    "torch",
    "functools",
    "contextlib",
    "dataclass",
    "contextmanager",
)
"""Decorators that are kept; the others register things or belong to the training stack."""


@dataclass(frozen=True)
class Located:
    """A function, and how it was got hold of."""

    fn: Callable[..., Any]
    origin: str


@dataclass
class Taken:
    """What was taken out of a file for one function.

    Attributes:
        helpers: functions, classes and constants of the same package that came along.
        missing: names that could not be resolved.
        dropped: decorators that were left out.
    """

    helpers: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def locate(target: str, attributes: dict[str, Any] | None = None) -> Located:
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
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise FileError(f"there is no file {where}")
        try:
            return _bound(_attribute(_module_of(path), qualname, target), qualname, f"imported from {path}", attributes)
        except _NotThere:
            raise InputError(f"{path} has no {qualname}") from None
        except BaseException as error:
            _let_through(error)
            return taken_out(path, qualname, attributes, because=error)
    try:
        module = importlib.import_module(where)
        return _bound(_attribute(module, qualname, target), qualname, f"imported from {where}", attributes)
    except _NotThere:
        raise InputError(f"{where} has no {qualname}") from None
    except BaseException as error:
        _let_through(error)
        found = _file_of(where)
        if found is None:
            raise InputError(f"{where} cannot be imported: {type(error).__name__}: {error}") from None
        return taken_out(found, qualname, attributes, because=error)


class _NotThere(Exception):
    pass


class _Self(SimpleNamespace):
    """A stand-in for a method's object."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"self has no {name!r} here: give it with --set self.{name}=VALUE")


def _let_through(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        raise error


def _module_of(path: Path) -> Any:
    name = f"_kullback_audited_{abs(hash(str(path.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _attribute(module: Any, qualname: str, target: str) -> Any:
    found = module
    for part in qualname.split("."):
        # Not getattr: a method is bound to a stand-in for its object, not to its class.
        inside = vars(found)
        if part not in inside:
            found = getattr(found, part, None)
            if found is None:
                raise _NotThere(target)
            continue
        found = inside[part]
    return found


def _bound(found: Any, qualname: str, origin: str, attributes: dict[str, Any] | None) -> Located:
    """A static method's function; a method on a stand-in for `self` that has the given attributes."""
    if isinstance(found, staticmethod):
        return Located(found.__func__, origin)
    if isinstance(found, classmethod):
        return Located(found.__func__.__get__(_Self(**(attributes or {}))), origin)
    if "." in qualname and hasattr(found, "__get__"):
        return Located(found.__get__(_Self(**(attributes or {}))), origin)
    if not callable(found):
        raise InputError(f"{qualname} is a {type(found).__name__}, but a function is needed")
    return Located(found, origin)


def _file_of(module: str) -> Path | None:
    """A module's file, found without running its package."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    roots = list(spec.submodule_search_locations or [])
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return next((file for root in roots if (file := _module_file(Path(root), rest)) is not None), None)


def _module_file(root: Path, parts: list[str]) -> Path | None:
    base = root.joinpath(*parts)
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def taken_out(
    path: Path, qualname: str, attributes: dict[str, Any] | None = None, *, because: BaseException | None = None
) -> Located:
    """The function alone, with its own helpers; nothing else of its file runs.

    Raises:
        InputError: the file has no such function.
        FileError: the file cannot be read as Python.
    """
    found = take(path, qualname, because=because)
    return _bound(found.fn, qualname, found.origin, attributes)


def take(path: Path, qualname: str, *, because: BaseException | None = None) -> Located:
    """The function as its file has it, a method with its `self`; ``f>a>b`` is f's first assignments to a and to b.

    The latter become a function of the names that they read, which returns the last one.
    """
    qualname, *variables = qualname.split(">")
    taker = _Taker(path)
    found = taker.take(qualname, variables)
    taken = taker.taken
    what = f"the statements of {qualname} that assign {' and '.join(variables)}, " if variables else ""
    why = "" if because is None else f", because importing it failed ({type(because).__name__}: {_line(because)})"
    along = f" with {', '.join(taken.helpers)}" if taken.helpers else ""
    without = f"; without decorator {', '.join(taken.dropped)}" if taken.dropped else ""
    lacking = f"; not resolved: {', '.join(dict.fromkeys(taken.missing))}" if taken.missing else ""
    origin = f"{what}taken out of {path}, line {taker.line}{along}{why}{without}{lacking}; nothing else of the file ran"
    return Located(found, origin)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


class _Taker:
    """Takes one name out of a file, and what it needs of the same package out of other files."""

    def __init__(self, path: Path, taken: Taken | None = None, seen: set[tuple[Path, str]] | None = None) -> None:
        self.path = path.resolve()
        self.taken = taken or Taken()
        self.line = 0
        self._seen = seen if seen is not None else set()
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise FileError(f"{path} cannot be read as Python: {_line(error)}") from None
        self._top = dict(_named(tree.body))
        self._package = _package_of(self.path)
        self.namespace: dict[str, Any] = {"__name__": f"taken out of {path.name}", "__file__": str(path)}

    def take(self, qualname: str, variables: list[str]) -> Any:
        """The function, with all it uses in its globals."""
        node = self._find(qualname)
        self.line = getattr(node, "lineno", 0)
        if variables:
            node, self.line = self._statements(node, variables)
        own = getattr(node, "name", "")
        self._need(node, set() if "." in qualname else {own})
        self._define(node)
        return self.namespace[own]

    def _statements(self, node: Statement, variables: list[str]) -> tuple[Statement, int]:
        """A function of the first assignments to some variables, in the order of the file."""
        found: dict[str, Statement] = {}
        for part in sorted(ast.walk(node), key=lambda part: getattr(part, "lineno", 0)):
            if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                found.setdefault(part.targets[0].id, part)
        if lacking := [name for name in variables if name not in found]:
            raise InputError(f"{self.path} does not assign {lacking[0]} in {getattr(node, 'name', '')}")
        body: list[Statement] = [found[name] for name in variables]
        read = dict.fromkeys(name for statement in body for name in _names(statement))
        free = [n for n in read if n not in variables and n not in self._top and not hasattr(builtins, n)]
        made = ast.parse(f"def {variables[-1]}({', '.join(free)}): return {variables[-1]}").body[0]
        assert isinstance(made, ast.FunctionDef)
        made.body = [*body, *made.body]
        return ast.fix_missing_locations(made), body[0].lineno

    def _find(self, qualname: str) -> Statement:
        name, _, member = qualname.partition(".")
        node = self._top.get(name)
        if isinstance(node, ast.ClassDef) and member:
            node = dict(_named(node.body)).get(member)
        elif member:
            node = None
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            raise InputError(f"{self.path} has no function {qualname}")
        return node

    def _need(self, node: ast.AST, having: set[str]) -> None:
        """Everything that a statement's names stand for, defined before it."""
        for name in dict.fromkeys(_names(node)):
            if name in having or name in self.namespace or hasattr(builtins, name) or name not in self._top:
                continue
            having.add(name)
            statement = self._top[name]
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._bring(name, statement)
                continue
            self._need(statement, having)
            self._define(statement)
            if name in self.namespace:
                self.taken.helpers.append(name)

    def _define(self, node: Statement) -> None:
        stripped = _Bare(self.taken.dropped).visit(ast.parse(ast.unparse(node)))
        # Lines as in the file, so that a traceback points there.
        ast.increment_lineno(ast.fix_missing_locations(stripped), getattr(node, "lineno", 1) - 1)
        try:
            exec(compile(stripped, str(self.path), "exec"), self.namespace)
        except Exception:
            if isinstance(node, ast.FunctionDef):
                raise
            self.taken.missing += [name for name, _ in _named([node])]

    def _bring(self, name: str, statement: ast.Import | ast.ImportFrom) -> None:
        """One imported name: out of its own file where it is of the same package, else by importing it."""
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
        module = (statement.module or "") if isinstance(statement, ast.ImportFrom) else alias.name
        level = statement.level if isinstance(statement, ast.ImportFrom) else 0
        own = self._own_file(module, level, alias.name)
        try:
            if own is not None and isinstance(statement, ast.ImportFrom):
                self._from_file(own, alias.name, name)
            elif own is not None and alias.asname:
                self.namespace[name] = _Lazy(own, self.taken, self._seen)
            elif isinstance(statement, ast.ImportFrom):
                source = importlib.import_module(module)
                self.namespace[name] = getattr(source, alias.name, None) or importlib.import_module(
                    f"{module}.{alias.name}"
                )
            else:
                imported = importlib.import_module(alias.name)
                self.namespace[name] = imported if alias.asname else sys.modules[name]
        except BaseException as error:
            _let_through(error)
            self.taken.missing.append(name)

    def _from_file(self, file: Path, wanted: str, name: str) -> None:
        other = _Taker(file, self.taken, self._seen)
        inside = _module_file(file.parent, [wanted]) if file.name == "__init__.py" else None
        if wanted not in other._top and inside is not None:
            self.namespace[name] = _Lazy(inside, self.taken, self._seen)
            return
        if (file, wanted) in self._seen:
            return
        self._seen.add((file, wanted))
        other._need(ast.parse(wanted), set())
        if wanted not in other.namespace:
            raise ImportError(wanted)
        self.namespace[name] = other.namespace[wanted]

    def _own_file(self, module: str, level: int, name: str) -> Path | None:
        root, package = self._package
        if level:
            base = self.path.parents[level - 1]
            parts = module.split(".") if module else []
            return _module_file(base, parts) if parts else _module_file(base, [name]) or _init(base)
        parts = module.split(".")
        if package and parts[0] == package:
            return _module_file(root, parts)
        return None


class _Lazy:
    """A module of the same package, out of which a name is taken when it is used."""

    def __init__(self, file: Path, taken: Taken, seen: set[tuple[Path, str]]) -> None:
        self._file, self._taken, self._seen = file, taken, seen

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        taker = _Taker(self._file, self._taken, set())
        taker._need(ast.parse(name), set())
        if name not in taker.namespace:
            raise AttributeError(f"{self._file} has no {name} that could be resolved")
        found = taker.namespace[name]
        setattr(self, name, found)
        return found


def _init(base: Path) -> Path | None:
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


def _package_of(path: Path) -> tuple[Path, str]:
    """The folder above a file's package, and the package's name; folders without __init__.py count between."""
    packages = [folder for folder in path.parents if (folder / "__init__.py").is_file()]
    if not packages:
        return path.parent, ""
    return packages[-1].parent, packages[-1].name


def _named(body: list[Statement]) -> Iterator[tuple[str, Statement]]:
    """Names that statements bind, also those within if, try and with."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        yield part.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inside = [node.body, getattr(node, "orelse", []), *(h.body for h in getattr(node, "handlers", []))]
            for part_of in reversed(inside):
                yield from _named(part_of)


def _names(node: ast.AST) -> Iterator[str]:
    """Names that a statement reads, annotations left out."""
    bare = _Bare([]).visit(ast.parse(ast.unparse(node)))
    for part in ast.walk(bare):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part.id


class _Bare(ast.NodeTransformer):
    """Without annotations, and without decorators of the training stack."""

    def __init__(self, dropped: list[str]) -> None:
        self.dropped = dropped

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        """Without them, and the same inside."""
        self.generic_visit(node)
        node.returns = None
        everything = node.args
        named = [*everything.posonlyargs, *everything.args, *everything.kwonlyargs]
        for arg in (*named, everything.vararg, everything.kwarg):
            if arg is not None:
                arg.annotation = None
        kept = [d for d in node.decorator_list if _root(d) in HARMLESS]
        self.dropped += [f"@{ast.unparse(d)}" for d in node.decorator_list if d not in kept]
        node.decorator_list = kept
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """A dataclass's fields stay fields, whatever their types."""
        node.annotation = ast.copy_location(ast.Constant("object"), node)
        return node


def _root(decorator: ast.expr) -> str:
    node: ast.AST = decorator
    while not isinstance(node, ast.Name):
        node = getattr(node, "value", None) or getattr(node, "func", None) or ast.Name("")
    return node.id
