"""verl, GSPO, DeepSeek-V3.2 and Mismatch Praxis: what importance weights and masks correct, and what they lose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr
from scipy.stats import binom

from kullback.arrays import to_numpy
from kullback.claims.mismatch import three_models
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import DEEPSEEK, GSPO, LI, PRAXIS, VERL
from kullback.claims.worlds import (
    BY_HAND,
    Pair,
    chances,
    close_pair,
    language,
    ratios,
    sampled,
    texts,
    token_ratios,
    tree,
    updated,
)
from kullback.targets import FORWARD_KL, REVERSE_KL

KL_A_TOKEN = 0.0054
"""Of the realistic rows: an engine and a trainer that disagree much, as mixtures of experts do."""

CAP = 2.0
"""Where sequence weights are cut, the lowest that is in use."""


def capped_mean(kl: float, cap: float) -> float:
    """E_μ[min(w, cap)] of a weight with log w ~ N(−KL, 2KL), so that E_μ[w] = 1."""
    sd = math.sqrt(2 * kl)
    at = (math.log(cap) + kl) / sd
    return float(ndtr(at - sd) + cap * ndtr(-at))


def _capped(seed: int) -> Iterator[Evidence]:
    even = Pair(np.array([0.2, 0.8]), np.array([0.8, 0.2]))  # μ and π
    yield smallest("E_μ[min(π/μ, 2)], μ = (.2, .8), π = (.8, .2)", even.mean(np.minimum(even.r, CAP)), "=", 1.0)
    world = tree(seed, scale=1.5)
    weight = np.exp(-ratios(world))  # the policy samples, the reference is trained
    f = np.random.default_rng(seed).uniform(size=len(weight))
    right = float(chances(world) @ (weight * f))
    yield stated("E_μ[min(Πρ, 2) f]", float(chances(world) @ (np.minimum(weight, CAP) * f)), "=", right)
    yield instead(
        "E_μ[Πρ f], not cut, against E_π[f]", right, "=", float(np.exp(to_numpy(world.reference.sequence_logprobs)) @ f)
    )
    for length in (10, 100, 400):
        got = capped_mean(KL_A_TOKEN * length, CAP)
        yield realistic(f"E_μ[min(Πρ, 2)] at {length} tokens, KL 0.0054 each", got, "=", 1.0)


def beyond(world: Pair, length: int, cap: float) -> float:
    """P_μ(Πρ > cap) after `length` tokens of two kinds, by counting the first kind."""
    log_rho = np.log(world.r)
    counts = np.arange(length + 1)
    sums = counts * log_rho[0] + (length - counts) * log_rho[1]
    return float(binom.pmf(counts, length, world.q[0])[sums > math.log(cap)].sum())


TENTH = Pair(np.array([0.5, 0.5]), np.array([0.55, 0.45]))
"""An engine and a policy whose ratio is 1.1 at every second token, KL 0.005."""


def _length_trap(seed: int) -> Iterator[Evidence]:
    yield smallest("P(Πρ > 2) at 100 tokens, ρ = 1.1 or 0.9 each", beyond(TENTH, 100, CAP), ">", 0.5)
    world = close_pair(seed, 0.5, outcomes=2)
    yield stated("P(Πρ > 2) at 1,000 tokens of a random world", beyond(world, 1000, CAP), ">", 0.5)
    yield instead("P(Πρ < ½) there", 1 - beyond(world, 1000, 1 / CAP), ">", beyond(world, 1000, CAP))
    yield instead("P(Πρ < ½) at 1,000 tokens, ρ = 1.1 or 0.9", 1 - beyond(TENTH, 1000, 1 / CAP), ">", 0.9)
    for length in (10, 100, 1000):
        kl = KL_A_TOKEN * length
        got = float(ndtr(-(math.log(CAP) + kl) / math.sqrt(2 * kl)))
        yield realistic(f"P(Πρ > 2) at {length} tokens, KL 0.0054 each", got, ">", 0.5)


def _one_draw(seed: int) -> Iterator[Evidence]:
    first = np.array([1.0, 0.0])
    even = np.array([0.5, 0.5])
    got = float(even @ (BY_HAND.q / even * first))
    yield smallest("E_μ[ρ·1{first}], μ = (.5, .5), π = (.8, .2)", got, "≠", 0.8)
    world, mu, rho = three_models(seed)
    f = np.random.default_rng(seed).normal(size=len(mu))
    yield stated("E_μ[ρ_t f] for one draw at a prefix, against E_π[f]", float(mu @ (rho * f)), "≠", float(world.q @ f))
    both = float(np.sum(np.sqrt(np.outer(rho, rho)) * np.outer(mu, mu) * f[:, None]))
    yield instead("E_μ[(ρ_1ρ_2)^½ f], GSPO's ratio", both, "≠", float(world.q @ f))
    sequences = tree(seed)
    own = float(chances(sequences) @ (np.exp(-token_ratios(sequences)) * token_ratios(sequences)).sum(axis=1))
    own = float(chances(sequences) @ (np.exp(-token_ratios(sequences)) * -token_ratios(sequences)).sum(axis=1))
    whole = float(sequences.exact(FORWARD_KL))
    yield instead("Σ_t E_μ[ρ_t log ρ_t], the KLs of π at prefixes of μ, against KL(π‖μ)", own, "≠", whole)
    drawn, new = texts(), updated()
    token = np.where(drawn.mask, np.exp(new.score(drawn.tokens) - drawn.q), 0.0)
    ratio = np.where(drawn.mask, new.score(drawn.tokens) - drawn.p, 0.0)
    exact = drawn.total(new.token_kl(language()[1], drawn.tokens))
    yield realistic("E_μ[Σ_t ρ_t ℓ_t] after an update", sampled((token * ratio).sum(axis=1)), "≠", float(exact.mean()))


def _sequence_mask(seed: int) -> Iterator[Evidence]:
    world = tree(seed)  # the policy is π_old, which has sampled; the reference is π_θ
    mask = to_numpy(world.policy.mask)
    means = ratios(world) / mask.sum(axis=1)
    yield stated("smallest of (1/T)Σ log(π_old/π_θ)", float(means.min()), "≥", 0.0)
    one = tree(seed, horizon=1)
    yield within(
        "its mean over outputs of one length", float(chances(one) @ ratios(one)), "=", float(one.exact(REVERSE_KL))
    )
    chance = chances(world)
    reward = np.random.default_rng(seed).normal(size=len(chance))
    advantage = reward - chance @ reward
    kept = ~((advantage < 0) & (means > 0.05))
    yield instead("mean advantage of what the mask keeps, 0 without it", float(chance @ (advantage * kept)), ">", 0.0)


def _keep_sampling(seed: int) -> Iterator[Evidence]:
    world, mu, _ = three_models(seed + 40)
    kept = mu >= np.sort(mu)[-3]
    old, new = (np.where(kept, q, 0.0) / q[kept].sum() for q in (mu, world.q))
    f = np.random.default_rng(seed).normal(size=len(mu))
    got = float(old[kept] @ (new[kept] / old[kept] * f[kept]))
    yield stated("E_μ̃[π̃/μ̃ · f], both renormalised on μ's top-p set, against E_π[f]", got, "=", float(world.q @ f))
    yield within("the same against E of f under π restricted to the set", got, "=", float(new @ f))
    yield instead("mass that π has outside, which no ratio sees", 1 - float(world.q[kept].sum()), ">", 0.0)


def _collapse(seed: int) -> Iterator[Evidence]:
    token = close_pair(seed, 0.3, outcomes=2)
    length = math.ceil(20 / token.kl)
    share = (1 + token.chi2) ** -float(length)
    yield stated("effective share of the sequences, (1 + χ²)^−T, at T·KL = 20", share, "≤", 1e-3)
    early = math.log(100) / math.log1p(token.chi2) * token.kl
    yield stated("T·KL at which one sequence in 100 is left, “often earlier”", early, "<", 20.0)
    cut = 1 - beyond(token, length, math.exp(-20))
    yield instead("share of sequences whose log-weight the clamp cuts at T·KL = 20", cut, ">", 0.4)


CLAIMS = (
    Claim(
        id="verl-sequence-unbiased",
        source=VERL("rollout correction, 3.3.1 and 3.3.2"),
        statement="Sequence-level correction, w = min(Πρ_t, C), is unbiased but has a higher variance.",
        verdict=Verdict.FAILS,
        why="Πρ is unbiased, min(Πρ, C) has a mean below 1, and the more so the longer the text: the mean rests on "
        "the few weights that are cut.",
        condition="Not cut; or E_μ[w] reported beside it, since 1 − E_μ[w] is what is lost.",
        computation=_capped,
        code=lines(
            "import numpy as np",
            "mu, pi = np.array([0.2, 0.8]), np.array([0.8, 0.2])",
            "print(round(float(mu @ np.minimum(pi / mu, 2)), 6))",
        ),
        meant="The product without the cap, of which the sentence is true. Dividing by the batch's mean weight "
        "restores the sum and not what was cut.",
        by_hand="μ = (.2, .8), π = (.8, .2), C = 2: .2·2 + .8·.25 = .6, not 1.",
    ),
    Claim(
        id="verl-length-trap",
        source=VERL("rollout correction, 3.3.3, “the length trap”"),
        statement="At a ratio of about 1.1 a token, a text of 100 tokens has the ratio 1.1^100 = 13,780 and is "
        "rejected as too large.",
        verdict=Verdict.FAILS,
        why="The mean ratio of a token is 1, and its logarithm drifts down, by the KL: long texts leave by the lower "
        "bound. By Markov's inequality at most 1/C of them exceed C.",
        condition="Say that long texts lose their weight, and that a lower bound rejects them.",
        computation=_length_trap,
        code=lines(
            "from kullback.claims.corrections import TENTH, beyond",
            "print([round(beyond(TENTH, t, 2.0), 6) for t in (100, 1000)])",
        ),
        meant="That a product's bounds treat long texts otherwise than short ones, which is so.",
        by_hand="ρ = 1.1 or .9 with ½ each: E log ρ = −.00503 a token, so at 1,000 tokens the middle weight is "
        "e^−5.03 = .0066.",
        also=(LI("part 3"),),
    ),
    Claim(
        id="gspo-one-sample",
        source=GSPO("section 3"),
        statement="With one sample at a position, a token's ratio cannot correct for the distribution.",
        verdict=Verdict.FAILS,
        why="E_μ[ρ_t f | prefix] = E_π[f | prefix] for one draw as for many: draws average over the batch. What a "
        "token's ratio leaves out is the prefix's weight.",
        condition="ρ_{1:t} where the prefix is to be π's too. The geometric mean (Πρ)^(1/T) is no density ratio.",
        computation=_one_draw,
        code=lines(
            "import numpy as np",
            "mu, pi, f = np.array([0.5, 0.5]), np.array([0.8, 0.2]), np.array([1.0, 0.0])",
            "print(mu @ (pi / mu * f), pi @ f)",
        ),
        meant="That token ratios are noisy and that a reward of the whole text wants the weight of the whole text.",
        by_hand="μ = (.5, .5), π = (.8, .2), f = 1 for the first: ½·1.6·1 = .8 = E_π[f].",
    ),
    Claim(
        id="deepseek-sequence-mask",
        source=DEEPSEEK("V3.2, §3.1, off-policy sequence mask"),
        statement="(1/T)Σ_t log(π_old/π_θ) of an output measures the KL by which the policy has left it.",
        verdict=Verdict.CONDITION,
        why="It is one sample of k1, averaged over its own length: any sign, and its mean is no KL unless all are as "
        "long.",
        condition="In the mean over outputs of one length.",
        computation=_sequence_mask,
        code=lines(
            "from kullback.claims.worlds import ratios, tree",
            "w = tree(seed=0)",
            "print(round(float((ratios(w) / w.policy.mask.sum(axis=1)).min()), 6))",
        ),
        meant="A rule for leaving outputs out. As it drops only what did badly, the mean advantage of the rest is "
        "above 0.",
    ),
    Claim(
        id="deepseek-keep-sampling-mask",
        source=DEEPSEEK("V3.2, §3.1, keep sampling mask"),
        statement="With π_θ renormalised on the top-p set of π_old, the importance ratio is right.",
        verdict=Verdict.CONDITION,
        why="It is the ratio of two laws on the set. What π_θ has moved out of the set has no ratio.",
        condition="For the policy restricted to π_old's set, which is not the policy that is deployed.",
        computation=_keep_sampling,
        code=lines(
            "import numpy as np; from kullback.claims.mismatch import three_models",
            "w, mu, _ = three_models(40)",
            "S, f = mu >= np.sort(mu)[-3], np.random.default_rng(0).normal(size=len(mu))",
            "print(round(float(w.q[S] @ f[S] / w.q[S].sum()), 6), round(float(w.q @ f), 6))",
        ),
        meant="That both sides of the ratio be cut alike, as few trainers do.",
    ),
    Claim(
        id="praxis-collapse",
        source=PRAXIS("its summary"),
        statement="Sequence-level importance sampling collapses when T·KL reaches the clamp of 20, and often earlier.",
        verdict=Verdict.HOLDS,
        why="The effective share of the sequences is (1 + χ²)^−T ≈ e^(−2T·KL): one in 100 is left at T·KL = 2.3, "
        "long before the clamp is reached by half of them.",
        computation=_collapse,
        code=lines(
            "import math; from kullback.claims.worlds import close_pair",
            "w = close_pair(0, 0.3, outcomes=2)",
            "print(round(math.log(100) / math.log1p(w.chi2) * w.kl, 4))",
        ),
        meant="“Earlier” is the half to remember: by T·KL = 2.3.",
    ),
)
