"""The install line that a message names, by how the package was installed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from kullback import errors
from kullback.errors import MissingPackageError, install_line

ROOT = Path(errors.__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Any, installer: str = "pip\n") -> None:
    """As a package that lies in site-packages, with what its installer noted down."""
    place = tmp_path / "site-packages" / "kullback" / "errors.py"
    notes = {"INSTALLER": installer, "direct_url.json": origin if isinstance(origin, str) else json.dumps(origin)}
    monkeypatch.setattr(errors, "__file__", str(place))
    monkeypatch.setattr(errors, "_noted", lambda name: notes[name])


def test_a_checkout_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert install_line("hf").removeprefix("uv ") == "pip install '.[hf]'"
    monkeypatch.chdir(tmp_path)
    assert install_line("hf").removeprefix("uv ") == f"pip install {shlex.quote(f'{ROOT}[hf]')}"


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        ("", "pip install 'kullback[hf]'"),
        ("{torn", "pip install 'kullback[hf]'"),
        ("[]", "pip install 'kullback[hf]'"),
        ({"url": "file://{tmp}/a%20b/kullback-0.1.0-py3-none-any.whl"}, "pip install '{tmp}/a b/{wheel}[hf]'"),
        ({"url": "file://{tmp}/a%20b", "dir_info": {}}, "pip install '{tmp}/a b[hf]'"),
        ({"url": "https://x.org/{wheel}", "archive_info": {}}, "pip install 'kullback[hf] @ https://x.org/{wheel}'"),
        (
            {"url": "https://x.org/k.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"pip install 'kullback[hf] @ git+https://x.org/k.git@{COMMIT}'",
        ),
    ],
    ids=["index", "torn", "no record", "wheel", "folder", "URL", "repository"],
)
def test_the_line_fits_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Any, line: str
) -> None:
    wheel = "kullback-0.1.0-py3-none-any.whl"
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / wheel).write_bytes(b"")
    names = (("{tmp}", str(tmp_path)), ("{wheel}", wheel))
    written = origin if isinstance(origin, str) else json.dumps(origin)
    for name, value in names:
        written, line = written.replace(name, value), line.replace(name, value)
    installed(monkeypatch, tmp_path, written)
    assert install_line("hf") == line
    installed(monkeypatch, tmp_path, written, "uv")
    assert install_line("hf") == f"uv {line}"


def test_the_packages_are_named_where_the_wheel_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch, tmp_path, {"url": f"file://{tmp_path}/gone.whl"})
    words = shlex.split(install_line("hf"))
    assert words[:2] == ["pip", "install"]
    assert {"torch>=2.4", "transformers>=5", "pyarrow>=17"} <= set(words[2:])
    assert shlex.split(install_line("report"))[2:] == ["matplotlib>=3.9"]
    assert str(MissingPackageError("jax", "jax")).endswith("not installed: pip install 'jax>=0.5'")
