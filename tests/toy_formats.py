"""Formats that nobody writes, to try what reads all formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import kullback as kb
from kullback.rollouts import Metadata
from kullback.rollouts.readers import family, recognition
from kullback.rollouts.readers.format import Format, Record


def _rollouts(record: Record) -> Iterable[kb.Rollout]:
    """One of the log-probs q and p; a wrong one raises what it may."""
    yield kb.Rollout(
        logprobs=record["q"],
        ref_logprobs=record["p"],
        prompt_tokens=record.get("prompt"),
        tokens=record.get("tokens"),
        extra={"prompt": record["question"]} if "question" in record else {},
    )


def _is_toy(record: Record, path: Path) -> bool:
    return "q" in record and "p" in record


TOY = Format(
    name="toy",
    written_by="toys",
    containers=("jsonl", "json", "yaml", "torch", "npz", "parquet"),
    recognises=_is_toy,
    rollouts=_rollouts,
    metadata=lambda record: Metadata(law={"logprobs": "raw"}),
    companions=("args*",),
    steps=(r"step_(\d+)",),
)
STREAM = Format(
    name="stream",
    written_by="a server",
    containers=("sse",),
    recognises=lambda record, path: "events" in record and "q" in record["events"][0],
    rollouts=lambda record: [rollout for event in record["events"] for rollout in _rollouts(event)],
)
MARKED = Format(
    name="marked",
    written_by="whoever is careful",
    containers=("jsonl",),
    recognises=lambda record, path: "marked" in record,
    rollouts=_rollouts,
    marker="STABLE",
)
TEXT = Format(
    name="text",
    written_by="whoever keeps no numbers",
    containers=("jsonl",),
    recognises=lambda record, path: "answer" in record,
    rollouts=lambda record: [],
    advice="score the text first",
)
BYTES = Format(
    name="bytes",
    written_by="C",
    containers=("binary",),
    recognises=lambda record, path: bytes(record["head"]).startswith(b"_toy_"),
    rollouts=lambda record: [kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0], tokens=[record["path"].read_bytes()[5]])],
)
TABLE = Format(
    name="table",
    written_by="anybody",
    containers=("jsonl", "json", "parquet"),
    recognises=lambda record, path: False,
    rollouts=lambda record: [kb.Rollout(logprobs=record["logprobs"], ref_logprobs=record["ref_logprobs"])],
    columns=lambda names: {name: name for name in names if name in ("logprobs", "ref_logprobs", "prompt_tokens")},
)
TOYS: Mapping[str, Format] = {one.name: one for one in (TOY, STREAM, MARKED, TEXT, BYTES, TABLE)}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """These formats alone."""
    for module in (family, recognition):
        monkeypatch.setattr(module, "formats", lambda: TOYS)
    return TOYS
