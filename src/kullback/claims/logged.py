"""verl, NeMo-RL and llama.cpp: what is logged, as rollout metrics, filtered samples, printed errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import DEEPSEEK, LLAMA, NEMO, VERL
from kullback.claims.worlds import Pair, chances, pair, ratios, sampled, texts, token_ratios, tree
from kullback.estimators import K1, K3
from kullback.estimators.divergences import k3
from kullback.targets import REVERSE_KL


def _rollout_metrics(seed: int) -> Iterator[Evidence]:
    world = pair(seed)  # q samples (the engine), p is the trainer's policy
    rho = world.r
    yield stated("E_μ[ρ − log ρ − 1]", world.mean(rho - np.log(rho) - 1), "=", world.kl)


def _chi2_metrics(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated("E_μ[ρ²] − 1", world.mean(world.r**2) - 1, "=", float(np.sum((world.p - world.q) ** 2 / world.q)))
    sequences = tree(seed)
    ratio = np.exp(-ratios(sequences))
    q, p = (np.exp(to_numpy(lm.sequence_logprobs)) for lm in (sequences.policy, sequences.reference))
    yield stated("E_μ[(Πρ_t)²] − 1", float(chances(sequences) @ ratio**2) - 1, "=", float(np.sum((p - q) ** 2 / q)))


def _effective(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=20, scale=1.5)
    rho = world.r
    share = 1 / (1 + world.chi2)
    cap = float(np.quantile(rho, 0.8))
    for weights, say, which in ((rho, within, "as they are"), (np.minimum(rho, cap), stated, "clamped first")):
        scaled = weights / world.mean(weights)
        yield say(f"1/mean(w̃²), weights {which}, against 1/(1 + χ²)", 1 / world.mean(scaled**2), "=", share)


def token_weights(log_rho: Float64, cap: float) -> Float64:
    """What verl gives each token with ``rollout_is="token"``: exp of the clamped log-ratio, at most the cap."""
    return np.asarray(np.minimum(np.exp(np.clip(log_rho, -20.0, 20.0)), cap))


def _token_weights(seed: int) -> Iterator[Evidence]:
    weights = token_weights(np.log([3.0, 0.5]), 2.0)
    for token, weight in zip(("first", "second"), weights, strict=True):
        yield smallest(
            f"Π_t min(ρ_t, 2) for ρ = 3, ½, as documented, against the code's weight of the {token} token",
            float(np.prod(weights)),
            "=",
            float(weight),
        )
    drawn = tree(seed)
    weights = token_weights(-token_ratios(drawn), 2.0)[drawn.policy.mask.sum(axis=1) > 1]
    gap = np.abs(np.prod(weights, axis=1) - weights[:, 0])
    yield stated(
        "largest |product − weight of the first token|, sequences of a random world", float(gap.max()), "=", 0.0
    )
    tokens = token_weights(-texts().log_ratio, 2.0)
    gap = np.abs(np.log(np.prod(tokens, axis=1, keepdims=True)) - np.log(tokens))[texts().mask]
    yield realistic(
        "mean |log of the product − log of the token's own weight|, realistic world", float(gap.mean()), "=", 0.0
    )


def _nucleus(seed: int) -> Iterator[Evidence]:
    world = pair(seed, outcomes=6, scale=1.5)
    order = np.argsort(-world.q)
    kept = np.zeros(6, dtype=bool)
    kept[order[: int(np.searchsorted(np.cumsum(world.q[order]), 0.9)) + 1]] = True
    if kept.all():
        kept[order[-1]] = False
    mass_q, mass_p = float(world.q[kept].sum()), float(world.p[kept].sum())
    drawn = np.where(kept, world.q / mass_q, 0.0)
    x = world.log_ratio
    cut = float(np.sum(drawn[kept] * np.log((world.q / mass_q / world.p)[kept])))
    yield within("E[k1], untruncated sampling", world.mean(x), "=", world.kl)
    yield stated("E[k1] under top-p, log-probs of the whole policy", float(drawn @ x), "=", world.kl)
    yield instead("the same: KL(q̃‖p) + log q(S)", float(drawn @ x), "=", cut + math.log(mass_q))
    both = Pair(world.q[kept] / mass_q, world.p[kept] / mass_p)
    yield instead(
        "E[k3], log-probs of q̃: low by 1 − p(S)",
        cut - float(drawn[kept] @ k3(np.log((drawn / world.p)[kept]))),
        "=",
        1 - mass_p,
    )
    yield instead("E[k3], both renormalised on S", both.mean(k3(both.log_ratio)), "=", both.kl)


def _kept(seed: int) -> Iterator[Evidence]:
    world = tree(seed)
    ended = ends_itself(world.policy.tokens, world.policy.mask)
    kl = float(world.exact(REVERSE_KL))
    chance = np.where(ended, chances(world), 0.0)
    values = {k.name: float(chance @ to_numpy(world.summand(k, "token")) / chance.sum()) for k in (K1, K3)}
    for name, got in values.items():
        yield stated(f"E Σ_t {name}_t of the sequences that ended", got, "=", kl)
    yield within("E Σ_t k1_t, every sequence kept", float(world.value(K1, "token")), "=", kl)
    yield instead("k1 and k3 no longer agree: k3 − k1", values["k3"] - values["k1"], "≠", 0.0)
    drawn = texts()
    short = ~drawn.mask.all(axis=1)
    yield realistic(
        "E Σ_t k1_t of those that ended before 48 tokens",
        sampled(drawn.sums[short]),
        "=",
        float(drawn.total(drawn.token_kl).mean()),
    )


def ends_itself(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether the last counted token of each row is the end token, 0."""
    last = mask.sum(axis=1) - 1
    return np.asarray(tokens[np.arange(len(tokens)), last] == 0)


