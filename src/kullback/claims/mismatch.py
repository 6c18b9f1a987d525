"""xihuai18 and Li et al.: importance weights, and what a mismatch of sampler and trainer does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from kullback.arrays import Float64
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import LI, TINKER, XIHUAI
from kullback.claims.worlds import (
    BY_HAND,
    Pair,
    chances,
    followed,
    language,
    live_tree,
    off,
    pair,
    relative,
    sampled,
    texts,
    token_ratios,
    tree,
)
from kullback.oracle import exact_gradient
from kullback.surrogates import SURROGATES
from kullback.targets import KL_GAP, REVERSE_KL


def three_models(seed: int) -> tuple[Pair, Float64, Float64]:
    """q against p, what draws the samples, and ρ = q/μ."""
    world, mu = pair(seed), pair(seed + 500).q
    return world, mu, world.q / mu


def score_mean(world: Pair, mu: Float64, coefficients: Float64) -> Float64:
    """E_μ[c·∇log q] in the logits of q."""
    weights = mu * coefficients
    return np.asarray(weights - world.q * weights.sum())


def _weighted_k1(seed: int) -> Iterator[Evidence]:
    world, mu, rho = three_models(seed)
    got = score_mean(world, mu, rho * (world.log_ratio + 1))
    yield stated("E_μ[ρ(ℓ + 1)∇log q] off ∇KL(q‖p) by", relative(got, world.gradient(world.log_ratio)), "=", 0.0)


def _identical(seed: int) -> Iterator[Evidence]:
    world, mu, rho = three_models(seed)
    x = world.log_ratio
    # ∇(ρk3) = ρ(k3 + k3′)∇log q and ∇(sg(ρ)k2) = ρℓ∇log q.
    k3, slope = np.exp(-x) - 1 + x, 1 - np.exp(-x)
    yield stated(
        "largest difference of their coefficients", float(np.abs(rho * (k3 + slope) - rho * x).max()), "=", 0.0
    )
    got = score_mean(world, mu, rho * x)
    yield stated("E_μ[ρℓ∇log q] off ∇KL(q‖p) by", relative(got, world.gradient(x)), "=", 0.0)


def _weighted_k2(seed: int) -> Iterator[Evidence]:
    world, mu, rho = three_models(seed)
    x = world.log_ratio
    got = score_mean(world, mu, rho * (x + 0.5 * x**2))
    yield stated("E_μ[ρ(k2 + ℓ)∇log q] off ∇KL(q‖p) by", relative(got, world.gradient(x)), ">", 0.01)
    yield instead("off ∇E_q[k2] by", relative(got, world.gradient(x + 0.5 * x**2)), "=", 0.0)


def _gap(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    got = followed(world, SURROGATES["k3_sequence_reward"].fn)
    yield stated("k3 of sequences in the reward off ∇KL(q‖p) − ∇KL(p‖q) by", off(got, world, KL_GAP), "=", 0.0)
    size = float(np.linalg.norm(got) / np.linalg.norm(exact_gradient(world, REVERSE_KL)))
    yield instead("its size over ‖∇KL(q‖p)‖", size, "≠", 1.0)


def _variance_difference(seed: int) -> Iterator[Evidence]:
    world, mu, rho = three_models(seed)
    x, square = world.log_ratio, world.score_square

    def variance(coefficients: Float64) -> float:
        mean = score_mean(world, mu, coefficients)
        return float(mu @ (coefficients**2 * square) - mean @ mean)

    difference = variance(rho * (x + 1)) - variance(rho * x)
    yield stated("Var[ρ(ℓ + 1)s] − Var[ρℓs]", difference, "=", float(mu @ (rho**2 * square * (2 * x + 1))))


def centred(world: Pair, n: int, others: bool) -> Float64:
    """E over all batches of n of the mean of (ℓ_i − b)∇log q_i, b the mean of the batch or of the others."""
    total = np.zeros(len(world.q))
    for batch in itertools.product(range(len(world.q)), repeat=n):
        x = world.log_ratio[list(batch)]
        baseline = (x.sum() - x) / (n - 1) if others else x.mean()
        scores = np.eye(len(world.q))[list(batch)] - world.q
        total += np.prod(world.q[list(batch)]) * ((x - baseline) @ scores) / n
    return total


def _centring(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=4)
    exact = world.gradient(world.log_ratio)
    for n in (2, 4):
        size = float(centred(world, n, others=False) @ exact / (exact @ exact))
        yield stated(f"gradient over ∇KL, centred by its own batch of {n}", size, "=", 1 - 1 / n)
        yield instead(
            f"centred by the others of {n}", float(centred(world, n, others=True) @ exact / (exact @ exact)), "=", 1.0
        )


def _growth() -> Iterator[Evidence]:
    for chi2, printed, digits in ((0.01, 7.3, 0.06), (0.05, 17_292.0, 1.0)):
        yield stated(f"(1 + {chi2})^200", (1 + chi2) ** 200, "=", printed, tolerance=digits)
    token = pair(0, outcomes=3)
    yield stated(
        "Var of the ratio of 5 equal tokens, by enumeration", ratio_variance(token, 5), "=", (1 + token.chi2) ** 5 - 1
    )


def ratio_variance(token: Pair, count: int) -> float:
    """Var of Π r of some tokens drawn alike, over every sequence of them."""
    draws = [list(s) for s in itertools.product(range(len(token.q)), repeat=count)]
    return float(sum(np.prod(token.q[s]) * (np.prod(token.r[s]) - 1) ** 2 for s in draws))


def _ratio_grows(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("E_μ[ρ_t]", world.mean(world.r), ">", 1.0)
    yield smallest("E_μ[ρ_t], μ = (.8, .2), π = (.5, .5)", BY_HAND.mean(BY_HAND.r), ">", 1.0)
    yield instead("E_μ[log ρ_t], the drift, −KL(μ‖π)", world.mean(np.log(world.r)), "=", -world.kl)
    drawn = texts()
    yield realistic("E of the ratio of sequences", sampled(np.exp(-drawn.sums)), ">", 1.0)
    policy, reference = language()
    yield realistic("E of its logarithm", -policy.reverse_kl(reference), ">", 0.0)


def _horizons() -> Iterator[Evidence]:
    for length, printed, digits in ((10, 1.01, 2), (1000, 2.72, 2), (2000, 7.39, 2), (5000, 148.4, 1)):
        half = 0.5 * 10.0**-digits
        yield stated(f"1.001^{length:,}", 1.001**length, "=", printed, tolerance=half)
        yield within(f"exp(0.001·{length:,})", math.exp(0.001 * length), "=", printed, tolerance=half)
    yield stated("log 5 / log 1.001", math.log(5) / math.log(1.001), "=", 1609, tolerance=0.5)
    yield within("log 5 / 0.001", math.log(5) / 0.001, "=", 1609, tolerance=0.5)


def _mean_of_means(seed: int) -> Iterator[Evidence]:
    world = tree(seed)
    total, length = token_ratios(world).sum(axis=1), world.policy.mask.sum(axis=1)
    kl = float(world.exact(REVERSE_KL))
    yield stated(
        "E[(1/T)Σ_t ℓ_t], T random, against KL/E[T]",
        float(chances(world) @ (total / length)),
        "=",
        kl / float(chances(world) @ length),
    )
    yield within("E[(1/T)Σ_t ℓ_t], T = 3 whatever is drawn", float(chances(world) @ (total / 3)), "=", kl / 3)


def _masked(seed: int) -> Iterator[Evidence]:
    world, mu, rho = three_models(seed)
    f = np.random.default_rng(seed).normal(size=5)
    cap = float(np.sort(rho)[-2])
    got = float(mu @ np.where(rho <= cap, rho * f, 0.0)) - float(world.q @ f)
    yield stated("bias of 1{ρ ≤ C}ρf", got, "=", -float(world.q @ np.where(rho > cap, f, 0.0)))
    values = np.where(rho <= cap, rho * f, 0.0)
    yield stated("its variance", float(mu @ values**2 - (mu @ values) ** 2), "≤", cap**2 * float(mu @ f**2))


def normalised(world: Pair, mu: Float64, n: int) -> float:
    """E over all batches of n of Σρf/Σρ, f = ℓ, three outcomes: by how often each was drawn."""
    counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    ways = [math.factorial(n) / math.prod(math.factorial(c) for c in row) for row in counts.tolist()]
    chance = np.array(ways) * np.prod(mu**counts, axis=1)
    weights = counts * (world.q / mu)
    return float(chance @ (weights @ world.log_ratio / weights.sum(axis=1)))


def _self_normalised() -> Iterator[Evidence]:
    world, mu = pair(0, outcomes=3), np.array([0.6, 0.2, 0.2])
    bias = {n: normalised(world, mu, n) - world.kl for n in (1, 16, 32)}
    yield stated("|bias| with 32 samples", abs(bias[32]), "<", abs(bias[1]))
    yield stated("bias with 32 samples over bias with 16, ½ for O(1/N)", bias[32] / bias[16], "=", 0.5, tolerance=0.05)


CLAIMS = (
    Claim(
        id="xihuai-weighted-k1",
        source=XIHUAI("off-policy, ρk1"),
        statement="With samples of μ, ∇(ρk1) = ρ(k1 + 1)∇log q has mean ∇KL(q‖p).",
        verdict=Verdict.HOLDS,
        why="E_μ[ρk1] = KL(q‖p) for every q.",
        condition="One draw is one outcome; the ratio in the graph.",
        computation=_weighted_k1,
        code=lines(
            "import numpy as np",
            "from kullback.claims.mismatch import score_mean, three_models",
            "from kullback.claims.worlds import relative",
            "w, mu, rho = three_models(0)",
            "print(round(relative(score_mean(w, mu, rho * (w.log_ratio + 1)), w.gradient(w.log_ratio)), 9))",
        ),
    ),
    Claim(
        id="xihuai-identical",
        source=XIHUAI("off-policy, sg(ρ)k2 and ρk3"),
        statement="∇(sg(ρ)k2) and ∇(ρk3) are the same, sample by sample, and unbiased.",
        verdict=Verdict.HOLDS,
        why="k3 + k3′ = (r − 1 + ℓ) + (1 − r) = ℓ = k2′.",
        condition="One draw is one outcome.",
        computation=_identical,
        code=lines(
            "import numpy as np",
            "x = np.linspace(-3, 3, 7)",
            "k3, slope = np.exp(-x) - 1 + x, 1 - np.exp(-x)",
            "print(float(abs(k3 + slope - x).max().round(9)))",
        ),
    ),
    Claim(
        id="xihuai-weighted-k2",
        source=XIHUAI("off-policy, ρk2"),
        statement="∇(ρk2) = ρ(k2 + k1)∇log q follows the wrong target.",
        verdict=Verdict.HOLDS,
        why="It is the gradient of E_q[k2], which is not the KL.",
        computation=_weighted_k2,
        code=lines(
            "from kullback.claims.mismatch import score_mean, three_models",
            "from kullback.claims.worlds import relative",
            "w, mu, rho = three_models(0)",
            "got = score_mean(w, mu, rho * (w.log_ratio + w.log_ratio**2 / 2))",
            "print(round(relative(got, w.gradient(w.log_ratio)), 6))",
        ),
    ),
    Claim(
        id="xihuai-k3-reward",
        source=XIHUAI("k3 as reward"),
        statement="E[k3·∇log q] = ∇KL(q‖p) − ∇KL(p‖q).",
        verdict=Verdict.HOLDS,
        why="k3 = ℓ + (r − 1), and E[r∇log q] = Σ p∇log q = −∇KL(p‖q). Near p = q the two cancel.",
        condition="Of single draws or whole sequences; of token sums it is no named gradient.",
        computation=_gap,
        code=lines(
            "from kullback import SURROGATES as S",
            "from kullback.targets import KL_GAP",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, S['k3_sequence_reward'].fn), world, KL_GAP), 9))",
        ),
    ),
    Claim(
        id="xihuai-variance-difference",
        source=XIHUAI("off-policy variance"),
        statement="Var[ρ(k1 + 1)∇log q] − Var[ρk1∇log q] = E_μ[ρ²‖∇log q‖²(2k1 + 1)].",
        verdict=Verdict.HOLDS,
        why="Equal means; (k1 + 1)² − k1² = 2k1 + 1.",
        computation=_variance_difference,
        code=lines(
            "from kullback.claims.mismatch import three_models",
            "w, mu, rho = three_models(0)",
            "print(round(float(mu @ (rho**2 * w.score_square * (2 * w.log_ratio + 1))), 6))",
        ),
    ),
    Claim(
        id="xihuai-centring",
        source=XIHUAI("baselines"),
        statement="Subtracting the mean of the same batch shrinks the KL reward's gradient by 1 − 1/n.",
        verdict=Verdict.HOLDS,
        why="The baseline holds ℓ_i/n, and E[ℓ_i∇log q_i]/n is taken away. The mean of the others is independent of "
        "the sample.",
        condition="Independent samples.",
        computation=_centring,
        code=lines(
            "from kullback.claims.mismatch import centred",
            "from kullback.claims.worlds import pair",
            "w = pair(0, outcomes=4)",
            "exact = w.gradient(w.log_ratio)",
            "print([round(float(centred(w, n, False) @ exact / (exact @ exact)), 6) for n in (2, 4)])",
        ),
        also=(TINKER("incorporate_kl_penalty, avg − kl"),),
    ),
    Claim(
        id="li-variance-growth",
        source=LI("part 2"),
        statement="The variance of a sequence's importance weight is (1 + χ²)^T − 1, with 1.01^200 = 7.3 and 1.05^200 "
        "= 17,292.",
        verdict=Verdict.HOLDS,
        why="E[Π ρ_t²] is the product of the E[ρ_t²] = 1 + χ².",
        condition="Tokens independent and alike; else the product of conditional factors.",
        computation=_growth,
        code=lines(
            "from kullback.claims.mismatch import ratio_variance",
            "from kullback.claims.worlds import pair",
            "token = pair(0, outcomes=3)",
            "print(round(ratio_variance(token, 5), 6), round((1 + token.chi2) ** 5 - 1, 6))",
            "print(round(1.01**200, 2), round(1.05**200))",
        ),
    ),
    Claim(
        id="li-ratio-grows",
        source=LI("part 3"),
        statement="The mean ratio a token exceeds 1, so the ratio of a sequence grows with its length.",
        verdict=Verdict.FAILS,
        why="E_μ[ρ_t] = Σ π = 1 at every step. log ρ drifts down, at the rate −KL(μ‖π); only the variance grows.",
        condition="As an observed average over few samples it may exceed 1; its expectation cannot.",
        computation=_ratio_grows,
        code=lines(
            "import numpy as np",
            "mu, pi = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "print(mu @ (pi / mu), round(mu @ np.log(pi / mu), 6))",
        ),
        meant="That sequence weights get extreme with length, which they do, to both sides.",
        by_hand="μ = (.8, .2), π = (.5, .5): .8·.625 + .2·2.5 = 1.",
    ),
    Claim(
        id="li-horizons",
        source=LI("part 3, table"),
        statement="1.001^T is 1.01, 2.72, 7.39 and 148.4 at T = 10, 1,000, 2,000 and 5,000; it passes 5 at T = 1,609.",
        verdict=Verdict.CONDITION,
        why="The table is of exp(0.001·T): 1.001^T is 7.38 at 2,000 and 148.0 at 5,000, and passes 5 at 1,610.",
        condition="log 1.001 ≈ 0.001; to a quarter of a percent it makes no difference.",
        meant="The table is arithmetic, and the five lines repeat it.",
        computation=_horizons,
        code=lines(
            "import math",
            "print([round(1.001**t, 4) for t in (2000, 5000, 10, 1000)], round(math.log(5) / math.log(1.001), 2))",
        ),
    ),
    Claim(
        id="li-mean-of-means",
        source=LI("part 3"),
        statement="The mean over tokens of an expectation is the expectation of the mean over tokens.",
        verdict=Verdict.CONDITION,
        why="E[S/T] ≠ E[S]/E[T] where the length depends on what was drawn.",
        condition="The length is fixed.",
        computation=_mean_of_means,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import tree",
            "w = tree(seed=0)",
            "x, n = (w.policy.logprobs - w.reference.logprobs).sum(axis=1), w.policy.mask.sum(axis=1)",
            "print(round(float(w.probability @ (x / n)), 6), round(float(w.probability @ x / (w.probability @ n)), 6))",
        ),
    ),
    Claim(
        id="li-masked-weights",
        source=LI("part 3, Seq-MIS"),
        statement="1{ρ ≤ C}ρf has bias −E_π[f 1{ρ > C}] and variance at most C²E_μ[f²].",
        verdict=Verdict.HOLDS,
        why="What is masked is missing from E_μ[ρf] = E_π[f]; and ρ² ≤ C² on the rest.",
        computation=_masked,
        code=lines(
            "import numpy as np",
            "from kullback.claims.mismatch import three_models",
            "w, mu, rho = three_models(0)",
            "f, cap = np.random.default_rng(0).normal(size=5), np.sort(rho)[-2]",
            "print(round(float(mu @ np.where(rho <= cap, rho * f, 0) - w.q @ f), 6))",
        ),
    ),
    Claim(
        id="li-self-normalised",
        source=LI("part 2, SNIS"),
        statement="Self-normalised weights are biased by O(1/N).",
        verdict=Verdict.HOLDS,
        why="A ratio of means: its second-order term is a covariance over N.",
        computation=_self_normalised,
        code=lines(
            "import numpy as np",
            "from kullback.claims.mismatch import normalised",
            "from kullback.claims.worlds import pair; w, mu = pair(0, outcomes=3), np.array([0.6, 0.2, 0.2])",
            "bias = {n: normalised(w, mu, n) - w.kl for n in (1, 16, 32)}",
            "print(round(bias[32] / bias[16], 6), [round(b, 6) for b in bias.values()])",
        ),
    ),
)
