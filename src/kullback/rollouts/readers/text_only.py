"""Formats that keep what was said and no log-probs: read to be scored, and else refused with what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.errors import InputError
from kullback.rollouts.readers.format import Container, Format, Record
from kullback.rollouts.readers.responses import FINISHES
from kullback.rollouts.readers.values import Fields
from kullback.rollouts.record import Rollout

SCORE = "`kullback score FILE --policy MODEL --reference MODEL` adds log-probs of both by reading the text again"

NO_END = "the end token is lost: special tokens were dropped when it was written, so that no sequence ends"

NO_SPECIALS = f"{NO_END}, and those of the prompt (a chat's turns) are not read either"

Texts = Callable[[Record], Iterable[Rollout]]

KINDS: Mapping[str, Callable[[Fields, str], Any]] = {
    "prompt_id": Fields.key,
    "sample": Fields.whole,
    "step": Fields.whole,
    "reward": Fields.number,
}
"""What a text may be named by, and how it is read."""


def written(prompt: str, completion: str, *, extra: Mapping[str, Any] | None = None, **known: Any) -> Rollout:
    """A text as a rollout without a token."""
    return Rollout(behavior_logprobs=[], text=completion, extra={**(extra or {}), "prompt": prompt}, **known)  # type: ignore[arg-type]


def _said(row: Fields, name: str) -> str:
    """A text as it stands in the record."""
    if name in row and isinstance(row.get(name), list | tuple):
        raise InputError(
            f"{row.name(name)} is a list of messages, and chat templates are not applied: write the text that the "
            "model read, with the special tokens of its turns"
        )
    return row.text(name)


def _text(record: Record, reads: Mapping[str, str], *, missing_end: bool, **more: Any) -> Rollout:
    """One text; `reads` gives the names in the record by ours, "prompt" and "completion" among them."""
    row = Fields(record)
    prompt, completion = _said(row, reads["prompt"]), _said(row, reads["completion"])
    known = {ours: KINDS[ours](row, theirs) for ours, theirs in reads.items() if ours in KINDS and theirs in row}
    return written(prompt, completion, extra=row.rest(), missing_end=missing_end, **{**known, **more})


def _reading(reads: Mapping[str, str], *, missing_end: bool = True) -> Texts:
    return lambda record: [_text(record, reads, missing_end=missing_end)]


def _none(record: Record) -> Iterator[Rollout]:
    return iter(())


def _format(
    name: str,
    written_by: str,
    names: set[str],
    texts: Texts,
    *,
    container: Container = "jsonl",
    lost: str = NO_SPECIALS,
    more: Callable[[Mapping[str, Any]], bool] = lambda record: True,
) -> Format:
    def recognises(record: Mapping[str, Any], path: Path) -> bool:
        # One with log-probs is of a newer writer than is known here.
        return names <= set(record) and more(record) and not _has_logprobs(record)

    return Format(
        name=name,
        written_by=written_by,
        containers=(container,),
        recognises=recognises,
        rollouts=_none,
        advice=f"{SCORE}; {lost}",
        texts=texts,
        lost=lost,
    )


def _has_logprobs(record: Mapping[str, Any]) -> bool:
    return any("log" in name and "prob" in name for name in record)


def _has_rewards(record: Mapping[str, Any]) -> bool:
    """Whether there are columns beside those that are known: TRL writes one for every reward."""
    return len(record) > 4


def _columns(record: Mapping[str, Any]) -> bool:
    """Whether the values are lists of one length: one line that holds a whole step."""
    values = list(record.values())
    return all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1


def _verl(record: Record) -> Iterator[Rollout]:
    """verl names a text PROMPT_SAMPLE_OUTPUT, or its prompt alone."""
    reads = {"prompt": "input", "completion": "output", "reward": "score", "step": "step"}
    found = re.fullmatch(r"(.+)_(\d+)_\d+", str(record.get("uid", "")))
    if found:
        yield _text(record, reads, missing_end=True, prompt_id=found[1], sample=int(found[2]))
    else:
        yield _text(record, {**reads, "prompt_id": "uid"}, missing_end=True)


def _trl(record: Record) -> Iterator[Rollout]:
    """TRL has a column for each reward function; where there is one alone, it is the reward."""
    others = [name for name in record if name not in ("step", "prompt", "completion", "advantage")]
    numbers = [name for name in others if isinstance(record[name], int | float)]
    reads = {"prompt": "prompt", "completion": "completion", "step": "step"}
    yield _text(record, reads | ({"reward": numbers[0]} if len(numbers) == 1 else {}), missing_end=True)


def _roll(record: Record) -> Iterator[Rollout]:
    """ROLL writes a step as a line of columns."""
    reads = {"prompt": "prompt", "completion": "responses", "prompt_id": "id", "step": "global_step"}
    for values in zip(*record.values(), strict=True):
        yield _text(dict(zip(record, values, strict=True)), {**reads, "reward": "scores"}, missing_end=True)


def _evaluated(record: Record) -> Iterator[Rollout]:
    """What the policy answered and what the reference did, side by side."""
    for side, before in (("policy", ""), ("reference", "ref_")):
        reads = {"prompt": "prompt", "completion": f"{before}response", "reward": f"{before}reward", "step": "step"}
        other = {"policy": ("ref_response", "ref_reward"), "reference": ("response", "reward")}[side]
        kept = {name: value for name, value in record.items() if name not in other}
        yield _text(kept, reads, missing_end=True, sampled_from=side)


AREAL = {"prompt": "prompt", "completion": "completion", "prompt_id": "task_id", "sample": "sample_idx"}

FORMATS = (
    _format("verl-text", "verl (rollout_data_dir)", {"input", "output", "score", "step"}, _verl),
    _format(
        "trl",
        "TRL (log_completions)",
        {"step", "prompt", "completion", "advantage"},
        _trl,
        container="parquet",
        more=_has_rewards,
    ),
    _format(
        "areal",
        "AReaL (dump_to_file)",
        {"task_id", "sample_idx", "seqlen", "prompt_len", "completion"},
        _reading({**AREAL, "reward": "reward"}, missing_end=False),
        lost="special tokens are kept in the text, but ids can differ when it is read again",
    ),
    _format("roll", "ROLL (rollout_dump_dir)", {"prompt", "responses", "scores", "global_step"}, _roll, more=_columns),
    _format(
        "rl-logging-board-eval", "RLLoggingBoard (evaluations)", {"response", "ref_response", "ref_reward"}, _evaluated
    ),
)
"""Every one of them, by what its records have."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "input", "query"),
    "completion": ("completion", "response", "output", "generated_text", "generation"),
    "prompt_id": ("prompt_id", "prompt_idx", "group_id", "uid"),
    "sample": ("sample", "sample_idx", "sample_index"),
    "step": ("step", "global_step"),
    "reward": ("reward", "score"),
    "finish": ("finish", "finish_reason", "stop_reason"),
}
"""What texts of no known writer, and what they are named by, are called."""