def error_ratio(stay: float, n: int = 256) -> float:
    """True error of a mean over sd/√n, of n tokens in two states that are kept with a chance; their KLs are 1 and 0."""
    rho = 2 * stay - 1
    total = n + 2 * sum((n - lag) * rho**lag for lag in range(1, n))
    return math.sqrt(total / n)


def _iid() -> Iterator[Evidence]:
    yield within("true error over the one printed, tokens independent", error_ratio(0.5), "=", 1.0)
    yield stated("the same, neighbouring tokens alike 9 times in 10", error_ratio(0.9), "=", 1.0)
    drawn = texts()
    rows = drawn.mask.all(axis=1)
    kl = drawn.token_kl[rows]
    printed = kl.std() / math.sqrt(kl.size)
    right = kl.mean(axis=1).std() / math.sqrt(len(kl))
    yield realistic(
        "error clustered by sequence over the one printed", float(right / printed), "=", 1.0, tolerance=0.02
    )


CLAIMS = (
    Claim(
        id="verl-rollout-k3",
        source=VERL("rollout correction, k3_kl"),
        statement="The mean of ρ − log ρ − 1, ρ = π_old/π_rollout, estimates KL(π_rollout‖π_old).",
        verdict=Verdict.HOLDS,
        why="ρ is the other's probability over the sampler's: it is k3 with r = ρ.",
        condition="π_old excludes nothing that matters: supp π_old ⊆ supp π_rollout, as top-p breaks.",
        computation=_rollout_metrics,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import pair",
            "w = pair(seed=0)",
            "print(round(w.mean(w.r - np.log(w.r) - 1), 9), round(w.kl, 9))",
        ),
    ),
    Claim(
        id="verl-chi2",
        source=VERL("rollout correction, chi2_token and chi2_seq"),
        statement="E[ρ²] − 1, of tokens and of sequences, is χ²(π_old‖π_rollout).",
        verdict=Verdict.HOLDS,
        why="E[ρ] = 1, so it is the variance of ρ.",
        computation=_chi2_metrics,
        code=lines(
            "from kullback.claims.worlds import pair",
            "w = pair(seed=0)",
            "print(round(w.mean(w.r**2) - 1, 9), round(w.chi2, 9))",
        ),
    ),
    Claim(
        id="verl-effective-size",
        source=VERL("rollout_is_eff_sample_size"),
        statement="1/mean(w̃²) with w̃ = w/mean(w) is the effective share of the samples.",
        verdict=Verdict.CONDITION,
        why="It is 1/(1 + χ²) of the weights it is given; of clamped weights it says how even the clamped ones are.",
        condition="Computed from the weights before they are truncated.",
        computation=_effective,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import pair",
            "w = pair(0, outcomes=20, scale=1.5)",
            "for rho in (np.minimum(w.r, np.quantile(w.r, 0.8)), w.r):",
            "    print(round(w.mean(rho) ** 2 / w.mean(rho**2), 6))",
        ),
    ),
    Claim(
        id="verl-token-truncation",
        source=VERL("rollout correction, combined estimators Geo-RS-, K2-RS- and K3-RS-Token-TIS"),
        statement="The combined estimators weight a sequence by Π_t min(ρ_t, C), implemented with rollout_is=token.",
        verdict=Verdict.FAILS,
        why="With that setting each token's loss is weighted by its own min(ρ_t, C), without a product.",
        condition="Read min(ρ_t, C) for token t, as the page's own section on token-level aggregation has it.",
        computation=_token_weights,
        code=lines(
            "import numpy as np",
            "from kullback.claims.logged import token_weights",
            "weights = token_weights(np.log([3.0, 0.5]), 2.0)",
            "print(weights.prod(), 'against', weights)",
        ),
        meant="The code is the usual one; the formula of the combined estimators is not its.",
        by_hand="ρ = 3, ½ and C = 2: 2·½ = 1 for both tokens, or 2 and ½.",
    ),
    Claim(
        id="nemo-top-p",
        source=NEMO("top-k/top-p filtering"),
        statement="Under top-p sampling, unfiltered log-probs on both sides give the policy's KL.",
        verdict=Verdict.CONDITION,
        why="The samples are the truncated policy's: k1 has mean KL(q̃‖p) + log q(S). The two sides are consistent "
        "with each other, but not with the sampler.",
        condition="No filtering; or log-probs of q̃, with k1 or exact token KLs, for KL(q̃‖p); or both renormalised on "
        "S.",
        computation=_nucleus,
        code=lines(
            "import numpy as np; from kullback.claims.worlds import pair; w = pair(0, outcomes=6, scale=1.5)",
            "kept = np.zeros(6, bool); order = np.argsort(-w.q)",
            "kept[order[: np.searchsorted(np.cumsum(w.q[order]), 0.9) + 1]] = True",
            "print(round(float(w.q[kept] @ w.log_ratio[kept] / w.q[kept].sum()), 6), round(w.kl, 6))",
        ),
        meant="The best handling among trainers: the reference is not asked about a nucleus that is not its own.",
        also=(DEEPSEEK("V3.2, keep sampling mask"),),
    ),
    Claim(
        id="nemo-overlong",
        source=NEMO("overlong filtering"),
        statement="With truncated sequences left out, the mean KL of the rest is still the policy's KL.",
        verdict=Verdict.CONDITION,
        why="Whether a sequence will end is not known when its tokens are drawn, so E[1{kept}(r_t − 1)] ≠ 0: k1 and k3 "
        "get different limits, neither the KL.",
        condition="Nothing is filtered by what came later.",
        computation=_kept,
        code=lines(
            "import kullback as kb; from kullback.claims.worlds import tree; w = tree(seed=0)",
            "from kullback.claims.logged import ends_itself",
            "kept = w.probability * ends_itself(w.policy.tokens, w.policy.mask)",
            "for k in (kb.K1, kb.K3):",
            "    print(round(float(kept @ w.summand(k, 'token') / kept.sum()), 6))",
        ),
    ),
    Claim(
        id="llama-token-errors",
        source=LLAMA("mean_and_uncertainty"),
        statement="The mean token KL of a text has the printed error, sd/√tokens.",
        verdict=Verdict.CONDITION,
        why="Tokens of one text are not independent: with correlation ρ from one to the next the error is √((1 + ρ)/(1 "
        "− ρ)) times as large.",
        condition="Independent tokens; else cluster by document or window.",
        computation=_iid,
        code=lines(
            "from kullback.claims.logged import error_ratio",
            "print([round(error_ratio(stay), 6) for stay in (0.9, 0.5)])",
        ),
    ),
)
