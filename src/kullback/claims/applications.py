"""001, “Approximating KL Divergence (and its applications in RL)”: a draft after Schulman's post."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from kullback.arrays import to_numpy
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import APPLICATIONS, RETHINK, RETHINK_ZH, SCHULMAN, ZHANG
from kullback.claims.worlds import (
    BY_HAND,
    EVEN,
    Gaussian,
    chances,
    followed,
    language,
    live_tree,
    off,
    operations,
    pair,
    tensor,
    texts,
    token_kl,
    tree,
)
from kullback.estimators import K3
from kullback.estimators.divergences import k2, k3
from kullback.oracle import World
from kullback.oracle.loss_gradients import world_columns
from kullback.surrogates import SURROGATES
from kullback.targets import REVERSE_KL, STATEWISE_FORWARD_KL


def _from_p(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    for found, say in ((world, stated), (BY_HAND, smallest)):
        yield say("E_p[−r log r]", float(found.p @ (-found.r * np.log(found.r))), "=", found.kl)
    yield instead("E_p[−log(r)/r]", float(world.p @ (-np.log(world.r) / world.r)), "=", world.kl)
    ratio = world.q / world.p
    yield instead("E_p[r log r] with r = q/p", float(world.p @ (ratio * np.log(ratio))), "=", world.kl)
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


def _grpo_term(seed: int) -> Iterator[Evidence]:
    moved = tree(seed, off_policy=True)
    term = float(chances(moved) @ to_numpy(moved.summand(K3, "token")))
    between = float(REVERSE_KL.exact(World(moved.reference, moved.sampler)))
    yield stated("GRPO's KL term, π_θ moved on from π_old", term, "=", between)
    yield smallest(
        "GRPO's KL term, π_θ = π_old = (.8, .2), π_ref = (.5, .5)",
        BY_HAND.mean(k3(BY_HAND.log_ratio)),
        "=",
        BY_HAND.forward_kl,
    )
    world = live_tree(seed)
    got = followed(world, SURROGATES["k3_loss"].fn)
    yield instead(
        "its gradient at π_θ = π_old off the next tokens' ∇KL(π_ref‖π_θ) by",
        off(got, world, STATEWISE_FORWARD_KL),
        "=",
        0.0,
    )
    yield instead("its value there", float(tree(seed).value(K3, "token")), "=", float(tree(seed).exact(REVERSE_KL)))
    policy, reference = language()
    yield realistic(
        "KL(π_θ‖π_ref) of sequences, against KL(π_ref‖π_θ)",
        policy.reverse_kl(reference),
        "=",
        policy.forward_kl(reference),
    )


def grpo_models(seed: int) -> tuple[int, int]:
    """How many models GRPO's loss of a batch depends on, and how many of those are held fixed."""
    import torch

    columns = world_columns(live_tree(seed, off_policy=True))
    names = ("logprobs", "ref_logprobs", "behavior_logprobs")
    new, reference, old = models = [tensor(columns[name]).detach().requires_grad_() for name in names]
    advantage = torch.linspace(-1.0, 1.0, len(new), dtype=new.dtype)[:, None]
    loss = (k3(new - reference) - (new - old).exp() * advantage).sum()
    moves = [bool(g.abs().sum() > 0) for g in torch.autograd.grad(loss, models)]
    return sum(moves), sum(moves) - moves[0]


def _two_models(seed: int) -> Iterator[Evidence]:
    every, fixed = grpo_models(seed)
    yield stated("models that GRPO's loss depends on", every, "=", 2)
    yield within("those of them that are held fixed", fixed, "=", 2)


WIDTH, VOCAB = 1024, 151_936


def share_of_head(vocab: int, width: int) -> float:
    """Operations of the exact KL of one token, from both models' logits, over those of the head that makes one's."""
    logits = np.random.default_rng(0).normal(size=(2, vocab))
    return operations(token_kl, *logits) / (2 * width * vocab)


