"""002 and 003, “Re-understanding KL Approximation”: the article on training, cost and the number of samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from kullback.arrays import Float64
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import APPLICATIONS, RETHINK, RETHINK_ZH
from kullback.claims.worlds import HORIZON, VOCAB, Gaussian, Pair, language, sampled, texts, tree
from kullback.estimators import RAO_BLACKWELL
from kullback.estimators.divergences import k3
from kullback.targets import REVERSE_KL


def _noise(square: float, coefficient: float) -> float:
    """Var of (ℓ + 1 − λ)·∇log q in the mean of q, a Gaussian whose shift squared is given."""
    return (square / 2 + 1 - coefficient) ** 2 + 2 * square


def variances(world: Gaussian, coefficient: float) -> tuple[float, float]:
    """Var of ℓ + λ(r − 1), and of the gradient with that mean, (ℓ + 1 − λ)·∇log q in the mean of q."""
    value = world.var_k1 - 2 * coefficient * (world.kl + world.forward_kl) + coefficient**2 * world.chi2
    return value, _noise(world.shift**2, coefficient)


def _value_noise() -> Iterator[Evidence]:
    apart, near = Gaussian(1.0), Gaussian(0.1)
    quiet = apart.best_coefficient
    (value, gradient), (noisy_value, quiet_gradient) = variances(apart, quiet), variances(apart, 1.5)
    yield smallest(
        "Var of the gradient (ℓ + 1 − λ)s at λ = 1.5, KL 0.5, where the value is 4 times as noisy as at .582",
        quiet_gradient,
        ">",
        gradient,
    )
    yield instead("λ quietest in value, 1/(e − 1)", quiet, "=", 1 / math.expm1(1.0))
    yield instead("Var of the value there, against that at λ = 1.5", value, "<", noisy_value / 4)
    yield instead("Var of the gradient there, against that at λ = 1.5 = 1 + KL", gradient, ">", quiet_gradient)
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


def mean_of(values: Float64, draws: int) -> float:
    """E over all batches of the mean of a fixed function of each sample."""
    batches = [list(batch) for batch in itertools.product(range(3), repeat=draws)]
    return float(sum(np.prod(PROBABILITIES.q[batch]) * values[batch].mean() for batch in batches))


def _infinitely_many() -> Iterator[Evidence]:
    world = PROBABILITIES
    for name, values in (("k1", world.log_ratio), ("k3", k3(world.log_ratio))):
        for draws in (1, 3):
            yield within(f"E of the mean of {name} of {draws}", mean_of(values, draws), "=", world.kl)
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


def exact_terms(memory: int) -> float:
    """log10 of the terms of the exact KL by the chain rule, 48 tokens of 64, the last few tokens deciding the next."""
    # A prefix that goes on holds no end token.
    contexts = sum((VOCAB - 1) ** min(step, memory) for step in range(HORIZON))
    return math.log10(contexts * VOCAB)


def _sampling_needed(seed: int) -> Iterator[Evidence]:
    sequences = HORIZON * math.log10(VOCAB - 1)
    for memory, say, which in ((HORIZON, within, "every prefix has its own"), (1, stated, "the last token decides it")):
        terms = exact_terms(memory)
        yield say(f"log10 of the terms of the exact sum, next-token distribution: {which}", terms, "≥", sequences)
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
        statement="If the variance of the KL estimator is large, the loss is noisy, and that makes the gradients "
        "noisy.",
        verdict=Verdict.FAILS,
        why="All (ℓ + 1 − λ)s have the same mean, and their noise is least at λ = 1 + E[ℓ‖s‖²]/E‖s‖² (Gaussian: 1 + "
        "KL), not at J/χ², where the value is quietest.",
        condition="Look at the gradient's own variance; a baseline does for it what λ does for the value.",
        computation=_value_noise,
        code=lines(
            "from kullback.claims.rethink_training import variances",
            "from kullback.claims.worlds import Gaussian",
            "for c in (1.5, Gaussian(1.0).best_coefficient):",
            "    print('gradient {1:.6f}, value {0:.6f}'.format(*variances(Gaussian(1.0), c)))",
        ),
        meant="With one estimator, more samples quieten both.",
        by_hand="Gaussian, KL 0.5: from λ = .582 to 1.5 the value's variance rises from .418 to 1.866, the gradient's "
        "falls from 2.843 to 2.",
        also=(RETHINK_ZH("梯度抖动"),),
    ),
    Claim(
        id="002-variance-unstable-training",
        source=RETHINK("“Talking About Variance”"),
        statement="A large variance of the KL estimator makes training unstable.",
        verdict=Verdict.UNDECIDED,
        why="Stability of training is an experiment. What can be said is how wrong a batch's KL is.",
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
        statement="An unbiased estimator means that with infinitely many samples its mean equals the true KL.",
        verdict=Verdict.CONDITION,
        why="For the mean of one function of each sample it is so, by the law of large numbers. In general it is "
        "consistency: a control variate fitted on its own batch has it and, with 3 samples, has mean .1124 where the "
        "KL is .2749.",
        condition="A fixed function of one sample, averaged, as the article defines an estimator. Else: the "
        "expectation is the KL at every number of samples.",
        computation=_infinitely_many,
        code=lines(
            "from kullback.claims.rethink_training import PROBABILITIES, plug_in",
            "print(round(plug_in(False), 6), round(plug_in(True), 6), round(PROBABILITIES.kl, 6))",
        ),
        also=(RETHINK_ZH("在无限多样本下"),),
    ),
    Claim(
        id="002-sampling-needed",
        source=RETHINK("“So why can’t we just compute KL exactly”"),
        statement="Sequences grow exponentially with length, so their KL cannot be computed exactly.",
        verdict=Verdict.CONDITION,
        why="The chain rule needs one vocabulary sum a prefix. Where few prefixes matter (a Markov model) it is exact: "
        "47·63·64 + 64 terms instead of 63^48. Otherwise only the prefixes are sampled.",
        condition="Prefixes of a general model must be sampled; tokens need not be.",
        computation=_sampling_needed,
        code=lines(
            "import math",
            "from kullback.claims.rethink_training import exact_terms",
            "from kullback.claims.worlds import HORIZON, VOCAB",
            "print(round(exact_terms(1), 6), round(HORIZON * math.log10(VOCAB - 1), 6))",
        ),
        also=(APPLICATIONS("“the summation over the full support of x is intractable”"), RETHINK_ZH("“指数级”")),
    ),
)
