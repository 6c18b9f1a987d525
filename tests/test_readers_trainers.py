"""Dumps of trainers: every reader finds the numbers that were put in, and counts what its trainer counts."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dumped_sequences import COMPLETIONS, POLICY, REFERENCE, ROWS, SAMPLER, Dump, prompt
from dumps_of_agents import ATIF, NEMO_GYM
from dumps_of_trainers import BOARD, DUMPS, EXPORTS, NEMO_RL, SLIME_TRAIN, TEXTS, VERIFIERS, VERL, WIRE

from kullback.errors import InputError
from kullback.rollouts import Rollout
from kullback.rollouts.readers.family import formats
from kullback.rollouts.readers.format import Format

every_dump = pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.file)


def reader(dump: Dump) -> Format:
    return formats()[dump.format]


def found(dump: Dump, *records: Mapping[str, Any]) -> list[Rollout]:
    return [rollout for record in records or dump.records for rollout in reader(dump).rollouts(record)]


def changed(record: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A record with fields of another value; None leaves one out."""
    kept = {name: value for name, value in deepcopy(dict(record)).items() if fields.get(name, value) is not None}
    return kept | {name: value for name, value in fields.items() if value is not None}


@every_dump
def test_numbers_are_those_that_were_written(dump: Dump) -> None:
    rollouts = found(dump)
    assert len(rollouts) == len(dump.rows)
    for rollout, row in zip(rollouts, dump.rows, strict=True):
        counted = rollout.counted
        assert counted.sum() == len(COMPLETIONS[row])
        for name in ("logprobs", "ref_logprobs", "behavior_logprobs"):
            column = getattr(rollout, name)
            assert (column is not None) == (name in dump.columns), name
            if column is not None:
                np.testing.assert_array_equal(column[counted], dump.columns[name][row])


@every_dump
def test_tokens_prompts_and_what_else_is_said(dump: Dump) -> None:
    for rollout, row in zip(found(dump), dump.rows, strict=True):
        said = {"prompt_tokens": prompt(row), "tokens": list(COMPLETIONS[row])} | dict(dump.say(row))
        for name, value in said.items():
            assert getattr(rollout, name) == value, name


@every_dump
def test_a_dump_is_recognised_by_its_own_format_alone(dump: Dump) -> None:
    path = Path(dump.file)
    assert [one.name for one in formats().values() if one.recognises(dump.records[0], path)] == [dump.format]


@pytest.mark.parametrize("name", TEXTS)
def test_text_alone_is_recognised_and_has_advice(name: str) -> None:
    file, record = TEXTS[name]
    assert [one.name for one in formats().values() if one.recognises(record, Path(file))] == [name]
    advice = formats()[name].advice
    assert advice is not None
    assert "kullback score FILE --policy MODEL --reference MODEL" in advice
    assert list(formats()[name].rollouts(record)) == []


@pytest.mark.parametrize("record", [{}, {"samples": []}, {"traces": None}, {"output": 1}, {"messages": [1, "a"]}])
def test_what_is_nobodys_is_recognised_by_no_trainer(record: Mapping[str, Any]) -> None:
    names = {dump.format for dump in DUMPS} | set(TEXTS)
    for name in names:
        assert not _recognised(formats()[name], record)


def _recognised(one: Format, record: Mapping[str, Any]) -> bool:
    try:
        return one.recognises(record, Path("a.jsonl"))
    except LookupError:  # which whoever asks takes for a no
        return False


# verifiers


def node(parent: int | None, completion: int | None, **more: Any) -> dict[str, Any]:
    """A turn of the model, or of the user."""
    link = {} if parent is None else {"parent": parent}
    if completion is None:
        return {**link, "token_ids": [9, 9], "mask": [False, False], "logprobs": [], **more}
    laws = {"logprobs": SAMPLER, "trainer_logprobs": POLICY, "reference_logprobs": REFERENCE}
    return {
        **link,
        "token_ids": list(COMPLETIONS[completion]),
        "mask": [True] * len(COMPLETIONS[completion]),
        **{name: list(values[completion]) for name, values in laws.items()},
        **more,
    }


def traced(*nodes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"traces": [{"nodes": list(nodes), **more}]}


def test_a_turn_that_two_branches_share_counts_once() -> None:
    [fork] = found(
        VERIFIERS, traced(node(None, None), node(0, 0), node(1, None), node(2, 1), node(1, None), node(4, 2))
    )
    assert fork.counted.sum() == sum(len(COMPLETIONS[row]) for row in (0, 1, 2))
    ratio = (fork.column("logprobs") - fork.column("ref_logprobs"))[fork.counted].sum()
    assert ratio == pytest.approx(sum(sum(POLICY[row]) - sum(REFERENCE[row]) for row in (0, 1, 2)))
    assert fork.prompt_tokens == [9, 9]


