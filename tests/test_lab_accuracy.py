"""Accuracies on categorical pairs and language models, against enumeration and sampling."""

from __future__ import annotations

import numpy as np
import pytest

import kullback as kb
from kullback import lab
from kullback.errors import InputError
from kullback.lab.accuracy import PairSetting, Sweep
from kullback.lab.language_models import pair as chain_pair
from kullback.lab.language_models import ways
from kullback.oracle import World


@pytest.mark.parametrize("horizon", [1, 4])
def test_ways_on_chains_are_those_of_the_tree(horizon: int) -> None:
    """Means and variances of every way by dynamic programming, against enumeration."""
    q, p = chain_pair(PairSetting(4, horizon, 0.7), np.random.default_rng(1))
    at = World(q.tree(), p.tree())
    chance, total = at.probability, (at.policy.logprobs - at.reference.logprobs).sum(axis=1)
    controls = {"ratio": at.summand(lambda x: np.expm1(-x), "token")}
    controls["martingale"] = at.summand(kb.K1, "token") - at.summand(kb.RAO_BLACKWELL, "token")

    def least(values: np.ndarray, names: tuple[str, ...]) -> float:
        columns = np.stack([controls[name] for name in names], axis=1) * np.sqrt(chance)[:, None]
        rest = np.sqrt(chance) * (values - chance @ values)
        return float(np.sum((rest - columns @ np.linalg.lstsq(columns, rest, rcond=1e-12)[0]) ** 2))

    def spread(values: np.ndarray) -> float:
        return float(chance @ (values - chance @ values) ** 2)

    controls["r"] = np.expm1(-total)
    token_kl = at.summand(kb.RAO_BLACKWELL, "token")
    wanted = {
        "k1": (total, spread(total)),
        "k2, token": (at.summand(kb.K2, "token"), None),
        "k2, sequence": (total**2 / 2, None),
        "k3, token": (at.summand(kb.K3, "token"), None),
        "k3, sequence": (np.expm1(-total) + total, None),
        "control variate, token": (total, least(total, ("ratio",))),
        "control variate, sequence": (total, least(total, ("r",))),
        "Rao-Blackwell": (token_kl, None),
        "Rao-Blackwell, controlled": (token_kl, least(token_kl, ("martingale", "ratio"))),
    }
    found = list(ways(q, p))
    assert [name for name, _, _ in found] == list(wanted)
    for name, mean, variance in found:
        values, other = wanted[name]
        assert mean == pytest.approx(float(chance @ values), rel=1e-10), name
        assert variance == pytest.approx(spread(values) if other is None else other, rel=1e-7, abs=1e-12), name


def test_accuracy_is_that_of_sampling() -> None:
    setting = PairSetting(16, 1, 2.0)
    row = next(
        r for r in lab.categorical([2.0], [16], vocab=16, worlds=1, samples=200).rows if r.estimator == "k3_clamped_2"
    )
    rng = np.random.default_rng([0, 0])
    reference = 2.0 * rng.normal(size=16)
    q, p = (np.exp(x) / np.exp(x).sum() for x in (reference + 2.0 * rng.normal(size=16), reference))
    x = np.random.default_rng(1).choice(16, size=(20_000, 200), p=q)
    estimates = kb.Clamped(kb.K3, log_ratio=2.0)(np.log(q / p)[x]).mean(axis=1)
    kl = float(q @ np.log(q / p))
    assert row.setting == setting
    assert row.kl == pytest.approx(kl)
    assert row.rmse == pytest.approx(float(np.sqrt(np.mean((estimates / kl - 1) ** 2))), rel=0.03)
    assert row.bias == pytest.approx(float(estimates.mean() / kl - 1), abs=0.02)


@pytest.mark.parametrize("seed", range(10))
def test_what_the_language_experiment_shows_holds_in_ten_worlds(seed: int) -> None:
    found = lab.language([0.05, 0.4], [16], [4, 256], worlds=1, seed=seed)

    def at(sweep: Sweep, name: str) -> list[float]:
        return [row.stdev for row in found.of(sweep, name)]

    assert at("horizon", "k3, sequence")[1] > 3 * at("horizon", "k3, token")[1]
    assert at("distance", "k1")[0] > at("distance", "k3, token")[0]
    for name in ("control variate, sequence", "Rao-Blackwell, controlled"):
        base = {"control variate, sequence": "k3, sequence", "Rao-Blackwell, controlled": "Rao-Blackwell"}[name]
        assert all(a <= b * (1 + 1e-9) for a, b in zip(at("distance", name), at("distance", base), strict=True))


def test_any_mean_of_the_family_can_be_asked_for() -> None:
    chosen = [e for e in kb.ESTIMATORS if e.link is None]
    found = lab.categorical([0.3], [8], estimators=chosen, worlds=2)
    for estimator in chosen:
        (row,) = found.of("distance", estimator.name)
        if estimator.value_of["token"] is not None:
            assert abs(row.bias) < 1e-9, estimator.name
    with pytest.raises(InputError, match="not a mean"):
        lab.categorical(estimators=[kb.Renyi(2.0)])
    with pytest.raises(InputError, match="at least one of each"):
        lab.categorical(worlds=0)
