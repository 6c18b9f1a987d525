"""Prints the size and the habits of the source, so that they can be set beside another day's: rooms, lines, types.

python tools/house_numbers.py [FOLDER]
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import median

SOURCE = Path(__file__).resolve().parents[1] / "src" / "kullback"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)]
    rooms = {path.relative_to(folder).parts[0].removesuffix(".py") for path in trees}
    lines = [path.read_text(encoding="utf-8").count("\n") for path in trees]
    code = sum(len(_code_lines(path)) for path in trees)
    comments = sum(_comments(path) for path in trees)
    uses = sum(_any_uses(tree) for tree in trees.values())
    ignores = sum(path.read_text(encoding="utf-8").count("# type: ignore") for path in trees)
    rows = {
        "rooms at the top": f"{len(rooms)}",
        "files, lines": f"{len(lines)}, {sum(lines):,}",
        "module median / p90 / max": _spread(lines),
        "body median / p90 / max": _spread([_body_lines(f) for f in functions]),
        "slots annotated": f"{100 * _annotated(functions):.1f}%",
        "Any per 1,000 code lines": f"{1000 * uses / code:.1f} ({uses})",
        "type: ignore": f"{ignores}",
        "comments per 100 code lines": f"{100 * comments / code:.1f} ({comments})",
        "complexity mean / max / share above 10": _complexities(functions),
        "functions with more than 5 positional parameters": f"{sum(map(wide, trees.values()))}",
        "assert": f"{sum(isinstance(n, ast.Assert) for tree in trees.values() for n in ast.walk(tree))}",
    }
    for name, value in rows.items():
        print(f"{name:50} {value}")


def positional(function: Function) -> int:
    """Parameters that may be given by place, self and cls aside."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def wide(tree: ast.AST) -> int:
    """Functions of a file that take more than five."""
    return sum(positional(node) > 5 for node in ast.walk(tree) if isinstance(node, Function))


def _spread(sizes: list[int]) -> str:
    ordered = sorted(sizes)
    return f"{median(ordered):g} / {ordered[int(0.9 * (len(ordered) - 1))]} / {ordered[-1]}"


def _body_lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def _annotated(functions: list[Function]) -> float:
    slots = [slot for function in functions for slot in _slots(function)]
    return sum(slots) / len(slots)


def _slots(function: Function) -> Iterator[bool]:
    arguments = function.args
    for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if a is not None and a.arg not in ("self", "cls"):
            yield a.annotation is not None
    if function.name != "__init__":
        yield function.returns is not None


def _any_uses(tree: ast.AST) -> int:
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def _code_lines(path: Path) -> set[int]:
    """Lines that hold code: neither blank, nor a comment alone, nor part of a string that stands for itself."""
    text = path.read_text(encoding="utf-8")
    prose = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            found |= set(range(token.start[0], token.end[0] + 1))
    return found - prose


def _comments(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT and "type: ignore" not in token.string for token in tokens)


BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.Assert)


def _complexities(functions: list[Function]) -> str:
    counts = [1 + sum(_branches(node) for node in ast.walk(function)) for function in functions]
    share = 100 * sum(count > 10 for count in counts) / len(counts)
    return f"{sum(counts) / len(counts):.1f} / {max(counts)} / {share:.1f}%"


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return int(isinstance(node, BRANCHES))


if __name__ == "__main__":
    main()