def test_an_attempt_at_compaction_that_nothing_goes_on_from_does_not_count() -> None:
    attempt = {"semantic_parents": [{"type": "compaction_attempt", "node": 1}]}
    nodes = [node(None, None), node(0, 0), node(1, None), node(2, 1, **attempt), node(1, None), node(4, 2)]
    [dropped] = found(VERIFIERS, traced(*nodes))
    assert dropped.counted.sum() == len(COMPLETIONS[0]) + len(COMPLETIONS[2])
    nodes[4]["semantic_parents"] = [{"type": "compaction", "node": 3}]
    [kept] = found(VERIFIERS, traced(*nodes))
    assert kept.counted.sum() == sum(len(COMPLETIONS[row]) for row in (0, 1, 2))


def test_a_turn_that_one_of_the_laws_misses_is_refused_not_filled() -> None:
    half = node(0, 1)
    del half["reference_logprobs"]
    with pytest.raises(InputError, match=r"nodes\[2\].reference_logprobs has 0 numbers, but its mask counts 3 tokens"):
        found(VERIFIERS, traced(node(None, None), node(0, 0), half))


def test_agents_that_are_not_trained_and_traces_without_a_token_are_left_out() -> None:
    one = deepcopy(VERIFIERS.records[0])
    one["traces"] += [{**one["traces"][0], "agent": {"name": "judge", "trainable": False}}, {"nodes": []}]
    assert len(found(VERIFIERS, one)) == 1


@pytest.mark.parametrize(
    ("sampling", "law"),
    [
        ({"temperature": 1.0}, {"behavior_logprobs": "raw", "logprobs": "raw", "ref_logprobs": "raw"}),
        ({"temperature": 0.7}, {"behavior_logprobs": "temperature"}),
        ({"temperature": 1.0, "top_p": 0.9}, {"behavior_logprobs": "processed"}),
        ({"temperature": 1.0, "repetition_penalty": 1.1}, {}),
        ({}, {}),
    ],
)
def test_the_law_is_that_of_the_first_call(sampling: Mapping[str, float], law: Mapping[str, str]) -> None:
    call = {"node": 1, "model": "tiny", "sampling": sampling}
    assert reader(VERIFIERS).metadata(traced(node(None, None), node(0, 0), calls=[call])).law == law
    other = {"node": 1, "model": "tiny", "sampling": {"temperature": 0.3}}
    assert reader(VERIFIERS).metadata(traced(node(None, None), node(0, 0), calls=[call, other])).law == {}


def test_laws_of_the_others() -> None:
    assert reader(WIRE).metadata(WIRE.records[0]).law == {"behavior_logprobs": "temperature"}
    assert reader(EXPORTS).metadata(EXPORTS.records[0]).law == {"logprobs": "temperature"}
    assert reader(NEMO_RL).metadata(NEMO_RL.records[0]).law == {}
    assert set(reader(SLIME_TRAIN).metadata(SLIME_TRAIN.records[0]).law.values()) == {"temperature"}


# packed rows


def test_the_first_token_of_a_sequence_has_no_log_prob() -> None:
    whole = changed(EXPORTS.records[1], loss_mask=[True] * len(EXPORTS.records[1]["token_ids"]))
    rollouts = found(EXPORTS, whole)
    assert [rollout.length for rollout in rollouts] == [len(prompt(row)) + len(COMPLETIONS[row]) - 1 for row in (1, 2)]
    assert all(rollout.prompt_tokens == prompt(row)[:1] for rollout, row in zip(rollouts, (1, 2), strict=True))


def test_nemo_rl_counts_no_padding_and_no_first_token() -> None:
    row = NEMO_RL.records[0]
    all_on = changed(row, token_loss_mask=[[1] * len(row["token_ids"][0])])
    [rollout] = found(NEMO_RL, all_on)
    assert rollout.counted.sum() == row["input_lengths"][0] - 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"token_ids": [1, 2, 3]},
            "token_ids is a list of 3, but NeMo-RL writes every value but idx with a batch axis",
        ),
        ({"sample_loss_mask": [0.5]}, "sample_loss_mask is 0.5, but it is 0 or 1"),
        ({"input_lengths": [99]}, "input_lengths is 99, but the record has 9 tokens"),
        ({"generation_logprobs": None}, "a rollout with logprobs came, but log-probs of two laws are needed"),
        ({"sample_loss_mask": None}, "the record has no sample_loss_mask, which is needed"),
    ],
)
def test_what_nemo_rl_does_not_write(fields: Mapping[str, Any], said: str) -> None:
    record = changed(NEMO_RL.records[0], **fields)
    with pytest.raises(InputError, match=said):
        found(NEMO_RL, record)


@pytest.mark.parametrize(
    ("texts", "counted"),
    [
        (["a", "b", "<end>", "c", "<pad>"], 4),
        (["a", "b", "<end>", "<pad>", "<pad>"], 3),
        (["a", "b", "<end>", "<end>", "<end>"], 3),
        (["a", "b", "c", "<end>", "<end>"], 4),
        (["a", "b", "<end>", "[PAD]"], 3),
        (["a", "b", "b", "b"], 4),
    ],
)
def test_padding_behind_a_response_does_not_count(texts: list[str], counted: int) -> None:
    row = changed(BOARD.records[0], response_tokens=texts)
    [rollout] = found(BOARD, row)
    assert rollout.counted.tolist() == [n < counted for n in range(4)]


