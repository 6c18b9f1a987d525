"""What tells prompts apart: without what all of them begin or end with, as a chat template has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEAST = 16
"""Characters that all prompts must share before they are cut: less tells nothing, and does no harm."""


def excerpts(texts: Mapping[int, str], shown: Sequence[int], width: int) -> dict[int, str]:
    """Of some prompts by number what differs from the others, at most `width` characters, and no two alike.

    Args:
        texts: every prompt by its number.
        shown: the numbers of those that are shown.
        width: characters of each.

    Example:
        >>> excerpts({0: "system: be kind. user: why? bot:", 1: "system: be kind. user: how? bot:"}, [0, 1], 20)
        {0: '…why? bot:', 1: '…how? bot:'}
    """
    clean = {number: " ".join(text.split()) for number, text in texts.items()}
    head, tail = _shared(sorted(set(clean.values())))
    found = {number: _cut(clean[number], head, tail, width) for number in shown}
    alike = {text for text in found.values() if list(found.values()).count(text) > 1}
    return {n: f"{text} (prompt {n + 1})" if text in alike else text for n, text in found.items()}


def _shared(texts: Sequence[str]) -> tuple[int, int]:
    """How many characters all texts begin with, and end with, up to whole words; 0 where that is little."""
    if len(texts) < 2:
        return 0, 0
    head = _common(texts[0], texts[-1])  # of a sorted list, the ends share what all share
    tails = sorted(text[len(head) :][::-1] for text in texts)
    tail = _common(tails[0], tails[-1])[::-1]
    head, tail = head[: head.rfind(" ") + 1], tail[tail.find(" ") :] if " " in tail else ""
    return len(head) if len(head) >= LEAST else 0, len(tail) if len(tail) >= LEAST else 0


def _common(first: str, second: str) -> str:
    """What both texts begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))]


def _cut(text: str, head: int, tail: int, width: int) -> str:
    body = text[head : len(text) - tail]
    whole = f"{'…' if head else ''}{body}{'…' if tail else ''}"
    return whole if len(whole) <= width else whole[: width - 1] + "…"
