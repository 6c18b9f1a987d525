"""Odd calls of kl_loss, kl_reward and the estimators: right, or refused in a sentence; traced, right or nan."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch._dynamo  # reads TORCHDYNAMO_DISABLE when it is imported, and `kullback audit` sets it
from hypothesis import given, settings
from hypothesis import strategies as st

import kullback as kb
from kullback.arrays import digits, fingerprint
from kullback.errors import InputError, KullbackError
from kullback.losses import OBJECTIVES

NAN, INF = math.nan, math.inf
Q = [[-0.5, -1.0, -0.25], [-0.75, -0.25, -2.0]]
P = [[-0.625, -1.125, -0.25], [-0.5, -0.375, -1.5]]
MASK = [[1, 0, 1], [1, 1, 1]]
K1, ONE_OUT = -0.1875, -0.25
TARGETS = [objective.target for objective in OBJECTIVES]


def with_at(value: Any, table: Any = None, row: int = 0, token: int = 1) -> list[list[Any]]:
    found = [list(r) for r in (P if table is None else table)]
    found[row][token] = value
    return found


def by_torch(q: Any, p: Any, mask: Any = None, **options: Any) -> tuple[float, Any]:
    """Value and gradient."""
    live = torch.tensor(q, dtype=torch.float64, requires_grad=True)
    loss = kb.kl_loss(live, p, mask, **{"objective": kb.REVERSE_KL, **options})
    (gradient,) = torch.autograd.grad(loss, live)
    return loss.item(), gradient.numpy()


def by_jax(q: Any, p: Any, mask: Any = None, **options: Any) -> tuple[float, Any]:
    def loss(live: Any) -> Any:
        return kb.kl_loss(live, p, mask, **{"objective": kb.REVERSE_KL, **options})

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(q, dtype=jnp.float32))
    return float(value), np.asarray(gradient)


ENGINES: dict[str, Callable[..., tuple[float, Any]]] = {"torch": by_torch, "jax": by_jax}
CONVERT: dict[str, Callable[[Any], Any]] = {
    "lists": lambda x: x,
    "numpy": np.array,
    "torch": lambda x: torch.tensor(x, dtype=torch.float64),
    "jax": jnp.asarray,
}

NUMBERS = [
    (NAN, "ref_logprobs[0, 1] is nan"),
    (INF, "+inf comes of an overflow"),
    (3.0, "look like logits"),
    (1.0, "what fills padding"),
    (0.0625, "rounding of a head in half precision"),
    (-9999.0, "where a log-prob is not known"),
    (-3.4e38, "where a log-prob is not known"),
    (-1e10, "where a log-prob is not known"),
]


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("convert", CONVERT.values(), ids=CONVERT)
@pytest.mark.parametrize(("value", "words"), NUMBERS, ids=str)
def test_a_reference_that_is_none_is_refused_or_masked(engine: Any, convert: Any, value: float, words: str) -> None:
    p = convert(with_at(value))
    with pytest.raises(InputError) as caught:
        engine(Q, p)
    assert words in str(caught.value)
    loss, gradient = engine(Q, p, convert(MASK))
    assert loss == pytest.approx(ONE_OUT, rel=1e-6)
    assert np.isfinite(gradient).all()
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("value", [NAN, INF, -INF, -1e10, 2.0])
def test_a_policy_that_is_none_is_refused_or_masked(engine: Any, value: float) -> None:
    with pytest.raises(InputError, match=r"logprobs\[0, 1\]"):
        engine(with_at(value, Q), np.array(P))
    for target in TARGETS:
        loss, gradient = engine(with_at(value, Q), np.array(P), np.array(MASK), objective=target)
        want, same = engine(with_at(-0.5, Q), np.array(P), np.array(MASK), objective=target)
        assert loss == want
        np.testing.assert_array_equal(gradient, same)


CALLS = [
    ({"p": P[:1]}, "row"),
    ({"p": np.array(P[:1])}, "none is broadcast"),
    ({"p": np.array(P)[:, :1]}, "none is broadcast"),
    ({"p": [P[0], P[1][:2]]}, "row 1 has 3 tokens in logprobs and 2 in ref_logprobs"),
    ({"p": with_at(None)}, "ref_logprobs[0, 1] is None"),
    ({"p": None}, "ref_logprobs is a NoneType"),
    ({"p": "P"}, "ref_logprobs is a str"),
    ({"p": np.array(P) + 0j}, "floating-point numbers in nats are needed"),
    ({"p": -np.ones((2, 3), dtype=int)}, "floating-point numbers in nats are needed"),
    ({"mask": np.ones((2, 1))}, "none is broadcast"),
    ({"mask": np.ones((1, 3), dtype=bool)}, "none is broadcast"),
    ({"mask": [[1, 1], [1, 1, 1]]}, "row 0 has 3 tokens"),
    ({"mask": np.array([[5, 17, -100], [2, 3, 9]])}, "labels != -100"),
    ({"mask": torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, 0.0]])}, "mask == 0"),
    ({"mask": jnp.array([[1.0, 0.5, 1.0], [1.0, 1.0, 1.0]])}, "weights of tokens are no mask"),
    ({"mask": torch.tensor([[1.0, NAN, 1.0], [1.0, 1.0, 1.0]])}, "mask[0, 1] is nan"),
    ({"mask": "True"}, "mask is a str"),
    ({"mask": [[True, None, True]] * 2}, "mask[0, 1] is None"),
    ({"behavior_logprobs": np.array(with_at(NAN, Q))}, "behavior_logprobs[0, 1] is nan"),
    ({"behavior_logprobs": np.array(with_at(-INF, Q))}, "behavior_logprobs[0, 1] is -inf"),
    ({"behavior_logprobs": np.array(with_at(-9999.0, Q))}, "where a log-prob is not known"),
    ({"behavior_logprobs": np.array(with_at(-1000.0, Q))}, "the importance weight q/μ of row 0 overflows"),
    ({"behavior_logprobs": np.array(Q[:1])}, "none is broadcast"),
    ({"token_kl": np.full((2, 3), NAN)}, "token_kl[0, 0] is nan"),
    ({"token_kl": np.full((2, 3), -1.0)}, "a KL over the whole vocabulary is at least 0"),
    ({"token_kl": np.zeros((2, 1))}, "none is broadcast"),
    ({"baseline": np.array([0.0, NAN])}, "baseline[1, 0] is nan"),
    ({"baseline": np.zeros((2, 1))}, "(batch,) or (batch, time) is needed"),
    ({"baseline": np.zeros(3)}, "(batch,) or (batch, time) is needed"),
    ({"baseline": 0.5}, "(batch,) or (batch, time) is needed"),
    ({"baseline": "leave_one_out", "groups": [[1, 1]]}, "one prompt id"),
    ({"baseline": "leave_one_out", "groups": [None, None]}, "groups[0] is None"),
    ({"estimator": "k4"}, "there is no 'k4'"),
    ({"estimator": "k2"}, "use kullback.K1"),
    ({"truncate": NAN}, "a positive number"),
    ({"truncate": True}, "a positive number"),
]


@pytest.mark.parametrize(("options", "words"), CALLS, ids=range(len(CALLS)))
def test_an_odd_loss_is_a_sentence(options: dict[str, Any], words: str) -> None:
    for engine in ENGINES.values():
        with pytest.raises(KullbackError) as caught:
            engine(Q, **{"p": np.array(P), **options})
        assert words in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_batch_is_refused(shape: tuple[int, int]) -> None:
    for call in (
        lambda: kb.kl_loss(torch.zeros(shape), torch.zeros(shape), objective=kb.REVERSE_KL),
        lambda: kb.kl_reward(np.zeros(shape), np.zeros(shape), estimator=kb.K1),
    ):
        with pytest.raises(InputError, match="at least one sequence with a token"):
            call()


def test_rows_without_a_token_cost_nothing_and_move_nothing() -> None:
    for engine in ENGINES.values():
        loss, gradient = engine(Q, np.full((2, 3), NAN), np.zeros((2, 3)))
        assert loss == 0
        assert (gradient == 0).all()


def test_names_and_lists_are_taken() -> None:
    for engine in ENGINES.values():
        assert engine(Q, P, estimator="k1")[0] == pytest.approx(K1, rel=1e-6)
        assert engine(Q, P, estimator=pickle.loads(pickle.dumps(kb.K1)))[0] == pytest.approx(K1, rel=1e-6)
        loss, gradient = engine(Q, np.ma.array(with_at(NAN), mask=1 - np.array(MASK)))
        assert loss == pytest.approx(ONE_OUT, rel=1e-6)
        assert gradient[0, 1] == 0


def test_a_masked_baseline_may_hold_anything() -> None:
    for engine in ENGINES.values():
        loss, gradient = engine(Q, P, MASK, baseline=np.array(with_at(NAN, np.zeros((2, 3)))))
        want, same = engine(Q, P, MASK)
        assert loss == want
        np.testing.assert_array_equal(gradient, same)


def test_a_weight_that_overflows_may_be_capped() -> None:
    behavior = np.array(with_at(-1000.0, Q))
    for cap in (kb.weights.Truncated(2.0), kb.weights.Masked(2.0), 2.0):
        loss, gradient = by_torch(Q, P, behavior_logprobs=behavior, truncate=cap)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
    assert kb.weights.Masked(2.0).fn(np.array([INF, 1.0])).tolist() == [0.0, 1.0]


TRACED = [
    ("nan", with_at(NAN), None, True),
    ("a sentinel", with_at(-9999.0), None, True),
    ("a positive one", with_at(2.0), None, True),
    ("nan, masked", with_at(NAN), MASK, False),
    ("a sentinel, masked", with_at(-1e10), MASK, False),
    ("a mask of 0.5", P, [[1.0, 0.5, 1.0], [1.0, 1.0, 1.0]], True),
]


@pytest.mark.parametrize(("p", "mask", "poisoned"), [case[1:] for case in TRACED], ids=[case[0] for case in TRACED])
def test_where_nothing_can_be_looked_at_a_wrong_number_poisons_loss_and_gradient(
    p: Any, mask: Any, poisoned: bool
) -> None:
    mask = np.ones((2, 3)) if mask is None else np.array(mask)

    def loss(q: Any, p: Any, mask: Any) -> Any:
        return kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL)

    traced = jax.jit(jax.value_and_grad(loss))(jnp.asarray(Q), jnp.asarray(p), jnp.asarray(mask))
    live = torch.tensor(Q, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    value = compiled(live, torch.tensor(p, dtype=torch.float64), torch.tensor(mask))
    (gradient,) = torch.autograd.grad(value, live)
    for found, slope in (traced, (value.detach(), gradient)):
        assert math.isnan(float(found)) == poisoned
        counts = np.array(mask) != 0
        assert np.isnan(np.asarray(slope)[counts]).all() == poisoned
        assert np.isfinite(np.asarray(slope)[~counts]).all()
    if not poisoned:
        assert value.item() == pytest.approx(ONE_OUT, rel=1e-12)


def test_traced_rewards_are_poisoned_too() -> None:
    found = jax.jit(lambda q, p: kb.kl_reward(q, p, estimator="k1"))(jnp.asarray(Q), jnp.asarray(with_at(NAN)))
    assert np.isnan(found).all()
    with pytest.raises(InputError, match="groups is traced"):
        jax.jit(lambda q, g: kb.kl_loss(q, q, objective=kb.REVERSE_KL, baseline="leave_one_out", groups=g))(
            jnp.asarray(Q), jnp.zeros(2)
        )


REWARDS: list[tuple[Any, Any, Any, Any]] = [
    (Q, P, None, [[0.125, 0.125, 0.0], [-0.25, 0.125, -0.5]]),
    (Q, P, MASK, [[0.125, 0.0, 0.0], [-0.25, 0.125, -0.5]]),
    (Q, with_at(NAN), MASK, [[0.125, 0.0, 0.0], [-0.25, 0.125, -0.5]]),
    (Q, with_at(None), MASK, [[0.125, 0.0, 0.0], [-0.25, 0.125, -0.5]]),
    ([Q[0], Q[1][:1]], [P[0], P[1][:1]], None, [[0.125, 0.125, 0.0], [-0.25, 0.0, 0.0]]),
    (np.array(Q), np.array(P), np.array(MASK, dtype=bool), [[0.125, 0.0, 0.0], [-0.25, 0.125, -0.5]]),
    (torch.tensor(Q), np.array(with_at(-1e10)), MASK, [[0.125, 0.0, 0.0], [-0.25, 0.125, -0.5]]),
    (jnp.asarray(Q), P, MASK, [[0.125, 0.0, 0.0], [-0.25, 0.125, -0.5]]),
]


@pytest.mark.parametrize(("q", "p", "mask", "want"), REWARDS, ids=range(len(REWARDS)))
def test_rewards_are_right(q: Any, p: Any, mask: Any, want: Any) -> None:
    for estimator in (kb.K1, "k1"):
        np.testing.assert_allclose(np.asarray(kb.kl_reward(q, p, mask, estimator=estimator)), want, rtol=1e-12)


ODD_REWARDS = [
    ({"ref_logprobs": np.array(P[:1]), "logprobs": np.array(Q)}, "none is broadcast"),
    ({"ref_logprobs": with_at(NAN)}, "ref_logprobs[0, 1] is nan"),
    ({"ref_logprobs": with_at(-9999)}, "where a log-prob is not known"),
    ({"logprobs": np.array(with_at(-INF, Q))}, "a token that was drawn cannot have probability 0"),
    ({"logprobs": np.array(with_at(3.0, Q))}, "look like logits"),
    ({"logprobs": Q[0], "ref_logprobs": P[0]}, "add a batch dimension"),
    ({"mask": np.array(MASK) - 1}, "mask[0, 1] is -1"),
    ({"mask": np.ones((2, 1))}, "row 0 has 3 tokens in logprobs and 1 in mask"),
    ({"estimator": "rao_blackwell", "allow_biased": True}, "no function of a token's log-ratio"),
    ({"estimator": "control_variate", "allow_biased": True}, "no function of a token's log-ratio"),
    ({"estimator": "k3"}, "allow_biased=True"),
    ({"estimator": "K1"}, "there is no 'K1'"),
]


@pytest.mark.parametrize(("options", "words"), ODD_REWARDS, ids=range(len(ODD_REWARDS)))
def test_an_odd_reward_is_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KullbackError) as caught:
        kb.kl_reward(**{"logprobs": Q, "ref_logprobs": P, "estimator": kb.K1, **options})
    assert words in str(caught.value)


def test_a_reward_that_is_infinite_is_warned_of() -> None:
    with pytest.warns(RuntimeWarning, match="k1 is inf for 1 token"):
        found = kb.kl_reward(Q, with_at(-INF), estimator=kb.K1)
    assert np.asarray(found)[0, 1] == INF


junk = st.sampled_from([NAN, INF, -INF, -1e10, -9999.0, 3.0, 1e300])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), target=st.sampled_from(TARGETS))
def test_junk_in_masked_places_touches_neither_value_nor_gradient(data: st.DataObject, target: kb.Target) -> None:
    logs = st.floats(-5, 0, allow_nan=False)
    mask = np.array([[data.draw(st.booleans()) for _ in range(4)] for _ in range(3)])
    clean = [np.array([[data.draw(logs) for _ in range(4)] for _ in range(3)]) for _ in range(3)]
    dirty = [np.where(mask, x, [[data.draw(junk) for _ in range(4)] for _ in range(3)]) for x in clean]
    (loss, gradient), (same, spoilt) = (
        by_torch(q, p, mask, behavior_logprobs=mu, objective=target, estimator="k3", baseline="leave_one_out")
        for q, p, mu in (clean, dirty)
    )
    assert loss == same
    np.testing.assert_array_equal(gradient, spoilt)
    assert (gradient[~mask] == 0).all()


MEMBERS = [
    (lambda: kb.Alpha(NAN), "alpha=nan came"),
    (lambda: kb.Alpha(INF), "a finite number"),
    (lambda: kb.Alpha("0.5"), "alpha='0.5' came"),  # type: ignore[arg-type]
    (lambda: kb.Renyi(NAN), "positive and not 1"),
    (lambda: kb.Renyi(INF), "positive and not 1"),
    (lambda: kb.Skew(NAN), "strictly between 0 and 1"),
    (lambda: kb.ControlVariate(NAN), "a finite number or 'fit'"),
    (lambda: kb.ControlVariate(INF), "a finite number or 'fit'"),
    (lambda: kb.ControlVariate(True), "a finite number or 'fit'"),
    (lambda: kb.ControlVariate(None), "a finite number or 'fit'"),  # type: ignore[arg-type]
    (lambda: kb.Clamped(kb.K3, NAN), "above 0"),
    (lambda: kb.Clamped(kb.K3, -1.0), "above 0"),
    (lambda: kb.Clamped(kb.K3, 5.0, NAN), "above 0"),
    (lambda: kb.Clamped("rao_blackwell", 5.0), "only a function of a log-ratio"),
    (lambda: kb.Clamped("k4", 5.0), "there is no 'k4'"),
    (lambda: kb.weights.Truncated(NAN), "a positive number"),
    (lambda: kb.weights.Truncated(INF), "a positive number"),
    (lambda: kb.weights.Truncated(-1), "a positive number"),
    (lambda: kb.weights.Truncated(True), "a positive number"),
    (lambda: kb.weights.Masked(NAN), "a positive number"),
    (lambda: kb.weights.Masked("2"), "a positive number"),  # type: ignore[arg-type]
    (lambda: kb.K3([[0.1], [0.1, 0.2]]), "no table of numbers"),
    (lambda: kb.K3([0.1, None]), "something else than numbers"),
    (lambda: kb.K3("0.1"), "something else than numbers"),
    (lambda: kb.K3({0.1}), "an array or a list"),  # type: ignore[arg-type]
    (lambda: kb.optimal_coefficient([0.1, NAN]), "not finite"),
    (lambda: kb.optimal_coefficient([]), "not finite came, or none"),
]


@pytest.mark.parametrize(("call", "words"), MEMBERS, ids=range(len(MEMBERS)))
def test_an_odd_option_of_a_member_is_a_sentence(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(KullbackError) as caught:
        call()
    assert words in str(caught.value)


def test_names_and_fingerprints_tell_options_apart() -> None:
    first, second = (kb.ControlVariate(value) for value in (0.12345678, 0.12345679))
    assert first.name != second.name
    assert fingerprint(first.fn) != fingerprint(second.fn)
    assert fingerprint(first.fn) == fingerprint(kb.ControlVariate(0.12345678).fn)
    made = [lambda x, c=c: c * x for c in (1.0, 2.0)]
    assert fingerprint(made[0]) != fingerprint(made[1])
    assert float(digits(0.1 + 0.2)) == 0.1 + 0.2
