"""Schulman's post, which all the others rest on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import APPLICATIONS, NEMO, RETHINK, RETHINK_ZH, SCHULMAN, SLIME, XIHUAI, XU, ZHANG
from kullback.claims.worlds import (
    CROSSED,
    EVEN,
    Gaussian,
    Pair,
    close_pair,
    language,
    pair,
    texts,
)
from kullback.estimators import ESTIMATORS
from kullback.estimators.divergences import k1, k2, k3


def _k1_unbiased(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    direct = float(world.q @ np.log(world.q / world.p))
    yield stated("E[k1]", world.mean(k1(world.log_ratio)), "=", direct)


def _second_order(seed: int) -> Iterator[Evidence]:
    def ratio(distance: float) -> float:
        world = close_pair(seed, distance)
        return world.mean(k2(world.log_ratio)) / world.kl

    yield stated("E[k2]/KL as the logits come within 1e-4", ratio(1e-4), "=", 1.0, tolerance=1e-3)
    # An error of third order in the value is of first order in the ratio: it halves with the distance.
    yield stated(
        "(E[k2]/KL − 1) at half the distance, over that at the whole",
        (ratio(5e-4) - 1) / (ratio(1e-3) - 1),
        "=",
        0.5,
        tolerance=0.02,
    )


def _all_second_order(seed: int) -> Iterator[Evidence]:
    yield stated(
        "|r − 1|^1.5, differentiable: D/KL at 1e-4 over that at 1e-2",
        rough(seed, 1e-4) / rough(seed, 1e-2),
        "=",
        1.0,
        tolerance=0.02,
    )
    curvature = {
        "forward_k3": 1.0,
        "jeffreys": 2.0,
        "pearson_chi2": 2.0,
        "neyman_chi2": 2.0,
        "squared_hellinger": 0.25,
        "jensen_shannon": 0.25,
        "alpha_0.5": 1.0,
    }
    world = close_pair(seed, 1e-4)
    for name, second in curvature.items():
        ratio = world.mean(ESTIMATORS[name].fn(world.log_ratio)) / world.kl
        yield within(f"{name} over KL", ratio, "=", second, tolerance=1e-3)


def rough(seed: int, distance: float) -> float:
    """E_q[|r − 1|^1.5]/KL, a divergence whose f has no second derivative at 1."""
    world = close_pair(seed, distance)
    return world.mean(np.abs(world.r - 1) ** 1.5) / world.kl


def _not_convex() -> Iterator[Evidence]:
    split = k2(np.log([3.0, 30.0])).mean()
    merged = float(k2(np.log(np.array([16.5])))[0])
    yield smallest("Σ q f(p/q) of r = 3 and 30 over that of the merged r = 16.5", split, "≥", merged)
    inside = k2(np.log([0.5, 2.5])).mean()
    yield instead("the same of r = 0.5 and 2.5, both below e", inside, "≥", float(k2(np.log(np.array([1.5])))[0]))
    share = texts()
    beyond = np.mean(share.log_ratio[share.mask] < -1)
    yield realistic("share of tokens with r > e, where ½(log r)² is concave", float(beyond), "=", 0.0)
    yield realistic("share of sequences with r > e", float(np.mean(texts().sums < -1)), "=", 0.0)


def _k3_unbiased(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield within("E[k3], p inside the support of q", world.mean(k3(world.log_ratio)), "=", world.kl)
    p = np.append(0.75 * world.p, 0.25)
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = Pair(np.append(world.q, 0.0), p)
        values = k3(np.where(cut.q > 0, cut.log_ratio, 0.0))
        kl = cut.mean(np.where(cut.q > 0, cut.log_ratio, 0.0))
    yield stated("E[k3], a quarter of p where q = 0", cut.mean(values), "=", kl)
    yield instead("what is missing, p outside the support of q", kl - cut.mean(values), "=", 0.25)


def _k3_nonnegative(seed: int) -> Iterator[Evidence]:
    x = np.random.default_rng(seed).normal(size=1000) * 10.0 ** np.linspace(-12, 2, 1000)
    yield stated("least k3 over 1,000 log-ratios from 1e-12 to 100", float(k3(x).min()), "≥", 0.0, tolerance=0.0)


def _k3_quieter(seed: int) -> Iterator[Evidence]:
    world = pair(seed, scale=0.3)
    yield within("χ² over 2J", world.chi2 / (2 * world.jeffreys), "<", 1.0)
    yield within("Var k3 where χ² < 2J", world.variance(k3(world.log_ratio)), "<", world.variance(world.log_ratio))
    yield stated(
        "Var k3, q = (.9, .1), p = (.1, .9)",
        CROSSED.variance(k3(CROSSED.log_ratio)),
        "<",
        CROSSED.variance(CROSSED.log_ratio),
    )
    yield stated(
        "Var k3, N(0, 1) against N(0, 2)", Gaussian(0.0, math.sqrt(2)).var_k3, "<", Gaussian(0.0, math.sqrt(2)).var_k1
    )
    any_pair = pair(seed, scale=2.0)
    gap = any_pair.variance(k3(any_pair.log_ratio)) - any_pair.variance(any_pair.log_ratio)
    yield instead("Var k3 − Var k1 = χ² − 2J in any world", gap, "=", any_pair.chi2 - 2 * any_pair.jeffreys)
    policy, reference = language()
    yield realistic("Var Σ_t k3_t", policy.variance(reference, "k3"), "<", policy.variance(reference, "k1"))


def _any_coefficient(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    for coefficient in (-1.0, 0.3, 2.0, 17.0):
        values = world.log_ratio + coefficient * (world.r - 1)
        yield stated(f"E[−log r + λ(r − 1)], λ = {coefficient:g}", world.mean(values), "=", world.kl)


def _closed_form(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    control = world.r - 1
    best = -world.mean((world.log_ratio - world.kl) * control) / world.variance(control)
    yield stated(
        "the minimiser of Var, found from the covariance, times χ², less KL(p‖q): the KL",
        best * world.chi2 - world.forward_kl,
        "=",
        world.kl,
    )
    yield stated(
        "the minimiser, against that of the same models exchanged",
        best,
        "≠",
        world.swapped.jeffreys / world.swapped.chi2,
    )
    by_hand = -EVEN.mean((EVEN.log_ratio - EVEN.kl) * (EVEN.r - 1)) / EVEN.variance(EVEN.r)
    yield instead("the minimiser for q = (½, ½), p = (¼, ¾), J/χ² = log 3", by_hand, "=", math.log(3))
    for gaussian in (Gaussian(0.1), Gaussian(1.0)):
        square = gaussian.shift**2
        yield instead(f"λ* at KL {gaussian.kl:g}", gaussian.best_coefficient, "=", square / math.expm1(square))
    total = texts().sums
    control = np.expm1(-total)
    yield realistic(
        "λ* of whole sequences, estimated",
        float(-(total * control).mean() / (control**2).mean()),
        "=",
        1.0,
        tolerance=0.05,
    )


def _only_one(seed: int) -> Iterator[Evidence]:
    r = np.exp(np.linspace(-6, 6, 4001))
    yield stated("least of −log r + (r − 1)", float((-np.log(r) + (r - 1)).min()), "≥", 0.0)
    coefficient = float(np.exp(np.random.default_rng(seed).uniform(0.2, 2.0) * (-1) ** seed))
    least = 1 + math.log(coefficient) - coefficient
    yield instead(f"least of −log r + λ(r − 1) at λ = {coefficient:.3g}, reached at r = 1/λ", least, "<", 0.0)


def _gap(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    members = {
        "forward_k3": world.forward_kl,
        "pearson_chi2": world.chi2,
        "neyman_chi2": world.swapped.chi2,
        "squared_hellinger": 1 - float(np.sum(np.sqrt(world.q * world.p))),
    }
    for name, exact in members.items():
        values = ESTIMATORS[name].fn(world.log_ratio)
        yield stated(f"E[f(r) − f′(1)(r − 1)], {name}", world.mean(values), "=", exact)
        yield stated(f"its least value, {name}", float(values.min()), "≥", 0.0, tolerance=0.0)


def _forward(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    values = world.r * np.log(world.r) - (world.r - 1)
    yield stated("E[r log r − (r − 1)]", world.mean(values), "=", world.forward_kl)
    yield stated("its least value", float(values.min()), "≥", 0.0)


def _covariance(seed: int) -> Iterator[Evidence]:
    world = pair(seed, scale=2.0)
    covariance = world.mean((world.log_ratio - world.kl) * (world.r - 1))
    yield stated("Cov(−log r, r − 1)", covariance, "<", 0.0)
    yield instead("the same, −J exactly", covariance, "=", -world.jeffreys)


CLAIMS = (
    Claim(
        id="schulman-k1-unbiased",
        source=SCHULMAN("k1"),
        statement="The mean of −log r over samples of q is KL(q‖p).",
        verdict=Verdict.HOLDS,
        why="It is the definition of KL(q‖p), read as an expectation under q.",
        condition="KL(q‖p) is finite.",
        computation=_k1_unbiased,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            "print(round(float(world.q @ kb.K1(world.log_ratio)), 9))",
        ),
        also=(ZHANG("second formula"), APPLICATIONS("k1"), RETHINK("k1"), RETHINK_ZH("k1"), XU("f_N")),
    ),
    Claim(
        id="schulman-k2-second-order",
        source=SCHULMAN("k2"),
        statement="E[k2] equals KL(q‖p) to second order in the distance of the models.",
        verdict=Verdict.HOLDS,
        why="½(log r)² and −log r have the same f″(1) = 1; the ratio of the means is 1 + O(distance).",
        condition="The models are close and smooth in their parameters.",
        computation=_second_order,
        code=lines(
            "from kullback import K2",
            "from kullback.claims.worlds import close_pair",
            "world = close_pair(0, 1e-4)",
            "print(round(world.mean(K2(world.log_ratio)) / world.kl, 6))",
        ),
        also=(
            RETHINK("“why this expression can be a good (albeit biased) estimator for KL”"),
            RETHINK_ZH("“不错（尽管有偏）的 KL 估计器”"),
        ),
    ),
    Claim(
        id="schulman-f-divergences-agree",
        source=SCHULMAN("k2"),
        statement="All f-divergences with differentiable f look like the KL up to second order when q is close to p.",
        verdict=Verdict.CONDITION,
        why="D_f = ½f″(1) θᵀFθ + O(θ³) with the Fisher information F, whatever f, if it has an f″(1). |r − 1|^1.5 is "
        "differentiable and has none: its D/KL grows without bound.",
        condition="f is twice differentiable at 1, and up to the factor f″(1).",
        computation=_all_second_order,
        code=lines(
            "import kullback as kb; from kullback.claims.schulman import rough",
            "from kullback.claims.worlds import close_pair",
            "world, chi2 = close_pair(0, 1e-4), kb.ESTIMATORS['pearson_chi2']",
            "print(round(rough(0, 1e-4) / rough(0, 1e-2), 6))",
            "print(round(world.mean(chi2.fn(world.log_ratio)) / world.kl, 6))",
        ),
    ),
    Claim(
        id="schulman-k2-f-divergence",
        source=SCHULMAN("k2"),
        statement="E[k2] is an f-divergence, with f(r) = ½(log r)².",
        verdict=Verdict.FAILS,
        why="f″(r) = (1 − log r)/r² < 0 beyond e: f is not convex, so merging outcomes can increase the mean, which no "
        "f-divergence allows (data processing).",
        condition="All r ≤ e, that is ℓ ≥ −1.",
        computation=_not_convex,
        code=lines(
            "import numpy as np, kullback as kb",
            "print(kb.K2(np.log([3.0, 30.0])).mean().round(6), kb.K2(np.log([16.5])).round(6)[0])",
        ),
        meant="That its low bias comes from second-order agreement with the KL, which is right.",
        by_hand="Two outcomes of equal q with r = 3 and 30: ½(.603 + 5.784) = 3.194. Merged, r = 16.5: 3.929.",
        also=(XIHUAI("“k2: an f-divergence”"),),
    ),
    Claim(
        id="schulman-k3-unbiased",
        source=SCHULMAN("k3"),
        statement="The mean of (r − 1) − log r over samples of q is KL(q‖p).",
        verdict=Verdict.CONDITION,
        why="E_q[r − 1] = p(support of q) − 1, which is 0 only if q excludes nothing that p allows.",
        condition="supp p ⊆ supp q. Under top-p or top-k it is low by the reference's mass that is cut off.",
        computation=_k3_unbiased,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import pair",
            "w, x = pair(seed=0), pair(seed=0).log_ratio - np.log(0.75)  # a quarter of p where q = 0",
            "print(round(w.mean(kb.K3(x)), 6), round(w.mean(kb.K1(x)), 6))",
        ),
        also=(
            ZHANG("“which is unbiased and low-variance”"),
            RETHINK("“making it an unbiased estimator”"),
            RETHINK_ZH("“即是一个无偏估计”"),
            XU("“other estimators with lower variance”"),
            SLIME("compute_approx_kl"),
        ),
    ),
    Claim(
        id="schulman-k3-nonnegative",
        source=SCHULMAN("k3"),
        statement="(r − 1) − log r is never negative.",
        verdict=Verdict.HOLDS,
        why="log x ≤ x − 1: it is the gap between log and its tangent at 1.",
        computation=_k3_nonnegative,
        condition="Written without cancellation: exp(x) − 1 − x in float32 comes out negative for small x.",
        code=lines(
            "import numpy as np, kullback as kb",
            "x = np.random.default_rng(0).normal(size=1000)",
            "x *= 10.0 ** np.linspace(-12, 2, 1000)",
            "print(kb.K3(x).min())",
        ),
        also=(RETHINK("log(x) ≤ x − 1"), RETHINK_ZH("log(x) ≤ x − 1"), NEMO("“guaranteed to be positive”")),
    ),
    Claim(
        id="schulman-k3-quieter",
        source=SCHULMAN("k3"),
        statement="k3 has a lower variance than k1.",
        verdict=Verdict.CONDITION,
        why="Var k3 = Var k1 + χ²(p‖q) − 2J. Against N(0, 2) χ² is infinite while Var k1 is 1/8.",
        condition="χ²(p‖q) < 2J(q, p), which holds when the models are close.",
        computation=_k3_quieter,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, x = np.array([0.9, 0.1]), np.log([9.0, 1 / 9])",
            "for k in (kb.K3(x), kb.K1(x)):",
            "    print(round(float(q @ (k - q @ k) ** 2), 6))",
        ),
        also=(
            ZHANG("“unbiased and low-variance”"),
            RETHINK("“lowering variance while keeping unbiasedness”"),
            RETHINK_ZH("“在保留无偏性的同时降低了方差”"),
            XU("“other estimators with lower variance”"),
            SLIME("compute_approx_kl"),
        ),
    ),
    Claim(
        id="schulman-any-coefficient",
        source=SCHULMAN("k3"),
        statement="−log r + λ(r − 1) has mean KL(q‖p) for every λ.",
        verdict=Verdict.HOLDS,
        why="E_q[r − 1] = Σ p − 1 = 0.",
        condition="supp p ⊆ supp q, and λ does not look at the samples it is used on.",
        computation=_any_coefficient,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            "print([round(world.mean(kb.ControlVariate(c).fn(world.log_ratio)), 9) for c in (-1.0, 0.3, 17.0)])",
        ),
        also=(APPLICATIONS("k3"),),
    ),
    Claim(
        id="schulman-no-closed-form",
        source=SCHULMAN("k3"),
        statement="The λ of least variance is an expression that depends on p and q and is hard to calculate "
        "analytically.",
        verdict=Verdict.HOLDS,
        why="Cov(−log r, r − 1) = −J and Var r = χ², so λ* = J(q, p)/χ²(p‖q): whoever can calculate that can calculate "
        "the KL itself.",
        condition="From samples it can be estimated; fitted on the other samples (leave-one-out) the mean stays "
        "unbiased. Near p = q one need not: λ* → 1.",
        computation=_closed_form,
        code=lines(
            "from kullback.claims.worlds import pair",
            "w = pair(seed=0)",
            "best = -w.mean((w.log_ratio - w.kl) * (w.r - 1)) / w.chi2",
            "print(round(best * w.chi2 - w.forward_kl, 6), 'is the KL', round(w.kl, 6), 'where λ* is', round(best, 6))",
        ),
        by_hand="q = (½, ½), p = (¼, ¾): J = ¼ log 3, χ² = ¼, λ* = log 3 = 1.0986, and there the variance is 0.",
        also=(
            APPLICATIONS("“The hard part is choosing the λ”"),
            RETHINK("“isn’t easy to get”"),
            RETHINK_ZH("难以解析求出"),
        ),
    ),
    Claim(
        id="schulman-coefficient-one",
        source=SCHULMAN("k3"),
        statement="With λ = 1, −log r + λ(r − 1) is guaranteed to be non-negative.",
        verdict=Verdict.HOLDS,
        why="Its least value, at r = 1/λ, is 1 + log λ − λ, which is 0 at λ = 1. At every other λ it is negative, "
        "which is ours to add.",
        computation=_only_one,
        code=lines(
            "import numpy as np",
            "r = np.exp(np.linspace(-6, 6, 4001))",
            "print([abs(round(float((-np.log(r) + c * (r - 1)).min()), 6)) for c in (1.0, 0.5, 2.0)])",
        ),
        also=(RETHINK("“if we pick λ=1”"), RETHINK_ZH("“若取 λ = 1”")),
    ),
    Claim(
        id="schulman-bregman-gap",
        source=SCHULMAN("generalisation"),
        statement="For convex f, f(r) − f′(1)(r − 1) is non-negative and has mean D_f = E_q[f(r)].",
        verdict=Verdict.HOLDS,
        why="A convex function lies above its tangent at 1, and E_q[r − 1] = 0.",
        condition="supp p ⊆ supp q.",
        computation=_gap,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            'print(round(world.mean(kb.ESTIMATORS["pearson_chi2"].fn(world.log_ratio)), 9), round(world.chi2, 9))',
        ),
    ),
    Claim(
        id="schulman-forward",
        source=SCHULMAN("generalisation"),
        statement="r log r − (r − 1) over samples of q is non-negative and has mean KL(p‖q).",
        verdict=Verdict.HOLDS,
        why="It is the gap for f(r) = r log r, and E_q[r log r] = Σ p log(p/q).",
        condition="supp p ⊆ supp q.",
        computation=_forward,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            'print(round(world.mean(kb.ESTIMATORS["forward_k3"].fn(world.log_ratio)), 9), round(world.forward_kl, 9))',
        ),
    ),
    Claim(
        id="schulman-negative-correlation",
        source=SCHULMAN("k3"),
        statement="r − 1 is negatively correlated with −log r.",
        verdict=Verdict.HOLDS,
        why="Cov_q(−log r, r − 1) = −(KL(q‖p) + KL(p‖q)) ≤ 0.",
        condition="q ≠ p.",
        computation=_covariance,
        code=lines(
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0, scale=2.0)",
            "print(round(world.mean((world.log_ratio - world.kl) * (world.r - 1)), 9))",
        ),
        also=(APPLICATIONS("k3"), RETHINK("“that correlation is negative”"), RETHINK_ZH("相关性是负的")),
    ),
)
