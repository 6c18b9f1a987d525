"""002 and 003, “Re-understanding KL Approximation”: the article on training, cost and the number of samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import APPLICATIONS, RETHINK, RETHINK_ZH
from kullback.claims.worlds import HORIZON, VOCAB, Gaussian, Pair, language, sampled, texts, tree
from kullback.estimators import RAO_BLACKWELL
from kullback.targets import REVERSE_KL


def _noise(square: float, coefficient: float) -> float:
    """Var of (ℓ + 1 − λ)·∇log q in the mean of q, a Gaussian whose shift squared is given."""
    return (square / 2 + 1 - coefficient) ** 2 + 2 * square


def _value_noise() -> Iterator[Evidence]:
    apart, near = Gaussian(1.0), Gaussian(0.1)
    quiet = apart.best_coefficient
    yield smallest(
        "Var of the gradient (ℓ + 1 − λ)s at the λ quietest in value, KL 0.5",
        _noise(1.0, quiet),
        "≤",
        _noise(1.0, 1.5),
    )
    yield instead("λ quietest in value, 1/(e − 1)", quiet, "=", 1 / math.expm1(1.0))
    yield instead("Var of the gradient at λ = 1 + KL", _noise(1.0, 1.5), "=", 2.0)
    yield realistic("Var of k1 over that of k3, KL 0.005", near.var_k1 / near.var_k3, "=", 1.0)
    ratio = _noise(0.01, 0.0) / _noise(0.01, 1.0)
    yield realistic("the same of their gradients (λ = 0 over λ = 1)", ratio, "=", near.var_k1 / near.var_k3)


def _unstable() -> Iterator[Evidence]:
    policy, reference = language()
    kl = policy.reverse_kl(reference)
    for kind in ("k1", "k3", "rao_blackwell"):
        spread = math.sqrt(policy.variance(reference, kind) / 512) / kl
        yield instead(f"standard error over KL of {kind}, 512 sequences", spread, "<", 0.1)


PROBABILITIES = Pair(np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]))


def plug_in(leave_one_out: bool) -> float:
    """E over all batches of 3 of the mean of ℓ + λ̂(r − 1), λ̂ = −Σ ℓh/Σh², of all or of the other samples."""
    world, total = PROBABILITIES, 0.0
    for batch in itertools.product(range(3), repeat=3):
        x, h = world.log_ratio[list(batch)], world.r[list(batch)] - 1
        rows = 1 - np.eye(3) if leave_one_out else np.ones((3, 3))
        square = rows @ h**2
        fitted = np.where(square > 0, -(rows @ (x * h)) / np.where(square > 0, square, 1.0), 0.0)
        total += float(np.prod(world.q[list(batch)])) * float(np.mean(x + fitted * h))
    return total


def _infinitely_many() -> Iterator[Evidence]:
    kl = Gaussian(1.0).kl
    yield smallest("E of mean k1 + 1/n at n = 4, an estimate that is right at n = ∞", kl + 1 / 4, "=", kl)
    yield stated(
        "E of the fitted control variate, 3 samples, q = (.5, .3, .2), p = (.2, .3, .5)",
        plug_in(False),
        "=",
        PROBABILITIES.kl,
    )
    yield instead("the same, fitted leave-one-out", plug_in(True), "=", PROBABILITIES.kl)
    yield instead("KL", PROBABILITIES.kl, "=", 0.2749, tolerance=5e-5)
    drawn = texts()
    total = drawn.sums[:19_998].reshape(-1, 3)
    h = np.expm1(-total)
    fitted = -np.sum(total * h, axis=1) / np.sum(h**2, axis=1)
    values = total.mean(axis=1) + fitted * h.mean(axis=1)
    policy, reference = language()
    half = 4 * float(values.std()) / math.sqrt(len(values))
    yield realistic(
        "E of the fitted control variate of 3 sequences",
        float(values.mean()),
        "=",
        policy.reverse_kl(reference),
        error=half,
    )


def _cost() -> Iterator[Evidence]:
    yield smallest("terms of an estimate with 1 sample over those of the sum, V = 50,000", 1 / 50_000, ">", 1.0)
    yield realistic("terms of k3 over those of the exact token KL, V = 151,936", 1 / 151_936, ">", 1.0)
    policy, reference = language()
    variance = policy.variance(reference, "k1") / policy.variance(reference, "rao_blackwell")
    yield instead("samples of k1 for one of the exact token KLs at equal error, realistic world", variance, ">", 1.0)


def _sampling_needed(seed: int) -> Iterator[Evidence]:
    others = math.log10(VOCAB - 1)
    sequences = HORIZON * others
    yield within(
        "log10 of the terms, every prefix with a distribution of its own",
        (HORIZON - 1) * others + math.log10(VOCAB),
        "≥",
        sequences,
    )
    terms = math.log10((HORIZON - 1) * VOCAB**2 + VOCAB)
    yield stated("log10 of the terms, where the last token decides", terms, "≥", sequences)
    world = tree(seed)
    yield instead(
        "E Σ_t of exact token KLs at sampled prefixes",
        float(world.value(RAO_BLACKWELL, "token")),
        "=",
        float(world.exact(REVERSE_KL)),
    )
    policy, reference = language()
    estimate = sampled(texts().total(texts().token_kl))
    yield realistic("the same by sampling 20,000 sequences", estimate, "=", policy.reverse_kl(reference))


CLAIMS = (
    Claim(
        id="002-value-noise-is-gradient-noise",
        source=RETHINK("“Talking About Variance”"),
        statement="A noisy KL estimate makes the gradient noisy: what is quiet in value is quiet in gradient.",
        verdict=Verdict.FAILS,
        why="All (ℓ + 1 − λ)s have the same mean, and their noise is least at "
        "λ = 1 + E[ℓ‖s‖²]/E‖s‖² (Gaussian: 1 + KL), not at J/χ², where the value is quietest.",
        condition="Look at the gradient's own variance; a baseline does for it what λ does for the value.",
        computation=_value_noise,
        code=lines(
            "noise = lambda c: (0.5 + 1 - c) ** 2 + 2  # shift 1, KL 0.5",
            "import math",
            "print(round(noise(1 / math.expm1(1)), 6), round(noise(1.5), 6))",
        ),
        meant="With one estimator, more samples quieten both.",
        by_hand="Gaussian, KL 0.5: quietest value λ = .582 has gradient variance 2.843; λ = 1.5 has 2.",
        also=(RETHINK_ZH("梯度抖动"),),
    ),
    Claim(
        id="002-variance-unstable-training",
        source=RETHINK("“Talking About Variance”"),
        statement="The variance of k1 makes training and the KL coefficient unstable; k2 or k3 make them stable.",
        verdict=Verdict.UNDECIDED,
        why="Stability of training is an experiment. What can be said is how wrong a batch's KL is, and that a "
        "coefficient is moved by it only if it adapts.",
        computation=_unstable,
        code=lines(
            "from kullback.claims.worlds import language",
            "policy, reference = language()",
            "kl = policy.reverse_kl(reference)",
            'print([round((policy.variance(reference, k) / 512) ** 0.5 / kl, 6) for k in ("k1", "k3")])',
        ),
        also=(RETHINK_ZH("训练不稳定"),),
    ),
    Claim(
        id="002-unbiased-at-infinity",
        source=RETHINK("“Talking About Variance”"),
        statement="Unbiased means that with infinitely many samples the mean equals the true KL.",
        verdict=Verdict.FAILS,
        why="That is consistency. A control variate fitted on its own batch is consistent and, with 3 samples, has "
        "mean .1124 where the KL is .2749.",
        condition="Unbiased: the expectation is the KL at every number of samples.",
        computation=_infinitely_many,
        code=lines(
            "from kullback.claims.rethink_training import PROBABILITIES, plug_in",
            "print(round(plug_in(False), 6), round(plug_in(True), 6), round(PROBABILITIES.kl, 6))",
        ),
        meant="That averaging cures the noise of an unbiased estimator, which is so.",
        by_hand="k1's mean plus 1/n is right at n = ∞ and wrong by ¼ at n = 4.",
        also=(RETHINK_ZH("在无限多样本下"),),
    ),
    Claim(
        id="002-sampling-needed",
        source=RETHINK("“So why can’t we just compute KL exactly”"),
        statement="Sequences grow exponentially with length, so their KL cannot be computed exactly.",
        verdict=Verdict.CONDITION,
        why="The chain rule needs one vocabulary sum a prefix. Where few prefixes matter (a Markov model) it is exact: "
        "48·64² terms instead of 64^48. Otherwise only the prefixes are sampled.",
        condition="Prefixes of a general model must be sampled; tokens need not be.",
        computation=_sampling_needed,
        code=lines(
            "from math import log10",
            "print(round(log10(47 * 64**2 + 64), 6), round(48 * log10(63), 6))",
        ),
        also=(APPLICATIONS("“exponential in V”"), RETHINK_ZH("指数级")),
    ),
    Claim(
        id="003-estimator-cost",
        source=RETHINK_ZH("“使用 estimator 后计算量其实是巨大的”"),
        statement="Compared with the exact sum, an estimator takes a huge amount of computation.",
        verdict=Verdict.FAILS,
        why="An estimator takes one term a sample, the sum V terms. The English version says the opposite.",
        condition="Counted at equal error the exact sum may still be the cheaper one, since its terms are already "
        "there.",
        computation=_cost,
        code=lines("print(1 / 50_000)"),
        meant="Small: a slip of one character, 巨大 for 很小.",
        by_hand="V = 50,000: 1 term against 50,000.",
    ),
)
