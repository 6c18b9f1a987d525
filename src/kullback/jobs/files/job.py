"""Estimate the KLs of a dump of rollouts: whatever its format, in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from kullback.errors import FileError, KullbackError
from kullback.estimators import Estimator
from kullback.jobs.endings import handed_over
from kullback.jobs.files.asked import Asked
from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.outcome import FilesEstimate
from kullback.jobs.files.survey import surveyed
from kullback.jobs.progress import OnProgress, unheard


def estimate_files(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str | None = None,
    estimator: Estimator | str | Sequence[Estimator | str] | None = None,
    unit: str | None = None,
    by: str | Sequence[str] = (),
    where: str | None = None,
    pool: bool = False,
    skip_bad: bool = False,
    on_progress: OnProgress = unheard,
) -> FilesEstimate:
    """The KLs between the laws whose log-probs stand in files of rollouts, with an error on each.

    KL(first‖second) = E over the first law's samples of Σ_t k(log first − log second). Where the first law drew the
    tokens that is a mean over the rows; where another one did, token t is weighted by Π_{i≤t} first/drew, as
    `kullback.estimate` does with `behavior_logprobs`, and the answer says by its effective sample size and k̂ whether
    that holds.

    Args:
        paths: a file, a folder, or several that are read as one dump.
        format: the name of the format; None to look into the files.
        estimator: a member of `kullback.ESTIMATORS`, its name, or several; None for Rao-Blackwell where exact token
            KLs are in the files, else k3.
        unit: "token" or "sequence"; None for both.
        by: columns to tell rows apart by, beside step and environment: prompt_id, reward, finish, length, file, what
            else the files say of a row; and "position", for ranges of positions.
        where: which rows count, as in ``step > 100 and finish = end``.
        pool: read two paths as one dump, where they would be set side by side.
        skip_bad: leave out rows that cannot be right, and say how many and which.
        on_progress: called as rows are read.

    Returns:
        A `FilesEstimate`: answers in nats a token and nats a sequence, groups, the rows behind them, notes.

    Raises:
        FileError: a file that cannot be read, with what to do; a row that cannot be right, by file and place.
        InputError: options that cannot be; rows with one law, of which no KL can be computed.
        StoppedError: Ctrl-C; `result` is what the rows read so far say. It is a KeyboardInterrupt.

    Example:
        >>> import tempfile, kullback as kb
        >>> path = tempfile.mkdtemp() + "/rollouts.parquet"
        >>> q, p = [-0.5, -1.0], [-0.7, -1.5]
        >>> kb.write_rollouts(path, [kb.Rollout(logprobs=q, ref_logprobs=p, step=step) for step in (1, 1, 2, 2)])
        >>> found = kb.estimate_files(path, where="step > 1", unit="token")
        >>> found.sequences, round(found.estimates[0].value, 4)
        (2, 0.0626)
    """
    asked = Asked.of(estimator=estimator, unit=unit, by=by, where=where, skip_bad=skip_bad)
    dump = Dump.opened(paths, format)
    started = time.perf_counter()
    survey, ended = surveyed(dump.blocks(), asked, total=dump.rows, on_progress=on_progress)
    if ended is not None and not survey.counts.rows:
        raise ended
    found = survey.found(dump.sources, where=where or "", seconds=time.perf_counter() - started)
    return handed_over(found, None, ended)
