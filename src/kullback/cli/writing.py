"""What was found as a file: a page of HTML, Markdown or JSON, by how its name ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.screen import fail

if TYPE_CHECKING:
    from kullback.documents import Document, Outcome

SUFFIXES = (".md", ".html", ".json")


def check_file(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written, before any work is done."""
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        fail(f"{option} {path} came, but its name has to end in {', '.join(SUFFIXES)}, as in {option} report.html")
    if not path.parent.is_dir():
        fail(f"{option} {path} cannot be written: there is no folder {path.parent}")


def write_outcome(found: Outcome, path: Path) -> None:
    """What a job has to say, as a file."""
    from kullback.documents import json_of
    from kullback.report import html, markdown

    page: Callable[[], Document] = getattr(found, "page", found.document)
    write_one(
        {
            ".md": lambda: markdown.render(page()),
            ".html": lambda: html.render(page()),
            ".json": lambda: json_of(found.to_dict(), indent=2) + "\n",
        },
        path,
    )


def write_one(texts: Mapping[str, Callable[[], str]], path: Path) -> None:
    """The text that the name asks for."""
    write_text(texts[path.suffix](), path)


def write_text(text: str, path: Path) -> None:
    """A file."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")
