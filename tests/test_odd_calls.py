"""Odd calls of estimate and Accumulator: each is right, to 1e-12, or refused in a sentence that answers it."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kullback as kb
from kullback.errors import InputError, KullbackError, ShapeError

NAN, INF = math.nan, math.inf
Q = [[-0.5, -1.0, -0.25], [-0.75, -0.25, -2.0]]
P = [[-0.625, -1.125, -0.25], [-0.5, -0.375, -1.5]]
SHORT_Q, SHORT_P = [[-0.5, -1.0, -0.25], [-0.75, -0.25]], [[-0.625, -1.125, -0.25], [-0.5, -0.375]]
SHORT_ROWS = [torch.tensor(row) for row in SHORT_Q]
SHORT_MASK = [[1, 1, 1], [1, 1, 0]]
K1 = 0.5 * ((0.125 + 0.125 + 0.0) + (-0.25 + 0.125 - 0.5))
SHORT_K1 = 0.5 * (0.25 - 0.125)

LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda x: np.asarray(x, dtype=np.float32),
    "torch": lambda x: torch.tensor(x, dtype=torch.float32),
    "jax": lambda x: jnp.asarray(x, dtype=jnp.float32),
}


def with_at(value: Any, row: int = 0, token: int = 1, table: Any = None) -> list[list[Any]]:
    """A table with another entry at a place."""
    found = [list(r) for r in (P if table is None else table)]
    found[row][token] = value
    return found


ONE_OUT = [[1, 0, 1], [1, 1, 1]]
ONE_OUT_K1 = 0.5 * (0.125 - 0.625)

NUMBERS = [
    # what stands in ref_logprobs[0, 1] where it counts, and what must be said
    (NAN, "ref_logprobs[0, 1] is nan"),
    (INF, "is inf: a log-prob is at most 0, and +inf comes of an overflow"),
    (3.0, "look like logits"),
    (25.0, "look like logits"),
    (1.0, "looks like what fills padding"),
    (0.03125, "rounding of a head in half precision"),
    (0.125, "rounding of a head in half precision"),
    (-9999.0, "ref_logprobs[0, 1] is -9999: so low a number is written where a log-prob is not known"),
    (-10000.0, "where a log-prob is not known"),
    (-65504.0, "where a log-prob is not known"),
    (-1e9, "where a log-prob is not known"),
    (-1e10, "where a log-prob is not known"),
    (-3.4e38, "where a log-prob is not known"),
    (float(np.finfo(np.float32).min), "where a log-prob is not known"),
    (float(np.finfo(np.float16).min), "where a log-prob is not known"),
]


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
@pytest.mark.parametrize(("value", "words"), NUMBERS, ids=str)
def test_a_number_that_is_no_log_prob_is_named_where_it_counts(library: Any, value: float, words: str) -> None:
    with pytest.raises(InputError) as caught:
        kb.estimate(library(Q), library(with_at(value)), estimator="k1")
    assert words in str(caught.value)
    assert "[0, 1]" in str(caught.value)
    found = kb.estimate(library(Q), library(with_at(value)), library(ONE_OUT), estimator="k1")
    assert found.value == pytest.approx(ONE_OUT_K1, rel=1e-12)


@pytest.mark.parametrize("column", ["logprobs", "behavior_logprobs"])
@pytest.mark.parametrize("value", [NAN, INF, -INF, -9999.0, 2.0, -1e200])
def test_what_drew_the_tokens_is_held_to_the_same(column: str, value: float) -> None:
    columns = {"logprobs": np.array(Q), "ref_logprobs": np.array(P), "behavior_logprobs": np.array(Q)}
    if column == "logprobs":
        del columns["behavior_logprobs"]
    columns[column] = np.array(with_at(value, 1, 2, Q))
    with pytest.raises(InputError, match=rf"{column}\[1, 2\]"):
        kb.Accumulator(estimator=kb.K1).update(columns)


WHOLE = [
    ("probabilities", np.exp(Q), "these look like probabilities"),
    ("negated", -np.array(Q), "these look like negated log-probs"),
    ("token ids", np.array([[5, 17, 3], [2, 900, 1]]), "these look like token ids"),
    ("logits", np.array([[5.5, -17.0, 3.0], [2.0, -9.0, 1.5]]), "look like logits"),
    ("bfloat16", np.array([[0.03125, -1.0, -0.5], [-2.0, -0.25, -3.0]]), "all numbers lie on the grid of bfloat16"),
    ("a row of nan", np.array([[-1.0, -1.0, -1.0], [NAN, NAN, NAN]]), "all of the row is nan"),
    ("nan at the end", np.array([[-1.0, -1.0, -1.0], [-1.0, NAN, NAN]]), "looks like padding"),
    ("text", np.array([["a", "b", "c"]] * 2), "holds text"),
    ("complex", np.array(Q) + 0j, "complex numbers"),
    ("bool", np.array(Q) < -0.5, "is it the mask?"),
    ("dates", np.zeros((2, 3), dtype="datetime64[s]"), "dates"),
    ("a string", "-0.5", "is a str"),
    ("a number", -0.5, "is a float"),
    ("None", None, "is a NoneType"),
    ("a dict", {0: Q}, "is a dict"),
    ("a set", {-0.5}, "is a set"),
    ("numbers as text", [["-0.5", "-1.0", "-0.2"]] * 2, "ref_logprobs[0, 0] is '-0.5'"),
    ("a row of text", ["abc", "def"], "holds text"),
    ("dicts of tokens", [[{"logprob": -1.0}] * 3] * 2, "ref_logprobs[0, 0] is a dict"),
    ("a row that is None", [P[0], None], "row 1 of ref_logprobs is None"),
    ("huge integers", [[-(10**400), -1, -1]] * 2, "ref_logprobs[0, 0]"),
    ("meta", torch.zeros(2, 3, device="meta"), "'meta'"),
]


@pytest.mark.parametrize(("value", "words"), [case[1:] for case in WHOLE], ids=[case[0] for case in WHOLE])
def test_a_column_that_holds_something_else(value: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        kb.estimate(Q, value, estimator=kb.K1)
    assert words in str(caught.value)


SHAPES = [
    (Q[0], P[0], None, "add a batch dimension"),
    ([Q], [P], None, "(batch, time)"),
    (np.array(Q), np.array(P[:1]), None, "none is broadcast"),
    (np.array(Q), np.array(P)[:, :1], None, "none is broadcast"),
    (np.array(Q), np.array(P), np.ones((2, 1)), "none is broadcast"),
    (np.array(Q), np.array(P), np.ones((1, 3)), "none is broadcast"),
    (np.array(Q), np.array(P), np.ones((2, 4), dtype=bool), "mask[:, 1:]"),
    (np.array(Q), np.array(P), np.array([3, 2]), "np.arange(time) < lengths[:, None]"),
    (np.array(Q), np.array(P), np.float64(1.0), "none is broadcast"),
    (np.zeros((0, 3)), np.zeros((0, 3)), None, "no row came"),
    (np.zeros((3, 0)), np.zeros((3, 0)), None, "rows without a token"),
    ([], [], None, "no row came"),
    ([[], []], [[], []], None, "rows without a token"),
    (SHORT_Q, P, None, "row 1 has 2 tokens in logprobs and 3 in ref_logprobs"),
    (SHORT_Q, [SHORT_P[0], [-0.5]], None, "row 1 has 2 tokens in logprobs and 1 in ref_logprobs"),
    (SHORT_Q, SHORT_P[:1], None, "logprobs has 2 rows and ref_logprobs 1"),
    (SHORT_Q, SHORT_P, [[1, 1], [1, 1]], "row 0 has 3 tokens in logprobs and 2 in mask"),
    (SHORT_Q, SHORT_P, np.ones((2, 3), dtype=bool), "row 1 has 2 tokens in logprobs and 3 in mask"),
    ([np.array(Q), np.array(Q)], P, None, "concatenate batches"),
    ([[[-1.0], [-2.0]], [[-1.0]]], P, None, "a number is needed"),
]


@pytest.mark.parametrize(("q", "p", "mask", "words"), SHAPES, ids=range(len(SHAPES)))
def test_shapes_are_never_broadcast(q: Any, p: Any, mask: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        kb.estimate(q, p, mask, estimator=kb.K1)
    assert words in str(caught.value)


def masked(table: Any, mask: Any) -> Any:
    return np.ma.array(table, mask=mask)


RIGHT = [
    ("ragged lists", SHORT_Q, SHORT_P, None, SHORT_K1),
    ("ragged tuples", tuple(map(tuple, SHORT_Q)), tuple(map(tuple, SHORT_P)), None, SHORT_K1),
    ("lists of arrays", [np.array(r) for r in SHORT_Q], [np.array(r) for r in SHORT_P], None, SHORT_K1),
    ("lists of tensors", [torch.tensor(r) for r in SHORT_Q], [torch.tensor(r) for r in SHORT_P], None, SHORT_K1),
    ("lists of JAX arrays", [jnp.asarray(r) for r in SHORT_Q], [jnp.asarray(r) for r in SHORT_P], None, SHORT_K1),
    ("mixed rows", [SHORT_Q[0], np.array(SHORT_Q[1])], [torch.tensor(SHORT_P[0]), SHORT_P[1]], None, SHORT_K1),
    ("an object array", np.array(SHORT_Q, dtype=object), np.array(SHORT_P, dtype=object), None, SHORT_K1),
    ("a generator", (r for r in SHORT_Q), iter(SHORT_P), None, SHORT_K1),
    ("a ragged mask", SHORT_Q, SHORT_P, [[True, True, True], [True, True]], SHORT_K1),
    ("an empty row", [[-0.5], []], [[-0.625], []], None, 0.125),
    ("nested tensors", torch.nested.nested_tensor(SHORT_ROWS, layout=torch.jagged), SHORT_P, None, SHORT_K1),
    ("None, masked", with_at(None, 1, 2, Q), P, SHORT_MASK, SHORT_K1),
    ("None in both, masked", with_at(None, 1, 2, Q), with_at(None, 1, 2), SHORT_MASK, SHORT_K1),
    ("nan, masked", with_at(NAN, 1, 2, Q), with_at(INF, 1, 2), SHORT_MASK, SHORT_K1),
    ("a masked array", masked(Q, [[0, 0, 0], [0, 0, 1]]), P, None, SHORT_K1),
    ("a masked array of junk", masked(with_at(9.0, 1, 2, Q), [[0, 0, 0], [0, 0, 1]]), P, None, SHORT_K1),
    ("a masked reference", Q, masked(P, [[0, 0, 0], [0, 0, 1]]), None, SHORT_K1),
    ("a masked mask", Q, P, masked([[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 1]]), SHORT_K1),
    ("rows of masked arrays", [masked(Q[0], [0, 0, 0]), masked(Q[1], [0, 0, 1])], P, None, SHORT_K1),
    ("a mask of bool", Q, P, np.array(SHORT_MASK, dtype=bool), SHORT_K1),
    ("a mask of int8", Q, P, np.array(SHORT_MASK, dtype=np.int8), SHORT_K1),
    ("a mask of uint8", Q, P, torch.tensor(SHORT_MASK, dtype=torch.uint8), SHORT_K1),
    ("a mask of floats", Q, P, np.array(SHORT_MASK, dtype=np.float64), SHORT_K1),
    ("a mask of bfloat16", Q, P, torch.tensor(SHORT_MASK, dtype=torch.bfloat16), SHORT_K1),
    ("a mask of JAX", Q, P, jnp.asarray(SHORT_MASK), SHORT_K1),
    ("integers", [[-1, -2]], [[-2, -2]], None, 1.0),
    ("float16", torch.tensor(Q, dtype=torch.float16), torch.tensor(P, dtype=torch.float16), None, K1),
    ("bfloat16", torch.tensor(Q, dtype=torch.bfloat16), torch.tensor(P, dtype=torch.bfloat16), None, K1),
    ("a gradient", torch.tensor(Q, requires_grad=True), torch.tensor(P), None, K1),
    ("libraries mixed", torch.tensor(Q), jnp.asarray(P), np.ones((2, 3)), K1),
    ("Fortran order", np.asfortranarray(Q), np.array(P)[::-1][::-1], None, K1),
    ("rounding of 0", [[1e-4, -1.0]], [[-1.0, -1.0]], None, 1.0001),
]


@pytest.mark.parametrize(("q", "p", "mask", "value"), [c[1:] for c in RIGHT], ids=[c[0] for c in RIGHT])
def test_what_people_have_goes_in_right(q: Any, p: Any, mask: Any, value: float) -> None:
    assert kb.estimate(q, p, mask, estimator="k1").value == pytest.approx(value, rel=1e-12)


MASKS = [
    (np.array([[5, 17, 9], [2, 3, -100]]), "labels != -100"),
    (np.array([[1, 1, 1], [1, 1, -100]]), "labels != -100"),
    (np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -INF]]), "mask == 0"),
    (np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1e9]]), "mask == 0"),
    (np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.finfo(np.float32).min]]), "mask == 0"),
    (np.array([[1.0, 0.5, 1.0], [1.0, 1.0, 0.0]]), "weights of tokens are no mask"),
    (np.array([[1.0, NAN, 1.0], [1.0, 1.0, 0.0]]), "mask[0, 1] is nan"),
    (np.array([[1, 2, 3], [1, 2, 0]]), "pass mask > 0"),
    (np.array([[255, 255, 255], [255, 255, 0]], dtype=np.uint8), "pass mask > 0"),
    (np.array([[1, -1, 1], [1, 1, 1]]), "mask[0, 1] is -1"),
    ([["True", "True", "False"]] * 2, "mask[0, 0] is 'True'"),
    (np.array([["1", "1", "0"]] * 2), "mask holds text"),
    ("False", "mask is a str"),
    ([[True, None, True]] * 2, "mask[0, 1] is None"),
    (np.zeros((2, 3), dtype=bool), "counts no token"),
    ([[0, 0, 0], [0, 0, 0]], "counts no token"),
]


@pytest.mark.parametrize(("mask", "words"), MASKS, ids=range(len(MASKS)))
def test_a_mask_is_bool_or_exactly_0_and_1(mask: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        kb.estimate(Q, P, mask, estimator=kb.K1)
    assert words in str(caught.value)


OTHER = [
    ({"token_kl": with_at(NAN, table=np.zeros((2, 3)))}, "token_kl[0, 1] is nan"),
    ({"token_kl": with_at(-0.5, table=np.zeros((2, 3)))}, "a KL over the whole vocabulary is at least 0"),
    ({"token_kl": [[0.0] * 3]}, "token_kl 1"),
    ({"token_kl": np.zeros((2, 1))}, "none is broadcast"),
    ({"ref_mass": with_at(NAN, table=np.ones((2, 3)))}, "ref_mass[0, 1] is nan"),
    ({"ref_mass": with_at(7.0, table=np.ones((2, 3)))}, "lies in [0, 1]"),
    ({"ref_mass": with_at(-1.0, table=np.ones((2, 3)))}, "lies in [0, 1]"),
    ({"ref_mass": np.array(P)}, "take exp of them"),
    ({"groups": [1]}, "one prompt id for each of the 2 rows"),
    ({"groups": [[1, 2]]}, "one prompt id a row"),
    ({"groups": np.ones((2, 1))}, "one prompt id for each of the 2 rows"),
    ({"groups": [1, None]}, "groups[1] is None"),
    ({"groups": [1.0, NAN]}, "groups[1] is nan"),
    ({"groups": "ab"}, "groups is a str"),
    ({"groups": {1, 2}}, "groups is a set"),
    ({"groups": 3}, "groups is a int"),
    ({"groups": [[1], [2]]}, "groups[0] is a list"),
    ({"behavior_logprobs": with_at(-1000.5, 0, 0, Q)}, "q/μ of row 0 reaches e^1000"),
    ({"behavior_logprobs": with_at(-1000.5, 1, 1, Q)}, "q/μ of row 1 reaches e^1000"),
    ({"behavior_logprobs": with_at(None, 1, 1, Q)}, "behavior_logprobs[1, 1] is None"),
    ({"truncate": NAN}, "a positive number"),
    ({"truncate": INF}, "a positive number that is finite"),
    ({"truncate": -1.0}, "a positive number"),
    ({"truncate": 0}, "a positive number"),
    ({"truncate": True}, "a positive number"),
    ({"truncate": "2"}, "'self_normalised'"),
    ({"estimator": "k4"}, "there is no 'k4'"),
    ({"estimator": None}, "a member of kullback.ESTIMATORS is needed"),
    ({"estimator": 3}, "a member of kullback.ESTIMATORS is needed"),
    ({"level": "tokens"}, "'token' or 'sequence'"),
    ({"unit": None}, "'sequence' or 'token'"),
]


@pytest.mark.parametrize(("options", "words"), OTHER, ids=range(len(OTHER)))
def test_other_columns_and_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KullbackError) as caught:
        kb.estimate(np.array(Q), np.array(P), **{"estimator": kb.K1, **options})
    assert words in str(caught.value)


@pytest.mark.parametrize("column", ["logprobs", "ref_logprobs"])
def test_none_where_a_token_counts_is_named(column: str) -> None:
    columns = {"logprobs": Q, "ref_logprobs": P, column: with_at(None, 1, 0)}
    with pytest.raises(InputError, match=rf"{column}\[1, 0\] is None"):
        kb.Accumulator(estimator=kb.K1).update(columns)


junk = st.sampled_from([NAN, INF, -INF, -1e10, -9999.0, None, 3.0, 1e300])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 6))
def test_what_is_masked_never_touches_a_result(data: st.DataObject, rows: int) -> None:
    lengths = [data.draw(st.integers(1, 6)) for _ in range(rows)]
    logs = st.floats(-20, 0, allow_nan=False)
    columns = [[data.draw(st.lists(logs, min_size=n, max_size=n)) for n in lengths] for _ in range(3)]
    mask = [[data.draw(st.booleans()) for _ in range(n)] for n in lengths]
    mask[0][0] = True
    spoilt = [
        [[x if m else data.draw(junk) for x, m in zip(r, k, strict=True)] for r, k in zip(c, mask, strict=True)]
        for c in columns
    ]
    options = {"estimator": kb.K3, "truncate": 2.0}
    clean, dirty = (kb.estimate(q, p, mask, behavior_logprobs=b, **options) for q, p, b in (columns, spoilt))
    assert repr(clean) == repr(dirty)
    assert clean.value == dirty.value
    assert clean.warnings == dirty.warnings


def refused(call: Callable[[], Any], words: str, error: type[Exception] = InputError) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def seen(found: kb.Estimate) -> tuple[Any, ...]:
    return found.value, found.stderr, found.n, found.warnings


def accumulator(**options: Any) -> kb.Accumulator:
    return kb.Accumulator(**{"estimator": kb.K1, **options})


def test_nothing_beside_a_mapping_is_dropped() -> None:
    batch = {"logprobs": Q, "ref_logprobs": P}
    assert accumulator().update(batch, mask=SHORT_MASK).result().value == pytest.approx(SHORT_K1, rel=1e-12)
    assert accumulator().update(batch, groups=[1, 2]).result().clusters == 2
    refused(lambda: accumulator().update({**batch, "mask": SHORT_MASK}, mask=SHORT_MASK), "pass each column once")
    refused(lambda: accumulator().update(batch, P), "ref_logprobs came in the mapping and beside it")
    refused(lambda: accumulator().update({**batch, "behaviour_logprobs": Q}), "did you mean behavior_logprobs?")
    refused(lambda: accumulator().update({**batch, "attention_mask": SHORT_MASK}), "a column 'attention_mask'")
    refused(lambda: accumulator().update({"logprobs": Q}), "lacks ref_logprobs")
    refused(lambda: accumulator().update(Q), "ref_logprobs of the same tokens are needed")
    refused(lambda: accumulator().update({}), "lacks logprobs, ref_logprobs")
    extra = {"tokens": [[1, 2, 3]] * 2, "prompt_tokens": [[1]] * 2, "reward": [0, 1]}
    assert accumulator().update({**batch, **extra}).result().value == pytest.approx(K1, rel=1e-12)


def test_a_refused_batch_changes_nothing() -> None:
    kept = accumulator().update(Q, P)
    refused(lambda: kept.update(Q, with_at(NAN)), "is nan")
    assert kept.result().value == pytest.approx(K1, rel=1e-12)


def test_a_state_is_of_its_options() -> None:
    state = accumulator(estimator=kb.K3).update(Q, P).state()
    refused(lambda: accumulator().restore(state), "restore it with the options that it was made with")
    refused(lambda: accumulator(estimator=kb.K3).restore(None), "what Accumulator.state() returned")  # type: ignore[arg-type]
    refused(lambda: accumulator(estimator=kb.K3).restore({}), "schema None")
    broken = {name: value for name, value in state.items() if name != "cells"}
    refused(lambda: accumulator(estimator=kb.K3).restore(broken), "not whole")
    again = accumulator(estimator=kb.K3).restore(state).result()
    assert seen(again) == seen(kb.estimate(Q, P, estimator=kb.K3))


CLOSE = [
    [{"estimator": kb.ControlVariate(value)} for value in (0.12345678, 0.12345679)],
    [{"estimator": kb.Alpha(value)} for value in (0.12345678, 0.12345679)],
    [{"estimator": kb.Clamped("k3", value)} for value in (10.0000001, 10.0000002)],
    [{"truncate": value} for value in (2.0000001, 2.0000002)],
    [{"truncate": value} for value in (2.0, kb.weights.Masked(2.0))],
    [{"unit": value} for value in ("sequence", "token")],
]


@pytest.mark.parametrize("pair", CLOSE, ids=range(len(CLOSE)))
def test_options_that_differ_in_the_last_digit_do_not_merge(pair: list[dict[str, Any]]) -> None:
    first, second = (accumulator(**options).update(Q, P) for options in pair)
    refused(lambda: first.merge(second), "with equal options")
    refused(lambda: accumulator(**pair[0]).restore(second.state()), "with the options that it was made with")
    assert first.merge(accumulator(**pair[0]).update(Q, P)).result().n == 4


def test_only_another_accumulator_merges() -> None:
    kept = accumulator().update(Q, P)
    refused(lambda: kept.merge(kept), "count twice")
    refused(lambda: kept.merge(kept.state()), "restore(state)")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"truncate": 2.0}, {"estimator": kb.Clamped("k3", 5.0)}, {"estimator": "k3"}])
def test_an_accumulator_is_copied_and_pickled(options: dict[str, Any]) -> None:
    kept = accumulator(**options).update(Q, P)
    for other in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept), copy.copy(kept)):
        twice = accumulator(**options).update(Q, P).update(Q, P).result()
        assert seen(other.update(Q, P).result()) == seen(twice)
        assert other.merge(kept).result().n == 6
    assert kept.result().n == 2


def test_several_threads_lose_no_row() -> None:
    rng = np.random.default_rng(0)
    q = -rng.exponential(size=(16, 8))
    kept = accumulator(estimator=kb.K3)
    work = [threading.Thread(target=lambda: [kept.update(q, q - 0.01) for _ in range(50)]) for _ in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert kept.result().n == 4 * 50 * 16
    assert kept.result().value == pytest.approx(kb.estimate(q, q - 0.01, estimator=kb.K3).value, rel=1e-12)


def test_tables_of_pandas_and_pyarrow() -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"logprobs": SHORT_Q, "ref_logprobs": SHORT_P})
    assert accumulator().update(table).result().value == pytest.approx(SHORT_K1, rel=1e-12)
    found = kb.estimate(table["logprobs"], table["ref_logprobs"], estimator=kb.K1)
    assert found.value == pytest.approx(SHORT_K1, rel=1e-12)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"logprobs": SHORT_Q, "ref_logprobs": SHORT_P, "groups": ["a", "b"]})
    assert accumulator().update(frame).result().value == pytest.approx(SHORT_K1, rel=1e-12)
    found = kb.estimate(frame["logprobs"], frame["ref_logprobs"], estimator=kb.K1, groups=frame["groups"])
    assert found.value == pytest.approx(SHORT_K1, rel=1e-12)


def test_groups_of_any_hashable_kind_are_kept_apart() -> None:
    q, p = np.array(Q * 2), np.array(P * 2)
    for groups in (
        [(1, 2), (1, 2), (3, 4), (3, 4)],
        [1, 1, "1", "1"],
        np.array([1, 1, 2, 2]),
        torch.tensor([1, 1, 2, 2]),
    ):
        assert kb.estimate(q, p, estimator=kb.K1, groups=groups).clusters == 2
    with pytest.raises(ShapeError):
        kb.estimate(q, p, estimator=kb.K1, groups=np.ones((2, 2)))
