"""The numbers of a report computed once more, from the files that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kullback.documents import Record, plain
from kullback.errors import InputError, shown
from kullback.estimators import ESTIMATORS, LEVELS, Estimator, Level
from kullback.jobs.estimates import estimate_rows
from kullback.jobs.files.job import estimate_files
from kullback.jobs.reports.claims import from_folder
from kullback.rollouts import Rollout, count_tokens, read_rollouts


@dataclass(frozen=True)
class Again:
    """Numbers that were computed once more, beside what a report claims.

    Attributes:
        numbers: by the names that the report has them under; only those that could be computed.
        how: what was done, in words.
        left: what was not, and why.
    """

    numbers: Record
    how: str
    left: tuple[str, ...] = ()


def again_from_files(record: Record, folder: Path) -> Again | None:
    """The numbers of ``compare`` or ``estimate``; None for other commands, or where there is no file to start from.

    Raises:
        InputError, FileError: a file that is there says something else than the report, or cannot be read.
    """
    report = record["report"]
    kinds: Mapping[str, Callable[[Record, Path], Again | None]] = {"compare": _compared, "estimate": _estimated}
    return kinds[report["kind"]](record, folder) if report["kind"] in kinds else None


def _compared(record: Record, folder: Path) -> Again | None:
    there = [folder / one["path"] for one in record["report"]["rests_on"]]
    if not there:
        return None
    rollouts = list(read_rollouts(there[0]))
    claims = record["estimates"]
    rows = list(estimate_rows(rollouts, _asked(claims)))
    found = [one for row in rows for one in row.to_dicts()]
    own = [rollout for rollout in rollouts if rollout.sampled_from == "policy"]
    numbers: Record = {"estimates": found, "sequences": len(rollouts), "tokens": count_tokens(rollouts)}
    if own and all(rollout.token_kl is not None for rollout in own):
        numbers["differences"] = _differences(own, record.get("differences", {}))
    return Again(
        plain(numbers),
        f"every estimate from the {len(rollouts):,} sequences of {from_folder(there[0], folder)}",
        (
            "whether these models drew those sequences and give them those log-probs: "
            f"that takes the models; run {record['report'].get('command') or 'the command'}",
        ),
    )


def _asked(claims: list[Record]) -> list[tuple[Estimator, Level]]:
    found: list[tuple[Estimator, Level]] = []
    for claim in claims:
        level = next((one for one in LEVELS if one == claim["level"]), None)
        if level is None:
            raise InputError(f"a level {shown(claim['level'])} is claimed, but a level is token or sequence")
        found.append((ESTIMATORS[claim["estimator"]], level))
    return list(dict.fromkeys(found))


def _differences(own: list[Rollout], claims: Any) -> Record:
    """The prompts and positions that are claimed, by their exact token KLs."""
    found: Record = {"prompts": [], "positions": []}
    for claim in claims.get("prompts", ()):
        sums = [float(np.sum(one.column("token_kl"))) for one in own if one.prompt_id == claim["prompt_id"]]
        mean = float(np.mean(sums)) if sums else None
        found["prompts"].append({"nats_per_sequence": mean, "sequences": len(sums)})
    for claim in claims.get("positions", ()):
        at = int(claim["position"])
        kls = [float(one.column("token_kl")[at]) for one in own if 0 <= at < one.length]
        mean = float(np.mean(kls)) if kls else None
        found["positions"].append({"nats_per_token": mean, "tokens": len(kls)})
    return found


def _estimated(record: Record, folder: Path) -> Again:
    asked: dict[str, Any] = dict(record["report"]["asked"])
    paths = [str(folder / path) for path in asked.pop("paths")]
    found = estimate_files(paths, **asked)
    return Again(found.to_dict(), f"every number from {', '.join(record['report']['asked']['paths'])}")