def _intractable() -> Iterator[Evidence]:
    yield smallest(
        "operations of the sum over those of the LM head, V = 50,000, width 1,024",
        share_of_head(50_000, WIDTH),
        ">",
        1.0,
    )
    logits = np.random.default_rng(0).normal(size=(2, VOCAB))
    yield instead(f"exact KL over V = {VOCAB:,}, summed in one line", token_kl(*logits), ">", 0.0)
    yield realistic(f"the same share at V = {VOCAB:,}, width 4,096", share_of_head(VOCAB, 4096), ">", 1.0)


def sequences(vocab: int, steps: int) -> int:
    """How many sequences of some length there are."""
    return int(vocab**steps)


def _exponential() -> Iterator[Evidence]:
    def growth(count: Callable[[int], int]) -> float:
        """N(5)/N(4) over N(4)/N(3): 1 if N is exponential in its argument."""
        return count(5) * count(3) / count(4) ** 2

    yield smallest(
        "N(5)/N(4) over N(4)/N(3), 2 tokens of a vocabulary of V: 1 if N is exponential in V",
        growth(lambda vocab: sequences(vocab, 2)),
        "≥",
        1.0,
    )
    yield stated(
        "the same in trees of 3 steps that end by themselves",
        growth(lambda vocab: len(tree(0, vocab=vocab).policy.tokens)),
        "≥",
        1.0,
    )
    yield instead(
        "the same as the length goes from 3 to 4 and 5, V = 7", growth(lambda steps: sequences(7, steps)), "=", 1.0
    )
    twice = math.log(sequences(2 * VOCAB, 1000)) / math.log(sequences(VOCAB, 1000))
    yield realistic(f"digits of N at twice V = {VOCAB:,} over those at V, 1,000 tokens", twice, "=", 2.0)


