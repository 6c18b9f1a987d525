"""Files of trainers, from bytes to rollouts: as they are written, broken off, and as their own packages wrote them."""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dumped_sequences import COMPLETIONS, POLICY, REFERENCE, SAMPLER, Dump, prompt
from dumps_of_trainers import DUMPS, EXPORTS, SKYRL, TEXTS, VERL

import kullback as kb
from kullback.errors import FileError, InputError, UnfinishedError

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
torch = pytest.importorskip("torch")

WRITTEN = Path(__file__).parent / "data" / "dumps"
"""What the writers' own packages made: verifiers 0.4.0, harbor 0.25.0, tensordict 0.15."""

every_dump = pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.file)


def written(folder: Path, file: str, records: list[Mapping[str, Any]]) -> Path:
    """A file in its container."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(records[0], indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        pa.parquet.write_table(_table(records), path, row_group_size=3)
    elif path.suffix == ".npz":
        np.savez(path, **records[0])
    else:
        torch.save(_tensors(records[0]), path)
    return path


def _table(records: list[Mapping[str, Any]]) -> Any:
    """As polars writes it: large lists."""
    columns = {}
    for name in records[0]:
        values = [record[name] for record in records]
        kind = pa.large_list(pa.infer_type(values[0])) if isinstance(values[0], list) else None
        columns[name] = pa.array(values, type=kind)
    return pa.table(columns)


def _tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tensors(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_tensors(part) for part in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def stable(path: Path) -> Path:
    (path.parent / "STABLE").touch()
    return path


@every_dump
def test_a_file_gives_the_numbers_that_were_written(dump: Dump, tmp_path: Path) -> None:
    path = stable(written(tmp_path, dump.file, list(dump.records)))
    for found in (kb.read_rollouts(path), kb.read_rollouts(path, format=dump.format)):
        assert len(found) == len(dump.rows)
        assert set(found.law) == set(dump.columns)
        for rollout, row in zip(found, dump.rows, strict=True):
            for name, values in dump.columns.items():
                np.testing.assert_array_equal(rollout.column(name)[rollout.counted], values[row])
            assert rollout.prompt_id is not None  # given, or named after the prompt


@every_dump
def test_rows_of_one_prompt_are_one_group(dump: Dump, tmp_path: Path) -> None:
    found = kb.read_rollouts(stable(written(tmp_path, dump.file, list(dump.records))))
    groups = [rollout.prompt_id for rollout in found]
    assert [groups.index(group) for group in groups] == [0, 0, 2, 2][: len(groups)]


@pytest.mark.parametrize("dump", [VERL, SKYRL], ids=["verl", "skyrl"])
def test_a_batch_can_be_npz(dump: Dump, tmp_path: Path) -> None:
    found = kb.read_rollouts(written(tmp_path, "batch.npz", list(dump.records)))
    assert [rollout.column("logprobs")[rollout.counted].tolist() for rollout in found] == [list(q) for q in POLICY]
    assert found[0].prompt_id == "p0"


@pytest.mark.parametrize("name", TEXTS)
def test_text_alone_is_refused_with_what_adds_log_probs(name: str, tmp_path: Path) -> None:
    file, record = TEXTS[name]
    with pytest.raises(FileError, match=f"is {name}, written by .*, without log-probs: `kullback score FILE"):
        list(kb.read_rollouts(written(tmp_path, file, [record])))


@every_dump
def test_a_file_that_breaks_off_is_one_sentence(dump: Dump, tmp_path: Path) -> None:
    path = stable(written(tmp_path, dump.file, list(dump.records)))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises((FileError, InputError)) as error:
            list(kb.read_rollouts(path))
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)


def test_a_step_that_is_not_stable_is_not_read_unless_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, EXPORTS.file, list(EXPORTS.records))
    with pytest.raises(UnfinishedError, match=r"has no STABLE beside it, .* with format='prime-rl-exports'"):
        kb.read_rollouts(path)
    with pytest.raises(UnfinishedError, match="has no STABLE beside a file yet"):
        kb.read_rollouts(tmp_path)
    assert len(kb.read_rollouts(path, format="prime-rl-exports")) == 4
    stable(path)
    assert len(kb.read_rollouts(tmp_path)) == len(kb.read_rollouts(path)) == 4


def test_the_run_of_open_instruct_is_no_rollout(tmp_path: Path) -> None:
    dump = next(dump for dump in DUMPS if dump.format == "open-instruct")
    written(tmp_path, dump.file, list(dump.records))
    (tmp_path / "run_metadata.jsonl").write_text('{"run_name": "run", "model_name": "tiny"}\n')
    found = kb.read_rollouts(tmp_path)
    assert (len(found), tuple(found.left_out)) == (4, ())


# What the writers' own packages wrote


def test_traces_of_verifiers_itself() -> None:
    fork, single = kb.read_rollouts(WRITTEN / "traces.jsonl")
    rows = (0, 1, 2)
    for name, law in (("behavior_logprobs", SAMPLER), ("logprobs", POLICY), ("ref_logprobs", REFERENCE)):
        assert fork.column(name)[fork.counted].tolist() == [x for row in rows for x in law[row]]  # 4 decimals kept
    assert (fork.prompt_id, fork.step, fork.reward, fork.finish) == ("g0", 6, 1.0, "end")
    assert single.tokens == list(COMPLETIONS[0])
    assert single.extra == {"environment": "words-env", "agent": "agent"}
    assert kb.read_rollouts(WRITTEN / "traces.jsonl").law == dict.fromkeys(fork_laws(), "raw")


def fork_laws() -> tuple[str, ...]:
    return ("logprobs", "ref_logprobs", "behavior_logprobs")


def test_a_trajectory_of_harbor_itself() -> None:
    [one] = kb.read_rollouts(WRITTEN / "trajectory.json")
    assert one.prompt_tokens == [*prompt(0), *COMPLETIONS[0], 33, 34]
    assert one.tokens == [*COMPLETIONS[1], 35, *COMPLETIONS[2]]
    assert one.column("behavior_logprobs")[one.counted].tolist() == [*SAMPLER[1], *SAMPLER[2]]


def test_a_batch_of_tensordict_is_read_with_its_package_and_refused_without() -> None:
    path = WRITTEN / "tq_batch.pt"
    if importlib.util.find_spec("tensordict") is None:
        with pytest.raises(FileError, match=r"is a pickle, which could run code .*b.get\('tensordict', "):
            len(kb.read_rollouts(path))
    else:
        assert [rollout.tokens for rollout in kb.read_rollouts(path)] == [list(row) for row in COMPLETIONS]


class Batch(dict[str, Any]):
    """What SkyRL pickles: a mapping of its own class."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the first line leaves a file open
