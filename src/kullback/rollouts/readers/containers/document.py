"""One JSON document: a record, or a list of records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kullback.errors import FileError, UnfinishedError
from kullback.rollouts.readers.containers.found import Found, each
from kullback.rollouts.readers.containers.opening import whole
from kullback.rollouts.readers.containers.parsing import parsed


def records(path: Path) -> Iterator[Found]:
    """The document, or the entries of the list that it is.

    Raises:
        FileError: the file cannot be read, is no JSON, or is too long to be held.
    """
    text = whole(path)
    try:
        document = parsed(text)
    except ValueError as error:
        cut = text.rstrip()[-1:] not in (b"}", b"]")
        kind = UnfinishedError if cut else FileError
        why = "it ends in the middle: it is still being written, or was cut off" if cut else str(error)
        raise kind(f"{path} cannot be read as rollouts: {why}") from None
    yield from each(document, "record")
