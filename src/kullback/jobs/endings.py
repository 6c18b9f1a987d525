"""How a job ends: what it computed is written and handed over, whatever ended it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from kullback.documents import Record
from kullback.errors import FileError, KullbackError
from kullback.jobs.outputs import ESTIMATE, write_json


class Writable(Protocol):
    """What can be written as a record."""

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        ...


R = TypeVar("R", bound=Writable)


def handed_over(result: R, folder: Path | None, ended: BaseException | None) -> R:
    """The result, once it is in the folder; or the error that ended the job early, with the result in it.

    An error of somebody else's code, such as a callback's, stays what it is, and carries the result all the same.

    Raises:
        FileError: the result could not be written.
        BaseException: the error that came.
    """
    if folder is not None:
        try:
            write_json(folder / ESTIMATE, result.to_dict())
        except FileError as error:
            ended = ended or error
    if ended is None:
        return result
    with suppress(AttributeError):
        ended.result = result  # type: ignore[attr-defined]
    if not isinstance(ended, KullbackError):
        ended.add_note("kullback: what was finished is in this error's attribute result")
    raise ended
