"""002 and 003, “Re-understanding KL Approximation”: the article on what trainers do, store and spend."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.claims.record import (
    Claim,
    Evidence,
    Verdict,
    instead,
    lines,
    realistic,
    smallest,
    stated,
    within,
)
from kullback.claims.sources import RETHINK, RETHINK_ZH
from kullback.claims.worlds import (
    Gaussian,
    chances,
    drawn_k3,
    followed,
    language,
    live_tree,
    off,
    operations,
    pair,
    relative,
    token_kl,
    tree,
)
from kullback.estimators import K3
from kullback.estimators.divergences import k1, k3
from kullback.oracle import World
from kullback.surrogates import SURROGATES
from kullback.targets import REVERSE_KL, STATEWISE_FORWARD_KL


def _in_the_loss(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    loss, reward = (followed(world, SURROGATES[f"k1_{place}"].fn) for place in ("loss", "reward"))
    yield stated("PPO's k1 in the loss off what it follows in the reward by", relative(loss, reward), "=", 0.0)
    yield instead(
        "k1 in the reward, where RLHF's PPO has it, off ∇KL(q‖p) by", off(reward, world, REVERSE_KL), "=", 0.0
    )
    got = followed(world, SURROGATES["k3_loss"].fn)
    yield within(
        "GRPO's k3 in the loss off the next tokens' ∇KL(p‖q) by", off(got, world, STATEWISE_FORWARD_KL), "=", 0.0
    )


def _two_ends(seed: int) -> Iterator[Evidence]:
    world, old = pair(seed), pair(seed + 500).q
    new = world.q
    penalty = float(old @ k3(np.log(old / new)))
    between = float(old @ np.log(old / new))
    yield within(
        "PPO's own penalty, k3 of new and old at samples of old, against KL(π_old‖π_new)", penalty, "=", between
    )
    same = tree(seed)
    yield stated(
        "GRPO's KL term where π_new = π_old, against KL(π_old‖π_new) = 0", float(same.value(K3, "token")), "=", 0.0
    )
    moved = tree(seed, off_policy=True)
    term = float(chances(moved) @ to_numpy(moved.summand(K3, "token")))
    apart = float(REVERSE_KL.exact(World(moved.sampler, moved.policy)))
    yield stated("the same after updates", term, "=", apart)
    yield instead(
        "GRPO's where π_new = π_old, against KL(π_new‖π_ref)",
        float(same.value(K3, "token")),
        "=",
        float(same.exact(REVERSE_KL)),
    )


def adapted(estimates: Float64, target: float, gain: float) -> Float64:
    """The next β over this one, of the adaptive controller: 1 + gain·clip(estimate/target − 1, ±0.2)."""
    return np.asarray(1 + gain * np.clip(estimates / target - 1, -0.2, 0.2))


def coefficient_spread(kernel: str, gain: float, draws: int = 64, batches: int = 20_000) -> float:
    """sd of the next β over this one, Gaussian, KL 0.005, which is the target, with the mean of k1 or k3 of a batch."""
    world = Gaussian(0.1)
    x = np.random.default_rng(0).normal(size=(batches, draws))
    values = {"k1": k1, "k3": k3}[kernel](world.kl - world.shift * x).mean(axis=1)
    return float(adapted(values, world.kl, gain).std())


def _coefficient() -> Iterator[Evidence]:
    fixed, one, three = coefficient_spread("k1", 0.0), coefficient_spread("k1", 0.1), coefficient_spread("k3", 0.1)
    yield stated("sd of the next β over this one, β fixed, k1 of 64 at KL 0.005", fixed, ">", 0.0)
    yield within("the same, adaptive β", one, ">", 0.0)
    yield within("with k1, against that with k3", one, ">", 1.2 * three)
    yield instead("the most it can move at one step, 0.1 · 0.2", one, "≤", 0.1 * 0.2)


def stored_bytes(vocab: int) -> tuple[int, int]:
    """Bytes a token of both models' next-token log-probs in 16 bits, and of the drawn token's in 32."""
    rows, drawn = np.zeros((2, vocab), dtype=np.float16), np.zeros(2, dtype=np.float32)
    return rows.nbytes, drawn.nbytes


def _memory() -> Iterator[Evidence]:
    for vocab in (50_000, 151_936):
        every, drawn = stored_bytes(vocab)
        yield stated(
            f"bytes a token of both models' distributions, V = {vocab:,}, against two log-probs", every, ">", drawn
        )
    every, drawn = stored_bytes(151_936)
    yield realistic("GiB for 512 sequences of 2,000 tokens", every * 512 * 2000 / 2**30, ">", 1.0)
    yield instead("MiB with the log-probs of the drawn tokens only", drawn * 512 * 2000 / 2**20, "<", 10.0)


def stored_k3(ratio: Float64) -> object:
    """k3 of drawn tokens whose log-probs are stored."""
    return k3(ratio)


def costs(vocab: int) -> dict[str, float]:
    """Operations of k3 of one token over those of its exact KL: from stored log-probs, and from logits."""
    logits = np.random.default_rng(0).normal(size=(2, vocab))
    exact = operations(token_kl, *logits)
    return {"stored": operations(stored_k3, logits[0, :1]) / exact, "logits": operations(drawn_k3, *logits) / exact}


VOCAB = 151_936


def _huge() -> Iterator[Evidence]:
    yield smallest(
        "operations of k3 of a drawn token over those of the sum, from logits, V = 50,000",
        costs(50_000)["logits"],
        ">",
        1.0,
    )
    yield stated("the same from stored log-probs", costs(50_000)["stored"], ">", 1.0)
    yield realistic(f"from logits at V = {VOCAB:,}", costs(VOCAB)["logits"], ">", 1.0)
    policy, reference = language()
    variance = policy.variance(reference, "k1") / policy.variance(reference, "rao_blackwell")
    yield instead("samples of k1 for one of the exact token KLs at equal error, realistic world", variance, ">", 1.0)


def _much_smaller() -> Iterator[Evidence]:
    yield within(
        "operations of k3 over those of the sum, log-probs stored, V = 50,000", costs(50_000)["stored"], "<", 0.1
    )
    yield stated("the same from the logits of both models", costs(50_000)["logits"], "<", 0.1)
    yield realistic(f"from logits at V = {VOCAB:,}", costs(VOCAB)["logits"], "<", 0.1)


CLAIMS = (
    Claim(
        id="002-kl-in-the-loss",
        source=RETHINK("“we often tack a KL divergence term onto the loss”"),
        statement="In PPO and GRPO one often adds a KL term to the loss.",
        verdict=Verdict.CONDITION,
        why="GRPO does, with k3. RLHF's PPO takes k1 from the reward; in the loss, on-policy, k1 follows nothing.",
        condition="GRPO, and PPO's own variant with a penalty to the old policy.",
        computation=_in_the_loss,
        code=lines(
            "from kullback import SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, relative",
            "world = live_tree(seed=0)",
            "print(round(relative(followed(world, S['k1_loss'].fn), followed(world, S['k1_reward'].fn)), 6))",
        ),
        also=(RETHINK_ZH("“我们经常会在 loss 里加一个 KL 散度”"),),
    ),
    Claim(
        id="002-old-and-new-in-the-kl",
        source=RETHINK("“q is the old policy distribution … p is the new policy distribution”"),
        statement="The KL term of PPO, GRPO and the like is between the old policy q and the new policy p.",
        verdict=Verdict.CONDITION,
        why="In RLHF and GRPO it is between the policy and a fixed reference: where the new policy is the old one, it "
        "is KL(π_new‖π_ref) and not 0.",
        condition="PPO's own KL penalty, which is KL(π_old‖π_new) at samples of the old policy.",
        computation=_two_ends,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import tree",
            "world = tree(seed=0)",
            "print(round(float(world.value(kb.K3, 'token')), 6), round(float(world.exact(kb.REVERSE_KL)), 6))",
        ),
        also=(RETHINK_ZH("“q 是旧策略分布”"),),
    ),
    Claim(
        id="002-coefficient-unstable",
        source=RETHINK("“That makes the KL-penalty coefficient unstable”"),
        statement="A jumping estimate makes the coefficient of the KL penalty unstable: suddenly too strong or too "
        "weak.",
        verdict=Verdict.CONDITION,
        why="A fixed β does not move. One that is adapted to the estimate does, more with k1 than with k3, but at most "
        "by its clip: 2 % a step in the usual controller.",
        condition="An adaptive coefficient, of which the Chinese version speaks.",
        computation=_coefficient,
        code=lines(
            "from kullback.claims.rethink_practice import coefficient_spread",
            "for kernel, gain in (('k1', 0.0), ('k1', 0.1), ('k3', 0.1)):",
            "    print(round(coefficient_spread(kernel, gain), 6), 'with', kernel)",
        ),
        also=(RETHINK_ZH("“同时会使 KL-penalty 系数调节不稳”"),),
    ),
    Claim(
        id="002-logprobs-save-memory",
        source=RETHINK("“we only keep the log-probs of the tokens actually generated along the trajectory”"),
        statement="Only the log-probs of the tokens drawn are kept, to save memory and transfer.",
        verdict=Verdict.HOLDS,
        why="Both models' distributions take 4 bytes an entry of the vocabulary in 16 bits, 607,744 a token at V = "
        "151,936; two log-probs in 32 bits take 8.",
        condition="The exact token KL, taken while the logits are there, is one more number a token.",
        computation=_memory,
        code=lines(
            "from kullback.claims.rethink_practice import stored_bytes",
            "print('{} bytes a token against {}'.format(*stored_bytes(151_936)))",
        ),
        also=(RETHINK_ZH("“这是为了节省显存和 I/O 开销”"),),
    ),
    Claim(
        id="003-estimator-cost",
        source=RETHINK_ZH("“使用 estimator 后计算量其实是巨大的”"),
        statement="Compared with the exact sum, an estimator takes a huge amount of computation.",
        verdict=Verdict.FAILS,
        why="From logits k3 of a drawn token takes 8 operations an entry, for the two normalisers, and the exact KL "
        "14; from stored log-probs k3 takes 6 in all. The English version says the opposite.",
        condition="Counted at equal error the exact sum may still be the cheaper one, since its terms are already "
        "there.",
        computation=_huge,
        code=lines(
            "from kullback.claims.rethink_practice import costs",
            "print(round(costs(50_000)['logits'], 6), 'from logits,', costs(50_000)['stored'], 'if stored')",
        ),
        meant="Small: a slip of one character, 巨大 for 很小.",
        by_hand="V = 50,000, from logits: 400,000 operations against 700,000.",
    ),
    Claim(
        id="002-estimator-cheaper",
        source=RETHINK("“with an estimator, the computational load is much smaller than doing the full sum”"),
        statement="With an estimator the computational load is much smaller than with the full sum.",
        verdict=Verdict.CONDITION,
        why="The log-prob of a drawn token needs log Σ exp over the vocabulary, for both models: 8 operations an entry "
        "against 14. Plain torch, timed on one core at V = 151,936, takes 1.5 to 3 times as long for the exact KL.",
        condition="The log-probs are stored already. The LM head that makes the logits costs more than either.",
        computation=_much_smaller,
        code=lines(
            "from kullback.claims.rethink_practice import costs",
            "print(round(costs(50_000)['logits'], 6), f\"{costs(50_000)['stored']:.3g}\")",
        ),
    ),
)
