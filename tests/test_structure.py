"""The shape of the house: what is public, what imports what, what import loads."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from house_numbers import wide

import kullback as kb
from kullback.errors import install_line

ROOT = Path(kb.__file__).parent
FLOORS = (
    ("errors", "families", "arrays", "paths", "documents", "displays"),
    ("targets", "estimators", "weights", "surrogates", "losses"),
    ("estimation", "oracle", "vocab"),
    ("auditing", "claims", "rollouts", "models"),
    ("monitoring",),
    ("integrations",),
    ("jobs", "lab"),
    ("report", "cli"),
    ("__main__",),
)
"""From the ground up; a room imports only from rooms named before it, or from its own files."""

ORDER = [room for floor in FLOORS for room in floor]
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    # `from kullback import x` names rooms too.
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "kullback":
            names |= {f"kullback.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("kullback.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path: Path) -> None:
    for name in imports(path):
        below = name.split(".")[1]
        if below == "__version__" or below == room(path):
            continue
        assert ORDER.index(below) < ORDER.index(room(path)), f"{path.name} imports {name}"


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set(ORDER)


def test_dir_shows_the_surface_and_nothing_else() -> None:
    assert [name for name in dir(kb) if not name.startswith("_")] == sorted(kb.__all__)
    assert all(getattr(kb, name).__doc__ or name.isupper() for name in kb.__all__)  # also loads what is on demand


def test_no_public_name_is_missing_from_the_surface() -> None:
    rooms = {room(path) for path in FILES}
    public = {name for name in vars(kb) if not name.startswith("_")}
    assert public - rooms <= set(kb.__all__)


MODULES = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__") for path in FILES]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_a_module_can_be_imported_as_itself(name: str) -> None:
    importlib.import_module(name)
    found = kb
    for part in name.split(".")[1:]:  # what `import kullback.a.b as c` does
        found = getattr(found, part)
    assert found is sys.modules[name]


def test_no_module_bears_the_name_of_a_public_function() -> None:
    spaces = [kb, kb.lab, kb.models, kb.oracle, kb.vocab, kb.weights]
    functions = {n for s in spaces for n in s.__all__ if inspect.isfunction(getattr(s, n))}
    assert not functions & {name.rpartition(".")[2] for name in MODULES}


def test_import_is_light() -> None:
    heavy = {"torch", "jax", "transformers", "scipy", "pyarrow", "rich", "typer", "matplotlib"}
    heavy |= {"kullback.claims.family", "kullback.lab.accuracy"}
    code = f"import sys, kullback; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "package",
    [
        "torch",
        "pyarrow",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("transformers", "tokenizers", "safetensors")),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package: str, tmp_path: Path) -> None:
    models = f"{str(kb.models.BUILTIN_PROMPTS.parent / 'base')!r}, " if package == "transformers" else ""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import kullback as kb\n"
        f"try:\n    kb.compare({models}samples=1, max_new_tokens=2, output=sys.argv[1])\n"
        "except kb.errors.MissingPackageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert f"{package} is needed for this and is not installed: {install_line('hf')}" in done.stdout, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_takes_more_than_five_by_place(path: Path) -> None:
    exempt = {
        "cli",
        "vocab/triton_kernels.py",
        "vocab/triton_math.py",
    }  # typer reads options from parameters; Triton's language has no others
    if not exempt & {room(path), str(path.relative_to(ROOT))}:
        assert wide(ast.parse(path.read_text())) == 0


def test_test_files_stay_short() -> None:
    for path in (ROOT.parents[1] / "tests").glob("*.py"):
        assert path.read_text().count("\n") <= 500, path


def test_modules_and_functions_stay_small() -> None:
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= 60, (path, node.name)
