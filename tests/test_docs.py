"""What is generated is fresh, and what the docs say runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from make_docs import DOCS, PAGES

import kullback as kb
from kullback.oracle import reference_world, relative_variance

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("page", ["README.md", "docs/audit.md"])
def test_an_example_prints_what_it_says(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    exec(code[1], {})
    said = re.findall(r"print\(.*\) +# (.*)", code[1])
    assert capsys.readouterr().out.splitlines() == said


def test_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name} links to {link}"


def test_relative_variances_are_those_of_sampling() -> None:
    at = reference_world("apart")
    exact = float(at.exact(kb.REVERSE_KL))
    for estimator in (kb.K1, kb.K3, kb.ControlVariate("fit"), kb.RAO_BLACKWELL_CONTROLLED):
        batch = at.sample(__import__("numpy").random.default_rng(0), 20_000)
        found = kb.Accumulator(estimator=estimator).update(batch).result()
        assert found.stderr**2 * 20_000 / exact**2 == pytest.approx(relative_variance(at, estimator, "token"), rel=0.1)
