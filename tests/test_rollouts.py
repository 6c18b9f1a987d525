"""A rollout, a batch of them, and what their file says about itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.estimation import sequences
from kullback.rollouts import (
    SCHEMA,
    TOKEN_COLUMNS,
    Metadata,
    Model,
    count_tokens,
    hash_tokens,
    law_of,
    same_tokens,
    to_sequences,
)

PAIR: dict[str, Any] = {"logprobs": [-0.5, -1.5, -2.5], "ref_logprobs": [-0.25, -1.0, -3.0]}
MU = [-0.75, -1.25, -2.0]


# The record ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        {"logprobs", "ref_logprobs"},
        {"behavior_logprobs", "logprobs"},
        {"behavior_logprobs", "ref_logprobs"},
        {"behavior_logprobs", "logprobs", "ref_logprobs"},
    ],
    ids=sorted,
)
def test_log_probs_of_two_laws_are_a_rollout(names: set[str]) -> None:
    rollout = kb.Rollout(**{name: [-1.0, -2.0] for name in names})
    assert rollout.length == 2
    assert (rollout.prompt_id, rollout.tokens, rollout.finish, rollout.sampled_from) == (
        None,
        None,
        "unknown",
        "policy",
    )


@pytest.mark.parametrize("names", [[], ["logprobs"], ["ref_logprobs"], ["token_kl"]])
def test_fewer_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match="log-probs of two laws are needed: logprobs and ref_logprobs, or behavior"):
        kb.Rollout(**{name: [-1.0] for name in names})


@pytest.mark.parametrize("name", [*TOKEN_COLUMNS, "mask", "tokens"])
def test_columns_of_different_lengths_are_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=r"has [23] tokens and \w+ has [23]: .* one number for each token"):
        kb.Rollout(**{**PAIR, name: [0, 0]})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"logprobs": [[-0.5, -1.5, -2.5]]}, r"logprobs has shape \(1, 3\), but a rollout is one sequence"),
        ({"finish": "stop"}, "finish='stop' came, but it is one of end, length, unknown"),
        ({"sampled_from": "engine"}, "sampled_from='engine' came, but it is one of policy, reference"),
    ],
    ids=str,
)
def test_other_mistakes_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kb.Rollout(**{**PAIR, **wrong})


def test_lists_and_tensors_are_taken() -> None:
    logprobs = torch.tensor(PAIR["logprobs"], dtype=torch.bfloat16, requires_grad=True)
    given = kb.Rollout(**{**PAIR, "logprobs": logprobs}, tokens=torch.tensor([4, 5, 6]), mask=[1, 0, 1])  # type: ignore[arg-type]
    wanted = kb.Rollout(**PAIR, tokens=[4, 5, 6], mask=np.array([True, False, True]))
    assert given == wanted
    assert given.mask is not None
    assert given.mask.dtype == bool


@pytest.mark.parametrize(
    "change",
    [
        {"logprobs": np.array([-0.5, -1.5, -2.25])},
        {"prompt_id": 1},
        {"tokens": [1, 2, 4]},
        {"tokens": None},
        {"reward": 1.0},
        {"finish": "end"},
        {"mask": np.array([True, True, False])},
    ],
    ids=str,
)
def test_rollouts_are_equal_by_what_they_hold(change: dict[str, Any]) -> None:
    one = kb.Rollout(**PAIR, prompt_id=0, tokens=[1, 2, 3], mask=np.ones(3, bool), token_kl=[np.nan, 0, 0])
    assert one == replace(one)
    assert one != replace(one, **change)
    assert one != "rollout"


def test_every_token_counts_where_there_is_no_mask() -> None:
    assert count_tokens([kb.Rollout(**PAIR), kb.Rollout(**PAIR, mask=[True, False, False])]) == 4


def test_a_column_that_has_to_be_there_is_asked_for_by_name() -> None:
    assert kb.Rollout(**PAIR).column("logprobs").tolist() == PAIR["logprobs"]
    with pytest.raises(InputError, match="no token_kl, which is needed here"):
        kb.Rollout(**PAIR).column("token_kl")


def test_there_is_one_list_of_token_columns() -> None:
    assert TOKEN_COLUMNS is sequences.TOKEN_COLUMNS


# Batches ------------------------------------------------------------------------------------------------------


def test_a_batch_is_padded_and_has_only_what_all_rows_have() -> None:
    short = kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0], prompt_id=7)
    batch = to_sequences([kb.Rollout(**PAIR, prompt_id=3, mask=[True, False, True]), short])
    np.testing.assert_array_equal(batch.logprobs, [PAIR["logprobs"], [-1, 0, 0]])
    np.testing.assert_array_equal(batch.ref_logprobs, [PAIR["ref_logprobs"], [-2, 0, 0]])
    np.testing.assert_array_equal(batch.mask, [[1, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch.groups, [3, 7])
    assert (batch.token_kl, batch.ref_mass, batch.behavior_logprobs) == (None, None, None)
    assert to_sequences([kb.Rollout(**PAIR)]).groups is None


@pytest.mark.parametrize(
    ("columns", "q", "p", "behavior"),
    [
        (PAIR, "logprobs", "ref_logprobs", False),
        ({**PAIR, "sampled_from": "reference"}, "ref_logprobs", "logprobs", False),
        ({**PAIR, "behavior_logprobs": MU}, "logprobs", "ref_logprobs", True),
        ({**PAIR, "behavior_logprobs": MU, "sampled_from": "reference"}, "ref_logprobs", "logprobs", True),
        ({"behavior_logprobs": MU, "logprobs": PAIR["logprobs"]}, "behavior_logprobs", "logprobs", False),
        ({"behavior_logprobs": MU, "ref_logprobs": PAIR["ref_logprobs"]}, "behavior_logprobs", "ref_logprobs", False),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, dict) else str(x),
)
def test_q_is_what_drew_the_tokens(columns: dict[str, Any], q: str, p: str, behavior: bool) -> None:
    batch = to_sequences([kb.Rollout(**columns, token_kl=[0.1, 0.2, 0.3], ref_mass=[1, 0.5, 1])])
    np.testing.assert_array_equal(batch.logprobs[0], columns[q])
    np.testing.assert_array_equal(batch.ref_logprobs[0], columns[p])
    assert (batch.behavior_logprobs is not None) == behavior
    if batch.behavior_logprobs is not None:
        np.testing.assert_array_equal(batch.behavior_logprobs[0], MU)
    assert batch.token_kl is not None
    assert batch.ref_mass is not None
    np.testing.assert_array_equal((batch.token_kl[0], batch.ref_mass[0]), [[0.1, 0.2, 0.3], [1, 0.5, 1]])


@pytest.mark.parametrize("name", ["prompt_id", "token_kl", "ref_mass", "behavior_logprobs"])
@pytest.mark.parametrize("first", [True, False], ids=["had", "lacked"])
def test_a_column_of_some_rows_is_refused_and_the_first_row_named(name: str, first: bool) -> None:
    lacking = kb.Rollout(**PAIR)
    having = replace(lacking, **{name: 1 if name == "prompt_id" else np.array([-0.1, -0.1, -0.1])})
    rows = [having, having, lacking, lacking] if first else [lacking, lacking, having, lacking]
    with pytest.raises(InputError, match=f"rollout 2 has {'no' if first else 'a'} {name} and rollout 0"):
        to_sequences(rows)


def test_a_batch_of_nothing_or_of_two_samplers_is_refused() -> None:
    with pytest.raises(InputError, match="no rollout came"):
        to_sequences([])
    with pytest.raises(InputError, match="rollout 1 is not sampled from the policy"):
        to_sequences([kb.Rollout(**PAIR), kb.Rollout(**PAIR, sampled_from="reference")])


# Metadata -----------------------------------------------------------------------------------------------------

FULL = Metadata(
    policy=Model("a/policy", {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.05}, "bfloat16"),
    reference=Model("a/reference"),
    behavior=Model(None, {"temperature": 0.7}),
    law={"logprobs": "processed", "ref_logprobs": "raw", "behavior_logprobs": "temperature"},
    quantum={"behavior_logprobs": 1e-4},
    token_hash="00ff",
)


@pytest.mark.parametrize("metadata", [Metadata(), FULL])
def test_metadata_is_the_same_after_json(metadata: Metadata) -> None:
    assert Metadata.from_json(metadata.to_json()) == metadata
    assert json.loads(metadata.to_json())["schema"] == SCHEMA


def test_keys_that_are_not_known_are_ignored() -> None:
    assert Metadata.from_json(json.dumps({**asdict(FULL), "seed": 3})) == FULL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not what kullback writes"),
        ("[1, 2]", "not what kullback writes"),
        ('{"law": {}}', "not what kullback writes"),
        ('{"schema": 2, "policy": "a name"}', "not what kullback writes"),
        ('{"schema": 2, "quantum": {"logprobs": "small"}}', "not what kullback writes"),
        ('{"schema": 4}', "its schema is 4 and this kullback knows 3 at most: upgrade"),
        ('{"schema": 2, "law": {"logprobs": "cooked"}}', "is 'cooked', but it is one of raw, temperature, processed"),
        ('{"schema": 2, "law": {"token_kl": "raw"}}', "of token_kl came, but only logprobs, ref_logprobs, behavior"),
        ('{"schema": 2, "quantum": {"logprobs": 0}}', "quantum of logprobs is 0, but a rounding step"),
    ],
)
def test_metadata_of_another_kind_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Metadata.from_json(text)


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({}, "raw"),
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": 0.5, "top_p": 0.9}, "processed"),
        ({"top_k": 20}, "processed"),
    ],
    ids=str,
)
def test_the_law_is_that_of_the_settings(settings: dict[str, float], law: str) -> None:
    assert law_of(**settings) == law


# The hash of tokens -------------------------------------------------------------------------------------------


def rows_of(tokens: list[tuple[list[int] | None, list[int]]]) -> list[kb.Rollout]:
    return [
        kb.Rollout(logprobs=[-1.0] * len(c), ref_logprobs=[-1.0] * len(c), prompt_tokens=p, tokens=c) for p, c in tokens
    ]


IDS = st.lists(st.integers(0, 2**31 - 1), max_size=4)
ROWS = st.lists(st.tuples(st.none() | IDS, IDS), min_size=1, max_size=4)


@given(ROWS, ROWS)
def test_hashes_agree_where_tokens_and_their_order_do(
    mine: list[tuple[list[int] | None, list[int]]], other: list[tuple[list[int] | None, list[int]]]
) -> None:
    assert (hash_tokens(rows_of(mine)) == hash_tokens(rows_of(other))) == (mine == other)


def test_every_token_and_every_boundary_counts() -> None:
    first: list[tuple[list[int] | None, list[int]]] = [([1, 2], [3, 4, 5]), ([6], [7])]
    others: list[list[tuple[list[int] | None, list[int]]]] = [first[::-1], first[:1]]
    for row in range(2):
        for part in range(2):
            for place in range(len(first[row][part] or ())):
                changed = [tuple(list(ids or ()) for ids in pair) for pair in first]
                changed[row][part][place] += 1
                others.append(changed)  # type: ignore[arg-type]
    others += [[([1], [2, 3, 4, 5]), ([6], [7])], [([1, 2], [3, 4]), ([5, 6], [7])], [(None, [3, 4, 5]), ([6], [7])]]
    hashes = [hash_tokens(rows_of(rows)) for rows in (first, *others)]
    assert len(set(hashes)) == len(hashes) == 13


def test_the_hash_is_the_documented_one() -> None:
    numbers = [2, 8, 9, 3, 1, 2, 70_000, -1, 1, 5]
    wanted = blake2b(b"".join(n.to_bytes(8, "little", signed=True) for n in numbers), digest_size=32).hexdigest()
    assert hash_tokens(rows_of([([8, 9], [1, 2, 70_000]), (None, [5])])) == wanted


def test_results_are_set_side_by_side_only_where_tokens_are_known_and_the_same() -> None:
    one = Metadata(token_hash=hash_tokens(rows_of([([1], [2])])))
    assert same_tokens(one, replace(FULL, token_hash=one.token_hash))
    assert not same_tokens(one, Metadata(token_hash=hash_tokens(rows_of([([1], [3])]))))
    assert not same_tokens(Metadata(), Metadata())
    assert hash_tokens([kb.Rollout(**PAIR)]) is None
    assert hash_tokens([]) is None
    assert hash_tokens([*rows_of([([1], [2])]), kb.Rollout(**PAIR)]) is None
