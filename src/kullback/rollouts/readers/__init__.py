"""Files and folders of rollouts, in our format and in those of trainers and servers, recognised by what is in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields as fields_of
from functools import partial
from pathlib import Path

from kullback.errors import InputError, UnfinishedError, shown
from kullback.paths import path_of
from kullback.rollouts.readers.family import OURS
from kullback.rollouts.readers.folder import is_whole, read_folder
from kullback.rollouts.readers.foreign import Reading
from kullback.rollouts.readers.identity import identity_of, opened, source_of
from kullback.rollouts.readers.recognition import named
from kullback.rollouts.readers.text_only import PLAIN
from kullback.rollouts.record import Rollout
from kullback.rollouts.table import Rollouts


def read_rollouts(
    path: str | Path, format: str | None = None, *, map: Mapping[str, str] | None = None, skip_bad: bool = False
) -> Rollouts:
    """Open a file or a folder of rollouts; its rows are read when they are asked for.

    Args:
        path: of the file, compressed (gz, bz2, xz, zst) or not; or of a folder, of which the files of one format are
            read in the order of their steps.
        format: its name, such as "nemo-rl"; "parquet" is our own, "part" what a killed job had finished of one.
            None to go by what is in the file.
        map: for other names: what the file calls our columns, as {"logprobs": "old_log_probs"}.
        skip_bad: leave out records that cannot be read, and name them in `bad`, where they would be refused.

    Raises:
        FileError: no such file, in no format that is known or in several, or not finished; and later, a record that
            cannot be read, with its line.
        InputError: a format that has no reader, or a column that rollouts do not have.

    Example:
        >>> import tempfile, kullback as kb
        >>> path = tempfile.mkdtemp() + "/rollouts.parquet"
        >>> kb.write_rollouts(path, [kb.Rollout(logprobs=[-0.1, -2.0], ref_logprobs=[-0.3, -1.5], tokens=[5, 2])])
        >>> [list(rollout.tokens) for rollout in kb.read_rollouts(path)]
        [[5, 2]]
    """
    known = {field.name for field in fields_of(Rollout)}
    return _read(path_of(path, "a file of rollouts"), format, Reading(names=map, skip_bad=skip_bad), known)


def read_scorable(
    path: str | Path, format: str | None = None, *, map: Mapping[str, str] | None = None, skip_bad: bool = False
) -> Rollouts:
    """As `read_rollouts`, and texts without log-probs too, as rollouts without a token; see `Format.texts`.

    For texts `map` also names "prompt" and "completion".
    """
    known = {field.name for field in fields_of(Rollout)} | {"prompt", "completion"}
    return _read(path_of(path, "a file of rollouts"), format, Reading(names=map, skip_bad=skip_bad, texts=True), known)


def _read(path: Path, format: str | None, reading: Reading, known: Collection[str]) -> Rollouts:
    if format is not None and format not in OURS and not (reading.texts and format == PLAIN.name):
        named(format)
    if wrong := [name for name in reading.names or {} if name not in known]:
        raise InputError(f"map names {shown(wrong[0])}, but the columns of rollouts are {', '.join(sorted(known))}")
    if path.is_dir():
        return Rollouts(read_folder(path, partial(opened, format=format, reading=reading)))
    source = source_of(path, identity_of(path, format, reading), reading)
    if format is None and not is_whole(source):
        known_as = source.format
        assert known_as is not None
        raise UnfinishedError(
            f"{path} has no {known_as.marker} beside it, by which its writer says that it is whole: wait for it, or "
            f"read it as it is with format={known_as.name!r} (--format)"
        )
    return Rollouts(source)
