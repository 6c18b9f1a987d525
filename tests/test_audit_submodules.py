"""Code that is taken out of a file finds the modules that only the rest of its package would have loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kullback.auditing.subject.source import take


def test_modules_that_only_the_rest_of_a_package_would_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wsgiref

    monkeypatch.delitem(sys.modules, "wsgiref.validate", raising=False)
    monkeypatch.delattr(wsgiref, "validate", raising=False)
    (tmp_path / "dotted.py").write_text("import wsgiref\ndef f():\n    return wsgiref.validate.__name__\n")
    assert take(tmp_path / "dotted.py", "f").fn() == "wsgiref.validate"
