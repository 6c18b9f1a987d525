"""001, “Approximating KL Divergence (and its applications in RL)”: a draft after Schulman's post."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated
from kullback.claims.sources import APPLICATIONS
from kullback.claims.worlds import BY_HAND, EVEN, Gaussian, Pair, descents, language, live_tree, pair
from kullback.estimators.divergences import k3
from kullback.oracle import World, exact_gradient
from kullback.oracle.loss_gradients import gradient_of
from kullback.targets import REVERSE_KL


def _from_p(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    for found, say in ((world, stated), (BY_HAND, smallest)):
        yield say("E_p[−r log r]", float(found.p @ (-found.r * np.log(found.r))), "=", found.kl)
    yield instead("E_p[−log(r)/r]", float(world.p @ (-np.log(world.r) / world.r)), "=", world.kl)
    yield instead("E_q[r log r], which is KL(p‖q)", world.mean(world.r * np.log(world.r)), "=", world.forward_kl)
    for gaussian in (Gaussian(0.1), Gaussian(1.0)):
        square = gaussian.shift**2
        yield realistic(
            f"E_p[−r log r], Gaussian, KL {gaussian.kl:g}", -1.5 * square * math.exp(square), "=", gaussian.kl
        )


def _mean_of_log_r(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("E_q[log r]", world.mean(np.log(world.r)), "=", world.kl)
    yield smallest("E_q[log r], q = (.8, .2), p = (.5, .5)", BY_HAND.mean(np.log(BY_HAND.r)), "=", BY_HAND.kl)
    yield instead("E_q[−log r]", world.mean(-np.log(world.r)), "=", world.kl)
    policy, reference = language()
    kl = policy.reverse_kl(reference)
    yield realistic("E_q[log r] of sequences", -kl, "=", kl)


def _frozen_objective(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed, off_policy=True)
    frozen = REVERSE_KL.exact(World(world.reference, world.sampler))
    got = gradient_of(frozen, world.policy.logits)
    yield stated("‖∇_θ KL(π_ref‖π_old)‖", float(np.linalg.norm(got)), "≠", 0.0)
    yield instead("‖∇_θ KL(π_θ‖π_ref)‖", float(np.linalg.norm(exact_gradient(world, REVERSE_KL))), "≠", 0.0)
    change = BY_HAND.kl - Pair(BY_HAND.q, BY_HAND.p).kl
    yield smallest("change of KL((.8, .2)‖(.5, .5)) when θ moves", change, "≠", 0.0)
    missing = float(np.linalg.norm(descents().reverse))
    yield realistic("‖∇KL(π_θ‖π_ref)‖, which that term would lack", missing, "=", 0.0)


WIDTH, VOCAB = 1024, 151_936


def _intractable() -> Iterator[Evidence]:
    small = 3 * 50_000 / (2 * WIDTH * 50_000)
    yield smallest("operations of the sum over those of the LM head, V = 50,000, width 1,024", small, ">", 1.0)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, VOCAB))
    log_q, log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    yield instead(f"exact KL over V = {VOCAB:,}, summed in one line", float(np.exp(log_q) @ (log_q - log_p)), ">", 0.0)
    yield realistic(f"the same at V = {VOCAB:,}, width 4,096", 3 / (2 * 4096), ">", 1.0)


def _best() -> Iterator[Evidence]:
    values = EVEN.log_ratio + math.log(3) * (EVEN.r - 1)
    yield smallest(
        "Var k3, q = (½, ½), p = (¼, ¾), against that of λ = log 3",
        EVEN.variance(k3(EVEN.log_ratio)),
        "≤",
        EVEN.variance(values),
    )
    policy, reference = language()
    yield realistic(
        "Var Σ_t k3_t against that of the exact token KLs",
        policy.variance(reference, "k3"),
        "≤",
        policy.variance(reference, "rao_blackwell"),
    )
    apart = Gaussian(1.0)
    yield instead("Var k3 over the least of the family, KL 0.5", apart.var_k3 / apart.least_variance, ">", 1.0)
    yield instead("the same at KL 0.005", Gaussian(0.1).var_k3 / Gaussian(0.1).least_variance, "=", 1.0, tolerance=0.01)


CLAIMS = (
    Claim(
        id="001-kl-from-p",
        source=APPLICATIONS("third formula"),
        statement="With samples from p, KL(q‖p) = E_p[−r log r].",
        verdict=Verdict.FAILS,
        why="E_p[−r log r] = Σ p (p/q) log(q/p): it has p²/q where q should stand, and is negative here.",
        condition="E_p[−log(r)/r] = KL(q‖p), the importance weight being q/p = 1/r.",
        computation=_from_p,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "r = p / q",
            "print(round(p @ (-r * np.log(r)), 6), round(p @ (-np.log(r) / r), 6), round(q @ np.log(q / p), 6))",
        ),
        meant="E_q[r log r], perhaps; that one is KL(p‖q).",
        by_hand="q = (.8, .2), p = (.5, .5): ½(.625·.470) + ½(2.5·(−.916)) = −0.998, where KL = 0.193.",
    ),
    Claim(
        id="001-mean-of-log-r",
        source=APPLICATIONS("after the definition"),
        statement="KL(q‖p) is the mean of the random variable log r, r = p/q, under q.",
        verdict=Verdict.FAILS,
        why="E_q[log p/q] = −KL(q‖p).",
        condition="The mean of −log r, as its next line has it.",
        computation=_mean_of_log_r,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "print(round(q @ np.log(p / q), 6))",
        ),
        meant="−log r: a slip of the sign, mended in the formula below it.",
        by_hand=".8·log .625 + .2·log 2.5 = −0.193.",
    ),
    Claim(
        id="001-objective-between-fixed-models",
        source=APPLICATIONS("“The Why?”"),
        statement="The RL objective includes KL(π_ref‖π_old), whose minimisation keeps the policy near the reference.",
        verdict=Verdict.FAILS,
        why="Neither model is being trained, so the term is a constant and its gradient is 0.",
        condition="KL(π_θ‖π_ref), with samples from π_θ, or from π_old with importance weights.",
        computation=_frozen_objective,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import descents",
            "print(round(float(np.linalg.norm(descents().reverse)), 6), 'for KL(π_θ‖π_ref), 0 for KL(π_ref‖π_old)')",
        ),
        meant="The penalty of RLHF and GRPO, which is KL(π_θ‖π_ref).",
        by_hand="π_ref = (.8, .2), π_old = (.5, .5): 0.193 whatever θ is.",
    ),
    Claim(
        id="001-vocabulary-intractable",
        source=APPLICATIONS("“The Why?”"),
        statement="The KL of one token is a sum over the vocabulary, which quickly becomes intractable.",
        verdict=Verdict.FAILS,
        why="The logits are there: the sum takes about 3 operations an entry, the LM head that made them 2·width.",
        condition="For sequences it stands: there are V^T of them. Summing exactly at each sampled prefix "
        "(Rao-Blackwell) needs V terms a token.",
        computation=_intractable,
        code=lines("operations, head = 3 * 50_000, 2 * 1024 * 50_000", "print(round(operations / head, 9))"),
        meant="That trainers keep only the log-prob of the drawn token, which saves memory and transfer.",
        by_hand="V = 50,000, width 1,024: 150,000 operations against 102 million.",
    ),
    Claim(
        id="001-k3-best",
        source=APPLICATIONS("heading of k3"),
        statement="k3 is the best estimator of the KL.",
        verdict=Verdict.FAILS,
        why="Within −log r + λ(r − 1) the best λ is J/χ², not 1; exact token KLs and their controls are another step.",
        condition="Near p = q the loss against λ* vanishes: 0.5 % of the variance at KL 0.005, 72 % at KL 0.5.",
        computation=_best,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, x = np.array([0.5, 0.5]), np.log([2, 2 / 3])",
            "for k in (kb.K3(x), kb.ControlVariate(np.log(3)).fn(x)):",
            "    print(round(float(q @ (k - q @ k) ** 2), 9))",
        ),
        meant="The best of the three in Schulman's post.",
        by_hand="q = (½, ½), p = (¼, ¾), λ = log 3: both outcomes give 0.1438 = KL, with no variance at all.",
    ),
)
