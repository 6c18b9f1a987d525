"""``--report``: a page, its numbers and a card beside each other, each of which says how it was made."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kullback.cli.options import came
from kullback.cli.screen import fail
from kullback.cli.writing import check_file, write_text

if TYPE_CHECKING:
    from kullback.documents import Block, Document, Outcome, Record
    from kullback.jobs.reports import Made

Report = Annotated[
    Path | None,
    typer.Option(help="Also write a report here: .html with its numbers and a card beside it, or .md or .json alone."),
]

MARK = "<!-- written by kullback --report -->\n"


def check_report(path: Path | None, *, keeps: bool = False) -> None:
    """Refuse a report that could not be written, or that would replace what may be someone's, before any work.

    With `keeps` the sequences are to stand beside it.
    """
    check_file("--report", path)
    if path is None or path.suffix == ".md":
        return
    left = _left(path.with_suffix(".json"))
    beside = [path.with_suffix(".json"), path.with_suffix(".md")] if path.suffix == ".html" and not left else []
    kept_there = left.get("kind") == "compare" and f'"{rollouts_beside(path).name}"' in json.dumps(left)
    for other in (*beside, *([rollouts_beside(path)] if keeps and not kept_there else [])):
        if other.exists():
            fail(
                f"--report {path} writes {other.name} too, which is there and may be another's: choose another name or "
                "move it"
            )


def rollouts_beside(path: Path) -> Path:
    """Where a report's sequences are kept that stand nowhere else."""
    return path.with_suffix(".parquet")


def _left(path: Path) -> Record:
    """What a file of numbers says of itself that a report left; empty where it is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    report = record.get("report") if isinstance(record, dict) else None
    return report if isinstance(report, dict) else {}


def words_of(context: typer.Context) -> list[str]:
    """What was given on the command line behind the command's name, without where it was to be written."""
    words: list[str] = []
    for option in context.command.params:
        if option.name in ("report", "output", "overwrite", "as_json") or not came(context, option.name or ""):
            continue
        value = context.params.get(option.name or "")
        listed = value if isinstance(value, list | tuple) else [value]
        if option.param_type_name == "argument":
            words += [str(one) for one in listed if one is not None]
        else:
            flag = isinstance(value, bool)
            words += [option.opts[0]] if flag else [part for one in listed for part in (option.opts[0], str(one))]
    return words


def line_of(context: typer.Context) -> str:
    """The command line of a command, as it can be typed again."""
    return shlex.join([*_names(context), *words_of(context)])


def _names(context: typer.Context) -> list[str]:
    names: list[str] = []
    at: Any = context
    while at is not None and at.parent is not None:
        names.insert(0, at.info_name)
        at = at.parent
    return ["kullback", *names]


def write_report(found: Outcome, path: Path, made: Made) -> None:
    """A page with its numbers and its card, or one of them alone, by how the name ends."""
    page: Callable[[], Document] = getattr(found, "page", found.document)
    write_faces(path, made, found.to_dict(), page=page, card=None)


def write_faces(
    path: Path,
    made: Made,
    numbers: Record,
    *,
    page: Callable[[], Document],
    card: Callable[[], Document] | None,
    linked: Callable[[str], str] = str,
) -> None:
    """The faces of a report.

    Args:
        path: of the page, or of the face alone that its name asks for.
        made: how the numbers came about.
        numbers: for machines.
        page, card: for people; the card is made of the page where there is none of its own.
        linked: what turns words of a page into links.
    """
    from kullback.documents import json_of
    from kullback.report import cards, html, markdown

    numbers_name = path.with_suffix(".json").name
    how = _how(made, numbers_name if path.suffix != ".md" else "")

    def whole() -> Document:
        document = page()
        return replace(document, blocks=(*document.blocks, *how))

    def short() -> str:
        own = page() if card is None else card()
        made_of = cards.card(own, how) if card is None else replace(own, blocks=(*own.blocks, *how))
        return MARK + markdown.render(made_of)

    faces: Mapping[str, Callable[[], str]] = {".html": lambda: linked(html.render(whole())), ".md": short}
    wanted = [".html", ".md"] if path.suffix == ".html" else [path.suffix] if path.suffix in faces else []
    beside: dict[str, str] = {}
    for suffix in wanted:
        text, place = faces[suffix](), path.with_suffix(suffix)
        beside[place.name] = hashlib.sha256(text.encode()).hexdigest()
        write_text(text, place)
    if path.suffix != ".md":
        from kullback.jobs.reports import claimed

        record = {**numbers, "report": claimed(made, path.parent, beside)}
        write_text(json_of(record, indent=2) + "\n", path.with_suffix(".json"))


def _how(made: Made, numbers: str) -> tuple[Block, ...]:
    """The command that reproduces it, and the one that verifies it."""
    from kullback import __version__
    from kullback.documents import Note
    from kullback.report.cards import command_of

    said = f"Written by kullback {__version__}."
    if numbers:
        said += f" {numbers} has the numbers; kullback verify {numbers} computes them again."
    return (*([command_of(made.command)] if made.command else []), Note(said, tone="quiet"))


def kept(found: Any, path: Path, output: Path | None) -> Sequence[Path]:
    """The file of a comparison's sequences: that of --output, else one beside the page, up to so many tokens."""
    from kullback.jobs.reports.kept import keep

    return keep(found, None if path.suffix == ".md" else rollouts_beside(path), output)
