"""estimate() and Accumulator: exact expectations, errors against statsmodels, merging, bad input."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from conftest import Backend
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import generic, world

import kullback as kb
from kullback import weights
from kullback.errors import InputError, KullbackError, NameUnknownError, ShapeError
from kullback.estimators import LEVELS
from kullback.oracle import TreeLM, World

PLAIN = [
    (e, level, unit)
    for e in kb.ESTIMATORS
    for level in LEVELS
    for unit in ("sequence", "token")
    if not e.controls and (e.link is None or (level, unit) == ("sequence", "sequence"))
]


def batch(n: int = 60, seed: int = 0, groups: int | None = None, **options: Any) -> dict[str, Any]:
    drawn = world(*generic(**options)).sample(np.random.default_rng(seed), n)
    return drawn if groups is None else {**drawn, "groups": np.arange(n) % groups}


def run(columns: dict[str, Any], **options: Any) -> kb.Estimate:
    accumulator = {k: options.pop(k) for k in ("estimator", "level", "unit", "truncate") if k in options}
    return kb.Accumulator(**accumulator).update({**columns, **options}).result()


@pytest.mark.parametrize(("estimator", "level", "unit"), PLAIN, ids=lambda x: getattr(x, "name", x))
def test_the_value_is_the_sum_by_hand(estimator: kb.Estimator, level: str, unit: str) -> None:
    b = batch()
    x = b["token_kl"] if estimator.reads == "token_kl" else (b["logprobs"] - b["ref_logprobs"]) * b["mask"]
    k = estimator(x * b["mask"]) * b["mask"] if level == "token" else estimator(x.sum(axis=1))[:, None]
    want = k.sum(axis=1).mean() if unit == "sequence" else k.sum() / b["mask"].sum()
    want = estimator.link.function(want) if estimator.link else want
    assert run(b, estimator=estimator, level=level, unit=unit).value == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["control_variate", "rao_blackwell_controlled", "k1", "k3", "rao_blackwell"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("grouped", [False, True])
def test_estimates_are_unbiased_over_every_batch_of_three(name: str, level: str, grouped: bool) -> None:
    """Leave-one-out is exact: the expectation over all triples of sequences is the KL."""
    at = world(*generic(vocab=2, horizon=2))
    p, columns = at.probability, at.sample
    total = 0.0
    for triple in itertools.product(range(len(p)), repeat=3):
        rows = list(triple)
        b = {
            "logprobs": at.policy.logprobs[rows],
            "ref_logprobs": at.reference.logprobs[rows],
            "mask": at.policy.mask[rows],
            "token_kl": at.token_kl[rows],
        }
        groups = {"groups": ["a", "a", "b"]} if grouped else {}
        total += float(np.prod(p[rows])) * run(b, estimator=kb.ESTIMATORS[name], level=level, **groups).value
    assert total == pytest.approx(float(at.exact(kb.REVERSE_KL)), rel=1e-12)
    assert columns is not None


def test_leave_one_out_where_the_plug_in_is_biased() -> None:
    q, p = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    left_out = plug_in = 0.0
    for triple in itertools.product(range(3), repeat=3):
        rows = list(triple)
        log_q, log_p, chance = np.log(q[rows])[:, None], np.log(p[rows])[:, None], float(np.prod(q[rows]))
        left_out += chance * kb.estimate(log_q, log_p, estimator=kb.ControlVariate("fit")).value
        h = (p[rows] / q[rows]) - 1
        k = (log_q - log_p)[:, 0]
        plug_in += chance * np.mean(k - (k * h).sum() / max((h * h).sum(), 1e-300) * h)
    assert left_out == pytest.approx(float(np.sum(q * np.log(q / p))), rel=1e-12)
    assert abs(plug_in - left_out) > 0.05


def test_the_fitted_control_variate_removes_variance() -> None:
    b = batch(2000)
    fitted, k1, k3 = (run(b, estimator=e) for e in (kb.ControlVariate("fit"), kb.K1, kb.K3))
    assert fitted.stderr < min(k1.stderr, k3.stderr)
    exact = world(*generic())
    # Σ_t(r_t − 1) and Σ_t ℓ_t: −Cov/Var by enumeration.
    h = exact.summand(lambda x: np.expm1(-x), "token")
    k = exact.summand(kb.K1, "token")
    best = -np.sum(exact.probability * k * h) / np.sum(exact.probability * h * h)
    assert fitted.coefficients["ratio"] == pytest.approx(best, rel=0.25)


def test_ref_mass_keeps_the_control_variate_unbiased_under_top_k() -> None:
    """With log-probs of the truncated policy, k3 is low by 1 − p(S); the control r − p(S) is not."""
    q, p, horizon = generic(vocab=3, horizon=1)
    q[0, 2] = -np.inf
    at = World(TreeLM(q, 0, horizon), TreeLM(p, 0, horizon))
    inside = float(np.exp(at.reference.log_distributions[0, :2]).sum())
    total = 0.0
    for rows in itertools.product(range(2), repeat=3):
        chance = float(np.prod(at.probability[list(rows)]))
        columns = {"logprobs": at.policy.logprobs[list(rows)], "ref_logprobs": at.reference.logprobs[list(rows)]}
        masses = np.full((3, 1), inside)
        total += chance * run(columns, ref_mass=masses, estimator=kb.ControlVariate("fit")).value
    assert total == pytest.approx(float(at.exact(kb.REVERSE_KL)), rel=1e-12)
    k3 = float(np.sum(at.probability[:2] * kb.K3((at.policy.logprobs - at.reference.logprobs)[:2, 0])))
    assert k3 == pytest.approx(total - (1 - inside), rel=1e-12)


@pytest.mark.parametrize("name", ["k1", "k3", "rao_blackwell", "control_variate", "rao_blackwell_controlled"])
def test_off_policy_estimates_are_unbiased_for_the_policy(name: str) -> None:
    q, p, horizon = generic(vocab=2, horizon=2)
    at = World(*(TreeLM(x, 0, horizon) for x in (q, p)), behavior=TreeLM(generic(9, vocab=2, horizon=2)[0], 0, horizon))
    mu = at.sampler
    total = 0.0
    for triple in itertools.product(range(len(at.probability)), repeat=3):
        rows = list(triple)
        b = {
            "logprobs": at.policy.logprobs[rows],
            "ref_logprobs": at.reference.logprobs[rows],
            "behavior_logprobs": mu.logprobs[rows],
            "mask": at.policy.mask[rows],
            "token_kl": at.token_kl[rows],
        }
        total += float(np.prod(at.probability[rows])) * run(b, estimator=kb.ESTIMATORS[name]).value
    assert total == pytest.approx(float(at.exact(kb.REVERSE_KL)), rel=1e-11)


def test_clustered_and_plain_errors_are_those_of_statsmodels() -> None:
    b = batch(96, groups=12)
    k = ((b["logprobs"] - b["ref_logprobs"]) * b["mask"]).sum(axis=1)
    ones = np.ones((96, 1))
    clustered = sm.OLS(k, ones).fit(cov_type="cluster", cov_kwds={"groups": b["groups"]})
    assert run(b, estimator=kb.K1).stderr == pytest.approx(float(clustered.bse[0]), rel=1e-10)
    assert run(b, estimator=kb.K1).clusters == 12
    plain = {name: value for name, value in b.items() if name != "groups"}
    assert run(plain, estimator=kb.K1).stderr == pytest.approx(k.std(ddof=1) / 96**0.5, rel=1e-10)


def test_nats_per_token_have_the_error_of_the_jackknife() -> None:
    b = batch(300)
    k = ((b["logprobs"] - b["ref_logprobs"]) * b["mask"]).sum(axis=1)
    length = b["mask"].sum(axis=1)
    ratio = k.sum() / length.sum()
    found = run(b, estimator=kb.K1, unit="token")
    assert found.value == pytest.approx(ratio, rel=1e-12)
    without = (k.sum() - k) / (length.sum() - length)
    assert found.stderr == pytest.approx((299 / 300 * np.sum((without - without.mean()) ** 2)) ** 0.5, rel=1e-10)
    assert found.stderr == pytest.approx(np.std(k - ratio * length, ddof=1) / length.mean() / 300**0.5, rel=1e-3)


def test_repeating_every_sequence_does_not_shrink_a_clustered_error() -> None:
    b = batch(40)
    twice = {name: np.concatenate([a, a]) for name, a in b.items()}
    once = run(b, estimator=kb.K1)
    naive = run(twice, estimator=kb.K1)
    clustered = run(twice, estimator=kb.K1, groups=np.tile(np.arange(40), 2))
    assert clustered.stderr == pytest.approx(once.stderr, rel=1e-10)
    assert naive.stderr < 0.75 * once.stderr


def test_masked_tokens_may_hold_anything() -> None:
    b = batch(20)
    dirty = {**b, **{name: np.where(b["mask"], b[name], np.nan) for name in ("logprobs", "ref_logprobs", "token_kl")}}
    for estimator in (kb.K1, kb.K3, kb.RAO_BLACKWELL_CONTROLLED):
        assert run(dirty, estimator=estimator).to_dict() == run(b, estimator=estimator).to_dict()


def test_every_backend_gives_the_same_estimate(backend: Backend) -> None:
    b = batch(30)
    want = run(b, estimator=kb.K3)
    got = kb.estimate(
        *(backend.array(b[name]) for name in ("logprobs", "ref_logprobs")), backend.array(b["mask"]), estimator=kb.K3
    )
    assert got.value == pytest.approx(want.value, rel=1e-14)


def test_half_precision_log_probs_are_taken_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    b = batch(30)
    q, p = (torch.tensor(b[name]).bfloat16() for name in ("logprobs", "ref_logprobs"))
    want = kb.estimate(q.double(), p.double(), b["mask"], estimator=kb.K3)
    assert kb.estimate(q, p, b["mask"], estimator=kb.K3).to_dict() == want.to_dict()


# Accumulating -------------------------------------------------------------------------------------------------


def fields(found: kb.Estimate) -> np.ndarray:
    low, high = found.interval()
    numbers = [
        found.value,
        found.stderr,
        found.skewness,
        found.ess,
        found.khat,
        low,
        high,
        *found.coefficients.values(),
    ]
    return np.array([found.n, found.clusters, *numbers], dtype=float)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 80), max_size=4), seed=st.integers(0, 5), grouped=st.booleans())
@pytest.mark.parametrize(
    ("name", "level", "unit"),
    [
        ("k1", "token", "sequence"),
        ("k3", "sequence", "token"),
        ("control_variate", "token", "token"),
        ("rao_blackwell_controlled", "token", "sequence"),
    ],
)
def test_any_split_merges_to_the_one_pass_result(
    name: str, level: str, unit: str, cuts: list[int], seed: int, grouped: bool
) -> None:
    b = batch(80, seed=seed, groups=9 if grouped else None)
    options = {"estimator": kb.ESTIMATORS[name], "level": level, "unit": unit}
    whole = kb.Accumulator(**options).update(b).result()
    merged = kb.Accumulator(**options)
    edges = [0, *sorted(cuts), 80]
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            part = {column: values[start:stop] for column, values in b.items()}
            merged.merge(kb.Accumulator(**options).update(part))
    np.testing.assert_allclose(fields(merged.result()), fields(whole), rtol=1e-12, atol=1e-14)
    assert merged.result().warnings == whole.warnings


def test_many_rows_merge_too_when_cells_are_shared() -> None:
    b = batch(5000)
    options = {"estimator": kb.ControlVariate("fit")}
    whole = kb.Accumulator(**options).update(b).result()
    merged = kb.Accumulator(**options)
    for start, stop in itertools.pairwise([0, 1, 700, 1724, 1725, 4999, 5000]):
        merged.merge(kb.Accumulator(**options).update({k: v[start:stop] for k, v in b.items()}))
    np.testing.assert_allclose(fields(merged.result()), fields(whole), rtol=1e-12)


def test_memory_does_not_grow_with_the_data() -> None:
    sizes = []
    accumulator = kb.Accumulator(estimator=kb.ControlVariate("fit"))
    for step in range(6):
        b = batch(5000, seed=step)
        accumulator.update({**b, "groups": [f"{step}-{i}" for i in range(5000)]})
        sizes.append(len(pickle.dumps(accumulator.state())))
    assert sizes[-1] <= 1.05 * sizes[1]


def test_accumulators_of_estimators_made_twice_merge() -> None:
    first, second = (kb.Accumulator(estimator=kb.ControlVariate(0.25)).update(batch(5, seed=s)) for s in (0, 1))
    assert first.merge(second).result().n == 10


def test_a_state_is_plain_and_restores() -> None:
    accumulator = kb.Accumulator(estimator=kb.K3).update(batch(30, groups=5))
    state = pickle.loads(pickle.dumps(accumulator.state()))
    restored = kb.Accumulator(estimator=kb.K3).restore(state)
    assert restored.result().to_dict() == accumulator.result().to_dict()
    more = batch(10, seed=3, groups=5)
    assert restored.update(more).result().to_dict() == accumulator.update(more).result().to_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": kb.K3}, "k3 (token) a sequence"),
        ({"estimator": kb.K1, "level": "sequence"}, "k1 (sequence) a sequence"),
        ({"estimator": kb.K1, "unit": "token"}, "k1 (token) a token"),
        ({"estimator": kb.K1, "truncate": 2.0}, "k1 (token) a sequence, truncated_2"),
    ],
)
def test_a_state_of_other_options_is_refused(options: dict[str, Any], words: str) -> None:
    state = kb.Accumulator(**options).update(batch(10)).state()
    accumulator = kb.Accumulator(estimator=kb.K1).update(batch(5))
    with pytest.raises(InputError) as caught:
        accumulator.restore(state)
    assert str(caught.value) == (
        f"a state of {words} came to an accumulator of k1 (token) a sequence: "
        "restore it with the options that it was made with"
    )
    assert accumulator.result().n == 5


@pytest.mark.parametrize("schema", [None, 0, 2, 4])
def test_a_state_of_another_version_is_refused(schema: int | None) -> None:
    state = {**kb.Accumulator(estimator=kb.K1).update(batch(5)).state(), "schema": schema}
    if schema is None:
        del state["schema"]
    with pytest.raises(InputError, match=f"a state with schema {schema} came, but 3 is read here"):
        kb.Accumulator(estimator=kb.K1).restore(state)


def test_an_estimator_is_taken_by_its_name_too() -> None:
    b = batch(20)
    for name in kb.ESTIMATORS.names:
        by_name, member = (run(b, estimator=e, level="sequence") for e in (name, kb.ESTIMATORS[name]))
        assert by_name.to_dict() == member.to_dict()
    q, p, mask = b["logprobs"], b["ref_logprobs"], b["mask"]
    assert kb.estimate(q, p, mask, estimator="k3").value == kb.estimate(q, p, mask, estimator=kb.K3).value
    with pytest.raises(NameUnknownError, match="there is no 'k4'; choose one of k1, k2, k3"):
        kb.estimate(q, p, mask, estimator="k4")


def test_a_refused_batch_changes_nothing() -> None:
    accumulator = kb.Accumulator(estimator=kb.K1).update(batch(10))
    before = accumulator.result().to_dict()
    bad = batch(10)
    bad["logprobs"] = np.where(np.arange(10)[:, None] == 9, np.nan, bad["logprobs"])
    with pytest.raises(InputError):
        accumulator.update(bad)
    assert accumulator.result().to_dict() == before


# What goes wrong ------------------------------------------------------------------------------------------------


def test_a_support_mismatch_is_infinite_and_said_in_words() -> None:
    q, p = np.log(np.full((3, 2), 0.5)), np.log(np.full((3, 2), 0.5))
    p[1, 1] = -np.inf
    found = kb.estimate(q, p, estimator=kb.K1)
    assert found.value == np.inf
    assert found.interval() == (-np.inf, np.inf)
    for estimator in (kb.K3, kb.K2, kb.ControlVariate("fit"), kb.ControlVariate(0.5)):
        assert kb.estimate(q, p, estimator=estimator).value == np.inf
    assert (
        "support mismatch: the reference gives probability 0 to 1 token(s), the first in row 1 at position 1"
        in (found.warnings[0])
    )
    bounded = kb.estimate(q, p, estimator=kb.ESTIMATORS["total_variation"])
    assert np.isfinite(bounded.value)
    assert not any("support" in warning for warning in bounded.warnings)


def test_overflow_is_inf_and_names_the_token() -> None:
    q, p = np.full((4, 3), -1.0), np.full((4, 3), -1.0)
    q[2, 1] = -900.0
    found = kb.estimate(q, p, estimator=kb.K3)
    assert found.value == np.inf
    assert "k3 overflows to inf at 1 token(s), the first in row 2 at position 1" in " ".join(found.warnings)
    assert np.isfinite(kb.estimate(q, p, estimator=kb.K1).value)
    assert np.isinf(kb.estimate(q, p, estimator=kb.K3, level="sequence").value)


@pytest.mark.parametrize("estimator", [kb.K1, kb.K3, kb.ControlVariate("fit")], ids=lambda e: e.name)
@pytest.mark.parametrize("level", LEVELS)
def test_a_heavy_tailed_ratio_is_warned_of(estimator: kb.Estimator, level: str) -> None:
    log_r = -1.5 * np.log(np.random.default_rng(0).uniform(size=(1000, 1)))
    q = np.full((1000, 1), -40.0)
    found = kb.estimate(q, np.minimum(q + log_r - log_r.max(), 0.0), estimator=estimator, level=level)
    assert found.khat > 0.7
    assert any("heavy tail" in warning and "k̂" in warning for warning in found.warnings)


def test_a_light_tail_is_not_warned_of() -> None:
    rng = np.random.default_rng(0)
    ell = rng.normal(0.005, 0.1, size=(2000, 8))
    found = kb.estimate(np.full_like(ell, -2.0), -2.0 - ell, estimator=kb.K3)
    assert found.khat < 0.5
    assert found.warnings == ()


def test_log_probs_of_another_distribution_are_noticed() -> None:
    """Sampled at temperature 0.5 but scored raw: E[r] is not 1 (verl, TRL and vLLM users meet this)."""
    raw, p, horizon = generic(vocab=8, horizon=2)
    cool = World(TreeLM(2 * raw, 0, horizon), TreeLM(p, 0, horizon))
    rows = cool.sampler.sample(np.random.default_rng(0), 2000)
    scored = TreeLM(raw, 0, horizon)
    found = kb.estimate(scored.logprobs[rows], cool.reference.logprobs[rows], scored.mask[rows], estimator=kb.K1)
    assert any("not those of the distribution that was sampled" in warning for warning in found.warnings)


def test_ess_is_kish_of_the_sequence_weights() -> None:
    b = batch(50)
    shift = np.random.default_rng(0).normal(0, 0.2, size=b["logprobs"].shape) - 0.5
    behavior = np.minimum(b["logprobs"] + shift, 0.0)
    weight = np.exp(((b["logprobs"] - behavior) * b["mask"]).sum(axis=1))
    found = run(b, behavior_logprobs=behavior, estimator=kb.K1)
    assert found.ess == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-12)
    assert run(b, estimator=kb.K1).ess == 50


@pytest.mark.parametrize("truncate", [2.0, weights.Truncated(2.0), weights.Masked(2.0), weights.SELF_NORMALISED])
def test_tamed_weights_declare_their_bias(truncate: Any) -> None:
    b = batch(50)
    found = run(b, behavior_logprobs=b["ref_logprobs"], estimator=kb.K1, truncate=truncate)
    assert any("bias" in warning for warning in found.warnings)
    assert np.isfinite(found.value)


def test_self_normalised_is_a_ratio_of_weighted_sums() -> None:
    b = batch(50)
    w = np.exp(((b["logprobs"] - b["ref_logprobs"]) * b["mask"]).sum(axis=1))
    k = ((b["logprobs"] - b["ref_logprobs"]) * b["mask"]).sum(axis=1)
    found = run(b, behavior_logprobs=b["ref_logprobs"], estimator=kb.K1, truncate=weights.SELF_NORMALISED)
    assert found.value == pytest.approx((w * k).sum() / w.sum(), rel=1e-12)


def test_one_sequence_and_one_prompt_say_what_their_error_means() -> None:
    one = run(batch(1), estimator=kb.K1)
    assert np.isnan(one.stderr)
    assert np.isnan(one.interval()).all()
    assert "one sequence" in one.warnings[-1]
    same = run(batch(30), estimator=kb.K1, groups=["a"] * 30)
    assert same.stderr == run(batch(30), estimator=kb.K1).stderr
    assert "all rows have one prompt" in same.warnings[-1]


def test_empty_rows_are_left_out_and_counted() -> None:
    b = batch(10)
    mask = b["mask"].copy()
    mask[4] = False
    found = kb.estimate(b["logprobs"], b["ref_logprobs"], mask, estimator=kb.K3)
    kept = np.arange(10) != 4
    assert found.value == kb.estimate(b["logprobs"][kept], b["ref_logprobs"][kept], mask[kept], estimator=kb.K3).value
    assert found.n == 9
    assert "1 row(s) without a counted token" in found.warnings[-1]


def test_identical_models_give_exactly_zero() -> None:
    q = batch(10)["logprobs"]
    for estimator in (kb.K1, kb.K3, kb.ControlVariate("fit")):
        found = kb.estimate(q, q, estimator=estimator)
        assert (found.value, found.stderr) == (0.0, 0.0)
        assert "every log-ratio is exactly 0" in found.warnings[0]


Q = np.log(np.full((2, 3), 0.5))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: kb.estimate(Q[0], Q[0], estimator=kb.K1), ShapeError, "add a batch dimension"),
        (lambda: kb.estimate(Q, Q[:, :2], estimator=kb.K1), ShapeError, "ref_logprobs has shape (2, 2)"),
        (lambda: kb.estimate(Q, Q, np.ones((2, 2)), estimator=kb.K1), ShapeError, "mask has shape (2, 2)"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1, groups=[1, 2, 3]), ShapeError, "one prompt id for each"),
        (lambda: kb.estimate(Q, Q, np.zeros((2, 3)), estimator=kb.K1), InputError, "counts no token"),
        (lambda: kb.estimate(Q * np.nan, Q, estimator=kb.K1), InputError, "logprobs[0, 0] is nan (and 5 more)"),
        (lambda: kb.estimate(Q, -Q, estimator=kb.K1), InputError, "or negated log-probs"),
        (lambda: kb.estimate(np.full((1, 1), -np.inf), Q[:1, :1], estimator=kb.K1), InputError, "probability 0"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1.fn), InputError, "kullback.K3, or its name"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1, level="word"), InputError, "'token' or 'sequence'"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1, unit="word"), InputError, "'sequence' or 'token'"),
        (lambda: kb.estimate(Q, Q, estimator=kb.RAO_BLACKWELL), InputError, "needs token_kl"),
        (lambda: kb.estimate(Q, Q, estimator=kb.Renyi(2.0)), InputError, "use level='sequence'"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1, truncate=-1.0), InputError, "a positive number"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1, token_kl=Q), InputError, "at least 0"),
        (lambda: kb.estimate(Q, Q, estimator=kb.K1).interval(95), InputError, "between 0 and 1"),
        (lambda: kb.Accumulator(estimator=kb.K1).result(), InputError, "no sequence was added yet"),
        (lambda: kb.Accumulator(estimator=kb.K1).update({"logprobs": Q}), InputError, "lacks ref_logprobs"),
        (lambda: kb.Accumulator(estimator=kb.K1).update(Q), InputError, "ref_logprobs of the same tokens"),
        (
            lambda: kb.Accumulator(estimator=kb.K1).merge(kb.Accumulator(estimator=kb.K3)),
            InputError,
            "one estimator, level and unit",
        ),
        (
            lambda: (
                kb.Accumulator(estimator=kb.K1)
                .update(Q, Q, groups=[1, 2])
                .merge(kb.Accumulator(estimator=kb.K1).update(Q, Q))
            ),
            InputError,
            "give groups to both or to neither",
        ),
    ],
)
def test_bad_input_is_one_sentence(call: Any, error: type[KullbackError], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


def test_numbers_print_with_their_error_and_unit() -> None:
    found = kb.estimate(np.full((2, 1), -1.0), np.array([[-2.0], [-3.0]]), estimator=kb.K1)
    assert str(found) == "1.50 ± 0.50 nats/sequence (n=2)"
    assert str(kb.Exact(0.192745)) == "0.1927 nats/sequence (exact)"
    assert type(kb.Exact(1.0)) is not type(found)
