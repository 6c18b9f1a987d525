"""The laboratory: each experiment against another way to the same numbers, and against what was published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import logsumexp
from test_cli import run

import kullback as kb
from kullback import lab
from kullback.documents import Chart, Panel, Series
from kullback.errors import InputError
from kullback.lab.accuracy import PairSetting, Sweep
from kullback.lab.gaussian_tables import NAMES, PUBLISHED
from kullback.lab.language_models import pair as chain_pair
from kullback.lab.language_models import ways
from kullback.lab.sample_plan import PlanRow
from kullback.lab.training_runs import ARMS, Problem
from kullback.oracle import World, reference_world, relative_variance
from kullback.oracle.loss_gradients import gradient_of
from kullback.report.pictures import draw


@pytest.mark.parametrize(("shift", "name"), PUBLISHED)
def test_schulmans_tables_to_the_printed_digits(shift: float, name: str) -> None:
    (pair,) = lab.gaussian([shift], samples=10).pairs
    row = pair.rows[NAMES.index(name)]
    bias, stdev = PUBLISHED[shift, name]
    assert row.published == (bias, stdev)
    digits = len(f"{stdev:g}".partition(".")[2])
    assert round(row.stdev, digits) == stdev
    if (shift, name) == (0.1, "k2"):
        assert row.bias == pytest.approx(0.0025, abs=1e-12)  # printed as 0.002
    else:
        assert row.bias == pytest.approx(bias, abs=1e-12)


@settings(max_examples=6, deadline=None)
@given(shift=st.floats(-2, 2), scale=st.floats(0.4, 1.3))
def test_closed_forms_are_the_integrals(shift: float, scale: float) -> None:
    q, p = stats.norm(0, 1), stats.norm(shift, scale)
    if abs(shift) < 0.05 and abs(scale - 1) < 0.05:
        return

    def mean(function: object) -> float:
        def integrand(x: float) -> float:
            return q.pdf(x) * function(q.logpdf(x) - p.logpdf(x))  # type: ignore[operator]

        return float(integrate.quad(integrand, -30, 30, limit=400, points=[-2, 0, 2])[0])

    (pair,) = lab.gaussian([shift], scale=scale, samples=10).pairs
    kl = mean(lambda x: x)
    assert pair.kl == pytest.approx(kl, abs=1e-9)
    assert pair.chi2 == pytest.approx(mean(lambda x: np.expm1(-x) ** 2), rel=1e-6)
    assert pair.negative == pytest.approx(_chance(q, p), abs=1e-3)
    functions = {
        "k1": lambda x: x,
        "k2": lambda x: x * x / 2,
        "k3": lambda x: np.expm1(-x) + x,
        NAMES[3]: lambda x: x + pair.coefficient * np.expm1(-x),
    }
    for row in pair.rows:
        k = functions[row.estimator]
        first = mean(k)
        assert row.bias == pytest.approx(first / kl - 1, abs=1e-7 / kl)
        assert row.stdev * kl == pytest.approx(sqrt(mean(lambda x, k=k, m=first: (k(x) - m) ** 2)), rel=1e-5)


def _chance(q: object, p: object) -> float:
    x = np.linspace(-12, 12, 40_001)
    return float(np.mean(q.pdf(x) * (q.logpdf(x) < p.logpdf(x))) * 24)  # type: ignore[attr-defined]


def test_sampling_agrees_with_the_closed_form() -> None:
    for pair in lab.gaussian([0.1, 1.0], samples=400_000, seed=3).pairs:
        for row in pair.rows:
            assert abs(row.sampled_bias - row.bias) < 5 * row.sampled_bias_stderr
            assert row.sampled_stdev == pytest.approx(row.stdev, rel=0.02)


def test_crossovers_solve_their_equations() -> None:
    found = lab.gaussian(samples=10).crossovers
    x = 2 * found["k3"]
    assert np.expm1(x) == pytest.approx(2 * x, rel=1e-9)
    assert found["k3"] == pytest.approx(0.628, abs=5e-4)
    assert 2 * found["k2"] == pytest.approx(sqrt(5) - 1, rel=1e-9)


def test_k3_has_no_variance_from_scale_root_two_on() -> None:
    below, above = (lab.gaussian([0.5], scale=s, samples=10).pairs[0] for s in (sqrt(2) - 1e-3, sqrt(2) + 1e-3))
    assert np.isfinite(below.chi2)
    assert (above.chi2, above.coefficient, above.rows[2].stdev) == (np.inf, 0.0, np.inf)
    assert np.isfinite(above.rows[0].stdev)
    assert above.rows[3].stdev == above.rows[0].stdev


def test_the_sample_sd_of_8_8_estimates_an_infinite_number() -> None:
    """arXiv 2510.01555 compares N(0.1, 0.2²) with N(0, 1): shift −0.5, scale 5 in units of the first."""
    (pair,) = lab.gaussian([-0.1 / 0.2], scale=1 / 0.2, samples=10).pairs
    assert pair.kl == pytest.approx(-log(0.2) + (0.2**2 + 0.1**2 - 1) / 2, abs=1e-12)
    assert pair.rows[0].stdev * pair.kl == pytest.approx(0.679, abs=5e-4)
    assert np.isinf(pair.rows[2].stdev)


def test_gaussian_refuses_what_has_no_answer() -> None:
    for arguments in ({"scale": 0.0}, {"shifts": []}, {"samples": 1}, {"shifts": [0.0]}):
        with pytest.raises(InputError):
            lab.gaussian(**arguments)  # type: ignore[arg-type]


def test_a_picture_is_the_same_file_twice_and_names_its_numbers(tmp_path: Path) -> None:
    x = np.array([1.0, 2.0])
    chart = Chart("c", "words", (Panel("t", "x, nats", "y", (Series("k1", x, x), Series("k2", x, x * np.inf)), "xy"),))
    draw(chart, [tmp_path / "a.svg", tmp_path / "a.png"])
    draw(chart, [tmp_path / "b.svg", tmp_path / "b.png"])
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert chart.digest() in (tmp_path / "a.svg").read_text()
    other = Chart("c", "words", (Panel("t", "x, nats", "y", (Series("k1", x, x + 0.1),), "xy"),))
    assert other.digest() != chart.digest()


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


EXPERIMENTS = {
    "gaussian": lambda: lab.gaussian(samples=100),
    "categorical": lambda: lab.categorical([0.1, 1.0], [4], worlds=1),
    "language": lambda: lab.language([0.1], [4], [4, 512], worlds=1),
    "lambda": lambda: lab.coefficients(sizes=[2, 3]),
    "training": lambda: lab.training([1.0], steps=80, seeds=1),
    "gradients": lambda: lab.gradients([0.5], surrogates=["k1_loss", "k3_loss"]),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_are_tables_charts_and_json(name: str, tmp_path: Path) -> None:
    found = EXPERIMENTS[name]()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))
    for table in found.tables():
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert len(set(table.columns)) == len(table.columns)
    chart = found.chart()
    assert chart.name == name
    for panel in chart.panels:
        assert panel.x
        assert panel.y
        assert any(np.isfinite(series.y).any() for series in panel.series)
    draw(chart, [tmp_path / "p.png", tmp_path / "p.svg"])
    assert (tmp_path / "p.svg").stat().st_size < 200_000


@pytest.fixture(scope="module")
def found_gradients() -> lab.Gradients:
    return lab.gradients([1.5], surrogates=kb.SURROGATES.names)


def test_directions_are_those_that_records_promise(found_gradients: lab.Gradients) -> None:
    for row in found_gradients.directions:
        if row.follows == "reverse_kl":
            assert row.error < 1e-9, row
            assert row.scale == pytest.approx(1.0)
        else:
            assert row.error > 1e-3, row
        if row.follows == "zero":
            assert np.isnan(row.angle)
    assert {row.way for row in found_gradients.directions} > set(kb.SURROGATES.names)


def test_off_policy_only_kl_loss_keeps_the_direction(found_gradients: lab.Gradients) -> None:
    right = {row.way for row in found_gradients.directions if row.staleness and row.error < 1e-9}
    assert right == {"kl_loss, k1", "kl_loss, k3", "kl_loss, rao_blackwell"}


def test_the_best_constant_is_its_formula(found_gradients: lab.Gradients) -> None:
    at = reference_world(1.5, torch=True)
    columns = at.policy.sequence_logprobs
    scores = np.stack([gradient_of(columns[i], at.policy.logits).ravel() for i in range(len(columns))])
    chance, size = at.probability.detach().numpy(), (scores**2).sum(axis=1)
    ell = (at.policy.sequence_logprobs - at.reference.sequence_logprobs).detach().numpy()
    best = -(chance @ (ell * size)) / (chance @ size)
    row = found_gradients.constants[0]
    assert row.best == pytest.approx(best, rel=1e-9)
    mean = chance @ (ell[:, None] * scores)
    for c, variance in ((best, row.at_best), (0.0, row.at_zero), (1.0, row.at_one), (-row.kl, row.at_mean)):
        want = (chance @ ((c + ell) ** 2 * size) - mean @ mean) / (mean @ mean)
        assert variance == pytest.approx(float(want), rel=1e-9)
    assert row.at_best <= min(row.at_zero, row.at_one, row.at_mean)


def test_gradients_refuses_what_has_no_direction() -> None:
    with pytest.raises(InputError, match="must be positive"):
        lab.gradients([0.0])
    with pytest.raises(InputError, match="must be positive"):
        lab.gradients(staleness=0.0)


def test_enumerated_batches_are_those_in_order() -> None:
    """Bias and gain of every way at n = 3, by going through all 27 ordered batches; leave-one-out by kb.estimate."""
    q, p = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    found = {choice.way: choice for choice in lab.coefficients(sizes=[3]).choices}
    batches = np.array(list(np.ndindex(3, 3, 3)))
    chance = q[batches].prod(axis=1)
    ell, h = np.log(q / p)[batches], (p / q - 1)[batches]

    def plugged(coefficient: np.ndarray) -> np.ndarray:
        return np.mean(ell + np.nan_to_num(coefficient)[:, None] * h, axis=1)

    with np.errstate(invalid="ignore"):
        values = {
            "0 (k1)": ell.mean(axis=1),
            "1 (k3)": (ell + h).mean(axis=1),
            "λ* = J/χ²": plugged(np.full(27, float(((p - q) @ np.log(p / q)) / ((p - q) ** 2 / q).sum()))),
            "J/χ², same batch": plugged(-(ell * h).sum(axis=1) / (h**2).sum(axis=1)),
            "least squares, same batch": plugged(
                -((ell - ell.mean(axis=1, keepdims=True)) * h).sum(axis=1) / (h**2).sum(axis=1)
            ),
            "leave-one-out": np.array(
                [
                    kb.estimate(
                        np.log(q)[batch][:, None], np.log(p)[batch][:, None], estimator=kb.ControlVariate("fit")
                    ).value
                    for batch in batches
                ]
            ),
        }
    kl = float(q @ np.log(q / p))
    error = {way: float(chance @ (value - kl) ** 2) for way, value in values.items()}
    for way, value in values.items():
        assert found[way].bias == pytest.approx(float(chance @ value) / kl - 1, abs=1e-12), way
        assert found[way].gain == pytest.approx(error["0 (k1)"] / error[way], rel=1e-9), way


@pytest.mark.parametrize("seed", range(10))
def test_only_same_batch_fits_are_biased(seed: int) -> None:
    q, p = np.random.default_rng(seed).dirichlet(np.full(3, 2.0), size=2)
    for choice in lab.coefficients(q, p, sizes=[2, 7], distances=[]).choices:
        assert (abs(choice.bias) > 1e-9) == ("same batch" in choice.way), choice


def test_finer_coefficients_never_lose() -> None:
    for gain in lab.coefficients(sizes=[2]).gains:
        assert gain.by_prefix <= gain.by_position <= gain.shared <= min(1.0, gain.k3) + 1e-12
        assert gain.sequence <= 1.0
    at = reference_world(0.5)
    exact = relative_variance(at, kb.ControlVariate("fit"), "token") / relative_variance(at, kb.K1, "token")
    assert lab.coefficients(sizes=[2], distances=[0.5]).gains[0].shared == pytest.approx(exact, rel=1e-9)


def test_coefficients_refuse_what_cannot_be_enumerated() -> None:
    for arguments, words in (
        ({"sizes": [1]}, "at least 2 draws"),
        ({"policy": [0.1] * 10, "reference": [0.1] * 10}, "the same"),
        ({"policy": [0.05, 0.15] * 5, "reference": [0.1] * 10, "sizes": [100]}, "different batches"),
        ({"policy": [0.5, 0.5, 0.5]}, "sum to 1"),
    ):
        with pytest.raises(InputError, match=words):
            lab.coefficients(**arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found_training() -> lab.Training:
    return lab.training([1.0], steps=400, seeds=4, seed=1)


def test_training_shows_which_kl_term_controls_the_kl(found_training: lab.Training) -> None:
    run = {run.arm: run for run in found_training.runs}
    wanted = run["no KL term"].best_kl
    for arm in ("no KL term", "k1 in the loss"):
        assert run[arm].kl > 5 * wanted
    assert run["k3 in the reward"].shortfall > 1  # worse than not having trained
    for arm in ("k1 in the reward", "kl_loss REVERSE_KL", "kl_loss Rao-Blackwell"):
        assert run[arm].kl == pytest.approx(wanted, rel=0.15)
        assert run[arm].shortfall < min(run["k2 in the loss"].shortfall, run["k3 in the loss"].shortfall)
    assert all(run.shortfall > -1e-9 for run in found_training.runs)


def test_the_optimum_of_training_is_the_free_energy() -> None:
    """max E[R] − β KL = β log E_p[exp(R/β)] (Gibbs), and no policy near it does better."""
    problem = Problem([0.7], 2, 1)
    whole, reward = problem.ref_logprobs.sum(-1).numpy(), problem.reward.numpy()
    best_reward, best_kl = problem.optimum(0.7)
    best = best_reward - 0.7 * best_kl
    assert best == pytest.approx(0.7 * logsumexp(whole + reward / 0.7), rel=1e-12)
    tilted = whole + reward / 0.7
    for noise in 0.1 * np.random.default_rng(0).normal(size=(20, len(whole))):
        q = tilted + noise - logsumexp(tilted + noise)
        assert np.exp(q) @ (reward - 0.7 * (q - whole)) < best


def test_training_steps_follow_the_exact_gradients() -> None:
    """The expected step of k1 in the reward, and of kl_loss, is ∇KL(q‖p); Monte Carlo over many samples."""
    problem = Problem([1.0], 4_000, 1)
    table = problem.reference + 0.8 * torch.randn(problem.reference.shape, generator=torch.Generator().manual_seed(0))
    table = table[None].log_softmax(-1).double().requires_grad_()
    logprobs = table.log_softmax(-1)
    everything = problem._read(logprobs)
    whole = everything.sum(-1)
    exact = (whole.exp() * (whole - problem.ref_logprobs.sum(-1))).sum()
    (want,) = torch.autograd.grad(exact, table, retain_graph=True)
    batch, _ = problem._sampled(logprobs, everything, whole.detach(), torch.Generator().manual_seed(1))
    arms = {arm.name: arm for arm in ARMS}
    for name in ("k1 in the reward", "kl_loss REVERSE_KL", "kl_loss Rao-Blackwell"):
        (got,) = torch.autograd.grad(arms[name].penalty(batch), table, retain_graph=True)
        assert float((got - want).norm() / want.norm()) < 0.15, name
    (own,) = torch.autograd.grad(arms["k2 in the loss"].penalty(batch), table, retain_graph=True)
    assert float((own - want).norm() / want.norm()) > 0.2


def test_training_refuses_what_cannot_be_trained() -> None:
    for arguments in ({"betas": []}, {"betas": [0.0]}, {"samples": 1}, {"seeds": 0}, {"steps": 10}):
        with pytest.raises(InputError, match="are needed"):
            lab.training(**arguments)  # type: ignore[arg-type]


def pilot_of(distances: np.ndarray, samples: int, seed: int) -> list[kb.Rollout]:
    """Prompts of different difficulty: worlds at different distances."""
    rng = np.random.default_rng(seed)
    rollouts = []
    for prompt, distance in enumerate(distances):
        at = reference_world(float(distance))
        batch = at.sample(rng, samples)
        for row in range(samples):
            kept = batch["mask"][row]
            tokens = int(kept.sum())
            columns = {name: batch[name][row][kept] for name in ("logprobs", "ref_logprobs", "token_kl")}
            rollouts.append(
                kb.Rollout(
                    prompt_id=prompt,
                    prompt_tokens=[1] * 10,
                    tokens=[0] * tokens,
                    mask=kept[kept],
                    **columns,
                    ref_mass=np.ones(tokens),
                )
            )
    return rollouts


DISTANCES = (0.3, 0.6, 0.9, 1.2)


def test_a_plan_finds_the_components_that_enumeration_knows() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 150), 6, 0), stderr=0.05)
    worlds = [reference_world(d) for d in DISTANCES]
    kls = [float(at.exact(kb.REVERSE_KL)) for at in worlds]
    for row in found.rows:
        if row.estimator not in ("k1", "k3", "rao_blackwell") or row.level != "token":
            continue
        estimator = kb.ESTIMATORS[row.estimator]
        within = np.mean(
            [relative_variance(at, estimator, "token") * kl**2 for at, kl in zip(worlds, kls, strict=True)]
        )
        assert row.components.between == pytest.approx(np.std(kls), rel=0.1)
        assert row.components.within == pytest.approx(np.sqrt(within), rel=0.1)


def test_the_plan_reaches_the_error_it_promises() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 25), 4, 1), stderr=0.1, most_prompts=12)
    row = found.rows[0]
    assert row.prompts is not None
    assert row.prompts <= 12
    assert row.samples is not None
    assert row.samples > 1
    rng = np.random.default_rng(2)
    worlds = [reference_world(d) for d in DISTANCES]
    means = [
        np.mean([(b["logprobs"] - b["ref_logprobs"]).sum(axis=1).mean() for b in _batches(worlds, row, rng)])
        for _ in range(600)
    ]
    assert row.expected is not None
    assert row.expected <= 0.1
    assert np.std(means) == pytest.approx(row.expected, rel=0.15)


def _batches(worlds: list[World], row: object, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    for number in rng.integers(len(worlds), size=row.prompts):  # type: ignore[attr-defined]
        yield worlds[number].sample(rng, row.samples)  # type: ignore[attr-defined]


def test_the_planned_samples_are_the_cheapest() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 10), 5, 3), relative=0.05, read_cost=0.5)
    for row in found.rows:
        assert row.prompts is not None

        def cost(m: int, row: PlanRow = row) -> float:
            variance = row.components.between**2 + row.components.within**2 / m
            prompts = max(2, np.ceil(variance / found.wished**2))
            return float(prompts * (0.5 * found.prompt_tokens + m * found.completion_tokens))

        assert row.samples is not None
        assert cost(row.samples) == min(cost(m) for m in range(1, 200))
        assert row.low <= row.high


def test_too_few_prompts_are_said_to_be_too_few() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 10), 5, 3), stderr=0.02, most_prompts=20)
    assert found.cheapest is None
    (table,) = found.tables()
    assert "have at least" in table.note
    assert all(row.prompts is None and row.least_prompts > 20 for row in found.rows)


def test_plan_refuses_pilots_that_cannot_tell() -> None:
    pilot = pilot_of(np.array(DISTANCES), 3, 0)
    for rollouts, options, words in (
        (pilot, {}, "give one positive error"),
        (pilot, {"stderr": 0.1, "relative": 0.1}, "give one positive error"),
        (pilot[:3], {"stderr": 0.1}, "at least two prompts"),
        (pilot[::3], {"stderr": 0.1}, "at least two prompts"),
        ([], {"stderr": 0.1}, "no sequence"),
        (pilot, {"stderr": 0.1, "estimators": [(kb.Renyi(2.0), "sequence")]}, "not a mean"),
    ):
        with pytest.raises(InputError, match=words):
            lab.plan(rollouts, **options)  # type: ignore[arg-type]


LAB = {
    "gaussian": ["--samples", "100"],
    "categorical": ["--worlds", "1", "--vocab", "8", "--estimator", "k3"],
    "lambda": ["-n", "3"],
    "plan": ["{pilot}", "--relative", "0.2"],
}


@pytest.mark.parametrize("name", LAB)
def test_commands_print_tables_or_json_and_write_files(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb.write_rollouts(tmp_path / "pilot.parquet", pilot_of(np.array(DISTANCES), 3, 0))
    arguments = ["lab", name, *(a.format(pilot=tmp_path / "pilot.parquet") for a in LAB[name])]
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    assert "│" not in out
    status, out, err = run(capsys, *arguments, "--json", "--output", str(tmp_path / "out"))
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.{k}" for k in ("json", "png", "svg")}
    status, out, err = run(capsys, *arguments, "--output", str(tmp_path / "out"))
    assert status == 2
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gaussian", "--scale", "-1"], "a scale is positive"),
        (["lambda", "--policy", "a,b"], "probabilities with commas"),
        (["plan", "a", "b", "c"], "two models are needed"),
        (["plan", "nothing.parquet"], "cannot be read as rollouts"),
        (["training", "--steps", "1"], "are needed"),
        (["categorical", "--estimator", "k9"], "choose one of"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_options_are_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, out, err = run(capsys, "lab", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("name", ["", "gaussian", "categorical", "language", "gradients", "lambda", "training", "plan"])
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, _ = run(capsys, "lab", *name.split(), "--help")
    assert status == 0
    assert f"kullback lab {name or 'gaussian'}" in out


def test_a_missing_matplotlib_is_named_before_the_work(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "sys.argv = ['kullback', 'lab', 'training', '--output', sys.argv[1]]\n"
        "from kullback.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "matplotlib is needed for this and is not installed: pip install 'kullback[report]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
