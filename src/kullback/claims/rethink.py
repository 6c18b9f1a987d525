"""002 and 003, “Re-understanding KL Approximation”: one article, in English and in Chinese."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import LI, RETHINK, RETHINK_ZH
from kullback.claims.worlds import (
    BY_HAND,
    CROSSED,
    Gaussian,
    Pair,
    close_pair,
    descents,
    language,
    pair,
    relative,
    sampled,
    softmax,
    texts,
)
from kullback.estimators.divergences import k1, k2, k3

NEARLY_EVEN = Pair(np.array([0.5, 0.5]), np.array([0.525, 0.475]))
"""KL 0.00125 and sd(k1)/KL 40."""


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
        yield say("E_q[k3] with r mended to p/q", found.mean(k3(found.log_ratio)), "=", found.forward_kl)
        yield say("E_q[k3] with r = q/p, as written", found.mean(k3(-found.log_ratio)), "=", found.forward_kl)
    values = world.r * np.log(world.r) - (world.r - 1)
    yield instead("E_q[r log r − (r − 1)], the KL(p‖q) that is written", world.mean(values), "=", world.forward_kl)
    policy, reference = language()
    yield realistic("KL(q‖p) of sequences", policy.reverse_kl(reference), "=", policy.forward_kl(reference))


def tilted(old: Float64, reward: Float64, strength: float) -> Pair:
    """The policy that maximises E[reward] − β·KL(new‖old), against the old one: q ∝ old·exp(reward/β)."""
    return Pair(softmax(np.log(old) + reward / strength), old)


def _old_policy(seed: int) -> Iterator[Evidence]:
    old, gains = pair(seed).q, np.random.default_rng(seed).normal(size=5)
    near, nearer = tilted(old, gains, 0.5), tilted(old, gains, 1.0)
    gained = float((near.q - old) @ gains)
    yield stated(
        "KL(new‖old) after the best update, β = 0.5, against what is gained over β", near.kl, "≤", gained / 0.5
    )
    yield stated("the same at twice the β, against that", nearer.kl, "<", near.kl)
    if seed == 0:  # a bandit, the same in every world
        yield from _walks_away()


def _walks_away() -> Iterator[Evidence]:
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

    limit = tilted(softmax(start), reward, strength).kl
    yield instead(
        "KL to the first policy after 2,000 updates, a penalty to the one before", after(2000, False), ">", limit
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


def tail(log_ratio: float, p: float = 1e-4) -> float:
    """Probability under q of log-ratios at least as far out as that of its first outcome, of probability p under p."""
    q = p * math.exp(log_ratio)
    world = Pair(np.array([q, 1 - q]), np.array([p, 1 - p]))
    return world.mean((world.log_ratio * np.sign(log_ratio) >= 0.999 * abs(log_ratio)).astype(float))


def _both_signs(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=50, scale=2.0)
    for t in (1.0, 2.0, 3.0):
        share = float(world.q @ (world.log_ratio <= -t))
        yield instead(f"P(log q/p ≤ −{t:g}) under q, at most exp(−{t:g})", share, "≤", math.exp(-t))
    yield smallest(
        "P(log q/p ≤ −5) under q, an outcome of p = 1e-4, against P(log q/p ≥ 5)", tail(-5.0), "≥", tail(5.0)
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
    world = close_pair(seed, 0.01)
    negative = world.mean((world.log_ratio < 0).astype(float))
    spread = math.sqrt(world.variance(world.log_ratio)) / world.kl
    yield instead(
        "sd/KL, logits 0.01 apart, against the √(P/(1 − P)) that P(k1 < 0) = P asks for",
        spread,
        ">",
        10 * math.sqrt(negative / (1 - negative)),
    )


def _heavy_tails() -> Iterator[Evidence]:
    even = NEARLY_EVEN
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
    flat, peaked = (_token_moments(sharpness) for sharpness in (1.0, 4.0))
    yield realistic("kurtosis of a token's k1, 3 for a Gaussian", flat.kurtosis, "=", 3.0, tolerance=0.3)
    yield realistic("the same where a token has 0.86 nats of entropy", peaked.kurtosis, "=", 3.0, tolerance=0.3)
    yield realistic("Var(k1)/(2KL) there, 1 without any tail", peaked.excess, "=", 1.0, tolerance=0.1)


@dataclass(frozen=True)
class _Moments:
    """Kurtosis of ℓ, and Var(ℓ)/(2KL)."""

    kurtosis: float
    excess: float


def _token_moments(sharpness: float) -> _Moments:
    """Of a token of the realistic pair, all states alike, its logits multiplied."""
    policy, reference = language()
    q = softmax(sharpness * policy.logprobs)
    ratio = np.log(q) - np.log(softmax(sharpness * reference.logprobs))
    states = len(q)
    kl = float(np.sum(q * ratio) / states)
    variance = float(np.sum(q * (ratio - kl) ** 2) / states)
    return _Moments(float(np.sum(q * (ratio - kl) ** 4) / states / variance**2), variance / (2 * kl))


RARE = Pair(np.array([0.4995, 0.4995, 0.001]), np.array([0.184, 0.075, 0.741]))
"""ℓ = 1.0, 1.9 and, once in a thousand, −6.6."""


def _squaring(seed: int) -> Iterator[Evidence]:
    distance = 1.0
    while np.abs(close_pair(seed, distance).log_ratio).max() > 1:
        distance /= 2
    world = close_pair(seed, distance)
    yield within("Var k2 where |ℓ| ≤ 1", world.variance(k2(world.log_ratio)), "≤", world.variance(world.log_ratio))
    yield stated(
        "Var k2 where |ℓ| < 2 but once in a thousand",
        RARE.variance(k2(RARE.log_ratio)),
        "<",
        RARE.variance(RARE.log_ratio),
    )
    values = texts().sums
    yield realistic("Var k2 of sequences", float(np.var(k2(values))), "<", float(np.var(values)))


def _tighter() -> Iterator[Evidence]:
    one, three = k1(CROSSED.log_ratio), k3(CROSSED.log_ratio)
    yield smallest(
        "range of k3, q = (.9, .1), p = (.1, .9), against that of k1", float(np.ptp(three)), "<", float(np.ptp(one))
    )
    yield smallest("variance of k3 there", CROSSED.variance(three), "<", CROSSED.variance(one))
    x = NEARLY_EVEN.log_ratio
    where = "q = (.5, .5), p = (.525, .475)"
    yield within(f"range of k3, {where}, against that of k1", float(np.ptp(k3(x))), "<", float(np.ptp(x)))
    yield within("variance of k3 there", NEARLY_EVEN.variance(k3(x)), "<", NEARLY_EVEN.variance(x))
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
        why="E_q[−log(q/p)] = −KL and E_q[q/p − 1] = χ²(q‖p): at λ = 1 it estimates χ²(q‖p) − KL(q‖p). Near p = q that "
        "is close to the KL, which hides the slip.",
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
        statement="Averaging k3 over samples from the old policy q approximates KL[p, q] = Σ p log(p/q), p the new "
        "policy.",
        verdict=Verdict.FAILS,
        why="With r mended to p/q, samples from q give KL(q‖p): the other direction. With r = q/p, as written, they "
        "give χ²(q‖p) − KL(q‖p), which is neither.",
        condition="r log r − (r − 1) over samples of q, or samples of p.",
        computation=_direction,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "x = np.log(q / p)",
            "print(round(float(q @ kb.K3(x)), 6), round(float(p @ np.log(p / q)), 6))",
        ),
        meant="On-policy the two are close while the models are; far apart they are not.",
        by_hand="q = (.8, .2), p = (.5, .5): the samples give .193, or .167 with r = q/p; KL[p, q] is .223.",
        also=(RETHINK_ZH("在 RL for LLM 的角度"),),
    ),
    Claim(
        id="002-old-policy-holds-it",
        source=RETHINK("“keep the new policy from drifting too far from the old one”"),
        statement="A KL term to the old policy keeps the new policy from drifting too far from the old one.",
        verdict=Verdict.HOLDS,
        why="β·KL(new‖old) cannot exceed what the reward gains by the update, so a larger β holds it nearer.",
        condition="From the old one. That follows, and nothing holds the sum of the updates: a two-armed bandit walks "
        "to the end, where a penalty to a fixed reference, as in RLHF and GRPO, stops at q ∝ p·exp(R/β).",
        computation=_old_policy,
        code=lines(
            "import numpy as np",
            "from kullback.claims.rethink import tilted",
            "from kullback.claims.worlds import pair",
            "reward = np.random.default_rng(0).normal(size=5)",
            "print([round(tilted(pair(0).q, reward, beta).kl, 6) for beta in (0.5, 1.0)])",
        ),
        also=(RETHINK_ZH("“用来约束新策略（policy）不要偏离旧策略太多”"),),
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
        why="A huge negative log q/p needs q(x) far below the tiny p(x), and then x is hardly ever drawn: P(log q/p ≤ "
        "−t) ≤ exp(−t).",
        condition="Positive only. The lower tail of k1 is exponentially thin, the upper one is not bounded.",
        computation=_both_signs,
        code=lines(
            "from kullback.claims.rethink import tail",
            "print(f'{tail(-5.0):.4g} against {tail(5.0):.4g}')",
        ),
        meant="That extremes widen k1, which is right for the positive ones.",
        by_hand="p(x) = 1e-4 and log q/p = −5 make q(x) = 6.7e-7: seen once in 1.5 million samples.",
        also=(RETHINK_ZH("可以变得非常大（正或负）"),),
    ),
    Claim(
        id="002-sign-flips-are-not-the-cause",
        source=RETHINK("“sign-flipping alone is not the sole reason”"),
        statement="That k1 changes sign is not by itself the reason for its variance.",
        verdict=Verdict.HOLDS,
        why="Var(k1 + c) = Var(k1): lifted until it is never negative it varies as before. There is a link, but a weak "
        "one: an unbiased estimate that is negative with probability P has sd/KL ≥ √(P/(1 − P)), which is 1 at a half.",
        computation=_sign_flips,
        code=lines(
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            "x = world.log_ratio",
            "print(round(world.variance(x - x.min()), 9), round(world.variance(x), 9))",
        ),
        also=(RETHINK_ZH("“正负跳变本身并不是导致方差大的唯一原因”"),),
    ),
    Claim(
        id="002-heavy-tails",
        source=RETHINK("“So why does k1 have high variance?”"),
        statement="k1 has a high variance because its values are heavy-tailed.",
        verdict=Verdict.FAILS,
        why="ℓ is of first order in the distance, KL of second: sd/KL grows like 1/distance with no tail at all. "
        "Between Gaussians k1 is Gaussian; it is r, and with it k3, that has a heavy tail.",
        condition="Models far apart, where single tokens with tiny p do dominate. Where the next token is nearly "
        "certain k1 has a tail, and yet its variance stays near 2KL.",
        computation=_heavy_tails,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.5, 0.5]), np.array([0.525, 0.475])",
            "x = np.log(q / p)",
            "sd = (q @ (x - q @ x) ** 2) ** 0.5",
            "print(round(abs(x).max() / sd, 6), round(sd / (q @ x), 6))",
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
        why="½ℓ² has the slope ℓ: it draws together what lies within ±1 and spreads what lies beyond. One ℓ of −6.6 in "
        "a thousand is enough to make k2 the noisier one.",
        condition="|ℓ| ≤ 1 always.",
        computation=_squaring,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.rethink import RARE as w",
            "print(round(w.variance(kb.K2(w.log_ratio)), 6), round(w.variance(w.log_ratio), 6))",
        ),
        also=(RETHINK_ZH("“使得数值变得更平滑，使方差下降”"),),
    ),
    Claim(
        id="002-k3-tighter",
        source=RETHINK("last paragraph"),
        statement="What is left in k3 is tighter in range, always positive, and therefore lower in variance than k1.",
        verdict=Verdict.CONDITION,
        why="Var k3 = Var k1 + χ² − 2J. k3 is bounded below but grows like r above, where k1 grows like log r.",
        condition="χ²(p‖q) < 2J, as when the models are close: there it holds by a factor of hundreds.",
        computation=_tighter,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, x = np.array([0.9, 0.1]), np.log([9, 1 / 9])",
            "for k in (kb.K3(x), kb.K1(x)):",
            "    print(round(float(np.ptp(k)), 6), round(float(q @ (k - q @ k) ** 2), 6))",
        ),
        by_hand="q = (.9, .1), p = (.1, .9): k1 = ±2.197, range 4.39, variance 1.738; k3 = 1.308 or 5.803, range 4.49, "
        "variance 1.818.",
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
            "for w in (Gaussian(2.0), Gaussian(0.1)):",
            "    print(round(-(w.kl + w.forward_kl) / (w.var_k1 * w.chi2) ** 0.5, 6))",
        ),
        also=(RETHINK_ZH("高度相关"),),
    ),
)
