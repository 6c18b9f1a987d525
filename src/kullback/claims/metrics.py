"""trlx, the RLHF Book, TRL, CleanRL, verl and Schulman's script: numbers that are logged under the name of a KL."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr

from kullback.arrays import Float64, to_numpy
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import CLEANRL, FOLKLORE, RLHF_BOOK, SCHULMAN, TRL, TRLX, VERL
from kullback.claims.worlds import (
    BY_HAND,
    ENDLESS,
    Gaussian,
    Pair,
    chances,
    language,
    pair,
    ratios,
    sampled,
    texts,
    token_ratios,
    tree,
)
from kullback.errors import MissingPackageError
from kullback.estimators.divergences import k3
from kullback.oracle import TreeLM, World
from kullback.targets import REVERSE_KL


def _flipped(seed: int) -> Iterator[Evidence]:
    def logged(world: Pair) -> float:
        return world.mean(np.exp(world.log_ratio) - 1 - world.log_ratio)

    yield smallest("E[e^ℓ − 1 − ℓ], q = (.8, .2), p = (.5, .5)", logged(BY_HAND), "=", BY_HAND.kl)
    world = pair(seed)
    yield stated("E[e^ℓ − 1 − ℓ]", logged(world), "=", world.kl)
    yield instead("the same: χ²(q‖p) − KL(q‖p)", logged(world), "=", world.swapped.chi2 - world.kl)
    drawn = texts()
    yield realistic(
        "the same, summed over tokens",
        sampled(drawn.total(k3(-drawn.log_ratio))),
        "=",
        float(drawn.total(drawn.token_kl).mean()),
    )


def _full(seed: int) -> Iterator[Evidence]:
    try:
        import torch
        from torch.nn.functional import kl_div
    except ImportError:
        raise MissingPackageError("torch", "torch") from None

    def nans(q: Float64, p: Float64) -> float:
        found = kl_div(torch.tensor(np.log(p)), torch.tensor(np.log(q)), reduction="none")
        return float(found.isnan().double().mean())

    yield smallest("share of terms that are nan, q = (.8, .2), p = (.5, .5)", nans(BY_HAND.q, BY_HAND.p), "=", 0.0)
    world = tree(seed)
    q, p = (torch.tensor(to_numpy(lm.log_distributions)) for lm in (world.policy, world.reference))
    yield stated("the same for next tokens of sequences", nans(q.exp().numpy(), p.exp().numpy()), "=", 0.0)
    one = pair(seed)
    right = kl_div(
        torch.tensor(np.log(one.p))[None], torch.tensor(np.log(one.q))[None], reduction="batchmean", log_target=True
    )
    yield instead("with log_target=True", float(right), "=", one.kl)
    log_q, log_p = (torch.tensor(lm.logprobs) for lm in language())
    wrong = kl_div(log_p, log_q, reduction="batchmean")
    yield realistic("share of nan in the realistic world", float(wrong.isnan()), "=", 0.0)


def below(kl: float, n: int, at: float) -> float:
    """P(mean of n < at) where ℓ ~ N(KL, 2KL), as between Gaussians of one scale."""
    return float(ndtr((at - kl) / math.sqrt(2 * kl / n)))


def _negative(seed: int) -> Iterator[Evidence]:
    yield stated("chance that the mean of 8 honest sequences is negative, KL 0.005", below(0.005, 8, 0.0), "<", 0.01)
    largest = max(below(kl, 8, -1.0) for kl in np.geomspace(1e-3, 1e2, 200))
    yield within("largest chance over all KLs that it is below −1, against e^−8", largest, "≤", math.exp(-8))
    world = tree(seed)
    x, chance = ratios(world), chances(world)
    two = (x[:, None] + x) / 2
    got = float(chance @ (two < -1) @ chance)
    yield within("the mean of 2 sequences of a random world below −1", got, "≤", math.exp(-2))
    # The wrong arguments: only the policy's likeliest token is ever drawn, log-probs are of the whole policy.
    narrow = Pair(np.array([0.6, 0.3, 0.1]), np.array([0.65, 0.25, 0.1]))
    yield instead("mean of ℓ under top_k=1, q = (.6, .3, .1), p = (.65, .25, .1)", float(narrow.log_ratio[0]), "<", 0.0)


def mean_of_means(world: World, values: Float64) -> float:
    """E[(1/T)Σ_t values], values (sequences, horizon)."""
    mask = np.asarray(to_numpy(world.policy.mask), dtype=float)
    return float(chances(world) @ ((values * mask).sum(axis=1) / mask.sum(axis=1)))


def _fixed_length(seed: int) -> World:
    """A random world in which nothing ends early."""
    made = tree(seed, horizon=2)
    tables = [np.where(np.arange(3) == 0, -700.0, to_numpy(lm.logits)) for lm in (made.policy, made.reference)]
    return World(*(TreeLM(table, 0, 2) for table in tables))


def _sequence_k3(seed: int) -> Iterator[Evidence]:
    end = float(ENDLESS.q[0])
    rest = Pair(ENDLESS.q[1:] / (1 - end), ENDLESS.p[1:] / (1 - end))
    inverse = -end * math.log(end) / (1 - end)  # E[1/T]
    values = k3(ENDLESS.token.log_ratio)
    means = rest.mean(values[1:]) * (1 - inverse) + float(values[0]) * inverse
    yield smallest("E[(1/T)Σ k3_t], 10 tokens in the mean, KL 0.0529 a token", means, "=", ENDLESS.token.kl)
    world = tree(seed)
    lengths = float(chances(world) @ to_numpy(world.policy.mask).sum(axis=1))
    kl = float(world.exact(REVERSE_KL))
    found = {k: mean_of_means(world, f(token_ratios(world))) for k, f in (("k1", np.asarray), ("k3", k3))}
    yield stated("E[(1/T)Σ k3_t]", found["k3"], "=", kl / lengths)
    yield stated("E[(1/T)Σ −log ρ_t], “the same quantity”", found["k1"], "=", found["k3"])
    fixed = _fixed_length(seed)
    half = float(fixed.exact(REVERSE_KL)) / 2
    yield within("E[(1/T)Σ k3_t], every length 2", mean_of_means(fixed, k3(token_ratios(fixed))), "=", half)


def _approx(seed: int) -> Iterator[Evidence]:
    world = pair(seed)  # q is the old policy, which has sampled
    ratio = world.p / world.q
    yield stated("E_old[(ratio − 1) − log ratio]", world.mean(ratio - 1 - np.log(ratio)), "=", world.kl)
    sequences = tree(seed)
    got = float(chances(sequences) @ k3(token_ratios(sequences)).sum(axis=1))
    yield stated("summed over the tokens of sequences", got, "=", float(sequences.exact(REVERSE_KL)))
    yield instead("its smallest value", float(k3(world.log_ratio).min()), "≥", 0.0)


def _absolute(seed: int) -> Iterator[Evidence]:
    yield smallest("E|ℓ|, q = (.8, .2), p = (.5, .5)", BY_HAND.mean(np.abs(BY_HAND.log_ratio)), "=", BY_HAND.kl)
    world = pair(seed)
    yield stated("E|ℓ|", world.mean(np.abs(world.log_ratio)), "=", world.kl)
    got = world.gradient(np.sign(world.log_ratio))
    step, shift = 1e-6, np.eye(len(world.q))
    moved = [
        np.abs(_tilted(world.q, s * step * e) - world.p).sum() - np.abs(_tilted(world.q, -s * step * e) - world.p).sum()
        for e in shift
        for s in (1.0,)
    ]
    worst = float(np.abs(got - np.array(moved) / (2 * step)).max())
    yield instead("its gradient in the loss, off that of 2·TV(q, p) by at most", worst, "=", 0.0, tolerance=1e-8)
    drawn = texts()
    yield realistic(
        "E Σ_t |ℓ_t|", sampled(np.abs(drawn.log_ratio).sum(axis=1)), "=", float(drawn.total(drawn.token_kl).mean())
    )


def _tilted(q: Float64, change: Float64) -> Float64:
    moved = q * np.exp(change)
    return np.asarray(moved / moved.sum())


def _printed_truth(seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng(seed)
    posted = Gaussian(0.1 / 1.5, 1 / 1.5)  # q = N(0.1, 1.5²) against p = N(0, 1), in units of q
    yield smallest("KL(p‖q) as printed, q of scale 1.5", posted.forward_kl, "=", posted.kl)
    world = Gaussian(float(rng.uniform(0.1, 1)), float(rng.uniform(0.4, 0.9)))
    yield stated("KL(p‖q) where the samples of q estimate KL(q‖p)", world.forward_kl, "=", world.kl)
    even = Gaussian(world.shift)
    yield within("the same at one scale", even.forward_kl, "=", even.kl)


def best_of(q: Float64, n: int) -> Float64:
    """The law of the best of n draws, outcomes ordered from the worst to the best."""
    below = np.concatenate([[0.0], np.cumsum(q)])
    below[-1] = 1.0
    return np.diff(below**n)


def _best_of_n(seed: int) -> Iterator[Evidence]:
    def kl(q: Float64, n: int) -> float:
        best = best_of(q, n)
        return float(np.sum(np.where(best > 0, best * np.log(np.maximum(best, 1e-300) / q), 0.0)))

    def quoted(n: int) -> float:
        return math.log(n) - (n - 1) / n

    yield smallest("KL at n = 4 of (.1, .3, .6), the last the best", kl(np.array([0.1, 0.3, 0.6]), 4), "=", quoted(4))
    q = pair(seed).q
    yield stated("KL(best of 4‖π), five outcomes", kl(q, 4), "=", quoted(4))
    yield instead("the quoted formula is an upper bound: KL less it", kl(q, 4) - quoted(4), "≤", 0.0)
    fine = np.full(100_000, 1e-5)
    yield instead("100,000 equally likely outcomes", kl(fine, 4), "=", quoted(4), tolerance=1e-3)
    policy, _ = language()
    yield realistic("KL(best of 16‖π), 64 first tokens", kl(np.exp(policy.initial), 16), "=", quoted(16))


CLAIMS = (
    Claim(
        id="trlx-mean-kl",
        source=TRLX("accelerate_ppo_trainer.py, pull requests 361 and 441"),
        statement="(exp(ℓ) − 1 − ℓ).mean() with ℓ = log π − log π_ref on π's samples is the mean KL.",
        verdict=Verdict.FAILS,
        why="It is k3 of the flipped ratio: its mean is χ²(q‖p) − KL(q‖p). Near the reference both agree, so nobody "
        "notices.",
        condition="exp(−ℓ) − 1 + ℓ, the ratio reference over policy.",
        computation=_flipped,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "x = np.log(q / p)",
            "print(round(q @ (np.exp(x) - 1 - x), 6), round(q @ x, 6))",
        ),
        meant="k3, which Schulman writes with r = p/q.",
        by_hand="q = (.8, .2), p = (.5, .5): .64/.5 + .04/.5 − 1 − .193 = .167, not .193; between N(0,1) and N(1,1) "
        "1.218 for .5.",
    ),
    Claim(
        id="rlhf-book-kl-full",
        source=RLHF_BOOK("its code, “alternate computation”"),
        statement="F.kl_div(ref_logprobs, logprobs) of log-probs is the full KL.",
        verdict=Verdict.FAILS,
        why="The second argument is read as probabilities unless log_target=True: log of a negative number, nan.",
        condition='F.kl_div(ref_logprobs, logprobs, reduction="batchmean", log_target=True), which sums over all '
        "axes but the first: a sequence, not a token.",
        computation=_full,
        code=lines(
            "import numpy as np, torch",
            "from torch.nn.functional import kl_div",
            "q, p = (torch.tensor(np.log(a)) for a in ([0.8, 0.2], [0.5, 0.5]))",
            "print(float(kl_div(p, q, reduction='none').isnan().double().mean()))",
        ),
        meant="KL(policy‖reference), in the right direction: the arguments stand in the right order.",
        by_hand="q = (.8, .2): the first term is −.223·(log(−.223) + .693), which is no number.",
    ),
    Claim(
        id="trl-negative-kl",
        source=TRL("issue 235, pull requests 239 and 352"),
        statement="A negative mean KL comes of wrong generation arguments and is almost always a precursor of failed "
        "training.",
        verdict=Verdict.CONDITION,
        why="k1 of honest samples is negative often, but not far: P(mean of n ≤ −t) ≤ exp(−nt).",
        condition="Below −1 with 8 sequences or more: then the samples are not of the policy whose log-probs are used.",
        computation=_negative,
        code=lines(
            "from kullback.claims.metrics import below",
            "print(round(below(kl=0.005, n=8, at=0.0), 6))",
        ),
        meant="The warning was moved to −1 soon after, which is where it says something. It speaks of sampling, not "
        "of training.",
    ),
    Claim(
        id="verl-k3-sequence-mean",
        source=VERL("rollout correction, K3_seq"),
        statement="(1/T)Σ_t(ρ_t − log ρ_t − 1) has mean KL(π_rollout‖π_old), as the geometric ratio has.",
        verdict=Verdict.CONDITION,
        why="The mean of a quotient: short sequences weigh more, and k1's and k3's limits then differ from each "
        "other and from the KL a token.",
        condition="Sequences of one length. Else Σ over tokens divided by the number of tokens, both over the batch.",
        computation=_sequence_k3,
        code=lines(
            "import numpy as np; from kullback.claims.metrics import mean_of_means",
            "from kullback.claims.worlds import token_ratios, tree",
            "from kullback.estimators.divergences import k3",
            "w = tree(seed=0)",
            "print(round(mean_of_means(w, k3(token_ratios(w))), 6), round(mean_of_means(w, token_ratios(w)), 6))",
        ),
        meant="A score by which sequences are kept or dropped, for which it need be no KL.",
    ),
    Claim(
        id="cleanrl-approx-kl",
        source=CLEANRL("approx_kl"),
        statement="((ratio − 1) − logratio).mean(), ratio = new/old on samples of old, estimates KL(old‖new).",
        verdict=Verdict.HOLDS,
        why="The ratio is the other's over the sampler's: it is k3. Over tokens it is the KL at the old policy's "
        "prefixes, which for KL(old‖new) are the right ones.",
        computation=_approx,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import pair",
            "w = pair(seed=0)",
            "print(round(w.mean(w.r - 1 - np.log(w.r)), 9), round(w.kl, 9))",
        ),
        meant="A signal for stopping early. It is the KL to the policy before the update, not to a reference.",
    ),
    Claim(
        id="trl-abs-safer",
        source=TRL('issue 1161, kl_penalty="abs"'),
        statement="|log π − log π_ref| is a safer KL, since it cannot be negative.",
        verdict=Verdict.FAILS,
        why="E|ℓ| is of first order in the distance and the KL of second: near the reference it is many times as "
        "large. In the loss it follows the total variation.",
        condition="k3, which is not negative either and has the KL for its mean.",
        computation=_absolute,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])",
            "print(round(q @ abs(np.log(q / p)), 6), round(q @ np.log(q / p), 6))",
        ),
        meant="Safe from a negative penalty, which it is.",
        by_hand="q = (.8, .2), p = (.5, .5): .8·.470 + .2·.916 = .559, not .193. Between Gaussians 16 times the KL "
        "at .005.",
        also=(VERL("kl_penalty=abs"),),
    ),
    Claim(
        id="schulman-printed-truth",
        source=SCHULMAN("the posted script, truekl"),
        statement="kl_divergence(p, q) is the true value of what the samples of q estimate.",
        verdict=Verdict.CONDITION,
        why="It is KL(p‖q), and x ∼ q estimates KL(q‖p).",
        condition="Gaussians of one scale, as in the post, where both are the same.",
        computation=_printed_truth,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "g = Gaussian(0.1 / 1.5, 1 / 1.5)  # q = N(0.1, 1.5²), p = N(0, 1)",
            "print(round(g.forward_kl, 6), round(g.kl, 6))",
        ),
        meant="The two settings of the post, for which it is right. Whoever changes the scales must exchange the "
        "arguments.",
    ),
    Claim(
        id="folklore-best-of-n",
        source=FOLKLORE("“KL(best of n‖π) = log n − (n − 1)/n”, widely quoted"),
        statement="The KL of best-of-n from its policy is log n − (n − 1)/n.",
        verdict=Verdict.FAILS,
        why="That is so for outcomes without atoms. Where an answer has a probability of its own, it may be drawn "
        "twice.",
        condition="An upper bound; or answers so many that none is likely.",
        computation=_best_of_n,
        code=lines(
            "import numpy as np",
            "q, n = np.array([0.1, 0.3, 0.6]), 4",
            "best = np.diff(np.concatenate([[0.0], np.cumsum(q)]) ** n)",
            "print(round(best @ np.log(best / q), 6), round(np.log(n) - (n - 1) / n, 6))",
        ),
        meant="Long answers, of which no two are alike. arXiv 2401.01879 has the bound and the counterexample.",
        by_hand="(.1, .3, .6), n = 4: best (.0001, .0255, .9744), KL .41 against .636.",
    ),
)
