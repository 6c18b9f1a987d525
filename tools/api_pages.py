"""The page of the public names, written from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

from kullback.documents import Block, Code, Document, Heading, Note

NAMESPACES: tuple[ModuleType, ...] = tuple(
    import_module(name)
    for name in (
        "kullback",
        "kullback.vocab",
        "kullback.weights",
        "kullback.oracle",
        "kullback.models",
        "kullback.lab",
        "kullback.monitoring.controllers",
        "kullback.errors",
    )
)
"""Every module whose names are promises."""

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Examples|Reference|Yields):$", re.MULTILINE)


def public(room: ModuleType) -> list[tuple[str, object]]:
    """The names of a namespace that are ours, with what they name: no modules, nothing that Python itself brings."""
    names = getattr(room, "__all__", None) or [name for name in vars(room) if not name.startswith("_")]
    found = [(name, getattr(room, name)) for name in names]
    return [(name, value) for name, value in found if not isinstance(value, ModuleType) and _ours(value, room)]


def _ours(value: object, room: ModuleType) -> bool:
    """Whether it is defined here: a path, or a union of types, has no docstring of ours."""
    home = getattr(value, "__module__", None) or type(value).__module__
    return home.startswith("kullback") and (hasattr(room, "__all__") or home == room.__name__)


def names() -> Document:
    """Every public name with its signature and docstring."""
    head = Note(
        "Written from the docstrings, whose examples the tests run. `kb` is `import kullback as kb`. "
        "What stands here follows semantic versioning ([changes](CHANGELOG.md)); everything else may change."
    )
    blocks: list[Block] = [head]
    for room in NAMESPACES:
        title = room.__name__.replace("kullback.monitoring.", "kb.").replace("kullback", "kb", 1)
        blocks.append(Heading(title))
        blocks.append(Note((inspect.getdoc(room) or "").split("\n\n")[0].replace("\n", " ")))
        for name, value in public(room):
            blocks += _entry(title, name, value)
    return Document("The public names", tuple(blocks))


def _entry(room: str, name: str, value: object) -> Iterator[Block]:
    yield Heading(f"`{room}.{name}`", level=3)
    if inspect.isfunction(value):
        yield Code(f"{name}{_signature(value)}", "python")
    elif not inspect.isclass(value):
        yield Note(_constant(value))
        return
    yield from _said(inspect.getdoc(value) or "")


class _Written:
    """An annotation as it stands in the source, without the quotes that postponed evaluation leaves."""

    def __init__(self, text: object) -> None:
        self.text = str(text)

    def __repr__(self) -> str:
        return self.text


def _signature(value: Callable[..., object]) -> str:
    found = inspect.signature(value)

    def bare(written: object) -> object:
        named = getattr(written, "__name__", "") if inspect.isfunction(written) else ""
        return _Written(named or written) if named or isinstance(written, str) else written

    parameters = [
        each.replace(
            annotation=bare(each.annotation),
            default=bare(each.default) if callable(each.default) else each.default,
        )
        for each in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters, return_annotation=bare(found.return_annotation)))


def _constant(value: object) -> str:
    """What a constant is: its formula, where it has one, and its type."""
    formula = getattr(value, "formula", "") or inspect.getdoc(getattr(value, "fn", None)) or ""
    return f"{formula.partition(chr(10))[0]} (`{type(value).__name__}`)".strip()


def _said(docstring: str) -> Iterator[Block]:
    """A docstring: paragraphs as words, sections below their names, examples as code."""
    parts = SECTION.split(docstring)
    yield from _paragraphs(parts[0])
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        body = inspect.cleandoc("\n" + text)
        if title.startswith("Example"):
            yield Code(body, "pycon")
        else:
            yield Note(f"**{title}**")
            yield Code(body, "text")


def _paragraphs(text: str) -> Iterator[Block]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("    "):
            yield Code(inspect.cleandoc("\n" + paragraph), "text")
        elif paragraph:
            text = " ".join(paragraph.split()).replace("](", "&#93;(")  # a formula, and no link
            yield Note(re.sub(r"``([^`]+)``", r"`\1`", text))
