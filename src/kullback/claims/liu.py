"""Liu et al.: from value estimation to gradient optimisation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import LIU, OPENRLHF, XU
from kullback.claims.worlds import Gaussian, descents, followed, live_pair, live_tree, off, pair, relative
from kullback.estimators.divergences import k1, k2, k3
from kullback.surrogates import SURROGATES
from kullback.targets import REVERSE_KL


def _equivalence(seed: int) -> Iterator[Evidence]:
    for world, say, where in ((live_pair(pair(seed)), within, "one token"), (live_tree(seed), stated, "sequences")):
        loss, reward = (followed(world, SURROGATES[name].fn) for name in ("k2_loss", "k1_reward"))
        yield say(f"k2 in the loss off k1 in the reward by, {where}", relative(loss, reward), "=", 0.0)
    world = live_tree(seed)
    whole = off(followed(world, SURROGATES["k2_sequence_loss"].fn), world, REVERSE_KL)
    yield within("½(Σ_t ℓ_t)² in the loss off k1 in the reward by, sequences", whole, "=", 0.0)
    found = descents()
    yield realistic(
        "k2 of tokens in the loss, realistic world", relative(found.statewise_reverse, found.reverse), "=", 0.0
    )


def _coefficients(seed: int) -> Iterator[Evidence]:
    x, step = np.random.default_rng(seed).normal(size=20), 1e-6
    for name, kernel, slope in (("k1", k1, np.ones(20)), ("k2", k2, x), ("k3", k3, 1 - np.exp(-x))):
        numeric = (kernel(x + step) - kernel(x - step)) / (2 * step)
        yield stated(
            f"largest |∂{name}/∂log q − coefficient|", float(np.abs(numeric - slope).max()), "=", 0.0, tolerance=1e-7
        )


def _series(delta: float, terms: int) -> float:
    """(1 − δ) + ½(δ − 1)² − ⅓(δ − 1)³ + …"""
    k = np.arange(1, terms + 1)
    return float(np.sum((-1.0) ** k * (delta - 1) ** k / k))


def _taylor() -> Iterator[Evidence]:
    for delta in (0.5, 1.5):
        yield within(f"200 terms at δ = {delta}", _series(delta, 200), "=", -math.log(delta))
    yield stated("200 terms at δ = 3", _series(3.0, 200), "=", -math.log(3.0))
    yield instead(
        "error of 1 − δ at δ = 1.01, of second order", 1 - 1.01 + math.log(1.01), "=", -0.5e-4, tolerance=1e-6
    )


def _variance(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("Var[1 − δ]", world.variance(1 - world.r), "=", world.chi2)


# In units of q's standard deviation: q = N(0, 1), p = N(−0.5, 5²).
PRINTED = Gaussian(-0.5, 5.0)


def _spread() -> Iterator[Evidence]:
    yield smallest("sd of k3, from E_q[r²] = ∫p²/q", math.sqrt(PRINTED.chi2), "=", 8.8, tolerance=0.05)
    yield instead(
        "exponent of p²/q: coefficient of x², −1/σ² + ½, positive means divergence",
        0.5 - 1 / PRINTED.scale**2,
        ">",
        0.0,
    )
    yield instead("sd of k1", math.sqrt(PRINTED.var_k1), "=", 0.6791, tolerance=5.1e-5)
    yield instead("KL", PRINTED.kl, "=", 1.1344, tolerance=5.1e-5)
    for power in (3, 5, 7):
        x = np.random.default_rng(power).normal(size=10**power)
        ratio = 0.5 * x**2 - (x + 0.5) ** 2 / 50 - math.log(5)
        yield realistic(f"sd of k3 in one sample of {10**power:,}", float(k3(-ratio).std()), "=", 8.8, tolerance=0.05)


CLAIMS = (
    Claim(
        id="liu-k1-reward-is-k2-loss",
        source=LIU("theorem 5.1"),
        statement="On-policy, k1 in the reward and k2 in the loss have the same gradient.",
        verdict=Verdict.CONDITION,
        why="Both are ℓ∇log q for one token. For sequences the return credits each token with later ℓ's too, which Σ_t "
        "½ℓ_t² does not.",
        condition="One token; or ½(Σ_t ℓ_t)², the square of the whole.",
        computation=_equivalence,
        code=lines(
            "from kullback import SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, relative",
            "world = live_tree(seed=0)",
            "print(round(relative(followed(world, S['k2_loss'].fn), followed(world, S['k1_reward'].fn)), 6))",
        ),
        also=(OPENRLHF("compute_approx_kl, “one-step KL divergence penalty”"),),
    ),
    Claim(
        id="liu-coefficients",
        source=LIU("table of coefficients"),
        statement="As losses, k1, k2 and k3 multiply ∇log π by 1, log(π/π_ref) and 1 − π_ref/π.",
        verdict=Verdict.HOLDS,
        why="They are the derivatives in ℓ.",
        computation=_coefficients,
        code=lines(
            "import numpy as np, kullback as kb",
            "x, h = np.array([0.7]), 1e-6",
            "slope = (kb.K3(x + h) - kb.K3(x - h)) / (2 * h)",
            "print(abs(slope - (1 - np.exp(-x))).max().round(7))",
        ),
        also=(XU("“For f_S, we have”"),),
    ),
    Claim(
        id="liu-k3-taylor",
        source=LIU("k3 as loss"),
        statement="−log δ = (1 − δ) + ½(δ − 1)² − ⅓(δ − 1)³ + …, of which k3 in the loss keeps the first term.",
        verdict=Verdict.CONDITION,
        why="It is the Taylor series of −log at 1, with radius of convergence 1.",
        condition="0 < δ = π_ref/π ≤ 2. Beyond, the bias is not the rest of the series but just −log δ − (1 − δ).",
        computation=_taylor,
        code=lines(
            "import math",
            "from kullback.claims.liu import _series as series",
            "for d in (3.0, 0.5, 1.5):",
            "    print(f'{series(d, 200):.6g} where -log d is {-math.log(d):.6g}')",
        ),
    ),
    Claim(
        id="liu-k3-coefficient-variance",
        source=LIU("k3 as loss"),
        statement="The variance of k3's coefficient 1 − δ is χ²(π_ref‖π).",
        verdict=Verdict.HOLDS,
        why="E_q[r] = 1 and E_q[(r − 1)²] = χ²(p‖q).",
        condition="supp p ⊆ supp q.",
        computation=_variance,
        code=lines(
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            "print(round(world.variance(1 - world.r), 9), round(world.chi2, 9))",
        ),
    ),
    Claim(
        id="liu-spread-of-k3",
        source=LIU("illustration"),
        statement="Between N(0.1, 0.2) and N(0, 1) the standard deviation of k3 is 8.8, that of k1 0.69.",
        verdict=Verdict.FAILS,
        why="With samples from N(0.1, 0.2²), p²/q grows like exp(+11.5x²): the variance of k3 is infinite, and a "
        "sample's spread is an accident of its size. k1's .679 is finite and about right.",
        condition="σ² of p below twice that of q.",
        computation=_spread,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "w = Gaussian(-0.5, 5.0)  # in units of q's deviation",
            "print(w.chi2, round(w.var_k1**0.5, 6), round(w.kl, 6))",
        ),
        meant="That k3 is far noisier than k1 there: it is, without bound.",
        by_hand="r² q = p²/q ∝ exp(−x² + (x − .1)²/.08): the exponent goes to +∞.",
    ),
)
