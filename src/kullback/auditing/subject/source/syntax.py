"""What Python code says without being run: the names that a statement binds and reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

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


def names_bound(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that statements bind, each with its statement, also those within if, try and with."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = (part for target in targets for part in ast.walk(target))
            yield from ((part.id, node) for part in parts if isinstance(part, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            # Last first, so that what the main branch binds wins over what its alternatives bind.
            for branch in reversed(list(_branches(node))):
                yield from names_bound(branch)


def _branches(node: ast.If | ast.Try | ast.With) -> Iterator[list[ast.stmt]]:
    yield node.body
    if not isinstance(node, ast.With):
        yield node.orelse
    if isinstance(node, ast.Try):
        yield from (handler.body for handler in node.handlers)


def names_read(node: ast.AST) -> Iterator[str]:
    """Names that a statement reads, annotations left out."""
    for part in ast.walk(bare(node)[0]):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part.id


def dotted_names(node: ast.AST) -> Iterator[list[str]]:
    """``["torch", "distributed", "tensor"]`` of each ``torch.distributed.tensor``."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            chain = ast.unparse(part).split(".")
            if all(name.isidentifier() for name in chain):
                yield chain


def first_assignments(node: ast.AST) -> dict[str, ast.Assign]:
    """The first statement that assigns each variable, in the order of the file."""
    found: dict[str, ast.Assign] = {}
    assigned = (part for part in ast.walk(node) if isinstance(part, ast.Assign))
    for part in sorted(assigned, key=lambda part: part.lineno):
        if isinstance(part.targets[0], ast.Name):
            found.setdefault(part.targets[0].id, part)
    return found


def function_of(parameters: Sequence[str], body: Sequence[ast.stmt], result: str) -> ast.FunctionDef:
    """A function that runs some statements and returns the variable that it is named after."""
    tree = ast.parse(f"def {result}({', '.join(parameters)}): return {result}")
    made = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    made.body = [*body, *made.body]
    return ast.fix_missing_locations(made)


def bare(node: ast.AST) -> tuple[ast.Module, list[str]]:
    """A copy without annotations and without decorators of the training stack, and the decorators left out."""
    stripped, bared = ast.parse(ast.unparse(node)), _Bare()
    bared.visit(stripped)
    return stripped, bared.dropped


class _Bare(ast.NodeTransformer):
    def __init__(self) -> None:
        self.dropped: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # A dataclass's fields stay fields, whatever their types.
        node.annotation = ast.copy_location(ast.Constant("object"), node)
        return node

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        everything = node.args
        named = [*everything.posonlyargs, *everything.args, *everything.kwonlyargs]
        for arg in (*named, everything.vararg, everything.kwarg):
            if arg is not None:
                arg.annotation = None
        # Compiled code is the same code, and the compiler alone takes 2 seconds to load.
        given = [d for d in node.decorator_list if not ast.unparse(d).startswith("torch.compile")]
        kept = [d for d in given if _root(d) in HARMLESS]
        self.dropped += [f"@{ast.unparse(d)}" for d in given if d not in kept]
        node.decorator_list = kept
        return node


def _root(decorator: ast.expr) -> str:
    """``torch`` of ``@torch.no_grad()``."""
    node: ast.AST = decorator
    while not isinstance(node, ast.Name):
        node = getattr(node, "value", None) or getattr(node, "func", None) or ast.Name("")
    return node.id
