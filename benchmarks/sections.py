"""Sections of a Markdown file by their headings, and a file with some of them replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """What stands under every heading ``## name``, by name, without the blank lines around it."""
    found = list(HEADING.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {match[1]: text[match.end() : end].strip() for match, end in zip(found, ends, strict=False)}


def with_sections(text: str, new: Mapping[str, str]) -> str:
    """The text with the sections of these names replaced, and with those it lacks at its end."""
    first = HEADING.search(text)
    head = text if first is None else text[: first.start()]
    whole = {**sections(text), **new}
    parts = [head.strip(), *(f"## {name}\n\n{body}" for name, body in whole.items())]
    return "\n\n".join(part for part in parts if part) + "\n"