def _named(record: Record) -> dict[str, str]:
    found = {
        ours: next((name for name in theirs if record.get(name) is not None), None) for ours, theirs in NAMES.items()
    }
    return {ours: name for ours, name in found.items() if name is not None}


def plain(record: Record) -> Iterator[Rollout]:
    """A prompt and a completion, under any of the known names."""
    reads = {"prompt": "prompt", "completion": "completion"} | _named(record)
    finish = record.get(reads.get("finish", ""))
    known = (
        {"finish": "end"}
        if finish == "end"
        else {"finish": FINISHES.get(finish, "unknown")}
        if isinstance(finish, str)
        else {}
    )
    yield _text(record, reads, missing_end=True, **known)


def is_plain(record: Record, path: Path | None = None) -> bool:
    """Whether there is a prompt and a completion, each a text or messages."""
    names = _named(record)
    return (
        {"prompt", "completion"} <= set(names)
        and not _has_logprobs(record)
        and all(isinstance(record[names[one]], str | list) for one in ("prompt", "completion"))
    )


PLAIN = Format(
    name="text",
    written_by="whoever writes prompts and completions",
    containers=("jsonl", "json", "parquet"),
    recognises=is_plain,
    rollouts=_none,
    advice=SCORE,
    texts=plain,
    lost="the end token is lost where the text does not end in it",
)
"""Prompt and completion, of no known writer; to be scored alone, for else a file of prompts beside dumps is one too."""
