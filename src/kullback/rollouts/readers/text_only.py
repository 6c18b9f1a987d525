"""Formats that keep what was said and no log-probs: recognised, and refused with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.rollouts.readers.format import Container, Format
from kullback.rollouts.record import Rollout

SCORE = "`kullback score FILE --policy MODEL --reference MODEL` adds log-probs of both by reading the text again"

NO_END = "the end token is lost: special tokens were dropped when it was written, so that no sequence ends"


def _none(record: Mapping[str, Any]) -> Iterator[Rollout]:
    return iter(())


def _format(
    name: str,
    written_by: str,
    names: set[str],
    container: Container = "jsonl",
    *,
    lost: str = NO_END,
    more: Callable[[Mapping[str, Any]], bool] = lambda record: True,
) -> Format:
    def recognises(record: Mapping[str, Any], path: Path) -> bool:
        # One with log-probs is of a newer writer than is known here.
        return names <= set(record) and more(record) and not any("log" in name and "prob" in name for name in record)

    return Format(
        name=name,
        written_by=written_by,
        containers=(container,),
        recognises=recognises,
        rollouts=_none,
        advice=f"{SCORE}; {lost}",
    )


def _has_rewards(record: Mapping[str, Any]) -> bool:
    """Whether there are columns beside those that are known: TRL writes one for every reward."""
    return len(record) > 4


def _columns(record: Mapping[str, Any]) -> bool:
    """Whether the values are lists of one length: one line that holds a whole step."""
    values = list(record.values())
    return all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1


FORMATS = (
    _format("verl-text", "verl (rollout_data_dir)", {"input", "output", "score", "step"}),
    _format(
        "trl", "TRL (log_completions)", {"step", "prompt", "completion", "advantage"}, "parquet", more=_has_rewards
    ),
    _format(
        "areal",
        "AReaL (dump_to_file)",
        {"task_id", "sample_idx", "seqlen", "prompt_len", "completion"},
        lost="special tokens are kept in the text, but ids can differ when it is read again",
    ),
    _format("roll", "ROLL (rollout_dump_dir)", {"prompt", "responses", "scores", "global_step"}, more=_columns),
    _format("rl-logging-board-eval", "RLLoggingBoard (evaluations)", {"response", "ref_response", "ref_reward"}),
)
"""Every one of them, by what its records have."""
