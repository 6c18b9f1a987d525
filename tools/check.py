"""The loop while writing: lint, types, and the tests of what changed, in under a minute (``make check``).

What changed is what differs from REVISION (`main` or what the branch grew from; uncommitted work included). A test
file concerns a room if it names it, or a public name that comes from it. It concerns the files beside it that it
imports, such as tests/wrong_code.py, and test_docs the rooms that generated pages come from. Types are checked beside
the tests, on the other core. Tests stop at the deadline and say how many were left: `make test` runs them all.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "kullback"
ALWAYS = ("tests/test_structure.py", "tests/test_promises.py", "tests/test_estimators.py")
"""Fast, and what breaks first."""

PAGES = {"auditing", "claims", "estimators", "surrogates", "targets"}
"""Rooms that generated pages of docs/ come from."""

DEADLINE = 40.0
"""Seconds after which no further test begins."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--since", default=_grown_from(), help="the revision to compare with")
    started = time.monotonic()
    files = _changed(parser.parse_args().since)
    failed = [command[0] for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."]) if _run(command)]
    types = subprocess.Popen([_tool("mypy")], cwd=ROOT)
    chosen = affected(files)
    print(f"{len(files)} changed files concern {', '.join(chosen)}", flush=True)
    deadline = Deadline(started + DEADLINE)
    status = pytest.main(["-q", "-x", *chosen], plugins=[deadline])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED if deadline.hit else None):
        failed.append("tests")
    if types.wait():
        failed.append("mypy")
    print(f"{time.monotonic() - started:.0f} s: " + (f"{', '.join(failed)} failed" if failed else "all is well"))
    sys.exit(1 if failed else 0)


def affected(changed: list[str]) -> list[str]:
    """The test files that concern changed files, the fast ones that always run first."""
    rooms = {Path(name).relative_to("src/kullback").parts[0] for name in changed if name.startswith("src/kullback/")}
    rooms = {room.removesuffix(".py") for room in rooms}
    tests = {name for name in changed if re.fullmatch(r"tests/test_\w+\.py", name) and (ROOT / name).exists()}
    beside = {Path(name).stem for name in changed if re.fullmatch(r"tests/(?!test_)\w+\.py", name)}
    tools = {Path(name).stem for name in changed if re.fullmatch(r"tools/\w+\.py", name)}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        imported = imports(path)
        through = {name for one in imported & set(_helpers()) for name in {one, *imports(_helpers()[one])}}
        if rooms & concerned(path) or (beside | tools) & (imported | through):
            tests.add(str(path.relative_to(ROOT)))
    if rooms & PAGES or any(name.startswith("docs/") for name in changed):
        tests.add("tests/test_docs.py")
    return [*ALWAYS, *sorted(tests - set(ALWAYS))]


def imports(path: Path) -> set[str]:
    """The modules without a package that a file imports: those beside it, and the tools."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if "." not in name}


def _helpers() -> dict[str, Path]:
    """Files of tests/ that hold no tests."""
    return {p.stem: p for p in (ROOT / "tests").glob("*.py") if not p.stem.startswith("test_")}


def concerned(path: Path) -> set[str]:
    """The rooms that a test file names, directly or by a public name that comes from them."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    rooms = {module.split(".")[1] for module in modules if module.startswith("kullback.")}
    homes = _homes()
    return rooms | {homes[name] for name in re.findall(r"\bkb\.(\w+)", text) if name in homes}


def _homes() -> dict[str, str]:
    """The room that each public name comes from."""
    found = {}
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kullback"):
            for alias in node.names:
                found[alias.name] = f"{node.module}.{alias.name}".split(".")[1]
    return found


class Deadline:
    """Stops pytest before the test that would begin after the deadline."""

    def __init__(self, until: float) -> None:
        self.until, self.left, self.hit = until, 0, False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count what is to run."""
        self.left = len(session.items)

    def pytest_runtest_logfinish(self) -> None:
        """Count what has run."""
        self.left -= 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Let no further test begin after the deadline."""
        if time.monotonic() > self.until:
            self.hit = True
            item.session.shouldstop = f"out of time with {self.left} tests left: make test runs them all"


def _grown_from() -> str:
    found = subprocess.run(["git", "merge-base", "HEAD", "main"], cwd=ROOT, capture_output=True, text=True)
    base = found.stdout.strip() or "HEAD"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return "HEAD" if base == head else base


def _changed(since: str) -> list[str]:
    differing = subprocess.run(["git", "diff", "--name-only", since], cwd=ROOT, capture_output=True, text=True)
    new = ["git", "ls-files", "--others", "--exclude-standard"]
    untracked = subprocess.run(new, cwd=ROOT, capture_output=True, text=True)
    return sorted({*differing.stdout.split(), *untracked.stdout.split()})


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: list[str]) -> int:
    return subprocess.run([_tool(command[0]), *command[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    main()