def _k2_biased(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("E[k2] − KL", world.mean(k2(world.log_ratio)) - world.kl, "≠", 0.0)
    yield instead("E[k1] − KL", world.mean(world.log_ratio) - world.kl, "=", 0.0)


def _k2_bias_low() -> Iterator[Evidence]:
    for gaussian, say in ((Gaussian(0.1), within), (Gaussian(1.0), stated)):
        yield say(f"bias of k2 over KL, KL {gaussian.kl:g}", gaussian.mean_k2 / gaussian.kl - 1, "<", 0.01)
    policy, reference = language()
    bias = float(np.mean(k2(texts().sums))) / policy.reverse_kl(reference) - 1
    yield realistic("bias of k2 of a sequence over KL", bias, "<", 0.01)


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
        meant="E_p[r log r] with r = q/p, perhaps; that one is the KL.",
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
        source=APPLICATIONS("“The RL objective includes the KL term”"),
        statement="GRPO's objective includes KL(π_ref‖π_old).",
        verdict=Verdict.FAILS,
        why="Its KL term is k3 of π_θ and π_ref, at samples of π_old. Where π_θ = π_old, its mean is KL(π_θ‖π_ref) and "
        "its gradient the next tokens' ∇KL(π_ref‖π_θ). Neither model of KL(π_ref‖π_old) is trained: it would be a "
        "constant.",
        condition="KL(π_θ‖π_ref), with samples from π_θ, or from π_old with importance weights.",
        computation=_grpo_term,
        code=lines(
            "import numpy as np, kullback as kb",
            "q, p = np.array([0.8, 0.2]), np.array([0.5, 0.5])  # π_θ = π_old, and π_ref",
            "print(round(float(q @ kb.K3(np.log(q / p))), 6), round(float(p @ np.log(p / q)), 6))",
        ),
        meant="The penalty of RLHF and GRPO, with the trained model in the place of π_old; both read π(θ) there.",
        by_hand="π_θ = π_old = (.8, .2), π_ref = (.5, .5): the term is .193, KL(π_ref‖π_old) is .223.",
    ),
    Claim(
        id="001-two-models",
        source=APPLICATIONS("“we maintain two policy models”"),
        statement="In GRPO we maintain two policy models: the reference policy and the old one.",
        verdict=Verdict.CONDITION,
        why="The loss −ρA + βk3 depends on three: on π_θ and π_old through ρ, on π_θ and π_ref through k3.",
        condition="Not counting the model that is trained, which is the one in the KL term.",
        computation=_two_models,
        code=lines(
            "from kullback.claims.applications import grpo_models",
            'print("{} models, {} of them held fixed".format(*grpo_models(seed=0)))',
        ),
    ),
    Claim(
        id="001-exponential-in-V",
        source=APPLICATIONS("“our space becomes exponential in V”"),
        statement="With several steps the space becomes exponential in the size V of the vocabulary.",
        verdict=Verdict.FAILS,
        why="There are V^T sequences of T tokens: a power of V. Twice the vocabulary makes 2^T times as many, however "
        "large it was; what is exponential is the growth with T.",
        condition="Exponential in the number of steps T.",
        computation=_exponential,
        code=lines(
            "from kullback.claims.applications import sequences as n",
            "print(n(5, 2) * n(3, 2) / n(4, 2) ** 2, n(7, 5) * n(7, 3) / n(7, 4) ** 2)",
        ),
        meant="That there are too many sequences to sum over, which is so.",
        by_hand="2 tokens: 9, 16, 25 sequences at V = 3, 4, 5; they grow by 1.78 and then by 1.56.",
    ),
    Claim(
        id="001-k2-biased",
        source=APPLICATIONS("“Notice that this is no longer unbiased”"),
        statement="k2 is not unbiased.",
        verdict=Verdict.HOLDS,
        why="E[½ℓ²] and E[ℓ] agree to second order in the distance of the models, not beyond.",
        computation=_k2_biased,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import pair",
            "world = pair(seed=0)",
            "print(round(world.mean(kb.K2(world.log_ratio)) - world.kl, 6))",
        ),
        also=(
            SCHULMAN("“but is biased”"),
            ZHANG("“which is biased but non-negative”"),
            RETHINK("“but it’s biased”"),
            RETHINK_ZH("“但有偏”"),
        ),
    ),
    Claim(
        id="001-k2-bias-low",
        source=APPLICATIONS("“a suprisingly low bias and variance”"),
        statement="k2 has a surprisingly low bias.",
        verdict=Verdict.CONDITION,
        why="It is μ²/4 of the KL between Gaussians: 0.25 % at KL 0.005, 25 % at KL 0.5.",
        condition="KL below about 0.02. Of whole sequences it is nearly always large.",
        computation=_k2_bias_low,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for w in (Gaussian(1.0), Gaussian(0.1)):",
            "    print(round(w.mean_k2 / w.kl - 1, 6))",
        ),
        meant="What Schulman's first table shows.",
    ),
    Claim(
        id="001-vocabulary-intractable",
        source=APPLICATIONS("“this quickly becomes intractable since V is large”"),
        statement="The KL of one token is a sum over the vocabulary, which quickly becomes intractable as that is "
        "large.",
        verdict=Verdict.FAILS,
        why="The logits are there. With both normalisers the sum takes 14 operations an entry, the LM head that made "
        "them 2·width. These are counts: plain torch, which goes through memory for each, took between 2 % (one row) "
        "and a half (64 rows) of the time of a head of width 1,024 on one core.",
        condition="For sequences it stands: there are V^T of them. Summing exactly at each sampled prefix "
        "(Rao-Blackwell) needs V terms a token.",
        computation=_intractable,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import operations, token_kl",
            "logits = np.random.default_rng(0).normal(size=(2, 50_000))",
            "print(round(operations(token_kl, *logits) / (2 * 1024 * 50_000), 6))",
        ),
        meant="That trainers keep only the log-prob of the drawn token, which saves memory and transfer.",
        by_hand="V = 50,000, width 1,024: 700,000 operations against 102 million.",
        also=(
            RETHINK("“even computing the KL for a single token means summing over 50,000 actions”"),
            RETHINK_ZH("“都要对这 50,000 个动作求和”"),
        ),
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
