"""Estimate the KLs of a dump of rollouts: whatever its format, in one pass."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isnan
from pathlib import Path

from kullback.errors import InputError
from kullback.estimation.recipe import Unit
from kullback.estimators import Estimator
from kullback.jobs.endings import handed_over
from kullback.jobs.files.asked import Asked
from kullback.jobs.files.beside import pairs_of
from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.joined import Joined, joinable
from kullback.jobs.files.outcome import FilesEstimate
from kullback.jobs.files.pairing import Pairing, differences
from kullback.jobs.files.sides import SideBySide, short_names
from kullback.jobs.files.survey import surveyed
from kullback.jobs.progress import OnProgress, unheard
from kullback.rollouts import same_tokens


def estimate_files(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str | None = None,
    estimator: Estimator | str | Sequence[Estimator | str] | None = None,
    unit: str | None = None,
    by: str | Sequence[str] = (),
    where: str | None = None,
    map: Mapping[str, str] | None = None,
    pool: bool = False,
    max_log_ratio: float | None = None,
    skip_bad: bool = False,
    sample: bool = False,
    on_progress: OnProgress = unheard,
) -> FilesEstimate | SideBySide:
    """The KLs between the laws whose log-probs stand in files of rollouts, with an error on each.

    KL(first‖second) = E over the first law's samples of Σ_t k(log first − log second). Where the first law drew the
    tokens that is a mean over the rows; where another one did, token t is weighted by Π_{i≤t} first/drew, as
    `kullback.estimate` does with `behavior_logprobs`, and the answer says by its effective sample size and k̂ whether
    that holds.

    Args:
        paths: a file or a folder; of two, each is a dump, and they are set side by side; three or more are one dump.
        format: the name of the format; None to look into the files.
        estimator: a member of `kullback.ESTIMATORS`, its name, or several; None for Rao-Blackwell where exact token
            KLs are in the files, else k3.
        unit: "token" or "sequence"; None for both.
        by: columns to tell rows apart by, beside step and environment: prompt_id, reward, finish, length, file, what
            else the files say of a row; and "position", for ranges of positions.
        where: which rows count, as in ``step > 100 and finish = end``.
        map: for other names: what the files call our columns, as {"logprobs": "old_log_probs"}.
        pool: read two paths as one dump, where they would be set side by side.
        max_log_ratio: of two files with lists of likely words, a bound B on log(first/second) of every other word,
            known from elsewhere: the KL then has an upper bound too; see `kullback.vocab.topk_kl`.
        skip_bad: leave out rows that cannot be right, and say how many and which.
        sample: keep some of the rows, for a page that shows them token by token: evenly spread, and of two dumps those
            of what differs most.
        on_progress: called as rows are read.

    Returns:
        A `FilesEstimate`: answers in nats a token and nats a sequence, groups, the rows behind them, notes. Of two
        paths a `SideBySide`: both, and the differences, paired by prompt where they share prompts.

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
    asked = Asked.of(estimator=estimator, unit=unit, by=by, where=where, skip_bad=skip_bad, sample=sample)
    opened = partial(Dump.opened, format=format, names=map, skip_bad=skip_bad)
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    if len(listed) == 2 and not pool:
        first, second = dumps = [opened(path) for path in listed]
        joined = joinable(first, second, max_log_ratio)
        _check_lists(joined, max_log_ratio)
        if joined is None:
            return _beside(dumps, asked, where or "", on_progress)
        return _alone(joined, asked, where or "", on_progress)
    _check_lists(None, max_log_ratio)
    return _alone(opened(listed), asked, where or "", on_progress)


def _check_lists(joined: Joined | None, max_log_ratio: float | None) -> None:
    """Hold that a bound on the words outside lists came with lists."""
    if max_log_ratio is not None and isnan(max_log_ratio):
        raise InputError("max_log_ratio=nan came, but a bound on log(first/second) is a number")
    if max_log_ratio is not None and (joined is None or not joined.listed):
        raise InputError(
            f"max_log_ratio={max_log_ratio:g} bounds the words outside two files' lists of likely words (top-k), and "
            "no two such files came: name the two servers' files, or leave it out"
        )


def _alone(dump: Dump | Joined, asked: Asked, where: str, on_progress: OnProgress) -> FilesEstimate:
    started = time.perf_counter()
    survey, ended = surveyed(dump, asked, on_progress)
    if ended is not None and not survey.counts.rows:
        raise ended
    found = survey.found(dump, where=where, seconds=time.perf_counter() - started)
    return handed_over(found, None, ended)


def _beside(dumps: Sequence[Dump], asked: Asked, where: str, on_progress: OnProgress) -> SideBySide:
    """Each on its own, then what differs; an interrupt ends it without a result, for half a dump is no pair."""
    surveys, founds = [], []
    for dump in dumps:
        started = time.perf_counter()
        survey, ended = surveyed(dump, replace(asked, sample=False), on_progress)
        if ended is not None:
            raise ended
        surveys.append(survey)
        founds.append(survey.found(dump, where=where, seconds=time.perf_counter() - started))
    ledgers = [survey.ledger for survey in surveys]
    whole = not any(survey.counts.left_out for survey in surveys)
    pairing = Pairing.of(ledgers[0], ledgers[1], same_rows=_same_rows(dumps[0], dumps[1]), whole=whole)
    unit: Unit = "token" if "token" in asked.units else "sequence"
    return SideBySide(
        first=founds[0],
        second=founds[1],
        differences=tuple(differences(ledgers[0], ledgers[1], pairing, unit)),
        done=pairing.sentence(short_names(founds[0], founds[1])),
        pairs=pairs_of(dumps, ledgers, pairing, asked) if asked.sample else None,
    )


def _same_rows(first: Dump, second: Dump) -> bool:
    """Whether both hold the same tokens row by row."""
    return len(first.files) == len(second.files) and all(
        same_tokens(one, other) for one, other in zip(first.files, second.files, strict=True)
    )
