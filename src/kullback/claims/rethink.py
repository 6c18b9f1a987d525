"""002 and 003, “Re-understanding KL Approximation”: one article, in English and in Chinese."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import LI, RETHINK, RETHINK_ZH
from kullback.claims.worlds import (
    BY_HAND,
    CROSSED,
    Gaussian,
    Pair,
    descents,
    language,
    pair,
    relative,
    sampled,
    softmax,
    texts,
)
from kullback.estimators.divergences import k1, k2, k3


def _flipped(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    for found, say in ((world, stated), (BY_HAND, smallest)):
        ratio = found.q / found.p
        yield say("E_q[−log r + (r − 1)], r = q/p", found.mean(-np.log(ratio) + ratio - 1), "=", found.kl)
    ratio = world.q / world.p
    yield instead(
        "the same, which is χ²(q‖p) − KL(q‖p)",
        world.mean(-np.log(ratio) + ratio - 1),
        "=",
        world.swapped.chi2 - world.kl,
    )
    yield instead("E_q[−log r + (r − 1)], r = p/q", world.mean(k3(world.log_ratio)), "=", world.kl)
    for gaussian in (Gaussian(0.1), Gaussian(1.0)):
        yield realistic(
            f"the flipped estimate, Gaussian, KL {gaussian.kl:g}", gaussian.chi2 - gaussian.kl, "=", gaussian.kl
        )


def _flipped_mean_zero(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("E_q[r − 1], r = q/p", world.mean(world.q / world.p - 1), "=", 0.0)
    yield smallest("the same, q = (.8, .2), p = (.5, .5)", BY_HAND.mean(BY_HAND.q / BY_HAND.p - 1), "=", 0.0)
    yield instead("the same, which is χ²(q‖p)", world.mean(world.q / world.p - 1), "=", world.swapped.chi2)
    yield instead("E_q[p/q − 1]", world.mean(world.r - 1), "=", 0.0)
    yield realistic("E_q[r − 1], Gaussian, KL 0.5", math.expm1(1.0), "=", 0.0)


def _two_signs(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("E_q[−log r], r = q/p", world.mean(-np.log(world.q / world.p)), "=", world.kl)
    yield smallest("the same, q = (.8, .2), p = (.5, .5)", -BY_HAND.kl, "=", BY_HAND.kl)
    yield instead("E_q[log r], r = q/p", world.mean(np.log(world.q / world.p)), "=", world.kl)
    drawn = texts()
    kl = drawn.total(drawn.token_kl)
    yield realistic("E_q[−log r] of sequences", sampled(-drawn.sums), "=", float(kl.mean()))


def _direction(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    for found, say in ((world, stated), (BY_HAND, smallest)):
        yield say("E_q[k3], samples from q", found.mean(k3(found.log_ratio)), "=", found.forward_kl)
    values = world.r * np.log(world.r) - (world.r - 1)
    yield instead("E_q[r log r − (r − 1)], the KL(p‖q) that is written", world.mean(values), "=", world.forward_kl)
    policy, reference = language()
    yield realistic("KL(q‖p) of sequences", policy.reverse_kl(reference), "=", policy.forward_kl(reference))


def _old_policy() -> Iterator[Evidence]:
    reward, strength, rate = np.array([0.0, 1.0]), 0.2, 0.2
    start = np.array([0.0, -2.0])

    def after(updates: int, fixed: bool) -> float:
        """KL to the start after updates of ten exact gradient steps on reward − β·KL(new‖anchor)."""
        logits = start.copy()
        for _ in range(updates):
            anchor = softmax(start if fixed else logits)
            for _ in range(10):
                new = Pair(softmax(logits), anchor)
                logits = logits + rate * new.gradient(reward - strength * new.log_ratio)
        return Pair(softmax(logits), softmax(start)).kl

    best = softmax(start + reward / strength)
    limit = Pair(best, softmax(start)).kl
    yield within("KL to the start after 1 update, penalty to the old policy", after(1, False), "<", limit)
    yield stated(
        "KL to the start after 2,000 updates, penalty to the old policy", after(2000, False), "≤", limit, tolerance=1e-3
    )
    yield instead("the same, penalty to the reference: q ∝ p·exp(R/β)", after(2000, True), "=", limit, tolerance=1e-3)


def _grpo_differs() -> Iterator[Evidence]:
    found, (policy, reference) = descents(), language()
    drawn = texts()
    kl = policy.reverse_kl(reference)
    yield within("mean of k3 a token, summed: the value", sampled(drawn.total(k3(drawn.log_ratio))), "=", kl)
    yield within("mean of k1 a token, summed", sampled(drawn.sums), "=", kl)
    yield stated(
        "distance of GRPO's gradient (k3 in the loss) from PPO's (k1 in the reward)",
        relative(found.statewise_forward, found.reverse),
        "=",
        0.0,
        tolerance=0.01,
    )
    yield instead(
        "distance of k2 in the loss from k1 credited with its own token only",
        relative(found.statewise_reverse, found.reverse),
        "<",
        relative(found.statewise_forward, found.reverse),
    )


def _both_signs(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=50, scale=2.0)
    for t in (1.0, 2.0, 3.0):
        share = float(world.q @ (world.log_ratio <= -t))
        yield instead(f"P(log q/p ≤ −{t:g}) under q, at most exp(−{t:g})", share, "≤", math.exp(-t))
    # log q/p ≤ −5 at an outcome of p = 1e-4 makes q at most p·exp(−5) there.
    rare = 1e-4 * math.exp(-5.0)
    yield smallest(
        "P(log q/p = −5) under q, one outcome of p = 1e-4, against P(log q/p = 5)", rare, "≥", 1e-4 * math.exp(5.0)
    )
    drawn = texts().log_ratio[texts().mask]
    yield realistic(
        "share of tokens with log q/p ≤ −1, against that with log q/p ≥ 1",
        float(np.mean(drawn <= -1.0)),
        "≥",
        float(np.mean(drawn >= 1.0)),
    )


def _sign_flips(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    values = world.log_ratio
    lifted = values - values.min()
    yield stated("Var of k1 lifted until it is never negative", world.variance(lifted), "=", world.variance(values))
    yield stated(
        "Var of k1 at half the log-ratios, the same signs", world.variance(values / 2), "<", world.variance(values)
    )


def _heavy_tails() -> Iterator[Evidence]:
    eps = 0.025
    even = Pair(np.array([0.5, 0.5]), np.array([0.5 + eps, 0.5 - eps]))
    spread = math.sqrt(even.variance(even.log_ratio)) / even.kl
    yield smallest(
        "largest |k1| over its sd, q = (.5, .5), p = (.525, .475), where sd/KL = 40",
        float(np.abs(even.log_ratio).max() / math.sqrt(even.variance(even.log_ratio))),
        ">",
        3.0,
    )
    yield instead("sd(k1)/KL there", spread, ">", 39.0)
    x, weights = np.polynomial.hermite_e.hermegauss(40)
    centred = 0.1 * x  # ℓ − KL of N(0, 1) against N(0.1, 1)
    kurtosis = float(weights @ centred**4 * weights.sum() / (weights @ centred**2) ** 2)
    yield stated("kurtosis of k1, Gaussian, at sd/KL = 20", kurtosis, ">", 3.0)
    square = 0.5**2
    w = math.exp(square)
    yield instead("kurtosis of r (log-normal), KL 0.125, which k3 inherits", w**4 + 2 * w**3 + 3 * w**2 - 3, ">", 3.0)
    values = texts().sums
    centred = values - values.mean()
    fourth = float((centred**4).mean() / (centred**2).mean() ** 2)
    yield realistic("kurtosis of Σ_t k1_t, 3 for a Gaussian", fourth, "=", 3.0, tolerance=0.3)
    yield realistic("its sd/KL", float(values.std() / values.mean()), ">", 1.0)


def _squaring() -> Iterator[Evidence]:
    small, large = np.array([0.1, 0.5, 1.9]), np.array([2.1, 5.0, 10.0])
    yield within("largest ½ℓ²/|ℓ| for |ℓ| < 2", float((k2(small) / small).max()), "<", 1.0)
    yield stated("largest ½ℓ²/|ℓ| for |ℓ| up to 10", float((k2(large) / large).max()), "<", 1.0)
    values = np.abs(texts().sums)
    yield realistic("share of sequences with |ℓ| > 2, which squaring magnifies", float(np.mean(values > 2)), "=", 0.0)


def _tighter() -> Iterator[Evidence]:
    one, three = k1(CROSSED.log_ratio), k3(CROSSED.log_ratio)
    yield smallest(
        "range of k3, q = (.9, .1), p = (.1, .9), against that of k1", float(np.ptp(three)), "<", float(np.ptp(one))
    )
    yield smallest("variance of k3 there", CROSSED.variance(three), "<", CROSSED.variance(one))
    heavy = Gaussian(0.0, math.sqrt(2))
    yield stated("variance of k3, N(0, 1) against N(0, 2)", heavy.var_k3, "<", heavy.var_k1)
    yield instead("variance of k1 there", heavy.var_k1, "=", 0.125)
    drawn = texts()
    total = drawn.sums
    yield realistic("variance of k3 of a sequence", float(np.var(k3(total))), "<", float(np.var(total)))
    yield realistic(
        "variance of Σ_t k3_t, for which it holds",
        float(np.var(drawn.total(k3(drawn.log_ratio)))),
        "<",
        float(np.var(total)),
    )


def _highly_correlated() -> Iterator[Evidence]:
    def correlation(world: Gaussian) -> float:
        return -(world.kl + world.forward_kl) / math.sqrt(world.var_k1 * world.chi2)

    yield within("correlation of r − 1 and −log r, KL 0.005", correlation(Gaussian(0.1)), "<", -0.9)
    yield stated("the same at KL 2", correlation(Gaussian(2.0)), "<", -0.9)
    total = texts().sums
    yield realistic("the same of sequences", float(np.corrcoef(np.expm1(-total), total)[0, 1]), "<", -0.9)


CLAIMS = (
    Claim(
        id="002-ratio-flipped",
        source=RETHINK("“for any λ”, with r = q/p"),
        statement="With r = q/p and samples from q, −log r + λ(r − 1) is an unbiased estimator of the KL.",
        verdict=Verdict.FAILS,
        why="E_q[−log(q/p)] = −KL and E_q[q/p − 1] = χ²(q‖p): at λ = 1 it estimates χ²(q‖p) − KL(q‖p). "
        "Near p = q that is close to the KL, which hides the slip.",
        condition="r = p/q, as in Schulman's post and in the article's own h = p/q − 1.",
        computation=_flipped,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "for r in (q / p, p / q):",
            "    print(round(float(q @ (-np.log(r) + r - 1)), 6))",
        ),
        meant="Schulman's r, with which every step of the article is right.",
        by_hand="q = (.8, .2), p = (.5, .5): −.193 + (.8·.6 − .2·.6) = .167 instead of .193.",
        also=(RETHINK_ZH("对于任意 λ"), LI("part 3, k3 with r = μ/π")),
    ),
    Claim(
        id="002-flipped-mean-zero",
        source=RETHINK("“A very convenient zero-mean quantity”"),
        statement="E_q[r − 1] = 0 with r = q/p.",
        verdict=Verdict.FAILS,
        why="E_q[q/p] − 1 = Σ q²/p − 1 = χ²(q‖p) > 0. Its proof of E_q[p/q − 1] = 0 is right, of another r.",
        condition="r = p/q.",
        computation=_flipped_mean_zero,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "print(round(q @ (q / p - 1), 6), round(abs(q @ (p / q - 1)), 6))",
        ),
        meant="p/q − 1, which its formula uses two lines later.",
        by_hand="q = (.8, .2), p = (.5, .5): .8·.6 − .2·.6 = .36.",
        also=(RETHINK_ZH("期望为0的量"),),
    ),
    Claim(
        id="002-two-signs",
        source=RETHINK("“k1(x) = −log r”, with r = q/p"),
        statement="k1 = log(q/p) is −log r with r = q/p.",
        verdict=Verdict.FAILS,
        why="log(q/p) = +log r for that r; the two definitions of k1 in the article have opposite signs.",
        condition="r = p/q, or k1 = log r.",
        computation=_two_signs,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "print(round(q @ -np.log(q / p), 6), round(q @ np.log(q / p), 6))",
        ),
        meant="log(q/p), whose mean is the KL.",
        by_hand="q = (.8, .2), p = (.5, .5): −log r has mean −.193.",
        also=(RETHINK_ZH("k1(x) = −log r"),),
    ),
    Claim(
        id="002-direction",
        source=RETHINK("“Discussing KL Estimation”"),
        statement="k3 over samples from the old policy q estimates KL(p‖q), p the new policy.",
        verdict=Verdict.FAILS,
        why="Samples from q give KL(q‖p); the written KL[p, q] = Σ p log(p/q) is the other direction.",
        condition="r log r − (r − 1) over samples of q, or samples of p.",
        computation=_direction,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "x = np.log(q / p)",
            "print(round(float(q @ kb.K3(x)), 6), round(float(p @ np.log(p / q)), 6))",
        ),
        meant="On-policy the two are close while the models are; far apart they are not.",
        by_hand="q = (.8, .2), p = (.5, .5): .193 from the samples, .223 as written.",
        also=(RETHINK_ZH("在 RL for LLM 的角度"),),
    ),
    Claim(
        id="002-old-policy-holds-it",
        source=RETHINK("“keep the new policy from drifting too far from the old one”"),
        statement="A KL term to the old policy keeps the policy from drifting.",
        verdict=Verdict.CONDITION,
        why="It bounds one update. As the old policy follows, nothing holds the sum of the updates: a two-armed bandit "
        "walks to the end, where a penalty to the reference stops at q ∝ p·exp(R/β).",
        condition="Within one update, as in PPO's trust region. RLHF and GRPO penalise the KL to a fixed reference.",
        computation=_old_policy,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import Pair, softmax",
            "start = np.array([0.0, -2.0])",
            "best = softmax(start + np.array([0.0, 1.0]) / 0.2)",
            "print(round(Pair(best, softmax(start)).kl, 3))",
        ),
        also=(RETHINK_ZH("约束新策略"),),
    ),
    Claim(
        id="002-k3-is-the-difference",
        source=RETHINK("end of the summary"),
        statement="k3 against k1 is exactly where GRPO's KL differs from PPO's.",
        verdict=Verdict.CONDITION,
        why="As values both estimate KL(q‖p). As gradients they differ in placement too: k1 in the reward follows "
        "∇KL(q‖p) of sequences, k3 in the loss the forward KL of the next tokens with the prefixes held fixed.",
        condition="What is logged; not what is optimised.",
        computation=_grpo_differs,
        code=lines(
            "from kullback.claims.worlds import descents, relative",
            "found = descents()",
            "print(round(relative(found.statewise_forward, found.reverse), 6))",
        ),
        also=(RETHINK_ZH("PPO 使用的是 k1"),),
    ),
    Claim(
        id="002-tiny-p-both-signs",
        source=RETHINK("“So why does k1 have high variance?”"),
        statement="Where p(x) is tiny, log q/p of a sample of q can be huge, positive or negative.",
        verdict=Verdict.FAILS,
        why="A huge negative log q/p needs q(x) far below the tiny p(x), and then x is hardly ever drawn: "
        "P(log q/p ≤ −t) ≤ exp(−t).",
        condition="Positive only. The lower tail of k1 is exponentially thin, the upper one is not bounded.",
        computation=_both_signs,
        code=lines("import math", "p, t = 1e-4, 5.0", "print(f'{p * math.exp(-t):.3g} against {p * math.exp(t):.3g}')"),
        meant="That extremes widen k1, which is right for the positive ones.",
        by_hand="p(x) = 1e-4 and log q/p = −5 make q(x) = 6.7e-7: seen once in 1.5 million samples.",
        also=(RETHINK_ZH("可以变得非常大（正或负）"),),
    ),
    Claim(
        id="002-sign-flips-are-not-the-cause",
        source=RETHINK("“sign-flipping alone is not the sole reason”"),
        statement="That k1 changes sign is not by itself the reason for its variance.",
        verdict=Verdict.HOLDS,
        why="Var(k1 + c) = Var(k1): lifted until it is never negative it varies as before; halved, with the same "
        "signs, it varies a quarter as much.",
        computation=_sign_flips,
        code=lines(
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            "x = world.log_ratio",
            "print(round(world.variance(x), 9), round(world.variance(x - x.min()), 9))",
        ),
        meant="Its own example, p log(p/q), is not about a variance.",
        also=(RETHINK_ZH("正负跳变"),),
    ),
    Claim(
        id="002-heavy-tails",
        source=RETHINK("“So why does k1 have high variance?”"),
        statement="k1 has a high variance because its values are heavy-tailed.",
        verdict=Verdict.FAILS,
        why="ℓ is of first order in the distance, KL of second: sd/KL grows like 1/distance with no tail at all. "
        "Between Gaussians k1 is Gaussian; it is r, and with it k3, that has a heavy tail.",
        condition="Models far apart, where single tokens with tiny p do dominate.",
        computation=_heavy_tails,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.5, 0.5]), np.array([0.525, 0.475])",
            "x = np.log(q / p)",
            "kl = q @ x",
            "print(round((q @ (x - kl) ** 2) ** 0.5 / kl, 3), round(abs(x).max() / (q @ (x - kl) ** 2) ** 0.5, 3))",
        ),
        meant="That the sign is no explanation; the answer is the order in the distance.",
        by_hand="q = (.5, .5), p = (.525, .475): k1 = −.049 or .051, KL = .00125, so sd/KL = 40 with bounded values.",
        also=(RETHINK_ZH("heavy-tailed"),),
    ),
    Claim(
        id="002-squaring-smooths",
        source=RETHINK("on k2"),
        statement="Squaring smooths the magnitude of the log-ratio and so reduces the variance.",
        verdict=Verdict.CONDITION,
        why="½ℓ² < |ℓ| just where |ℓ| < 2; larger ones are magnified.",
        condition="|ℓ| < 2 nearly always.",
        computation=_squaring,
        code=lines(
            "import numpy as np, kullback as kb", "x = np.array([0.5, 1.9, 10.0])", "print((kb.K2(x) / x).round(6))"
        ),
        also=(RETHINK_ZH("使得数值变得更平滑"),),
    ),
    Claim(
        id="002-k3-tighter",
        source=RETHINK("last paragraph"),
        statement="What is left in k3 is tighter in range, always positive, and therefore lower in variance than k1.",
        verdict=Verdict.FAILS,
        why="Var k3 = Var k1 + χ² − 2J. k3 is bounded below but grows like r above, where k1 grows like log r.",
        condition="χ²(p‖q) < 2J.",
        computation=_tighter,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, x = np.array([0.9, 0.1]), np.log([9, 1 / 9])",
            "for k in (kb.K1(x), kb.K3(x)):",
            "    print(round(float(np.ptp(k)), 6), round(float(q @ (k - q @ k) ** 2), 6))",
        ),
        meant="The case of close models, where it holds by a factor of hundreds.",
        by_hand="q = (.9, .1), p = (.1, .9): k1 = ±2.197, range 4.39, variance 1.738; k3 = 1.308 or 5.803, "
        "range 4.49, variance 1.818.",
        also=(RETHINK_ZH("取值范围收紧"),),
    ),
    Claim(
        id="002-highly-correlated",
        source=RETHINK("last paragraph"),
        statement="r − 1 and −log r are highly correlated, negatively.",
        verdict=Verdict.CONDITION,
        why="Their correlation is −J/√(Var k1·χ²): −.9975 at KL 0.005, −.27 at KL 2.",
        condition="Models close; the sign is negative always.",
        computation=_highly_correlated,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for w in (Gaussian(0.1), Gaussian(2.0)):",
            "    print(round(-(w.kl + w.forward_kl) / (w.var_k1 * w.chi2) ** 0.5, 6))",
        ),
        also=(RETHINK_ZH("高度相关"),),
    ),
)
