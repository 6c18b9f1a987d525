"""The site's pages, as they are laid out: every link leads somewhere, without the tool that builds them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from make_site import FENCE, lay_out, twins

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("site")
    lay_out(into)
    return into


def words(page: Path) -> str:
    """A page without its fences and what stands in backticks."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]+`", "", text)


@cache
def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return set(re.findall(r"^#+ .* \{#(.*)\}$", text, re.MULTILINE)) | set(re.findall(r'<a id="([^"]*)">', text))


def links(page: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Where the links of a page lead: the page of the sources, and the anchor."""
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", words(page)):
        if "://" not in link:
            yield (page.parent / link if link else page), anchor
    for link, anchor in re.findall(r'<a href="([^"#]*)#?([^"]*)">', words(page)):
        yield built(root, page, link), anchor


def built(root: Path, page: Path, link: str) -> Path:
    """The source of a page of the other language, which is linked as what is built: zh/ lies below the English site."""
    assert link.endswith(".html")
    source = link.removesuffix(".html") + ".md"
    if source.startswith("../"):
        return root / "en" / source.removeprefix("../")
    assert source.startswith("zh/")
    return root / source


def test_every_link_of_both_projects_resolves(pages: Path) -> None:
    looked_at = 0
    for page in sorted(pages.rglob("*.md")):
        for target, anchor in links(page, pages):
            target = Path(os.path.normpath(target))
            assert target.exists(), f"{page.relative_to(pages)} links to {target}"
            assert not anchor or anchor in anchors(target), f"{page.relative_to(pages)} links to {target}#{anchor}"
            looked_at += 1
    assert looked_at > 300


def settings(name: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(each)


@pytest.mark.parametrize(("name", "language"), [("mkdocs.yml", "en"), ("mkdocs.zh.yml", "zh")])
def test_every_page_is_in_the_navigation_once(pages: Path, name: str, language: str) -> None:
    there = {str(page.relative_to(pages / language)) for page in (pages / language).rglob("*.md")}
    named = list(leaves(settings(name)["nav"]))
    assert sorted(named) == sorted(there)


def test_both_projects_name_both_languages() -> None:
    english, chinese = settings("mkdocs.yml"), settings("mkdocs.zh.yml")
    assert [each["lang"] for each in english["extra"]["alternate"]] == ["en", "zh"]
    assert [each["link"] for each in english["extra"]["alternate"]] == ["index.html", "zh/index.html"]
    assert [each["link"] for each in chinese["extra"]["alternate"]] == ["../index.html", "index.html"]
    assert chinese["site_dir"] == english["site_dir"] + "/zh"


def test_machines_find_every_page_as_markdown(pages: Path, tmp_path: Path) -> None:
    twins(pages, tmp_path)
    listed = re.findall(r"^- \[.+\]\((.+)\)$", (tmp_path / "llms.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed[0] == "index.md"
    assert len(listed) == len(list(pages.rglob("*.md")))
    assert all((tmp_path / path).is_file() for path in listed)


def test_nothing_of_the_repositorys_comments_is_left(pages: Path) -> None:
    for page in pages.rglob("*.md"):
        assert "<!--" not in words(page), page


def test_chinese_pages_show_the_code_of_the_english_ones() -> None:
    for page in sorted((ROOT / "docs").glob("*.zh.md")):
        both = (page, page.with_name(page.name.replace(".zh", "")))
        code = [re.findall(r"^```python\n(.*?)^```", each.read_text(encoding="utf-8"), re.S | re.M) for each in both]
        bare = [[re.sub(r" *# [^\n]*", "", block) for block in blocks] for blocks in code]
        assert bare[0] == bare[1], page.name
