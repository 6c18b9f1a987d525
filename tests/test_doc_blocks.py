"""Every block of Python in the written pages runs, and prints what stands beside its `print`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GENERATED = {"claims.md", "rules.md", "estimators.md", "trainers.md", "commands.md", "api.md"}
BLOCK = re.compile(r"(<!--no run-->\s*)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SAID = re.compile(r"^(?:.*\bprint\(.*\) +# (.*)|    # (.*))$")


def blocks(page: Path) -> list[str]:
    """The blocks of a page, but for those that are marked as not to be run."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for marked, code in found if not marked]


def said(code: str) -> list[str]:
    """What a block says that it prints: behind a `print`, or in lines of their own below one in a loop."""
    return [first or then for first, then in (m.groups() for m in map(SAID.match, code.splitlines()) if m)]


PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.name not in GENERATED and blocks(page)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_print_what_they_say(
    page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), {"__name__": "example"})
        printed = capsys.readouterr().out.splitlines()
        assert "print(" not in code or said(code), f"{page.name} prints something and does not say what:\n{code}"
        assert printed == said(code)
