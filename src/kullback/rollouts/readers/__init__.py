"""Which reader reads which file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.parquet import ParquetSource
from kullback.rollouts.table import Rollouts, Source
from kullback.rollouts.unfinished import PartSource

READERS: Mapping[str, Callable[[Path], Source]] = {"parquet": ParquetSource, "part": PartSource}
"""By the name of the format, which is also the ending of its files."""


def read_rollouts(path: str | Path, format: str | None = None) -> Rollouts:
    """Open a file of rollouts; its rows are read when they are asked for.

    Args:
        path: of the file.
        format: "parquet", or "part" for what a job that was killed had finished; None to go by the file's ending, and
            Parquet for an ending that says nothing.

    Raises:
        FileError: no such file, not of that format or not finished, or without the columns of rollouts; and later,
            a row that is no rollout.
        InputError: a format that has no reader.

    Example:
        >>> import tempfile, kullback as kb
        >>> path = tempfile.mkdtemp() + "/rollouts.parquet"
        >>> kb.write_rollouts(path, [kb.Rollout(logprobs=[-0.1, -2.0], ref_logprobs=[-0.3, -1.5], tokens=[5, 2])])
        >>> [list(rollout.tokens) for rollout in kb.read_rollouts(path)]
        [[5, 2]]
    """
    path = Path(path)
    if format is not None and format not in READERS:
        raise InputError(f"format={format!r} came, but there is a reader for {', '.join(READERS)}")
    ending = path.suffix.removeprefix(".")
    return Rollouts(READERS[format or (ending if ending in READERS else "parquet")](path))
