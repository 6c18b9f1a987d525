"""Schulman's tables, and what they say about his three estimators between Gaussians."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, stated, within
from kullback.claims.sources import APPLICATIONS, RETHINK, RETHINK_ZH, SCHULMAN, TRL, XIHUAI, ZHANG
from kullback.claims.worlds import (
    Gaussian,
    pair,
    sampled,
    texts,
)
from kullback.estimators.divergences import k2

NEAR, APART = Gaussian(0.1), Gaussian(1.0)
PRINTED = 0.0051
"""Half a unit of the second decimal, and the noise of ten million samples."""


def negative_share(world: Gaussian) -> float:
    """P(k1 < 0) between Gaussians of one variance, where ℓ ~ N(μ²/2, μ²)."""
    from scipy.stats import norm

    return float(norm.cdf(-world.kl / math.sqrt(world.var_k1)))


def _half_negative() -> Iterator[Evidence]:
    yield within("P(k1 < 0), Gaussian, KL 0.005", negative_share(NEAR), "=", 0.5, tolerance=0.05)
    yield stated("P(k1 < 0), Gaussian, KL 0.5", negative_share(APART), "=", 0.5, tolerance=0.05)
    yield realistic("P(Σℓ < 0), sequences", sampled(texts().sums < 0), "=", 0.5, tolerance=0.05)


def cantelli(world: Gaussian) -> tuple[float, float]:
    """sd/KL of k1, and the least that it can be for what is negative as often: √(P/(1 − P))."""
    negative = negative_share(world)
    return math.sqrt(world.var_k1) / world.kl, math.sqrt(negative / (1 - negative))


def _noisy_as_negative(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    negative = world.mean((world.log_ratio < 0).astype(float))
    spread = math.sqrt(world.variance(world.log_ratio)) / world.kl
    yield within("sd/KL, against √(P/(1 − P)), P = P(k1 < 0)", spread, "≥", math.sqrt(negative / (1 - negative)))
    for gaussian in (NEAR, Gaussian(0.5)):
        spread, least = cantelli(gaussian)
        yield stated(f"share of sd/KL that P(k1 < 0) explains, KL {gaussian.kl:g}", least / spread, "≥", 0.5)
    yield instead("sd/KL at KL 0.005", cantelli(NEAR)[0], "=", 20.0)
    yield instead("√(P/(1 − P)) there", cantelli(NEAR)[1], "<", 1.0)


def _table_values() -> Iterator[Evidence]:
    for world, kl in ((NEAR, 0.005), (APART, 0.5)):
        yield stated(f"KL at shift {world.shift:g}", world.kl, "=", kl)


def _table_k1() -> Iterator[Evidence]:
    for world, printed in ((NEAR, 20.0), (APART, 2.0)):
        yield stated(f"stdev/true of k1 at KL {world.kl:g}", math.sqrt(world.var_k1) / world.kl, "=", printed)


def _table_k2_bias() -> Iterator[Evidence]:
    for world, printed in ((NEAR, 0.002), (APART, 0.25)):
        bias = world.mean_k2 / world.kl - 1
        yield stated(f"bias/true of k2 at KL {world.kl:g}", bias, "=", printed, tolerance=1e-3)
        yield instead(f"the same, exactly μ²/4 at KL {world.kl:g}", bias, "=", world.shift**2 / 4)


def _table_k2() -> Iterator[Evidence]:
    for world, printed in ((NEAR, 1.42), (APART, 1.73)):
        spread = math.sqrt(world.var_k2) / world.kl
        yield stated(f"stdev/true of k2 at KL {world.kl:g}", spread, "=", printed, tolerance=PRINTED)
        yield instead("the same, exactly √(2 + μ²)", spread, "=", math.sqrt(2 + world.shift**2))


def _table_k3() -> Iterator[Evidence]:
    for world, printed in ((NEAR, 1.42), (APART, 1.7)):
        spread = math.sqrt(world.var_k3) / world.kl
        yield stated(f"stdev/true of k3 at KL {world.kl:g}", spread, "=", printed, tolerance=PRINTED)
        least = math.sqrt(world.least_variance) / world.kl
        yield instead("stdev/true with the best coefficient", least, "<", spread)


def _k2_quieter() -> Iterator[Evidence]:
    from scipy.optimize import brentq

    crossing = math.sqrt(brentq(lambda x: Gaussian(math.sqrt(x)).var_k2 - x, 0.5, 2.0))
    for shift in (0.1, 0.5, 1.0, 1.1):
        world = Gaussian(shift)
        yield within(f"Var k2 at KL {world.kl:.3g}", world.var_k2, "<", world.var_k1)
    yield stated("Var k2 at KL 2", Gaussian(2.0).var_k2, "<", Gaussian(2.0).var_k1)
    yield instead("KL at which they cross", Gaussian(crossing).kl, "=", (math.sqrt(5) - 1) / 2)
    drawn = texts()
    yield realistic(
        "Var Σ_t k2_t of sequences", float(np.var(drawn.total(k2(drawn.log_ratio)))), "<", float(np.var(drawn.sums))
    )


def _better_than_k2() -> Iterator[Evidence]:
    from scipy.optimize import brentq

    for shift, say in ((0.1, within), (1.0, within), (1.5, stated)):
        world = Gaussian(shift)
        yield say(f"Var k3 at KL {world.kl:.4g}, against k2's", world.var_k3, "<", world.var_k2)
    crossing = brentq(lambda x: math.expm1(x) - x - x**2 / 2 - x**3 / 4, 0.5, 3.0)
    yield instead("KL at which k3 becomes noisier than k2", crossing / 2, "=", 0.7256, tolerance=5.1e-5)
    other = brentq(lambda x: math.expm1(x) - 2 * x, 0.5, 3.0)
    yield instead("KL at which it becomes noisier than k1", other / 2, "=", 0.628, tolerance=5.1e-4)
    yield instead("the shift there", math.sqrt(other), "=", 1.1209, tolerance=5.1e-5)


CLAIMS = (
    Claim(
        id="schulman-half-negative",
        source=SCHULMAN("k1"),
        statement="k1 is negative for half of the samples.",
        verdict=Verdict.CONDITION,
        why="Between Gaussians of shift μ it is so with probability Φ(−μ/2): .480 at KL 0.005, .309 at KL 0.5. The "
        "share falls as the models part.",
        condition="The models are close; then the share of negative ones tends to a half where ℓ is symmetric.",
        computation=_half_negative,
        code=lines(
            "from kullback.claims.schulman_tables import APART, NEAR, negative_share",
            "print([round(negative_share(world), 6) for world in (APART, NEAR)])",
        ),
        meant="An intuition for why KL ≥ 0 helps so little; as such it stands.",
        also=(
            ZHANG("on k1"),
            RETHINK("“roughly “half” the sample values can be negative”"),
            RETHINK_ZH("一半的样本是负的"),
        ),
    ),
    Claim(
        id="schulman-noisy-as-half-negative",
        source=SCHULMAN("“it has high-variance, as it’s negative for half of the samples”"),
        statement="k1 has a high variance, as it is negative for half of the samples whereas the KL is always "
        "positive.",
        verdict=Verdict.CONDITION,
        why="An unbiased estimate that is negative with probability P has sd/KL ≥ √(P/(1 − P)) (Cantelli), 1 at a "
        "half. At KL 0.005 it is 20: the sign explains a factor of 1 of the 20.",
        condition="As a lower bound. What makes it 20 is that ℓ is of first order in the distance and the KL of "
        "second.",
        computation=_noisy_as_negative,
        code=lines(
            "from kullback.claims.schulman_tables import NEAR, cantelli",
            "spread, least = cantelli(NEAR)",
            "print(round(least / spread, 6), round(least, 6), round(spread, 6))",
        ),
        also=(
            ZHANG("“negative for half of the samples, whereas KL is always positive”"),
            RETHINK("“and this swings the average around a lot, hence high variance”"),
            RETHINK_ZH("“所以他的方差很高”"),
            XIHUAI("“giving huge variance because positive and negative samples cancel”"),
        ),
    ),
    Claim(
        id="schulman-true-values",
        source=SCHULMAN("tables"),
        statement="KL(N(0,1)‖N(0.1,1)) = 0.005 and KL(N(0,1)‖N(1,1)) = 0.5.",
        verdict=Verdict.HOLDS,
        why="It is μ²/2.",
        computation=_table_values,
        code=lines(
            "from kullback.claims.worlds import Gaussian", "print(Gaussian(1.0).kl, round(Gaussian(0.1).kl, 9))"
        ),
    ),
    Claim(
        id="schulman-table-k1",
        source=SCHULMAN("tables"),
        statement="The standard deviation of k1 over the true KL is 20 at KL 0.005 and 2 at KL 0.5.",
        verdict=Verdict.HOLDS,
        why="ℓ ~ N(μ²/2, μ²), so it is 2/μ.",
        computation=_table_k1,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for world in (Gaussian(0.1), Gaussian(1.0)):",
            "    print(round(world.var_k1**0.5 / world.kl, 6))",
        ),
    ),
    Claim(
        id="schulman-table-k2-bias",
        source=SCHULMAN("tables"),
        statement="The bias of k2 over the true KL is 0.002 at KL 0.005 and 0.25 at KL 0.5.",
        verdict=Verdict.HOLDS,
        why="E[k2] = μ²/2 + μ⁴/8, so the bias is μ²/4 of the KL: 0.0025 and 0.25.",
        computation=_table_k2_bias,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for world in (Gaussian(0.1), Gaussian(1.0)):",
            "    print(round(world.mean_k2 / world.kl - 1, 6))",
        ),
        meant="The printed 0.002 is 0.0025 to one digit, within the noise of ten million samples (0.0004).",
    ),
    Claim(
        id="schulman-table-k2",
        source=SCHULMAN("tables"),
        statement="The standard deviation of k2 over the true KL is 1.42 at KL 0.005 and 1.73 at KL 0.5.",
        verdict=Verdict.HOLDS,
        why="Var[½ℓ²] = μ⁴/2 + μ⁶/4, so it is √(2 + μ²) = 1.41774 and 1.73205.",
        computation=_table_k2,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for world in (Gaussian(0.1), Gaussian(1.0)):",
            "    print(round(world.var_k2**0.5 / world.kl, 6))",
        ),
    ),
    Claim(
        id="schulman-table-k3",
        source=SCHULMAN("tables"),
        statement="The standard deviation of k3 over the true KL is 1.42 at KL 0.005 and 1.7 at KL 0.5, without bias.",
        verdict=Verdict.HOLDS,
        why="Var k3 = exp(μ²) − 1 − μ², so it is 1.41657 and 1.69503. The best coefficient gives 1.41303 and 1.29309.",
        computation=_table_k3,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for world in (Gaussian(0.1), Gaussian(1.0)):",
            "    print(round(world.var_k3**0.5 / world.kl, 6), round(world.least_variance**0.5 / world.kl, 6))",
        ),
    ),
    Claim(
        id="schulman-k2-quieter",
        source=SCHULMAN("k2"),
        statement="k2 has a lower variance than k1.",
        verdict=Verdict.CONDITION,
        why="Between Gaussians Var k2 = μ⁴/2 + μ⁶/4 passes Var k1 = μ² at μ² = √5 − 1.",
        condition="KL < 0.618 (Gaussian); squaring shrinks log-ratios that are small.",
        computation=_k2_quieter,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "print([(w.var_k2, w.var_k1) for w in map(Gaussian, (2.0, 0.5))], round((5**0.5 - 1) / 2, 6))",
        ),
        also=(
            APPLICATIONS("k2"),
            RETHINK("“Empirically, k2 really does have much lower variance”"),
            RETHINK_ZH("方差确实远低于"),
        ),
    ),
    Claim(
        id="schulman-k3-strictly-better",
        source=SCHULMAN("after the second table"),
        statement="k3 is unbiased and has a lower standard deviation than k2, so it appears to be strictly better.",
        verdict=Verdict.CONDITION,
        why="exp(μ²) − 1 − μ² stays below μ⁴/2 + μ⁶/4 until the KL is 0.726; before that, at 0.628, it has passed k1's "
        "μ².",
        condition="Gaussians of one variance with KL < 0.726, as in both tables.",
        computation=_better_than_k2,
        code=lines(
            "import math; from scipy.optimize import brentq; from kullback.claims.worlds import Gaussian",
            "x = brentq(lambda x: math.expm1(x) - x - x**2 / 2 - x**3 / 4, 0.5, 3)",
            "y = brentq(lambda x: math.expm1(x) - 2 * x, 0.5, 3)",
            "print(round(Gaussian(1.5).var_k3, 6), round(Gaussian(1.5).var_k2, 6))",
            "print('noisier than k2 from KL', round(x / 2, 6), 'than k1 from', round(y / 2, 6))",
        ),
        meant="What the second table shows, at KL 0.5; it says “appears”.",
        also=(APPLICATIONS("“The best estimator”"), TRL("PPOConfig.kl_estimator")),
    ),
)
