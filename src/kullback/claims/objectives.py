"""TRL, Future-KL and folklore: what a trainer's KL term makes the objective, and what its optimum is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from kullback.arrays import Array, Float64
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import DEEPSEEK, FOLKLORE, FUTURE_KL, SLIME, TRL
from kullback.claims.worlds import (
    BY_HAND,
    BY_HAND_SCORE,
    descents,
    followed,
    live_tree,
    off,
    pair,
    relative,
    softmax,
    tensor,
    texts,
)
from kullback.oracle import loss_moments
from kullback.surrogates import SURROGATES
from kullback.targets import REVERSE_KL, STATEWISE_REVERSE_KL


def _one_update(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    for name, say in (("k3_loss", stated), ("k3_token_ratio", instead)):
        got = followed(world, SURROGATES[name].fn)
        yield say(
            f"{name}, on-policy, off the next tokens' reverse KL by", off(got, world, STATEWISE_REVERSE_KL), "=", 0.0
        )
    exact = BY_HAND.mean(BY_HAND.log_ratio * BY_HAND_SCORE)
    yield smallest(
        "E[(1 − r)s], q = (.8, .2), p = (.5, .5), d/dq", BY_HAND.mean((1 - BY_HAND.r) * BY_HAND_SCORE), "=", exact
    )
    found = descents()
    yield realistic(
        "the token k3 loss off the next tokens' reverse KL by",
        relative(found.statewise_forward, found.statewise_reverse),
        "=",
        0.0,
    )


def _reward_or_loss(seed: int) -> Iterator[Evidence]:
    exact = BY_HAND.mean(BY_HAND.log_ratio * BY_HAND_SCORE)
    yield smallest("k1 in the loss, q = (.8, .2), p = (.5, .5), d/dq", BY_HAND.mean(BY_HAND_SCORE), "=", exact)
    world = live_tree(seed)
    for k in ("k1", "k3"):
        loss, reward = (followed(world, SURROGATES[f"{k}_sequence_{place}"].fn) for place in ("loss", "reward"))
        yield stated(f"{k} of sequences, the loss's gradient off the reward's by", relative(loss, reward), "=", 0.0)
        yield instead(f"the sum of both, off ∇KL(q‖p) by, {k}", off(loss + reward, world, REVERSE_KL), "=", 0.0)
    found = descents()
    lost = relative(found.statewise_forward, found.reverse)
    yield realistic("token k3 in the loss, off what k1 in the reward follows by", lost, "=", 0.0)


def group_loss(lengths: Float64, advantages: Float64, form: str) -> float:
    """The value of −Σ A over tokens as a loss type averages it, right after the ratios were 1."""
    if form == "grpo":
        return float(-np.mean(advantages))
    total = float(-np.sum(advantages * lengths))
    return total / float(lengths.sum() if form == "dapo" else len(lengths) * lengths.max())


def _loss_is_kl(seed: int) -> Iterator[Evidence]:
    lengths, advantages = np.array([10.0, 100.0]), np.array([1.0, -1.0])
    yield smallest(
        "loss − β KL: answers of 10 and 100 tokens, A = ±1, “dapo”", group_loss(lengths, advantages, "dapo"), "=", 0.0
    )
    yield instead("the same, “dr_grpo”", group_loss(lengths, advantages, "dr_grpo"), "=", 0.45)
    rng = np.random.default_rng(seed)
    drawn, rewards = rng.integers(5, 200, size=8).astype(float), rng.normal(size=8)
    scaled = (rewards - rewards.mean()) / rewards.std()
    yield stated("loss − β KL of a random group of 8, “dapo”", group_loss(drawn, scaled, "dapo"), "=", 0.0)
    yield within("the same, “grpo”", group_loss(drawn, scaled, "grpo"), "=", 0.0)
    sizes = texts().mask.sum(axis=1)[:8000].reshape(-1, 8).astype(float)
    right = np.random.default_rng(1).normal(size=sizes.shape)
    centred = (right - right.mean(axis=1, keepdims=True)) / right.std(axis=1, keepdims=True)
    values = np.array([group_loss(t, a, "dapo") for t, a in zip(sizes, centred, strict=True)])
    yield realistic("standard deviation of the first loss over groups of 8", float(values.std()), "=", 0.0)


def _credited(decay: float) -> Callable[[Array, Array, Array], Array]:
    """k1 in the reward, each token credited with Σ_{u≥t} decay^(u−t) ℓ_u: GAE without a critic at γλ = decay."""

    def loss(logprobs: Array, ref_logprobs: Array, mask: Array) -> Array:
        q, p, kept = tensor(logprobs), tensor(ref_logprobs), tensor(mask)
        ratio = ((q - p) * kept).detach()
        total = ratio[:, -1]
        columns = [total]
        for t in range(ratio.shape[1] - 2, -1, -1):
            total = ratio[:, t] + decay * total
            columns.insert(0, total)
        return sum((c * q[:, t] * kept[:, t] for t, c in enumerate(columns)), start=0.0 * q[:, 0])

    return loss


def _token_or_sequence(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    whole = followed(world, SURROGATES["k1_sequence_reward"].fn)
    for decay, say in ((0.0, stated), (0.95, stated), (1.0, within)):
        got = relative(followed(world, _credited(decay)), whole)
        yield say(f"γλ = {decay:g}: off the penalty of the sum by", got, "=", 0.0)
    spreads = [loss_moments(world, loss).variance for loss in (_credited(1.0), SURROGATES["k1_sequence_reward"].fn)]
    yield instead("gradient variance, what follows credited, over the whole sum", spreads[0] / spreads[1], "≠", 1.0)


def _group_deviation(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=6)
    reward = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    right = world.mean(reward)
    sigma = math.sqrt(right * (1 - right))
    step = 1e-6
    utility = (2 * math.asin(math.sqrt(right + step)) - 2 * math.asin(math.sqrt(right - step))) / (2 * step)
    yield stated("1/σ of a binary reward, the slope of 2 arcsin √p", 1 / sigma, "=", utility, tolerance=1e-6)
    beta = 0.5
    shaped = reward - beta * world.log_ratio
    deviation = math.sqrt(world.variance(shaped))
    fused = world.gradient((shaped - world.mean(shaped)) / deviation)
    apart = world.gradient(reward) / sigma - beta * world.gradient(world.log_ratio)
    yield stated("KL in the reward before the division, off the KL kept apart by", relative(fused, apart), ">", 1e-3)
    yield instead("what β becomes there, over β", 1 / deviation, "≠", 1.0)


def optimum(reference: Float64, reward: Float64, beta: float) -> Float64:
    """The q that maximises E_q[R] − β KL(q‖p): p·exp(R/β)/Z."""
    return softmax(np.log(reference) + reward / beta)


def _mode_seeking(seed: int) -> Iterator[Evidence]:
    best = optimum(np.array([0.6, 0.3, 0.1]), np.array([1.0, 1.0, 0.0]), 0.1)
    yield smallest(
        "q(second)/q(first) at the optimum, p = (.6, .3, .1), R = (1, 1, 0)", float(best[1] / best[0]), "<", 0.5
    )
    p, reward = pair(seed, outcomes=8).p, np.repeat([1.0, 0.0], 4)
    q = optimum(p, reward, 0.1)
    good = slice(0, 4)
    kept = entropy(q[good] / q[good].sum()) - entropy(p[good] / p[good].sum())
    yield stated("entropy among equal rewards at the optimum, less the reference's", kept, "<", 0.0)
    slope = q * (reward - 0.1 * np.log(q / p))
    yield instead("‖∇(E[R] − β KL)‖ there", float(np.linalg.norm(slope - q * slope.sum())), "=", 0.0)
    wide = softmax(2.0 * np.random.default_rng(seed).normal(size=64))
    graded = np.random.default_rng(seed + 1).uniform(size=64)
    yield realistic(
        "entropy lost to rewards that differ by up to 1, β = 0.1, 64 answers",
        entropy(wide) - entropy(optimum(wide, graded, 0.1)),
        ">",
        0.0,
    )


def entropy(q: Float64) -> float:
    """−Σ q log q."""
    return float(-np.sum(q * np.log(q)))


CLAIMS = (
    Claim(
        id="trl-mu-one",
        source=TRL("issue 3025"),
        statement="With one update a batch π_old = π_θ, so the ratio missing from GRPO's KL does no harm.",
        verdict=Verdict.FAILS,
        why="The ratio is 1, its derivative is not: ∇(ρk3) = ℓ·∇log q, ∇k3 = (1 − r)∇log q, which follows the "
        "forward KL.",
        condition="ρ·k3 with ρ not detached, on-policy too; or k2 in the loss.",
        computation=_one_update,
        code=lines(
            "import numpy as np",
            "q, p, s = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.25, -5.0])",
            "print(round(q @ ((1 - p / q) * s), 6), round(q @ (np.log(q / p) * s), 6))",
        ),
        meant="The value, which is right as it stands when π_old = π_θ.",
        by_hand="q = (.8, .2), p = (.5, .5), d/dq: .8·.375·1.25 + .2·(−1.5)·(−5) = 1.875, where log 4 = 1.386 is "
        "meant.",
        also=(
            SLIME("pull request 1004, “corrects for the off-policy sampling”"),
            DEEPSEEK("V3.2, §3.1, the same reason"),
        ),
    ),
    Claim(
        id="folklore-reward-and-loss",
        source=FOLKLORE("asked in TRL issue 2284; RLHF tutorials"),
        statement="A KL term in the reward and the same term in the loss are one objective.",
        verdict=Verdict.FAILS,
        why="∇E[K̂] has two parts: what K̂ follows with the samples held fixed, and what moving the samples does. The "
        "loss has the first alone, the reward the second.",
        condition="Both together, β each; or k1 in the reward alone, whose other part is 0 in the mean.",
        computation=_reward_or_loss,
        code=lines(
            "import numpy as np",
            "q, p, s = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.25, -5.0])",
            "print(round(abs(q @ s), 6), round(q @ (np.log(q / p) * s), 6))",
        ),
        meant="The objective on paper is one; the two gradients that are computed for it are not.",
        by_hand="k1, q = (.8, .2), p = (.5, .5), d/dq: in the loss 0, in the reward log 4 = 1.386.",
    ),
    Claim(
        id="trl-loss-is-beta-kl",
        source=TRL("issue 2703"),
        statement="The value of the GRPO loss equals β KL; that is why it starts at 0.",
        verdict=Verdict.CONDITION,
        why="Centred advantages cancel in a mean over answers. In a mean over tokens an answer counts by its length, "
        "and Σ A_i T_i is not 0.",
        condition='loss_type="grpo" (means of answers), at the first update of a batch.',
        computation=_loss_is_kl,
        code=lines(
            "import numpy as np",
            "T, A = np.array([10, 100]), np.array([1, -1])",
            "print(round(-(A * T).sum() / T.sum(), 6))",
        ),
        meant="It was said when means of answers were the default. A loss that starts elsewhere is no sign of a fault.",
    ),
    Claim(
        id="trl-token-or-sequence",
        source=TRL("issues 2562 and 2581"),
        statement="A KL penalty a token and one a sequence are the same.",
        verdict=Verdict.CONDITION,
        why="They have one sum. What differs is which tokens answer for which part of it.",
        condition="Every token is credited with all that follows it: γ = 1 and λ = 1, as in RLOO.",
        computation=_token_or_sequence,
        code=lines(
            "from kullback import SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, relative",
            "w = live_tree(seed=0)",
            "own, whole = (followed(w, S[n].fn) for n in ('k1_own_token_reward', 'k1_sequence_reward'))",
            "print(round(relative(own, whole), 6))",
        ),
        meant="RLOO sums both, so there it is so. GAE's usual λ of 0.95 lies in between.",
    ),
    Claim(
        id="future-kl-group-deviation",
        source=FUTURE_KL("the abstract"),
        statement="GRPO's division by the group's deviation makes the utility of a binary reward 2 arcsin √p, so "
        "reward and KL cannot be put together before it.",
        verdict=Verdict.HOLDS,
        why="The slope of the utility is 1/σ = 1/√(p(1 − p)). A KL inside the reward is divided too: β becomes β/σ, "
        "another one for every prompt.",
        computation=_group_deviation,
        code=lines(
            "import math",
            "from kullback.claims.worlds import pair",
            "right = float(pair(0, outcomes=6).q[:3].sum())",
            "print(round(1 / math.sqrt(right * (1 - right)), 6))",
        ),
    ),
    Claim(
        id="folklore-mode-seeking",
        source=FOLKLORE("“RLHF loses diversity because the reverse KL is mode-seeking”"),
        statement="RLHF loses diversity because its KL is the mode-seeking one.",
        verdict=Verdict.FAILS,
        why="The optimum of E[R] − β KL(q‖p) is p·exp(R/β)/Z: answers of equal reward keep the reference's "
        "proportions. What narrows it is the reward.",
        condition="Blame the reward's differences over β, the optimiser, or a KL term that follows nothing.",
        computation=_mode_seeking,
        code=lines(
            "import numpy as np",
            "q = np.array([0.6, 0.3, 0.1]) * np.exp(np.array([1, 1, 0]) / 0.1)",
            "print(round(q[1] / q[0], 6))",
        ),
        meant="A narrow family fitted by the reverse KL does drop modes; a language model is not narrow. arXiv "
        "2510.20817 says as much.",
        by_hand="p = (.6, .3, .1), R = (1, 1, 0): q ∝ (.6e^10, .3e^10, .1), so .3/.6 = ½ as before.",
    ),
)
