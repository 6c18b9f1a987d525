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


PAGES_OF_DOCS = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]


def anchors(file: Path) -> set[str]:
    """Where links into a page may lead: its headings, as Markdown viewers name them, and what it names itself."""
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]*)">', text))


@pytest.mark.parametrize("file", PAGES_OF_DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if link.startswith("http"):
            continue
        target = file.parent / link if link else file
        assert target.exists(), f"{file.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{file.name} links to {link}#{anchor}"


def test_relative_variances_are_those_of_sampling() -> None:
    at = reference_world("apart")
    exact = float(at.exact(kb.REVERSE_KL))
    for estimator in (kb.K1, kb.K3, kb.ControlVariate("fit"), kb.RAO_BLACKWELL_CONTROLLED):
        batch = at.sample(__import__("numpy").random.default_rng(0), 20_000)
        found = kb.Accumulator(estimator=estimator).update(batch).result()
        assert found.stderr**2 * 20_000 / exact**2 == pytest.approx(relative_variance(at, estimator, "token"), rel=0.1)


def test_the_page_of_commands_names_every_option_that_the_parser_has() -> None:
    import typer

    from kullback.cli.app import app

    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for path, each in getattr(command, "commands", {"": command}).items():
            section = page.split(f"\n## kullback {name} {path}".rstrip() + "\n")[1].split("\n## ")[0]
            for parameter in each.params:
                for option in parameter.opts:
                    assert f"`{option if option.startswith('-') else option.upper()}`" in section


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_numbers_beside_others_stand_where_they_were_measured(page: str) -> None:
    """Rounded, and in seconds or gigabytes where the measurement has thousandths of them."""
    table = (ROOT / page).read_text(encoding="utf-8").split("| kullback |")[1].split("\n\n")[0]
    cells = re.findall(r"\[([^\]]+)\]\(([^)#]+)#([^)]+)\)", table)
    assert len(cells) > 15
    for words, target, anchor in cells:
        text = (ROOT / target).read_text(encoding="utf-8")
        headings = list(re.finditer(r"^#+ (.*)$", text, re.MULTILINE))
        [at] = [h for h in headings if re.sub(r"[^\w\- ]", "", h[1].lower()).replace(" ", "-") == anchor]
        section = text[at.end() :].split("\n## ")[0].split("\n### ")[0]
        there = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", section)]
        for number in map(float, re.findall(r"\d+(?:\.\d+)?(?:e[-+]\d+)?", words)):
            # 0.03 is half of the last place of two digits.
            assert any(abs(number - each / unit) <= 0.04 * number for each in there for unit in (1, 1000)), (
                words,
                target,
            )
