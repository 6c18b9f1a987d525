"""On-policy distillation, TIKE, vOPD and Schulman: what quietens a gradient or a value, and what a top-k keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import OPD, SCHULMAN, TIKE, VOPD
from kullback.claims.worlds import (
    CROSSED,
    ENDLESS,
    Memoryless,
    Pair,
    chances,
    language,
    pair,
    sampled,
    texts,
    tree,
)
from kullback.oracle import World


def spread_of_sum(token: Pair, length: int) -> float:
    """Gradient variance of Σ_t s_t Σ_{u≥t} ℓ_u over i.i.d. tokens of one softmax."""
    squares, x = token.score_square, token.log_ratio
    left = np.arange(length)[::-1]
    mean = token.gradient(x)
    own = token.mean(squares * x**2) + 2 * token.mean(squares * x) * left * token.kl
    rest = token.mean(squares) * (left * token.variance(x) + (left * token.kl) ** 2)
    return float(np.sum(own + rest) - length * (mean @ mean))


def growth(short: float, long: float, times: float) -> float:
    """The exponent a of length^a between two lengths whose quotient is `times`."""
    return math.log(long / short) / math.log(times)


def _orders(seed: int) -> Iterator[Evidence]:
    token = pair(seed)
    independent = growth(8 * token.spread(token.log_ratio), 128 * token.spread(token.log_ratio), 16)
    yield stated(
        "exponent of the variance, own ℓ_t, independent tokens, 8 to 128", independent, "=", 2.0, tolerance=0.05
    )
    whole = growth(spread_of_sum(token, 8), spread_of_sum(token, 128), 16)
    yield stated("the same with all later ℓ", whole, "=", 4.0, tolerance=0.05)
    # One draw that every token repeats: the sum is n times the token's own, or n(n + 1)/2 times.
    one = token.spread(token.log_ratio)
    for name, (short, long), order in (("own ℓ_t", (64, 128), 2.0), ("all later ℓ", (64 * 65 / 2, 128 * 129 / 2), 4.0)):
        worst = growth(one * short**2, one * long**2, 2)
        yield within(
            f"exponent, {name}, tokens that all repeat the first, 64 to 128", worst, "=", order, tolerance=0.05
        )


def renormalised(world: Pair, head: np.ndarray) -> Pair:
    """Both distributions given that the token is in the head."""
    return Pair(world.q[head] / world.q[head].sum(), world.p[head] / world.p[head].sum())


def _support(seed: int) -> Iterator[Evidence]:
    small = Pair(np.array([0.4, 0.4, 0.2]), np.array([0.45, 0.45, 0.1]))
    yield smallest(
        "KL of both renormalised on the top 2, (.4, .4, .2) against (.45, .45, .1)",
        renormalised(small, np.array([True, True, False])).kl,
        "=",
        small.kl,
    )
    world = pair(seed, outcomes=12, scale=1.5)
    head = world.p >= np.sort(world.p)[-4]
    inner = renormalised(world, head)
    yield stated("KL of both renormalised on the teacher's top 4 of 12", inner.kl, "=", world.kl)
    q, p = float(world.q[head].sum()), float(world.p[head].sum())
    tails = renormalised(world, ~head)
    between = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    yield instead(
        "Q times it + the KL of the masses + (1 − Q) times the tails'",
        q * inner.kl + between + (1 - q) * tails.kl,
        "=",
        world.kl,
    )
    policy, reference = language()
    log_q, log_p = policy.logprobs, reference.logprobs
    top = np.argsort(-log_p, axis=1)[:, :8]
    rows = [renormalised(Pair(np.exp(a), np.exp(b)), i).kl for a, b, i in zip(log_q, log_p, top, strict=True)]
    exact = float(np.mean(np.sum(np.exp(log_q) * (log_q - log_p), axis=1)))
    yield realistic("mean over prefixes, the teacher's top 8 of 64", float(np.mean(rows)), "=", exact)


def _truncated(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=12, scale=1.5)
    head = world.q >= np.sort(world.q)[-4]
    total = float(np.sum((world.q * world.log_ratio)[head]))
    yield stated("Σ over the policy's top 4 of 12 of q log(q/p)", total, "=", world.kl)
    bound = (1 - float(world.q[head].sum())) * float(np.abs(world.log_ratio[~head]).max())
    yield within(
        "its distance from the exact KL, at most the tail's mass times its largest |ℓ|",
        abs(total - world.kl),
        "≤",
        bound,
    )
    sequences = tree(seed)
    noise = _spread(sequences, _top_sums(sequences)) / _spread(sequences, to_numpy(sequences.token_kl))
    yield stated(
        "variance over sequences of its sum over tokens, top 2 of 3, over that of the exact one", noise, "≤", 0.05
    )
    policy, reference = language()
    log_q, log_p = policy.logprobs, reference.logprobs
    top = log_q >= np.sort(log_q, axis=1)[:, -8][:, None]
    each = np.exp(log_q) * (log_q - log_p)
    yield realistic(
        "mean over prefixes of the sum over the top 8 of 64, over the exact one",
        float(np.where(top, each, 0.0).sum() / each.sum()),
        "=",
        1.0,
    )


def _top_sums(world: World) -> Float64:
    """Σ of q log(q/p) over the policy's two likeliest tokens at every token's prefix, (sequences, horizon)."""
    q, p = (to_numpy(lm.log_distributions) for lm in (world.policy, world.reference))
    top = q >= np.sort(q, axis=1)[:, -2][:, None]
    return np.asarray(world.policy.token_rows(np.where(top, np.exp(q) * (q - p), 0.0).sum(axis=1)))


def _spread(world: World, values: Float64) -> float:
    """Variance over sequences of sums over their tokens."""
    total, chance = values.sum(axis=1), chances(world)
    return float(chance @ (total - chance @ total) ** 2)


def best_baseline(world: Pair) -> float:
    """b* = E[ℓ‖s‖²]/E‖s‖², the constant that leaves (ℓ − b)s the least variance."""
    return world.mean(world.log_ratio * world.score_square) / world.mean(world.score_square)


def _baseline(seed: int) -> Iterator[Evidence]:
    def spread(world: Pair, baseline: float) -> float:
        return world.spread(world.log_ratio - baseline)

    yield smallest(
        "variance with the KL as baseline, (.9, .1) against (.1, .9)",
        spread(CROSSED, CROSSED.kl),
        "≤",
        spread(CROSSED, 0.0),
    )
    world = pair(seed)
    best = best_baseline(world)
    yield within("variance with b* as baseline, against none", spread(world, best), "≤", spread(world, 0.0))
    helps = float(spread(world, world.kl) <= spread(world, 0.0))
    yield within("whether the KL helps, against whether it is below 2b*", helps, "=", float(world.kl <= 2 * best))
    moved = world.gradient(world.log_ratio - world.kl) - world.gradient(world.log_ratio)
    yield instead(
        "what any baseline that knows the prefix alone, top-k sums too, adds to the mean",
        float(np.abs(moved).max()),
        "=",
        0.0,
    )


def end_control(world: Memoryless) -> float:
    """Variance of Σ_t KL_t + c Σ_t(1{end} − q(end)) at the best c, over sequences of geometric length."""
    end, kl = float(world.q[0]), world.token.kl
    spread = (1 - end) / end**2  # of the length, the one thing that varies: T·KL and 1 − end·T
    return kl**2 * spread - (kl * end * spread) ** 2 / (end**2 * spread)


def _other_controls(seed: int) -> Iterator[Evidence]:
    end = float(ENDLESS.q[0])
    values = np.where(np.arange(3) == 0, 1 - end, -end)
    yield smallest("E[1{end} − q(end)], q(end) = .1", ENDLESS.token.mean(values), "≠", 0.0)
    world = tree(seed)
    mask = to_numpy(world.policy.mask)
    ended = (to_numpy(world.policy.tokens) == 0) & mask
    chance_of_end = np.exp(_end_logprobs(world))
    total = np.where(mask, ended - chance_of_end, 0.0).sum(axis=1)
    yield stated("E Σ_t (1{y_t = end} − q_t(end))", float(chances(world) @ total), "≠", 0.0)
    yield instead("its variance: it is not 0 itself", float(chances(world) @ total**2), ">", 0.0)
    spread = ENDLESS.token.kl**2 * (1 - end) / end**2
    yield instead("variance of Σ KL_t in a world without memory, without it", spread, ">", 0.25)
    yield instead("with it", end_control(ENDLESS), "=", 0.0)
    drawn, (policy, _) = texts(), language()
    rows = np.concatenate([policy.initial[None, 0], policy.logprobs[:, 0]])
    before = np.concatenate([np.zeros((len(drawn.tokens), 1), dtype=int), drawn.tokens[:, :-1] + 1], axis=1)
    control = drawn.total((drawn.tokens == 0) - np.exp(rows[np.where(drawn.mask, before, 0)]))
    yield realistic("E Σ_t (1{y_t = end} − q_t(end)), 20,000 texts", sampled(control), "≠", 0.0)
    exact = drawn.total(drawn.token_kl)
    left = 1 - float(np.corrcoef(exact, control)[0, 1]) ** 2
    yield realistic("share of the variance of Σ KL_t that it leaves there", left, "=", 1.0)


def _end_logprobs(world: World) -> Float64:
    """log q_t(end) at the prefix of every token, (sequences, horizon)."""
    return np.asarray(to_numpy(world.policy.token_rows(world.policy.log_distributions[:, 0])))


CLAIMS = (
    Claim(
        id="opd-variance-order",
        source=OPD("the bounds on token- and sequence-level gradients"),
        statement="The variance of the gradient grows as T² where tokens answer for themselves and as T⁴ where they "
        "answer for all that follows.",
        verdict=Verdict.CONDITION,
        why="These are the worst cases, attained where every token repeats the first. Independent tokens give T, and "
        "from T² to T³ with what follows.",
        condition="As upper bounds.",
        computation=_orders,
        code=lines(
            "from kullback.claims.distillation import growth, spread_of_sum",
            "from kullback.claims.worlds import pair",
            "w = pair(seed=0)",
            "print(round(growth(spread_of_sum(w, 8), spread_of_sum(w, 128), 16), 4))",
        ),
        meant="Bounds, as the abstract says (“a much tighter worst-case variance bound”).",
    ),
    Claim(
        id="opd-top-k-matching",
        source=OPD("teacher top-K local support matching"),
        statement="Matching both models, renormalised on the teacher's top K tokens, keeps the reverse KL.",
        verdict=Verdict.FAILS,
        why="KL = Q·KL(heads) + KL(masses) + (1 − Q)·KL(tails): the first term alone does not see mass that leaves "
        "the head, and is 0 for models that differ.",
        condition="Add a bucket for the rest (a lower bound), or a sampled tail (unbiased).",
        computation=_support,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.4, 0.4, 0.2]), np.array([0.45, 0.45, 0.1])",
            "a, b = q[:2] / q[:2].sum(), p[:2] / p[:2].sum()",
            "print(round(a @ np.log(a / b), 6), round(q @ np.log(q / p), 6))",
        ),
        meant="A loss that is steady where the teacher's head holds nearly all of the student's mass.",
        by_hand="(.4, .4, .2) against (.45, .45, .1): both heads are (½, ½), 0; the KL is .8·log(.4/.45) + .2·log 2 "
        "= .0444.",
    ),
    Claim(
        id="tike-tracks-exact",
        source=TIKE("the abstract"),
        statement="The sum of q log(q/p) over the policy's top k tokens tracks the exact token KL with near-zero "
        "variance.",
        verdict=Verdict.CONDITION,
        why="It lacks Σ_tail q log(q/p), of either sign: no noise of its own, but a bias. From text to text it "
        "varies as the exact one does, since prefixes differ.",
        condition="A tail of little mass and small ratios: the error is at most its mass times its largest |ℓ|.",
        computation=_truncated,
        code=lines(
            "import numpy as np; from kullback.claims.worlds import pair",
            "w = pair(0, outcomes=12, scale=1.5)",
            "head = w.q >= np.sort(w.q)[-4]",
            "print(round(float((w.q * w.log_ratio)[head].sum()), 6), round(w.kl, 6))",
        ),
        meant="Models whose top tokens hold nearly all of the mass, which is so at most positions.",
    ),
    Claim(
        id="vopd-baseline-quieter",
        source=VOPD("the abstract"),
        statement="Subtracting the token's exact KL as a detached baseline keeps the gradient unbiased while "
        "reducing its variance.",
        verdict=Verdict.CONDITION,
        why="Unbiased always. E‖(ℓ − b)s‖² is least at b* = E[ℓ‖s‖²]/E‖s‖², and b helps exactly where it lies "
        "between 0 and 2b*.",
        condition="The KL is below 2b*, b* = E[ℓ‖s‖²]/E‖s‖²; b* itself never harms.",
        computation=_baseline,
        code=lines(
            "from kullback.claims.worlds import CROSSED as w",
            "print(round(w.spread(w.log_ratio - w.kl), 6), round(w.spread(w.log_ratio), 6))",
        ),
        meant="Students near their teachers, where ℓ and ‖s‖² have little to do with each other.",
    ),
    Claim(
        id="schulman-only-control",
        source=SCHULMAN("on control variates"),
        statement="The only interesting quantity that is guaranteed to have zero expectation is r − 1.",
        verdict=Verdict.FAILS,
        why="A sequence has many: 1{y_t = end} − q_t(end), any g(y_t) less its mean over the vocabulary, each "
        "token's r_t − 1, scores.",
        condition="One draw of which p(x) and q(x) are all that is known, as in the post.",
        computation=_other_controls,
        code=lines(
            "import numpy as np; from kullback.claims.worlds import ENDLESS as w",
            "print(abs(round(w.token.mean(np.where(np.arange(3) == 0, 0.9, -0.1)), 9)))",
        ),
        meant="The post is of one variable. For language models the end token alone takes out what the length adds.",
        by_hand="q(end) = .1: .1·.9 − .9·.1 = 0; with it the variance of Σ KL_t, .252 by length alone, is 0.",
    ),
)
