"""Lays out what the site is built from: ``make docs-site``.

The pages of docs/ are written for a reader of the repository. Here they become two projects, English and Chinese, below
one folder: comments go, every heading gets the anchor that its links use, and links between languages lead to the other
project. ``twins`` adds what machines read, after the build: each page as Markdown, and ``llms.txt``.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from api_pages import names

from kullback.report import markdown

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md")
"""Pages that lie at the root of the repository."""

FENCE = re.compile(r"(^(`{3,})[^\n]*\n.*?^\2`*[ ]*$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
Lead = Callable[[str], str]


def lay_out(into: Path) -> None:
    """Write the sources of both projects below a folder, as ``en`` and ``zh``."""
    for language in ("en", "zh"):
        shutil.rmtree(into / language, ignore_errors=True)
        shutil.copytree(DOCS / "pictures", into / language / "pictures")
        shutil.copy(DOCS / "site.css", into / language)
    for path, text in english():
        _put(into / "en" / path, text)
    for path, text in chinese():
        _put(into / "zh" / path, text)


def english() -> Iterator[tuple[str, str]]:
    """Path and text of every English page."""
    pages = [page for page in sorted(DOCS.rglob("*.md"), key=_first) if not page.name.endswith(".zh.md")]
    for page in pages:
        yield str(page.relative_to(DOCS)), _page(page.read_text(encoding="utf-8"), _in_english)
    for name in BESIDE:
        yield name, _page((ROOT / name).read_text(encoding="utf-8"), _in_english)
    yield "api.md", _page(markdown.render(names()), _in_english)


def chinese() -> Iterator[tuple[str, str]]:
    """Path and text of every Chinese page."""
    for page in sorted(DOCS.glob("*.zh.md"), key=_first):
        yield _bare(page.name), _page(page.read_text(encoding="utf-8"), _in_chinese)


def _first(page: Path) -> tuple[bool, str]:
    """The start page before all others, which come by their names."""
    return not page.name.startswith("index."), str(page)


def _in_english(link: str) -> str:
    if link.endswith(".zh.md"):
        return "zh/" + _bare(link).removesuffix(".md") + ".html"
    return link.removeprefix("../") if link.removeprefix("../") in BESIDE else link


def _in_chinese(link: str) -> str:
    if link.endswith(".zh.md"):
        return _bare(link)
    return "../" + link.removesuffix(".md") + ".html" if link.endswith(".md") else link


def _bare(name: str) -> str:
    return name.replace(".zh.md", ".md")


def _page(text: str, lead: Lead) -> str:
    """A page for the site; what stands in fences stays as it is."""
    slugs: Counter[str] = Counter()
    parts = FENCE.split(text)
    # Of the three that come of each fence, the second is the fence and the third its ticks.
    written = [_words(part, lead, slugs) if at % 3 == 0 else part for at, part in enumerate(parts) if at % 3 != 2]
    return "".join(written)


def _words(text: str, lead: Lead, slugs: Counter[str]) -> str:
    text = re.sub(r"^<!--[^\n]*?-->\n\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text)
    text = re.sub(r"^(#+) (.*)$", lambda found: _heading(found[1], found[2], slugs), text, flags=re.MULTILINE)
    text = text.replace("<details>", '<details markdown="1">')  # or what follows it is taken for HTML as well
    return LINK.sub(lambda found: _link(found[1], found[2], found[3] or "", lead), text)


def _link(words: str, link: str, anchor: str, lead: Lead) -> str:
    target = link if "://" in link else lead(link)
    if target.endswith(".html"):
        # Written out: to the one project, the pages of the other are no pages.
        return f'<a href="{target}{anchor}">{escape(words, quote=False)}</a>'
    return f"[{words}]({target}{anchor})"


def _heading(level: str, title: str, slugs: Counter[str]) -> str:
    """A heading with the anchor that a viewer of the repository gives it."""
    slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    slugs[slug] += 1
    again = f"-{slugs[slug] - 1}" if slugs[slug] > 1 else ""
    return f"{level} {title} {{#{slug}{again}}}"


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def twins(sources: Path, site: Path) -> None:
    """Add each page as Markdown beside its HTML, and ``llms.txt``, to a site that was built."""
    for language, into in (("en", site), ("zh", site / "zh")):
        for page in sorted((sources / language).rglob("*.md")):
            _put(into / page.relative_to(sources / language), page.read_text(encoding="utf-8"))
    (site / "llms.txt").write_text(index(), encoding="utf-8")


def index() -> str:
    """What ``llms.txt`` says: what this is, and a line for every page."""
    head = "# kullback\n\n> How far a language-model policy is from its reference: exact, cheap and checkable KL.\n"
    parts = [head]
    for title, pages, folder in (("Pages", english(), ""), ("中文", chinese(), "zh/")):
        lines = [f"- [{_title(text)}]({folder}{path})" for path, text in pages]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _title(text: str) -> str:
    found = re.search(r"^# (.*?)(?: \{#.*\})?$", text, re.MULTILINE)
    return found[1] if found else "kullback"


if __name__ == "__main__":
    step, *folders = sys.argv[1:]
    steps: dict[str, Callable[..., None]] = {"sources": lay_out, "twins": twins}
    steps[step](*map(Path, folders))
