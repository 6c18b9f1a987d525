"""Every number and picture of the docs is what its experiment computes; the guide says the same in two languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from make_numbers import DOCS, MARK, PICTURES, SOURCES, refreshed

ROOT = Path(__file__).resolve().parents[1]
GUIDES = (ROOT / "docs" / "guide.md", ROOT / "docs" / "guide.zh.md")
SPEED = [pytest.param(name, marks=pytest.mark.slow if source.slow else ()) for name, source in SOURCES.items()]

QUOTED = {
    *("1.16.0", "0.8.0", "0.11.0", "0.6.0", "0.3.1", "0.3"),  # versions, and how far off-policy the sampler is
    "3.2",  # DeepSeek-V3.2
    *("0.05", "0.95"),  # an option's value; the λ of GAE in trainers
    *("2.87", "0.16"),  # README's table, as an example of how a number is read
}
"""Decimal numbers of the guide that no experiment computes."""


def marks(text: str) -> list[str]:
    return [f"{mark['source']}.{mark['key']}" for mark in MARK.finditer(text)]


@pytest.mark.parametrize("name", SPEED)
def test_quoted_numbers_are_fresh(name: str) -> None:
    numbers = {name: SOURCES[name].numbers()}
    quoted = 0
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        assert refreshed(text, numbers) == text, f"{page.name} is stale: run `make docs-numbers`"
        quoted += sum(mark.startswith(f"{name}.") for mark in marks(text))
    assert quoted, f"no page quotes {name}"


@pytest.mark.parametrize("name", [p for p in SPEED if SOURCES[str(p.values[0])].chart])
def test_pictures_are_fresh_and_small(name: str) -> None:
    source, file = SOURCES[name], PICTURES / f"{name}.svg"
    assert source.chart is not None
    assert f"[{source.chart().digest()}]" in file.read_text(encoding="utf-8"), "run `make docs-numbers`"
    assert file.stat().st_size < 200_000


def test_a_stale_number_is_caught() -> None:
    text = "a KL of <!--=gaussian.k3-worse-->0.6<!--/--> nats"
    assert refreshed(text, {"gaussian": {"k3-worse": "0.628"}}) == text.replace("0.6<", "0.628<")
    assert refreshed(text, {}) == text
    with pytest.raises(KeyError):
        refreshed(text.replace("gaussian", "nothing"), {})
    with pytest.raises(KeyError):
        refreshed(text.replace("k3-worse", "k9"), {"gaussian": {"k3-worse": "0.628"}})


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_marks_are_hidden_from_readers(page: Path) -> None:
    """A line that begins with a comment is HTML to its end; only marks that hold whole tables may."""
    for line in page.read_text(encoding="utf-8").splitlines():
        assert not re.match(r" {0,6}<!--=[^>]*-->.", line), line
    assert page.read_text(encoding="utf-8").count("<!--=") == len(marks(page.read_text(encoding="utf-8")))


def parts(text: str) -> list[str]:
    return re.split(r"^## ", text, flags=re.MULTILINE)


def codes(text: str) -> list[str]:
    """Its pieces of code, without what is said about them; what they print is looked at when they run."""
    return [re.sub(r"  # .*", "", code) for code in re.findall(r"```.*?```", text, re.DOTALL)]


def test_the_guide_is_one_article_in_two_languages() -> None:
    """Section by section the same numbers, tables, pictures, links and code."""
    english, chinese = (parts(guide.read_text(encoding="utf-8")) for guide in GUIDES)
    assert len(english) == len(chinese)
    for one, other in zip(english, chinese, strict=True):
        title = one.splitlines()[0]
        assert sorted(marks(one)) == sorted(mark.removesuffix("-zh") for mark in marks(other)), title
        assert one.count("\n|") == other.count("\n|"), title
        assert codes(one) == codes(other), title
        assert re.findall(r"\]\((pictures/.*?)\)", one) == re.findall(r"\]\((pictures/.*?)\)", other), title
        assert len(re.findall(r"^(?:\d\.|-) ", one, re.MULTILINE)) == len(
            re.findall(r"^(?:\d\.|-) ", other, re.MULTILINE)
        ), title
        options = r"`[-\w.+=,\" ]*(?:kl|KL|beta)[-\w.+=,\" ]*`"
        assert sorted(re.findall(options, one)) == sorted(re.findall(options, other)), title


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_the_guide_quotes_no_number_of_its_own(guide: Path) -> None:
    text = MARK.sub("", guide.read_text(encoding="utf-8"))
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert set(re.findall(r"\d+\.\d[\d.]*\d|\d+\.\d", text)) <= QUOTED


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_the_guides_examples_run(guide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, {})
        said = re.findall(r"print\(.*\) +# (.*)", code)
        assert said
        assert capsys.readouterr().out.splitlines() == said
