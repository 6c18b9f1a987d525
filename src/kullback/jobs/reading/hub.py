"""Rows of a data set by its id or folder, through the `datasets` library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kullback.errors import FileError, MissingPackageError, install_line
from kullback.jobs.reading.rows import Row

NAMED = re.compile(r"(?P<name>[^:]+?)(?::(?P<config>[\w.-]+)(?=:))?(?::(?P<split>[\w.-]+(?:\[[^\]]*\])?))?", re.ASCII)
"""``owner/name``, ``owner/name:split`` or ``owner/name:config:split``; a split may be cut, as ``test[:100]``."""

ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_dataset(source: str) -> bool:
    """Whether this names a folder, or what may be the id of a data set, rather than a file."""
    found = NAMED.fullmatch(source)
    if found is None or Path(source).is_file():
        return False
    name = found["name"]
    if Path(name).exists():
        return Path(name).is_dir()
    return ID.fullmatch(name) is not None and not re.search(r"\.[A-Za-z]+(\.gz)?$", name)


def dataset_rows(source: str) -> tuple[list[Row], str]:
    """The rows, and a sentence on which split they are of.

    Raises:
        FileError: no such data set, or one of several splits and none was named.
        MissingPackageError: `datasets` is not installed.
    """
    found = NAMED.fullmatch(source)
    assert found is not None
    library = _library(found["name"])
    try:
        held = _loaded(library, found["name"], found["config"], found["split"])
    except (FileError, MissingPackageError):
        raise
    except Exception as error:  # of the library's many, and those of what it stands on
        words = " ".join(str(error).split())[:200]
        raise FileError(f"{found['name']} cannot be loaded as a data set ({words}): check its name") from error
    if isinstance(held, dict):
        if len(held) > 1:
            raise FileError(f"{source} has the splits {', '.join(held)}: name one, as {source}:{next(iter(held))}")
        [(split, held)] = held.items()
    else:
        split = found["split"] or "the only one"
    rows = [Row(f"row {number} of {source}", dict(row)) for number, row in enumerate(held, 1)]
    return rows, f"{len(rows):,} rows of {found['name']}, split {split}"


def _library(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        if Path(name).exists():
            raise MissingPackageError("datasets", "datasets") from None
        raise FileError(
            f"{name} cannot be read (no such file); if it is the id of a data set, the package datasets is needed: "
            f"{install_line('datasets')}"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _loaded(library: Any, name: str, config: str | None, split: str | None) -> Any:
    folder = Path(name)
    if any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
        held = library.load_from_disk(name)
        return held if split is None or not isinstance(held, dict) else {split: _split(held, name, split)}
    return library.load_dataset(name, config, split=split)


def _split(held: Any, name: str, split: str) -> Any:
    if split not in held:
        raise FileError(f"{name} has no split {split}: it has {', '.join(held)}")
    return held[split]