@pytest.mark.parametrize("name", ["global_step_6_training_input.pkl", "gen_batch.dp"])
def test_the_two_lines_of_a_refusal_convert_a_pickle(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Batch(_tensors(SKYRL.records[0]))))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="is a pickle, which could run code") as error:
        len(kb.read_rollouts(path))
    first, second = str(error.value).split("`")[1::2]
    exec(f"{first}\n{second}", {})  # a pickle that was made above
    found = kb.read_rollouts(tmp_path / f"{name}.safe.pt")
    assert [rollout.column("logprobs")[rollout.counted].tolist() for rollout in found] == [list(q) for q in POLICY]


class Proto:
    """What verl pickles: tensors by name, and beside them arrays of what is none."""

    def __init__(self, batch: dict[str, Any], non_tensor_batch: dict[str, Any]) -> None:
        self.batch, self.non_tensor_batch = batch, non_tensor_batch


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_two_lines_keep_the_names_of_prompts(tmp_path: Path, monkeypatch: Any) -> None:
    whole = dict(VERL.records[0])
    names = np.array(["p0", "p0", "p1", "p1"], dtype=object)
    batch = {name: torch.as_tensor(np.asarray(value)) for name, value in whole.items() if name not in ("uid", "keys")}
    torch.save(Proto({**batch, "temperature": torch.tensor(1.0)}, {"uid": names, "m": names}), tmp_path / "proto.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="is a pickle, which could run code") as error:
        len(kb.read_rollouts(tmp_path / "proto.pt"))
    first, second = str(error.value).split("`")[1::2]
    exec(f"{first}\n{second}", {})  # a pickle that was made above
    found = list(kb.read_rollouts(tmp_path / "proto.pt.safe.pt"))
    assert [rollout.prompt_id for rollout in found] == names.tolist()
    assert [rollout.tokens for rollout in found] == [list(row) for row in COMPLETIONS]
