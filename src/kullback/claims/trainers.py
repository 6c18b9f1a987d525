"""TRL, verl, slime and Tinker: what trainers' documentation and comments say of their losses and rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import NEMO, OPENRLHF, SLIME, TINKER, TRL, VERL
from kullback.claims.worlds import (
    BY_HAND,
    BY_HAND_SCORE,
    Pair,
    descents,
    followed,
    language,
    live_pair,
    live_tree,
    off,
    pair,
    relative,
    sampled,
    texts,
    tree,
    updated,
)
from kullback.estimators import K3, Clamped
from kullback.estimators.divergences import k3
from kullback.surrogates import SURROGATES
from kullback.targets import REVERSE_KL, SAMPLED_REVERSE_KL, STATEWISE_REVERSE_KL


def _own_token(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    got = followed(world, SURROGATES["k1_own_token_reward"].fn)
    yield instead(
        "off the next tokens' reverse KL, prefixes fixed, by", off(got, world, STATEWISE_REVERSE_KL), "=", 0.0
    )
    yield stated("off ∇KL(student‖teacher) of sequences by", off(got, world, REVERSE_KL), "=", 0.0)
    one = live_pair(pair(seed))
    got = followed(one, SURROGATES["k1_own_token_reward"].fn)
    yield within("the same for one token", off(got, one, REVERSE_KL), "=", 0.0)
    found = descents()
    gap = float(np.linalg.norm(found.statewise_reverse - found.reverse) / np.linalg.norm(found.reverse))
    yield realistic("the same in the realistic world", gap, "=", 0.0)


def _clamps(seed: int) -> Iterator[Evidence]:
    clamped = Clamped(K3, log_ratio=20.0, value=10.0)
    far = tree(seed, scale=12.0)
    yield within(
        "E Σ_t k3_t, clamped at ±20 and ±10, log-ratios within ±3",
        float(tree(seed, scale=0.5).value(clamped, "token")),
        "=",
        float(tree(seed, scale=0.5).exact(REVERSE_KL)),
    )
    yield stated(
        "the same, log-ratios beyond ±20", float(far.value(clamped, "token")), "=", float(far.exact(REVERSE_KL))
    )
    yield instead(
        "what clamping loses there", float(far.exact(REVERSE_KL)) - float(far.value(clamped, "token")), ">", 0.0
    )
    drawn = texts()
    values = drawn.total(clamped.fn(drawn.log_ratio)) - drawn.total(k3(drawn.log_ratio))
    yield realistic("what clamping loses of Σ_t k3_t", float(-values.mean()), "=", 0.0)


def _k1_loss(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    got = followed(world, SURROGATES["k1_loss"].fn)
    yield stated("‖E ∇Σ_t k1_t‖", float(np.linalg.norm(got)), ">", 0.0)
    yield smallest("E ∇k1, q = (.8, .2), p = (.5, .5), d/dq", BY_HAND.mean(BY_HAND_SCORE), ">", 0.0)
    yield instead(
        "k1 in the reward, off ∇KL(q‖p) by",
        off(followed(world, SURROGATES["k1_reward"].fn), world, REVERSE_KL),
        "=",
        0.0,
    )
    yield realistic(
        "‖∇KL(q‖p)‖ of sequences, none of which it follows", float(np.linalg.norm(descents().reverse)), "=", 0.0
    )


def _k3_reward(seed: int) -> Iterator[Evidence]:
    got = BY_HAND.mean(k3(BY_HAND.log_ratio) * BY_HAND_SCORE)
    exact = BY_HAND.mean(BY_HAND.log_ratio * BY_HAND_SCORE)
    yield smallest("E[k3·s], q = (.8, .2), p = (.5, .5), d/dq", got, "=", exact)
    yield instead("E[k1·s]", exact, "=", math.log(4))
    world = live_tree(seed)
    for name, say in (("k3_reward", stated), ("k1_reward", instead)):
        yield say(f"{name} off ∇KL(q‖p) by", off(followed(world, SURROGATES[name].fn), world, REVERSE_KL), "=", 0.0)
    found = descents()
    lost = relative(found.reverse - found.forward, found.reverse)
    yield realistic("k3 of whole sequences in the reward, off ∇KL(q‖p) by", lost, "=", 0.0)


def _plus(seed: int) -> Iterator[Evidence]:
    one, world = live_pair(pair(seed)), live_tree(seed)
    yield within(
        "k3+ off ∇KL(q‖p) by, one token", off(followed(one, SURROGATES["k3_plus"].fn), one, REVERSE_KL), "=", 0.0
    )
    got = followed(world, SURROGATES["k3_plus"].fn)
    yield within(
        "sequences, off the next tokens' KL, prefixes fixed, by", off(got, world, STATEWISE_REVERSE_KL), "=", 0.0
    )
    yield stated("off ∇KL(q‖p) of sequences by", off(got, world, REVERSE_KL), "=", 0.0)


def _head_sum(seed: int) -> Iterator[Evidence]:
    even, skewed = Pair(np.array([0.5, 0.5]), np.array([0.9, 0.1])), pair(seed, outcomes=12, scale=1.5)
    yield smallest(
        "Σ_head q log(q/p), q = (.5, .5), p = (.9, .1), head = p's top token",
        float(even.q[0] * even.log_ratio[0]),
        "≥",
        0.0,
    )
    head = skewed.p >= np.sort(skewed.p)[-4]
    inside = float(np.sum((skewed.q * skewed.log_ratio)[head]))
    q, p = float(skewed.q[head].sum()), float(skewed.p[head].sum())
    yield instead("the head sum is at least Q log(Q/P)", inside, "≥", q * math.log(q / p))
    yield instead("with one bucket for the rest", inside + (1 - q) * math.log((1 - q) / (1 - p)), "≥", 0.0)
    policy, reference = language()
    log_q, log_p = policy.logprobs, reference.logprobs
    top = log_p >= np.sort(log_p, axis=1)[:, -8][:, None]
    sums = np.sum(np.where(top, np.exp(log_q) * (log_q - log_p), 0.0), axis=1)
    yield realistic(
        "share of prefixes where the reference's top 8 sum to less than 0", float(np.mean(sums < 0)), "=", 0.0
    )


def _broadcast(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed, off_policy=True)
    for name, say in (("k3_geometric_ratio", stated), ("k3_token_ratio", instead)):
        got = followed(world, SURROGATES[name].fn)
        yield say(f"{name}, off Σ_t E_μ[∇KL(q_t‖p_t)] by", off(got, world, SAMPLED_REVERSE_KL), "=", 0.0)
    # Two tokens from μ = (½, ½), the policy at μ in the second: only the first ratio is 2 or 0.
    rho = np.array([1.6, 0.4])
    yield smallest(
        "E_μ[√ρ_1·k1] of one first token, q = (.8, .2), μ = p = (.5, .5), √ from two tokens",
        float(0.5 * np.sum(np.sqrt(rho) * np.log(rho))),
        "=",
        BY_HAND.kl,
    )
    # The realistic policy has sampled, and was trained on: ρ = updated/policy.
    drawn, new = texts(), updated()
    weight = np.where(drawn.mask, new.score(drawn.tokens) - drawn.q, 0.0).sum(axis=1) / drawn.mask.sum(axis=1)
    ratio = np.where(drawn.mask, new.score(drawn.tokens) - drawn.p, 0.0)
    meant = drawn.total(new.token_kl(language()[1], drawn.tokens))
    yield realistic(
        "E_μ[(Πρ)^(1/T) Σ_t k3_t] after an update",
        sampled(np.exp(weight) * k3(ratio).sum(axis=1)),
        "=",
        float(meant.mean()),
    )
    token = np.where(drawn.mask, np.exp(new.score(drawn.tokens) - drawn.q), 0.0)
    yield realistic("E_μ[Σ_t ρ_t k3_t]", sampled((token * k3(ratio)).sum(axis=1)), "=", float(meant.mean()))


CLAIMS = (
    Claim(
        id="trl-k3-reward",
        source=TRL("PPOConfig.kl_estimator"),
        statement="For PPO's KL, k3 is “an unbiased estimator with lower variance which ‘appears to be a strictly "
        "better estimator’”.",
        verdict=Verdict.FAILS,
        why="Of the value that is so while the models are close. The option acts in the reward, where it is multiplied "
        "by ∇log q: E[k3·s] = ∇KL(q‖p) − ∇KL(p‖q), which can even point the other way.",
        condition="k1 in the reward; or k3 in the reward and in the loss, β each.",
        computation=_k3_reward,
        code=lines(
            "import numpy as np",
            "q, p, s = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.25, -5.0])",
            "x = np.log(q / p)",
            "print(round(q @ ((np.exp(-x) - 1 + x) * s), 6), round(q @ (x * s), 6))",
        ),
        meant="The value that is logged, for which Schulman's comparison was made.",
        by_hand="q = (.8, .2), p = (.5, .5), d/dq: 1.386 − 1.875 = −.489 where 1.386 is meant: the wrong sign.",
    ),
    Claim(
        id="trl-sequence-ratio",
        source=TRL('use_bias_correction_kl with importance_sampling_level="sequence" (issue 6586)'),
        statement="The KL's bias is corrected by the importance ratio, also where that is one number a sequence.",
        verdict=Verdict.FAILS,
        why="The geometric mean (Π ρ_t)^(1/T) is no density ratio: neither value nor gradient is any named KL's.",
        condition="ρ_t for the next token's KL at sampled prefixes, ρ_{1:t} for that of sequences.",
        computation=_broadcast,
        code=lines(
            "import numpy as np",
            "rho = np.array([1.6, 0.4])  # q = (.8, .2) over μ = p = (.5, .5)",
            "for w in (np.sqrt(rho), rho):",
            "    print(round(float(0.5 * np.sum(w * np.log(rho))), 8))",
        ),
        meant="GSPO's ratio, which is right for its own policy loss. After a small update the value is hardly off; the "
        "gradient is.",
        by_hand="q = (.8, .2), μ = p = (.5, .5), a second token with ρ = 1: ½(1.265·.470 − .632·.916) = .0075, not "
        ".193.",
    ),
    Claim(
        id="verl-plus",
        source=VERL("kl_loss_type, “k1+”, “k3+”"),
        statement="With “+” the gradient is k2's, which makes it unbiased whatever the value is.",
        verdict=Verdict.CONDITION,
        why="k2's gradient is ℓ_t∇log q_t: right for one token. Of sequences it leaves out what a token does to later "
        "KLs.",
        condition="The KL of the next token at the sampled prefixes, on-policy.",
        computation=_plus,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, S['k3_plus'].fn), world, REVERSE_KL), 6))",
        ),
    ),
    Claim(
        id="verl-top-k-nonnegative",
        source=VERL("distillation, top-k KL (issue 7856)"),
        statement="The KL over the teacher's top k tokens is a KL and can be clamped at 0.",
        verdict=Verdict.FAILS,
        why="Σ_head q log(q/p) is not a KL: it is at least Q log(Q/P), which is negative where q has less mass in the "
        "head. Clamping it at 0 removes the gradient there.",
        condition="A bucket for the rest (a lower bound of the KL, ≥ 0), or a sampled tail (unbiased).",
        computation=_head_sum,
        code=lines(
            "import numpy as np",
            "q, p = np.array([0.5, 0.5]), np.array([0.9, 0.1])",
            "print(round(q[0] * np.log(q[0] / p[0]), 6))",
        ),
        meant="That the head holds nearly all of the teacher, which is so; of the student it need not.",
        by_hand="q = (.5, .5), p = (.9, .1), head = p's first: .5·log(.5/.9) = −.294.",
    ),
    Claim(
        id="slime-clamped-k3",
        source=SLIME("compute_approx_kl, low_var_kl"),
        statement="The clamped k3 is non-negative, unbiased and of low variance.",
        verdict=Verdict.CONDITION,
        why="A clamp that binds cuts the long tail that k3's mean needs: it is biased low.",
        condition="Log-ratios so small that no clamp binds.",
        computation=_clamps,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import tree",
            "far = tree(0, scale=12.0)",
            "clamped = kb.Clamped(kb.K3, log_ratio=20.0, value=10.0)",
            "print(round(float(far.value(clamped, 'token')), 6), round(float(far.exact(kb.REVERSE_KL)), 6))",
        ),
        also=(VERL("low_var_kl"), OPENRLHF("compute_approx_kl"), NEMO("calculate_kl")),
    ),
    Claim(
        id="slime-k1-loss",
        source=SLIME("--use-kl-loss, whose default estimator is k1"),
        statement="With a KL loss of k1, the policy is held near the reference.",
        verdict=Verdict.FAILS,
        why="E_q[∇log q] = 0: on-policy the loss has no gradient in the mean, only noise.",
        condition="k1 in the reward, or k2 in the loss (the next token's KL).",
        computation=_k1_loss,
        code=lines(
            "import numpy as np", "q, s = np.array([0.8, 0.2]), np.array([1.25, -5.0])", "print(round(abs(q @ s), 9))"
        ),
        meant="An estimator to log, which k1 is.",
        by_hand="q = (.8, .2), d/dq: .8·1.25 − .2·5 = 0.",
        also=(OPENRLHF("default k1"),),
    ),
    Claim(
        id="tinker-own-token",
        source=TINKER("advantage −(log π − log π_teacher), discount 0"),
        statement="Crediting each token with its own −ℓ_t minimises KL(student‖teacher).",
        verdict=Verdict.CONDITION,
        why="E[ℓ_t∇log q_t] is the gradient of the next token's KL with the prefix held fixed.",
        condition="One token, or the KL of next tokens at the student's prefixes. With the return to go it is that of "
        "sequences.",
        computation=_own_token,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, S['k1_own_token_reward'].fn), world, REVERSE_KL), 6))",
        ),
    ),
)