# turns


def turn(prompt_ids: list[int], completion: int, **more: Any) -> dict[str, Any]:
    """A turn of NeMo Gym."""
    return {
        "prompt_token_ids": prompt_ids,
        "generation_token_ids": list(COMPLETIONS[completion]),
        "generation_log_probs": list(SAMPLER[completion]),
        **more,
    }


@pytest.mark.parametrize("where", ["output", "messages"])
def test_turns_are_joined_where_the_prompt_goes_on_and_only_there(where: str) -> None:
    goes_on = [*prompt(0), *COMPLETIONS[0], 33, 34]
    [one] = found(NEMO_GYM, {where: [{"role": "user"}, turn(prompt(0), 0), turn(goes_on, 1)]})
    assert one.tokens == [*COMPLETIONS[0], 33, 34, *COMPLETIONS[1]]
    assert one.column("behavior_logprobs")[one.counted].tolist() == [*SAMPLER[0], *SAMPLER[1]]
    first, second = found(NEMO_GYM, {where: [turn(prompt(0), 0), turn([*prompt(0), 33, 34], 1)]})
    assert (first.tokens, second.tokens) == (list(COMPLETIONS[0]), list(COMPLETIONS[1]))
    assert first.prompt_id == second.prompt_id is not None  # of one conversation, so no independent draws
    assert [first.extra, second.extra] == [{"turn": 0}, {"turn": 1}]


def atif_step(number: int, prompt_ids: list[int], completion: int, **more: Any) -> dict[str, Any]:
    metrics = {
        "prompt_token_ids": prompt_ids,
        "completion_token_ids": list(COMPLETIONS[completion]),
        "logprobs": list(SAMPLER[completion]),
    }
    return {"step_id": number, "source": "agent", "message": "a text", "metrics": metrics, **more}


def test_copied_context_is_prompt_and_not_counted() -> None:
    goes_on = [*prompt(0), *COMPLETIONS[0], 33]
    steps = [atif_step(1, prompt(0), 0, is_copied_context=True), atif_step(2, goes_on, 1)]
    [one] = found(ATIF, changed(ATIF.records[0], steps=steps))
    assert (one.prompt_tokens, one.tokens) == (goes_on, list(COMPLETIONS[1]))
    assert one.counted.all()
    assert found(ATIF, changed(ATIF.records[0], steps=steps[:1])) == []


def test_agents_that_an_agent_called_are_read_too() -> None:
    whole = changed(ATIF.records[0], subagent_trajectories=[ATIF.records[1]])
    assert [rollout.tokens for rollout in found(ATIF, whole)] == [list(COMPLETIONS[row]) for row in (0, 1)]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (atif_step(1, prompt(0), 0, llm_call_count=2), r"steps\[0\].llm_call_count is 2: the metrics of several calls"),
        ({"step_id": 1, "source": "agent", "message": "a text"}, "no step has metrics.logprobs"),
    ],
)
def test_steps_whose_tokens_are_not_known(step: Mapping[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        found(ATIF, changed(ATIF.records[0], steps=[step]))


# batches


def test_a_prompt_that_may_be_padded_is_not_taken_for_one() -> None:
    rollouts = found(VERL, changed(VERL.records[0], attention_mask=None))
    assert [rollout.prompt_tokens for rollout in rollouts] == [None if row > 1 else [0, *prompt(row)] for row in ROWS]


def test_a_slime_of_another_version_and_a_missing_pair_of_laws() -> None:
    with pytest.raises(InputError, match="format_version is 3, but only 2 is known here"):
        found(SLIME_TRAIN, changed(SLIME_TRAIN.records[0], format_version=3))
    alone = changed(SLIME_TRAIN.records[0])
    for sample in alone["samples"]:
        del sample["rollout_log_probs"], sample["ref_log_probs"]
    with pytest.raises(InputError, match="a rollout with logprobs came, but log-probs of two laws are needed"):
        found(SLIME_TRAIN, alone)


@pytest.mark.parametrize("dump", [SLIME_TRAIN, NEMO_RL, EXPORTS, VERL], ids=lambda dump: dump.format)
def test_a_sequence_of_which_no_token_counts_is_left_out(dump: Dump) -> None:
    whole = deepcopy(dump.records[0])
    holder, name = {
        "slime-train": lambda: (whole["samples"][0], "loss_masks"),
        "nemo-rl": lambda: (whole, "token_loss_mask"),
        "prime-rl-exports": lambda: (whole, "loss_mask"),
        "verl": lambda: (whole, "response_mask"),
    }[dump.format]()
    if dump is VERL:
        holder[name][0] = 0
    else:
        holder[name] = (np.array(holder[name]) * 0).tolist()
    assert len(found(dump, whole)) == len(found(dump, dump.records[0])) - 1
