"""Two files of the same tokens joined, and what their lists of likely words say of the KL between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.jobs.brackets import topk_bracket, topk_brackets
from kullback.rollouts import Metadata, Model, to_sequences
from kullback.rollouts.joined import join_rollouts
from kullback.rollouts.joining import By, join, joined_metadata, pairs


def row(numbers: Sequence[float], tokens: Sequence[int] | None = (7, 8, 2), **rest: Any) -> kb.Rollout:
    return kb.Rollout(behavior_logprobs=list(numbers), tokens=None if tokens is None else list(tokens), **rest)


DRAWN = [row([-0.5, -1.0, -0.25], prompt_id=0, sample=0), row([-2.0, -0.125, -1.0], [3, 4, 2], prompt_id=1, sample=0)]
SCORED = [row([-0.25, -1.5, -0.5], prompt_id=0, sample=0), row([-1.0, -0.25, -1.5], [3, 4, 2], prompt_id=1, sample=0)]


@pytest.mark.parametrize("by", get_args(By))
def test_the_first_drew_and_the_second_scored(by: By) -> None:
    order = SCORED if by == "order" else SCORED[::-1]
    joined = list(join(DRAWN, order, by=by))
    for one, mine, other in zip(joined, DRAWN, SCORED, strict=True):
        assert np.array_equal(one.column("behavior_logprobs"), mine.column("behavior_logprobs"))
        assert np.array_equal(one.column("logprobs"), other.column("behavior_logprobs"))


def test_the_estimate_is_of_the_first_against_the_second() -> None:
    batch = to_sequences(list(join(DRAWN, SCORED)))
    log_ratio = [[-0.25, 0.5, 0.25], [-1.0, 0.125, 0.5]]
    assert np.array_equal(np.asarray(batch.logprobs) - np.asarray(batch.ref_logprobs), log_ratio)


def test_a_third_file_is_the_reference() -> None:
    [one, _] = join(join(DRAWN, SCORED), SCORED, role="ref_logprobs")
    assert one.ref_logprobs is one.logprobs
    with pytest.raises(InputError, match="has logprobs already"):
        list(join(join(DRAWN, SCORED), SCORED))


def test_a_column_of_the_role_is_taken_before_the_only_one() -> None:
    scored = kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0], tokens=[7])
    drawn = row([-0.5], [7])
    assert [list(one.column("ref_logprobs")) for one in join([drawn], [scored], role="ref_logprobs")] == [[-2.0]]
    two = replace(scored, ref_logprobs=None, behavior_logprobs=np.array([-1.0]))
    with pytest.raises(InputError, match="several laws, but no ref_logprobs"):
        list(join([drawn], [two], role="ref_logprobs"))


def test_the_one_row_of_a_file_stands_beside_every_row_of_the_other() -> None:
    single = row([-0.5, -1.0, -0.25])
    for first, second in (([single], [single] * 3), ([single] * 3, [single])):
        joined = list(join(first, second))
        assert [one.prompt_id for one in joined] == [0, 0, 0]  # one prompt: no more is known than from one


def test_a_text_that_was_scored_whole_is_cut_to_what_was_drawn() -> None:
    whole = kb.Rollout(
        behavior_logprobs=[np.nan, -3.0, -0.25, -1.5, -0.5],  # type: ignore[arg-type]
        tokens=[4, 5, 7, 8, 2],
        mask=[False, True, True, True, True],  # type: ignore[arg-type]
    )
    [one] = join([row([-0.5, -1.0, -0.25], prompt_tokens=[4, 5])], [whole])
    assert list(one.column("logprobs")) == [-0.25, -1.5, -0.5]


REFUSED = {
    "tokens": ([row([-0.5, -1.0], [7, 8])], [row([-0.5, -1.0], [7, 9])], r"row 0 differs at token 1: 8 .* and 9"),
    "length": ([row([-0.5], [7])], [row([-0.5, -1.0], [7, 8])], r"token 1: nothing more in the first file and 8"),
    "prompt": ([row([-0.5], [7], prompt_tokens=[1])], [row([-0.5], [7], prompt_tokens=[2])], "another prompt"),
    "no tokens": ([row([-0.5], None)], [row([-0.5], None)], "has no tokens: it is not known"),
    "rows": (DRAWN * 2, SCORED, "the second file ends after 2 rows"),
    "mask": (
        DRAWN,
        [replace(one, mask=np.array([True, False, True])) for one in SCORED],
        "token 1 counts in the first",
    ),
    "texts": (
        [row([-0.5], None, extra={"token_texts": "a"})],
        [row([-0.5], None, extra={"token_texts": "b"})],
        "going by their texts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_are_not_of_one_text_are_refused(name: str) -> None:
    first, second, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        list(join(first, second))


def test_texts_that_are_the_same_are_joined() -> None:
    [one] = join([row([-0.5], None, extra={"token_texts": "a"})], [row([-0.25], None, extra={"token_texts": "a"})])
    assert list(one.column("logprobs")) == [-0.25]


def test_ids_are_one_rows_and_both_files() -> None:
    with pytest.raises(InputError, match="two rows of prompt_id 0, sample 0"):
        list(join(DRAWN, [SCORED[0], SCORED[0]], by="id"))
    with pytest.raises(InputError, match="row 1 of the first file is prompt_id 1, sample 0, which the second does not"):
        list(join(DRAWN, SCORED[:1], by="id"))
    with pytest.raises(InputError, match="row 0 of the second file has no prompt_id"):
        list(join(DRAWN, [replace(SCORED[0], prompt_id=None)], by="id"))


def test_the_same_tokens_after_two_prompts_are_told_apart_or_refused() -> None:
    scored = [
        replace(SCORED[0], prompt_tokens=[1]),
        replace(SCORED[0], prompt_tokens=[2], behavior_logprobs=np.zeros(3)),
    ]
    [one] = join([replace(DRAWN[0], prompt_tokens=[2])], scored, by="tokens")
    assert not one.column("logprobs").any()
    with pytest.raises(InputError, match="follow several in the second"):
        list(join([DRAWN[0]], scored, by="tokens"))
    with pytest.raises(InputError, match="are not those of any row"):
        list(join([row([-1.0], [99])], scored, by="tokens"))


def test_what_is_joined_keeps_both_laws() -> None:
    first = Metadata(behavior=Model("a"), law={"behavior_logprobs": "processed"}, quantum={"behavior_logprobs": 1e-4})
    second = Metadata(behavior=Model("b"), law={"behavior_logprobs": "raw"}, token_hash="x")
    assert joined_metadata(first, second) == Metadata(
        policy=Model("b"),
        behavior=Model("a"),
        law={"behavior_logprobs": "processed", "logprobs": "raw"},
        quantum={"behavior_logprobs": 1e-4},
    )


# Brackets from lists of likely words.

Q, P = np.log([0.5, 0.25, 0.125, 0.125]), np.log([0.25, 0.25, 0.25, 0.25])


def listed(law: np.ndarray, words: Sequence[int], token: int = 0) -> kb.Rollout:
    return row([law[token]], [token], top=[{word: float(law[word]) for word in words}])


def test_all_words_give_the_kl_itself() -> None:
    bracket = topk_bracket(listed(Q, range(4)), listed(P, range(4)))
    exact = float(np.sum(np.exp(Q) * (Q - P)))
    assert (bracket.lower, bracket.upper) == pytest.approx((exact, exact), rel=1e-12)
    assert (bracket.positions, bracket.missing) == (1, pytest.approx(0.0, abs=1e-12))


def test_some_words_give_bounds_and_the_mass_outside_them() -> None:
    bracket = topk_bracket(listed(Q, [0, 1]), listed(P, [1, 0, 2]), max_log_ratio=0.0)
    head = 0.5 * np.log(2)
    assert bracket.lower == pytest.approx(head + 0.25 * np.log(0.5))
    assert bracket.upper == pytest.approx(head)
    assert (bracket.missing, bracket.ref_missing, bracket.most_missing) == pytest.approx((0.25, 0.5, 0.25))
    assert topk_bracket(listed(Q, [0, 1]), listed(P, [1, 0])).upper == np.inf


def test_the_drawn_token_is_known_to_both() -> None:
    with_it = topk_bracket(listed(Q, [0, 1, 3]), listed(P, [0, 1, 3]))
    assert topk_bracket(listed(Q, [0, 1], 3), listed(P, [1, 0], 3)) == with_it


def test_places_without_a_list_are_counted_apart() -> None:
    bare = row([Q[0]], [0])
    assert topk_bracket(bare, listed(P, [0])).without == 1
    added = topk_brackets([(listed(Q, range(4)), listed(P, range(4))), (bare, bare), (listed(Q, [0]), listed(P, [0]))])
    assert (added.positions, added.without) == (2, 1)
    assert (added.missing, added.most_missing) == pytest.approx((0.25, 0.5))


def test_pairs_are_what_a_bracket_takes() -> None:
    [(mine, other)] = pairs([listed(Q, [0, 1])], [listed(P, [0, 1])])
    assert topk_bracket(mine, other).positions == 1
    with pytest.raises(InputError, match="a rollout of one law"):
        topk_bracket(replace(mine, logprobs=np.zeros(1)), other)


def test_files_are_joined_as_one_table(tmp_path: Path) -> None:
    """Two engines' responses to one request, and a third's."""
    numbers = [[-0.5, -1.0], [-0.25, -1.5], [-0.125, -1.75]]
    for name, law in zip("abc", numbers, strict=True):
        tokens = [{"id": 7 + i, "text": "x", "logprob": x, "special": False} for i, x in enumerate(law)]
        response = {"generated_text": "xx", "details": {"finish_reason": "length", "prefill": [], "tokens": tokens}}
        (tmp_path / f"{name}.json").write_text(json.dumps([response] * 3))
    first, second, third = (kb.read_rollouts(tmp_path / f"{name}.json") for name in "abc")
    joined = join_rollouts(first, second, third)
    assert len(joined) == 3
    assert {"behavior_logprobs", "logprobs", "ref_logprobs"} <= set(joined.columns)
    assert set(joined.law) == {"behavior_logprobs", "logprobs", "ref_logprobs"}
    [columns] = joined.batches(("logprobs", "ref_logprobs"))
    assert columns.tokens["logprobs"].tolist() == numbers[1] * 3
    assert [one.column("ref_logprobs").tolist() for one in joined] == [numbers[2]] * 3
    with pytest.raises(InputError, match="0 files came to join"):
        join_rollouts(first)
    (tmp_path / "d.json").write_text((tmp_path / "a.json").read_text().replace('"id": 8', '"id": 9'))
    with pytest.raises(FileError, match=r"a\.json and .*d\.json cannot be joined: row 0 differs at token 1: 8 in"):
        list(join_rollouts(first, kb.read_rollouts(tmp_path / "d.json")))
