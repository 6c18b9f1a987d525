"""A batch with a bad sample, and a file whose records say different things of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dumped_sequences import COMPLETIONS, Dump
from dumps_of_trainers import SKIPPED, SKYRL, SLIME, SLIME_TRAIN, VERL
from server_records import RECORDS

import kullback as kb
from kullback.errors import FileError
from kullback.rollouts import Metadata, Model
from kullback.rollouts.metadata import agreed
from kullback.rollouts.readers import foreign
from kullback.rollouts.readers.family import formats
from kullback.rollouts.readers.foreign import FormatSource, Reading

SPOILT = {
    "slime-train": lambda record: record["samples"][1].update(rollout_log_probs=[7.5, 0.0, 0.0]),
    "slime": lambda record: record["samples"][1].update(rollout_log_probs=[7.5, 0.0, 0.0]),
    "verl": lambda record: _columns(record)["rollout_log_probs"][1].__setitem__(0, 7.5),
    "skyrl": lambda record: record["rollout_logprobs"][1].__setitem__(
        slice(None), [7.5] * len(record["rollout_logprobs"][1])
    ),
}
"""How the second sequence of each is made one that cannot be right."""


def _columns(record: Any) -> Any:
    return record.get("tensordict", record)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items() if name != "remove_sample"}
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("dump", [SLIME_TRAIN, SLIME, VERL, SKIPPED, SKYRL], ids=lambda dump: dump.file)
def test_the_sample_is_left_out_and_not_the_batch(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    record = plain(dump.records[0])
    SPOILT[dump.format](record)
    one = formats()[dump.format]
    monkeypatch.setattr(foreign, "RECORDS", {"torch": lambda path: iter([("", record)])})
    source = FormatSource(Path("a.pt"), one, "torch", Reading(skip_bad=True))
    [block] = source.blocks(10)
    assert [rollout.tokens for rollout in block] == [list(COMPLETIONS[row]) for row in (0, 2, 3)]
    [bad] = source.bad
    assert bad.startswith(("a.pt, sample 1: ", "a.pt, row 1: "))
    assert "7.5" in bad
    with pytest.raises(FileError, match=r"7\.5"):
        list(FormatSource(Path("a.pt"), one, "torch", Reading()).blocks(10))


def test_the_law_is_that_of_all_records(tmp_path: Path) -> None:
    """The first alone says raw; the second was drawn at another temperature."""
    first = RECORDS["responses"]
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps({**first, "temperature": heat}) + "\n" for heat in (1.0, 1.0, 0.5)))
    found = kb.read_rollouts(path)
    assert found.metadata.law["behavior_logprobs"] == "raw"
    assert len(list(found)) == 3
    assert found.metadata.law["behavior_logprobs"] == "unknown"
    assert found.metadata.behavior is not None
    assert "temperature" not in found.metadata.behavior.sampling
    assert found.metadata.behavior.name == first["model"]


def test_what_two_records_agree_on() -> None:
    first = Metadata(law={"logprobs": "raw"}, quantum={"logprobs": 0.5}, behavior=Model("a", {"top_p": 1.0}))
    second = Metadata(law={"logprobs": "raw", "ref_logprobs": "raw"}, quantum={"logprobs": 0.25})
    both = agreed(first, second)
    assert both.law == {"logprobs": "raw", "ref_logprobs": "unknown"}
    assert (both.quantum, both.behavior) == ({}, None)
    assert agreed(first, first) == first
