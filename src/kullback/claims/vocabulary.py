"""EMA-PG, vOPD, DPPO, Kool et al., Vilnis et al. and two blog posts: heads of the vocabulary, designs, coefficients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64, stop_gradient
from kullback.claims.amini import designs
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated
from kullback.claims.sources import EMA_PG, KOOL, LAMBDA, TRUST, VILNIS, VOPD
from kullback.claims.worlds import (
    BY_HAND,
    Gaussian,
    Pair,
    chances,
    close_pair,
    descents,
    followed,
    language,
    live_tree,
    off,
    pair,
    token_ratios,
    tree,
)
from kullback.estimators.divergences import k3
from kullback.surrogates import SURROGATES
from kullback.targets import (
    REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_REVERSE_KL,
    TARGETS,
    TOTAL_VARIATION,
)

if TYPE_CHECKING:
    import torch

SLOPES = np.array([1.0, -1.0])
"""d(q, 1 − q)/dq."""


def _top_reverse(seed: int) -> Iterator[Evidence]:
    x = BY_HAND.log_ratio
    exact = float(SLOPES @ (x + 1))
    # Head = the first outcome: q log(q/p) is summed exactly, the tail's ℓ is carried by its log-prob.
    yield smallest("d/dq, head = {A}, q = (.8, .2), p = (.5, .5)", float((x[0] + 1) - x[1]), "=", exact)
    yield instead("d KL(q‖p)/dq", exact, "=", math.log(4))
    world = live_tree(seed)
    for name, say in (("top_tail_reverse_ema_pg", stated), ("top_tail_reverse", instead)):
        got = followed(world, SURROGATES[name].fn)
        yield say(f"{name}, off the next tokens' reverse KL by", off(got, world, STATEWISE_REVERSE_KL), "=", 0.0)
    yield realistic("bias over gradient, top 8 of 64 tokens", _head_bias("policy"), "=", 0.0)


def _head_bias(owner: str, top: int = 8) -> float:
    """‖Σ visits·∇(head mass)‖ over the gradient it is added to, in the realistic world."""
    policy, reference = language()
    visits = np.concatenate([[1.0], policy._states().sum(axis=0)])
    q = np.exp(np.concatenate([policy.initial[None], policy.logprobs]))
    chosen = q if owner == "policy" else np.exp(np.concatenate([reference.initial[None], reference.logprobs]))
    head = chosen >= np.sort(chosen, axis=1)[:, -top][:, None]
    mass = np.sum(q * head, axis=1, keepdims=True)
    bias = visits[:, None] * q * (head - mass)
    exact = descents().statewise_reverse if owner == "policy" else descents().statewise_forward
    return float(np.linalg.norm(bias) / np.linalg.norm(exact))


def _top_forward(seed: int) -> Iterator[Evidence]:
    q, p = BY_HAND.q, BY_HAND.p
    exact = float(-p @ (SLOPES / q))
    tail = q[1] * ((p[1] / q[1]) * -(SLOPES[1] / q[1]) + SLOPES[1] / q[1])
    yield smallest("d/dq, head = {A}, q = (.8, .2), p = (.5, .5)", float(-p[0] / q[0] + tail), "=", exact)
    yield instead("d KL(p‖q)/dq", exact, "=", 1.875)
    world = live_tree(seed)
    for name, say in (("top_tail_forward_ema_pg", stated), ("top_tail_forward", instead)):
        got = followed(world, SURROGATES[name].fn)
        yield say(f"{name}, off the next tokens' forward KL by", off(got, world, STATEWISE_FORWARD_KL), "=", 0.0)
    yield realistic("bias over gradient, top 8 of 64 tokens", _head_bias("reference"), "=", 0.0)


def _top_values(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=8)
    x, tail = world.log_ratio, np.arange(8) >= 3
    head = float(np.sum((world.q * x)[~tail]))
    yield stated("E[Σ_head q log(q/p) + 1(tail)·ℓ]", head + world.mean(tail * x), "=", world.kl)
    head = float(np.sum((world.p * -x)[~tail]))
    yield stated(
        "E[Σ_head p log(p/q) + 1(tail)·r log r]", head + world.mean(tail * world.r * -x), "=", world.forward_kl
    )
    naive = float(np.sum((world.q * x)[~tail])) + world.mean(tail * k3(x))
    gap = float(world.p[tail].sum() - world.q[tail].sum())
    yield instead("with k3 in the tail instead: biased by p(tail) − q(tail)", naive - world.kl, "=", gap)


def k3_plus(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """π/sg(π)·k3."""
    return (mask * (q - stop_gradient(q)).exp() * k3(q - p)).sum(-1)


def k4(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """π/sg(π)·sg(ℓ)."""
    return (mask * (q - stop_gradient(q)).exp() * stop_gradient(q - p)).sum(-1)


def k5(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """sg(w)·log w + log(π/sg(π)), w = π_ref/π."""
    return (mask * (stop_gradient((p - q).exp()) * (p - q) + q - stop_gradient(q))).sum(-1)


def _forms(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    for loss, target in ((k3_plus, STATEWISE_REVERSE_KL), (k4, STATEWISE_REVERSE_KL), (k5, STATEWISE_FORWARD_KL)):
        yield stated(f"{loss.__name__} off {target.name} by", off(followed(world, loss), world, target), "=", 0.0)


def baselined(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor, token_kl: torch.Tensor) -> torch.Tensor:
    """Σ_t sg(ℓ_t − KL_t)·log q_t."""
    return (mask * stop_gradient(q - p - token_kl) * q).sum(-1)


def _baseline(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    got = followed(world, baselined)
    yield stated(
        "E Σ_t (ℓ_t − KL_t)·∇log q_t off that without KL_t by", off(got, world, STATEWISE_REVERSE_KL), "=", 0.0
    )


def _buckets(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=12, scale=1.5)
    head = np.arange(12) < 4
    inside, outside = (
        Pair(world.q[part] / world.q[part].sum(), world.p[part] / world.p[part].sum()) for part in (head, ~head)
    )
    mass_q, mass_p = float(world.q[head].sum()), float(world.p[head].sum())
    binary = Pair(np.array([mass_q, 1 - mass_q]), np.array([mass_p, 1 - mass_p])).kl
    coarse = binary + mass_q * inside.kl
    yield stated("KL of head + one bucket", coarse, "≤", world.kl)
    yield instead("what it lacks", world.kl - coarse, "=", (1 - mass_q) * outside.kl)
    yield stated(
        "KL of one token against the rest",
        Pair(np.array([world.q[0], 1 - world.q[0]]), np.array([world.p[0], 1 - world.p[0]])).kl,
        "≤",
        world.kl,
    )
    renormalised = inside.kl
    yield instead("the head renormalised, over KL: no bound", renormalised / world.kl, "≠", 1.0)


def _variation(seed: int) -> Iterator[Evidence]:
    world = tree(seed)
    whole, steps = (float(world.exact(TARGETS[n])) for n in ("total_variation", "statewise_total_variation"))
    yield stated("TV of sequences, against Σ_t E[TV_t]", whole, "≤", steps)


def _pinsker(seed: int) -> Iterator[Evidence]:
    world = tree(seed, scale=2.0)
    kl, tv = float(world.exact(REVERSE_KL)), float(world.exact(TOTAL_VARIATION))
    yield stated("TV of sequences, against √(KL/2)", tv, "≤", math.sqrt(kl / 2))
    yield instead("against √(1 − exp(−KL)), never above 1", tv, "≤", math.sqrt(-math.expm1(-kl)))


def without_replacement(world: Pair, draws: int) -> dict[str, float]:
    """Mean and variance of Σ_{s∈S} q(s)R(S, s)f(s) over every set drawn without replacement, f = ℓ."""
    outcomes = range(len(world.q))

    def chance(chosen: tuple[int, ...], left: float) -> float:
        """Probability that these are the first drawn, in any order, from what is left."""
        if not chosen:
            return 1.0
        return sum(
            float(world.q[s]) / left * chance(tuple(c for c in chosen if c != s), left - float(world.q[s]))
            for s in chosen
        )

    values, weights = [], []
    for chosen in itertools.combinations(outcomes, draws):
        whole = chance(chosen, 1.0)
        ratios = [chance(tuple(c for c in chosen if c != s), 1.0 - float(world.q[s])) / whole for s in chosen]
        values.append(sum(world.q[s] * r * world.log_ratio[s] for s, r in zip(chosen, ratios, strict=True)))
        weights.append(whole)
    v, w = np.array(values), np.array(weights)
    return {"mean": float(w @ v), "variance": float(w @ (v - w @ v) ** 2)}


def _sets(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    found = without_replacement(world, 3)
    yield stated("E of the set estimator, 3 of 5 outcomes", found["mean"], "=", world.kl)
    yield stated("its variance, against one draw", found["variance"], "≤", world.variance(world.log_ratio))
    if seed == 0:  # of the designs, not of the claim: one world is enough to see it
        others = designs(world, 3)
        yield instead(
            "variance of the set estimator over 3 independent draws", found["variance"] / others["plain"], "<", 1.0
        )
        yield instead("of Horvitz–Thompson over 3 independent draws", others["variance"] / others["plain"], "<", 1.0)


def _arithmetic(seed: int) -> Iterator[Evidence]:
    world = tree(seed)
    chance, n = chances(world), 4
    drawn, widths = arithmetic_codes(chance, n)
    for code in range(n):
        got = np.bincount(drawn[:, code], weights=widths, minlength=len(chance))
        gap = float(np.abs(got - chance).max())
        yield stated(f"largest |P(sequence by code {code + 1} of 4) − q|", gap, "=", 0.0)
    values = token_ratios(world).sum(axis=1)
    batch = values[drawn].mean(axis=1)
    exact = float(world.exact(REVERSE_KL))
    yield stated("E of k1 over the 4 codes", float(widths @ batch), "=", exact)
    spread = float(widths @ (batch - exact) ** 2)
    independent = float(chance @ (values - exact) ** 2) / n
    yield instead("its variance over that of 4 independent draws", spread / independent, "≤", 4.0)


def arithmetic_codes(chance: Float64, n: int) -> tuple[np.ndarray, Float64]:
    """What the codes u + i/n mod 1 decode to, (intervals, n), and how wide the intervals of u are where it stays so."""
    edges = np.concatenate([[0.0], np.cumsum(chance)])
    edges[-1] = 1.0
    # A code meets an edge where u is that edge less i/n: between two such places nothing changes.
    jumps = np.unique(np.concatenate([[0.0, 1.0], ((edges[:, None] - np.arange(n) / n) % 1.0).ravel()]))
    middles = (jumps[1:] + jumps[:-1]) / 2
    codes = (middles[:, None] + np.arange(n) / n) % 1.0
    return np.searchsorted(edges, codes, side="right") - 1, np.diff(jumps)


def _quietest(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    best = 1 + world.mean(world.log_ratio * world.score_square) / world.mean(world.score_square)
    noise = [world.spread(world.log_ratio + 1 - c) for c in (best - 0.1, best, best + 0.1)]
    yield stated("gradient variance at λ = 1 + E[ℓ‖s‖²]/E‖s‖², against λ − 0.1", noise[1], "<", noise[0])
    yield stated("against λ + 0.1", noise[1], "<", noise[2])
    apart = Gaussian(1.0)
    yield instead("Gaussian, KL 0.5: λ for the value", apart.best_coefficient, "=", 0.581977, tolerance=5.1e-7)
    yield instead("λ for the gradient, 1 + μ²/2", 1 + apart.shift**2 / 2, "=", 1.5)


def _example() -> Iterator[Evidence]:
    q, x = BY_HAND.q, BY_HAND.log_ratio
    score = SLOPES / q
    yield stated("KL(q‖p)", BY_HAND.kl, "=", 0.192745, tolerance=5.1e-7)
    for name, coefficient, printed in (
        ("exact", x, 1.386294),
        ("k1", np.ones(2), 0.0),
        ("k2", x, 1.386294),
        ("k3", 1 - np.exp(-x), 1.875),
    ):
        yield stated(f"d/dq, {name}", BY_HAND.mean(coefficient * score), "=", printed, tolerance=5.1e-7)
    yield instead("d KL(p‖q)/dq, which k3 follows", float(-BY_HAND.p @ (SLOPES / q)), "=", 1.875)


def _vanishes(seed: int) -> Iterator[Evidence]:
    def share(distance: float) -> float:
        world = close_pair(seed, distance)
        kept = world.gradient(k3(world.log_ratio))
        return float(np.linalg.norm(kept) / np.linalg.norm(world.gradient(world.log_ratio)))

    yield stated("share of ‖∇KL‖ that k3 in the reward keeps, logits 1e-3 apart", share(1e-3), "<", 0.01)
    yield stated("the share at half that distance over it", share(5e-4) / share(1e-3), "=", 0.5, tolerance=0.02)


CLAIMS = (
    Claim(
        id="ema-pg-top-reverse",
        source=EMA_PG("table 1 and algorithm 1"),
        statement="The top-k reverse KL, Σ_head q log(q/p) + 1(tail)·π/sg(π)·sg(ℓ), has an unbiased gradient.",
        verdict=Verdict.FAILS,
        why="Differentiating the head's q log(q/p) leaves Σ_head ∇q = ∇(head mass), which only the tail's own ∇ℓ would "
        "cancel: the detached ℓ has none.",
        condition="Leave ℓ in the tail attached, or subtract m − sg(m), m the head's mass; or k = 0 or k = V.",
        computation=_top_reverse,
        code=lines(
            "import numpy as np",
            "x = np.log([0.8 / 0.5, 0.2 / 0.5])  # head = the first of two tokens, d/dq",
            "print(round((x[0] + 1) - x[1], 6), round((x[0] + 1) - (x[1] + 1), 6))",
        ),
        meant="A quieter estimate of the right gradient; its value is right, and one term mends the gradient.",
        by_hand="q = (.8, .2), p = (.5, .5), head = {A}: (log 1.6 + 1) − log .4 = 2.386; d KL/dq = log 4 = 1.386.",
    ),
    Claim(
        id="ema-pg-top-forward",
        source=EMA_PG("table 1 and algorithm 2"),
        statement="The top-k forward KL, Σ_head p log(p/q) + 1(tail)·(sg(w)log w + log(π/sg(π))), has an unbiased "
        "gradient.",
        verdict=Verdict.FAILS,
        why="E[1(tail)∇log q] = ∇(tail mass), not 0: over the whole vocabulary it would vanish, over the tail it does "
        "not.",
        condition="Drop log(π/sg(π)), or add m − sg(m), m the head's mass; or k = 0 or k = V.",
        computation=_top_forward,
        code=lines(
            "from kullback.claims.worlds import BY_HAND as w",
            "slopes = w.p / w.q  # of log p/q in q and 1 − q; head = the first of two tokens",
            "tail = w.q[1] * (w.r[1] / w.q[1] - 1 / w.q[1])",
            "print(round(tail - slopes[0], 6), round(slopes[1] - slopes[0], 6))",
        ),
        meant="As for the reverse KL; the value is right.",
        by_hand="q = (.8, .2), p = (.5, .5), head = {A}: −.625 + .2(2.5·5 − 5) = .875; d KL(p‖q)/dq = 1.875.",
    ),
    Claim(
        id="ema-pg-top-values",
        source=EMA_PG("algorithms 1 and 2"),
        statement="As values, head sum plus sampled tail are unbiased for KL(q‖p) and KL(p‖q).",
        verdict=Verdict.HOLDS,
        why="The tail term has the tail's sum as its mean.",
        condition="k1 (or r log r) in the tail; k3 there is biased by p(tail) − q(tail).",
        computation=_top_values,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import pair",
            "w, tail = pair(0, outcomes=8), np.arange(8) >= 3",
            "head = (w.q * w.log_ratio)[~tail].sum()",
            "print(round(head + w.mean(tail * w.log_ratio), 9), round(w.kl, 9))",
        ),
    ),
    Claim(
        id="ema-pg-forms",
        source=EMA_PG("table 1"),
        statement="K3++ and K4 follow the reverse KL, K5 the forward KL.",
        verdict=Verdict.HOLDS,
        why="∇(r·k3) = (k3 + k3′)s = ℓs; r·sg(ℓ) gives ℓs; sg(w)log w + log r gives (1 − w)s.",
        condition="Of the next token, the prefixes held fixed; samples from the policy.",
        computation=_forms,
        code=lines(
            "from kullback import STATEWISE_REVERSE_KL",
            "from kullback.claims.vocabulary import k3_plus",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, k3_plus), world, STATEWISE_REVERSE_KL), 9))",
        ),
    ),
    Claim(
        id="vopd-baseline",
        source=VOPD("the advantage"),
        statement="Subtracting the exact token KL from ℓ_t leaves the gradient unbiased.",
        verdict=Verdict.HOLDS,
        why="KL_t depends on the prefix only, and E[∇log q_t | prefix] = 0. Any function of the prefix would do, a "
        "head's KL too.",
        condition="Each token is credited with its own ℓ_t: the KL of the next token, prefixes fixed.",
        computation=_baseline,
        code=lines(
            "from kullback import STATEWISE_REVERSE_KL",
            "from kullback.claims.vocabulary import baselined",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, baselined), world, STATEWISE_REVERSE_KL), 9))",
        ),
    ),
    Claim(
        id="trust-buckets",
        source=TRUST("DPPO, binary and top-k divergences"),
        statement="The KL over a head and one bucket for the rest is a lower bound of the KL.",
        verdict=Verdict.HOLDS,
        why="KL = KL(buckets) + Σ_buckets q(bucket)·KL inside: the bucket's inner KL is what is left out.",
        condition="Equality where the ratio is constant in the bucket. The head alone, or renormalised, is no bound.",
        computation=_buckets,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import pair",
            "w = pair(0, outcomes=12, scale=1.5)",
            "fold = lambda x: np.append(x[:4], x[4:].sum())",
            "print(round(float(fold(w.q) @ np.log(fold(w.q) / fold(w.p))), 6), round(w.kl, 6))",
        ),
    ),
    Claim(
        id="trust-variation",
        source=TRUST("TRM, sums over steps"),
        statement="The total variation of sequences is at most the sum of the tokens' expected total variations.",
        verdict=Verdict.HOLDS,
        why="Replace one conditional at a time; each step changes the distribution by at most E[TV_t].",
        computation=_variation,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import tree",
            "world = tree(seed=0)",
            "for name in ('total_variation', 'statewise_total_variation'):",
            "    print(round(float(world.exact(kb.TARGETS[name])), 6))",
        ),
    ),
    Claim(
        id="trust-pinsker",
        source=TRUST("Pinsker's inequality"),
        statement="TV ≤ √(KL/2).",
        verdict=Verdict.HOLDS,
        why="Pinsker. Beyond KL = 2 it says nothing; √(1 − exp(−KL)) always does (Bretagnolle and Huber).",
        computation=_pinsker,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import tree",
            "w = tree(seed=0, scale=2.0)",
            "tv, kl = (float(w.exact(kb.TARGETS[name])) for name in ('total_variation', 'reverse_kl'))",
            "print(round(tv, 6), round((kl / 2) ** 0.5, 6))",
        ),
    ),
    Claim(
        id="kool-unordered-set",
        source=KOOL("the unordered set estimator"),
        statement="Over a set drawn without replacement, Σ q(s)R(S, s)f(s) is unbiased and no noisier than one draw.",
        verdict=Verdict.HOLDS,
        why="It is the expectation of f of the first draw given the set: a Rao-Blackwell step.",
        computation=_sets,
        code=lines(
            "from kullback.claims.vocabulary import without_replacement",
            "from kullback.claims.worlds import pair",
            "print(round(without_replacement(pair(0), 3)['mean'], 9), round(pair(0).kl, 9))",
        ),
    ),
    Claim(
        id="vilnis-arithmetic",
        source=VILNIS("abstract"),
        statement="Evenly spaced arithmetic codes give unbiased expectations from the model.",
        verdict=Verdict.HOLDS,
        why="u + i/N mod 1 is uniform, so what each code decodes to has the model's distribution; only the draws "
        "depend on each other. Codes (u + i)/N, each kept in its own Nth, would have the right mean of the batch and "
        "none the right distribution.",
        condition="Errors computed as if the draws were independent are wrong, and λ fitted on the other draws is not "
        "unbiased.",
        computation=_arithmetic,
        code=lines(
            "import numpy as np; from kullback.claims.vocabulary import arithmetic_codes",
            "from kullback.claims.worlds import chances, tree",
            "q = chances(tree(seed=0)); drawn, widths = arithmetic_codes(q, 4)",
            "got = [np.bincount(code, weights=widths, minlength=len(q)) for code in drawn.T]",
            "print([round(float(abs(share - q).max()), 9) for share in got])",
        ),
    ),
    Claim(
        id="lambda-for-gradients",
        source=LAMBDA("2026-10-02"),
        statement="The λ that is quietest for the gradient is 1 + E[ℓ‖s‖²]/E‖s‖², not the one quietest for the value.",
        verdict=Verdict.HOLDS,
        why="All (ℓ + 1 − λ)s are unbiased; minimise E[(ℓ + 1 − λ)²‖s‖²].",
        condition="On-policy, the trace of the covariance.",
        computation=_quietest,
        code=lines(
            "from kullback.claims.worlds import pair",
            "w = pair(seed=0)",
            "best = 1 + w.mean(w.log_ratio * w.score_square) / w.mean(w.score_square)",
            "print(round(w.spread(w.log_ratio + 1 - best), 6), 'at λ =', round(best, 6))",
            "print(round(w.spread(w.log_ratio + 1 - w.jeffreys / w.chi2), 6), 'at the one quietest for the value')",
        ),
    ),
    Claim(
        id="lambda-worked-example",
        source=LAMBDA("worked example"),
        statement="For (.8, .2) against (.5, .5): KL .192745; d/dq exactly 1.386294, by k1 0, by k2 1.386294, by k3 "
        "1.875.",
        verdict=Verdict.HOLDS,
        why="log 4, E[s], E[ℓs] and E[(1 − r)s]; the last is d KL(p‖q)/dq.",
        computation=_example,
        code=lines(
            "import numpy as np",
            "q, p, s = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.25, -5.0])",
            "x = np.log(q / p)",
            "print(round(q @ x, 6), [round(float(q @ (c * s)), 6) + 0 for c in (np.ones(2), x, 1 - np.exp(-x))])",
        ),
    ),
    Claim(
        id="lambda-k3-reward-vanishes",
        source=LAMBDA("2026-09-30"),
        statement="k3 in the reward keeps a share of the KL's gradient that vanishes as the models come close.",
        verdict=Verdict.HOLDS,
        why="It follows ∇KL(q‖p) − ∇KL(p‖q), a difference of two gradients that agree to first order.",
        computation=_vanishes,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import close_pair",
            "w = close_pair(0, 1e-3)",
            "a, b = w.gradient(kb.K3(w.log_ratio)), w.gradient(w.log_ratio)",
            "print(round(float(np.linalg.norm(a) / np.linalg.norm(b)), 6))",
        ),
    ),
)
