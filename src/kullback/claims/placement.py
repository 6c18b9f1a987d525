"""Tang & Munos and “A Comedy of Estimators”: what an estimator follows in the loss, in the reward, or in both."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64, cumulative_sum, stop_gradient
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import COMEDY, COMEDY_NOTES, LIU, TANG, TRL, XIHUAI
from kullback.claims.worlds import (
    BY_HAND,
    BY_HAND_SCORE,
    CROSSED,
    Gaussian,
    close_pair,
    descents,
    followed,
    live_pair,
    live_tree,
    off,
    pair,
    relative,
    tensor,
)
from kullback.estimators.divergences import k1, k2, k3
from kullback.losses import kl_loss
from kullback.oracle import World, exact_gradient, loss_moments
from kullback.oracle.loss_gradients import gradient_of
from kullback.surrogates import SURROGATES
from kullback.targets import FORWARD_KL, REVERSE_KL, STATEWISE_FORWARD_KL, STATEWISE_REVERSE_KL, Target

if TYPE_CHECKING:
    import torch


def _off(world: World, name: str, target: Target) -> float:
    return off(followed(world, SURROGATES[name].fn), world, target)


def _other_kl(seed: int) -> Iterator[Evidence]:
    yield stated("E ∇k3, one draw, off ∇KL(p‖q) by", _off(live_pair(pair(seed)), "k3_loss", FORWARD_KL), "=", 0.0)
    yield stated("of a sequence", _off(live_tree(seed), "k3_sequence_loss", FORWARD_KL), "=", 0.0)
    yield instead(
        "summed over tokens, off Σ_t E_q[∇KL(p_t‖q_t)] by",
        _off(live_tree(seed), "k3_loss", STATEWISE_FORWARD_KL),
        "=",
        0.0,
    )
    yield instead("summed over tokens, off ∇KL(p‖q) by", _off(live_tree(seed), "k3_loss", FORWARD_KL), ">", 0.01)


def _one_step(seed: int) -> Iterator[Evidence]:
    yield stated("E ∇k2, one draw, off ∇KL(q‖p) by", _off(live_pair(pair(seed)), "k2_loss", REVERSE_KL), "=", 0.0)


def _partial(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    yield stated(
        "E ∇Σ_t k2_t off Σ_t E[∇KL(q_t‖p_t)], prefixes fixed, by",
        _off(world, "k2_loss", STATEWISE_REVERSE_KL),
        "=",
        0.0,
    )
    yield stated("off ∇KL(q‖p) by", _off(world, "k2_loss", REVERSE_KL), ">", 0.01)
    found = descents()
    yield realistic("the same in the realistic world", relative(found.statewise_reverse, found.reverse), "=", 0.0)


def to_go(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Σ_t (Σ_{u≥t} ℓ_u)·log q_t, the coefficients held fixed."""
    ratio = stop_gradient(q - p)
    left = cumulative_sum(ratio.flip(-1)).flip(-1)
    return (left * q).sum(-1)


def _reward_to_go(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    yield stated(
        "E Σ_t (Σ_{u≥t} ℓ_u)·∇log q_t off ∇KL(q‖p) by", off(followed(world, to_go), world, REVERSE_KL), "=", 0.0
    )


def _errors(world: Gaussian, n: float) -> dict[str, float]:
    bias = world.mean_k2 - world.kl
    return {"k1": world.var_k1 / n, "k2": world.var_k2 / n + bias**2, "k3": world.var_k3 / n}


def _error_by_samples() -> Iterator[Evidence]:
    for world, say in ((Gaussian(1.0), within), (Gaussian(2.0), stated)):
        few, many = _errors(world, 1), _errors(world, 10_000)
        yield say(f"mean squared error of k3, 1 sample, KL {world.kl:g}", few["k3"], "<", few["k1"])
        yield say(f"of k2, 1 sample, KL {world.kl:g}", few["k2"], "<", few["k1"])
        yield say(f"of k2, 10,000 samples, KL {world.kl:g}", many["k2"], ">", max(many["k1"], many["k3"]))


def _split(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    live = tensor(world.policy.sequence_logprobs).exp()
    ratio = tensor(world.policy.logprobs) - tensor(world.reference.logprobs)
    for name, kernel in (("k1", k1), ("k2", k2), ("k3", k3)):
        values = kernel(ratio).sum(-1)
        whole = gradient_of((live * values).sum(), world.policy.logits)
        parts = followed(world, SURROGATES[f"{name}_loss"].fn) + followed(world, SURROGATES[f"{name}_reward"].fn)
        yield stated(f"∇E Σ_t {name}_t off loss part + reward part by", relative(parts, whole), "=", 0.0)


def _k1_reward(seed: int) -> Iterator[Evidence]:
    yield stated("k1 in the reward off ∇KL(q‖p) by", _off(live_tree(seed), "k1_reward", REVERSE_KL), "=", 0.0)


def _adds_noise(seed: int) -> Iterator[Evidence]:
    near = close_pair(seed, 0.1)
    for world, say, where in ((near, within, "logits 0.1 apart"), (CROSSED, stated, "q = (.9, .1), p = (.1, .9)")):
        say_more = world.spread(world.log_ratio + 1)
        yield say(
            f"variance of k1 in reward and loss, {where}, against the reward alone",
            say_more,
            ">",
            world.spread(world.log_ratio),
        )
        change = world.mean(world.score_square * (2 * world.log_ratio + 1))
        yield instead(
            f"the difference, E[‖s‖²(2ℓ + 1)], {where}", say_more - world.spread(world.log_ratio), "=", change
        )


def _k3_reward(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    yield stated("Σ_t k3_t in the reward off ∇KL(q‖p) by", _off(world, "k3_reward", REVERSE_KL), ">", 0.01)
    yield stated("Σ_t k3_t in the loss off ∇KL(q‖p) by", _off(world, "k3_loss", REVERSE_KL), ">", 0.01)
    found = descents()
    yield realistic("k3 in the loss, realistic world", relative(found.statewise_forward, found.reverse), "=", 0.0)


def _both(values: Float64, slopes: Float64) -> float:
    """E[k·s] + E[k′(ℓ)·s]: reward and loss together, by hand."""
    return BY_HAND.mean((values + slopes) * BY_HAND_SCORE)


def _any_estimator(seed: int) -> Iterator[Evidence]:
    x = BY_HAND.log_ratio
    exact = BY_HAND.mean(x * BY_HAND_SCORE)
    yield smallest("k2 in reward and loss, q = (.8, .2), p = (.5, .5), d/dq", _both(k2(x), x), "=", exact)
    yield instead("k1 in both", _both(x, np.ones(2)), "=", exact)
    yield instead("k3 in both", _both(k3(x), 1 - np.exp(-x)), "=", exact)
    world = live_tree(seed)
    for name, say in (("k2", stated), ("k1", instead), ("k3", instead)):
        got = followed(world, SURROGATES[f"{name}_loss"].fn) + followed(world, SURROGATES[f"{name}_reward"].fn)
        yield say(f"Σ_t {name}_t in both, off ∇KL(q‖p) by", off(got, world, REVERSE_KL), "=", 0.0)
    for gaussian in (Gaussian(0.1), Gaussian(1.0)):
        yield realistic(
            f"k2 in both, Gaussian mean, KL {gaussian.kl:g}: relative error μ²/2", gaussian.shift**2 / 2, "=", 0.0
        )


def _half_each(seed: int) -> Iterator[Evidence]:
    x = BY_HAND.log_ratio
    exact = BY_HAND.mean(x * BY_HAND_SCORE)
    yield smallest("½ k3 in the reward and ½ in the loss, d/dq", 0.5 * _both(k3(x), 1 - np.exp(-x)), "=", exact)
    world = live_tree(seed)
    got = followed(world, SURROGATES["k3_loss"].fn) + followed(world, SURROGATES["k3_reward"].fn)
    yield stated("½ each, off ∇KL(q‖p) by", off(got / 2, world, REVERSE_KL), "=", 0.0)
    yield instead("the whole β in both, off by", off(got, world, REVERSE_KL), "=", 0.0)
    size = float(np.linalg.norm(descents().reverse))
    yield realistic("‖½∇KL‖ against ‖∇KL‖", size / 2, "=", size)


def _off_policy(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed, off_policy=True)
    for name in ("k1_reward", "k1_loss", "k3_reward", "k3_loss"):
        yield stated(f"{name}, rows from μ, off ∇KL(q‖p) by", _off(world, name, REVERSE_KL), ">", 0.01)
    both = followed(world, SURROGATES["k1_loss"].fn) + followed(world, SURROGATES["k1_reward"].fn)
    yield stated("k1 in both, off by", off(both, world, REVERSE_KL), ">", 0.01)
    yield instead("Σ_t ρ_{1:t} k3_t, off by", off(followed(world, cumulative), world, REVERSE_KL), "=", 0.0)
    right = loss_moments(world, partial(kl_loss, objective=REVERSE_KL)).gradient
    yield instead("kullback.kl_loss, off by", relative(right, exact_gradient(world, REVERSE_KL)), "=", 0.0)


def cumulative(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor, behavior_logprobs: torch.Tensor) -> torch.Tensor:
    """Σ_t ρ_{1:t} k3_t, ρ_{1:t} = Π_{i≤t} q_i/μ_i, nothing detached but μ."""
    weight = cumulative_sum(q - behavior_logprobs).exp()
    return (mask * weight * k3(q - p)).sum(-1)


def _collapse(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield instead("variance of the gradient of k1 in the loss, whose mean is 0", world.spread(np.ones(5)), ">", 0.0)
    found = descents()
    cosine = found.statewise_forward @ found.reverse
    cosine /= np.linalg.norm(found.statewise_forward) * np.linalg.norm(found.reverse)
    yield instead("cosine of k3 in the loss with ∇KL(q‖p), realistic world", float(cosine), ">", 0.9)


CLAIMS = (
    Claim(
        id="tang-k3-follows-the-other",
        source=TANG("pitfall 1"),
        statement="The derivative of the variance-reduced estimate k3 has mean ∇KL(π_ref‖π), the other KL.",
        verdict=Verdict.HOLDS,
        why="E_q[(1 − r)∇log q] = −Σ p∇log q = ∇KL(p‖q).",
        condition="One draw is one outcome. Summed over tokens it is the forward KL of the next tokens, prefixes held "
        "fixed.",
        computation=_other_kl,
        code=lines(
            "from kullback import FORWARD_KL, SURROGATES",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "for name in ('k3_sequence_loss', 'k3_loss'):",
            "    print(round(off(followed(world, SURROGATES[name].fn), world, FORWARD_KL), 6))",
        ),
        also=(XIHUAI("k3 as loss"), LIU("k3 as loss")),
    ),
    Claim(
        id="tang-k2-one-step",
        source=TANG("pitfall 1"),
        statement="For a single step, the derivative of k2 has mean ∇KL(π‖π_ref).",
        verdict=Verdict.HOLDS,
        why="∇½ℓ² = ℓ∇log q.",
        computation=_one_step,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES",
            "from kullback.claims.worlds import followed, live_pair, off, pair",
            "world = live_pair(pair(seed=0))",
            "print(round(off(followed(world, SURROGATES['k2_loss'].fn), world, REVERSE_KL), 9))",
        ),
        also=(LIU("k2 as loss"), XIHUAI("k2 as loss")),
    ),
    Claim(
        id="tang-token-loss-is-partial",
        source=TANG("pitfall 2"),
        statement="Summed over tokens, the derivative of k2 is only a partial gradient of the sequence KL.",
        verdict=Verdict.HOLDS,
        why="It keeps the prefixes fixed: what a token does to later KLs is missing.",
        computation=_partial,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, SURROGATES['k2_loss'].fn), world, REVERSE_KL), 6))",
        ),
    ),
    Claim(
        id="tang-sequence-gradient",
        source=TANG("the right gradient"),
        statement="Σ_t (Σ_{u≥t} ℓ_u)∇log q_t has mean ∇KL(π‖π_ref) of sequences.",
        verdict=Verdict.HOLDS,
        why="What came before token t is multiplied by E[∇log q_t | prefix] = 0.",
        computation=_reward_to_go,
        code=lines(
            "from kullback import REVERSE_KL",
            "from kullback.claims.placement import to_go",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, to_go), world, REVERSE_KL), 9))",
        ),
    ),
    Claim(
        id="tang-error-by-samples",
        source=TANG("figure 1"),
        statement="With few samples k2 and k3 have the smaller mean squared error; with many, k2 the largest, from its "
        "bias.",
        verdict=Verdict.CONDITION,
        why="Error = variance/n + bias². The bias of k2 stays, and its variance is below k1's only while the models "
        "are close.",
        condition="Models close: between Gaussians KL < 0.618.",
        computation=_error_by_samples,
        code=lines(
            "from kullback.claims.worlds import Gaussian",
            "for w in (Gaussian(2.0), Gaussian(1.0)):",
            "    print(round(w.var_k2 + (w.mean_k2 - w.kl) ** 2, 6), round(w.var_k3, 6), 'against', w.var_k1)",
        ),
    ),
    Claim(
        id="comedy-two-parts",
        source=COMEDY("decomposition"),
        statement="∇E[K̂] is the sum of what K̂ follows in the loss and of what it follows in the reward.",
        verdict=Verdict.HOLDS,
        why="Product rule on Σ_y q(y)K̂(y).",
        computation=_split,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "got = followed(world, S['k3_loss'].fn) + followed(world, S['k3_reward'].fn)",
            "print(round(off(got, world, REVERSE_KL), 9))",
        ),
    ),
    Claim(
        id="comedy-k1-reward",
        source=COMEDY("K1 in reward"),
        statement="k1 in the reward follows ∇KL(π‖π_ref) of sequences.",
        verdict=Verdict.HOLDS,
        why="E[ℓ∇log q] = ∇KL(q‖p).",
        condition="The whole return or the return to go is credited, on-policy, and a baseline does not see its own "
        "sample.",
        computation=_k1_reward,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "print(round(off(followed(world, SURROGATES['k1_reward'].fn), world, REVERSE_KL), 9))",
        ),
        also=(TRL("issue 4967"), LIU("k1 in reward")),
    ),
    Claim(
        id="comedy-k1-loss-adds-noise",
        source=COMEDY("K1 in loss"),
        statement="Adding k1 to the loss adds nothing but noise.",
        verdict=Verdict.CONDITION,
        why="Its mean is 0, but with k1 in the reward it acts as a baseline of −1: the variance changes by E[‖s‖²(2ℓ + "
        "1)], which can be negative.",
        condition="E[‖s‖²(2ℓ + 1)] > 0, as it is while ℓ > −½ nearly always.",
        computation=_adds_noise,
        code=lines(
            "from kullback.claims.worlds import CROSSED as w",
            "print(round(w.spread(w.log_ratio + 1), 6), round(w.spread(w.log_ratio), 6))",
        ),
        also=(XIHUAI("off-policy variance"),),
    ),
    Claim(
        id="comedy-k3-biased",
        source=COMEDY("K3 in reward, K3 in loss"),
        statement="k3 summed over tokens follows a biased gradient, in the reward and in the loss.",
        verdict=Verdict.HOLDS,
        why="Each leaves one of the two parts of ∇E[k3] out.",
        computation=_k3_reward,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            "for name in ('k3_reward', 'k3_loss'):",
            "    print(round(off(followed(world, SURROGATES[name].fn), world, REVERSE_KL), 6))",
        ),
    ),
    Claim(
        id="comedy-both-for-any-estimator",
        source=COMEDY_NOTES("both placements"),
        statement="Put into the reward and the loss together, any of the estimators gives the KL's gradient.",
        verdict=Verdict.FAILS,
        why="The two parts sum to ∇E[K̂], which is ∇KL only if E[K̂] = KL for all parameters. E[k2] is not.",
        condition="An estimator whose value is unbiased: k1, k3, exact token KLs.",
        computation=_any_estimator,
        code=lines(
            "import numpy as np",
            "q, p, s = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.25, -5.0])",
            "x = np.log(q / p)",
            "print(round(q @ ((x**2 / 2 + x) * s), 6), round(q @ (x * s), 6))",
        ),
        meant="k1 and k3, which the paper is about. The paper itself is not known to say it.",
        by_hand="q = (.8, .2), p = (.5, .5), d/dq: E[½ℓ²s] + E[ℓs] = −.309 + 1.386 = 1.077, not 1.386.",
    ),
    Claim(
        id="comedy-half-each",
        source=COMEDY_NOTES("both placements, one of them"),
        statement="The coefficient is to be halved between reward and loss.",
        verdict=Verdict.FAILS,
        why="The parts add up to the gradient; half of each is half of it.",
        condition="The whole β in both places.",
        computation=_half_each,
        code=lines(
            "import numpy as np",
            "q, p, s = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.25, -5.0])",
            "x = np.log(q / p)",
            "k3, slope = np.exp(-x) - 1 + x, 1 - np.exp(-x)",
            "print(round(q @ ((k3 + slope) * s) / 2, 6), round(q @ (x * s), 6))",
        ),
        meant="Not to count the penalty twice; it is not counted twice.",
        by_hand="q = (.8, .2), p = (.5, .5), d/dq: ½(−.489 + 1.875) = .693, not 1.386.",
    ),
    Claim(
        id="comedy-off-policy",
        source=COMEDY("section 3"),
        statement="None of k1, k3 in reward, loss or both gives an unbiased gradient of the sequence KL off-policy.",
        verdict=Verdict.HOLDS,
        why="Their rows come from μ. Σ_t ρ_{1:t}k_t with the weights in the graph has mean KL(q‖p) for every q, so its "
        "derivative is unbiased: the open problem has a solution.",
        condition="supp q ⊆ supp μ. The weights' variance grows with the length.",
        computation=_off_policy,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES as S",
            "from kullback.claims.placement import cumulative",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(0, off_policy=True)",
            "print([round(off(followed(world, f), world, REVERSE_KL), 6) for f in (S['k1_reward'].fn, cumulative)])",
        ),
    ),
    Claim(
        id="comedy-training",
        source=COMEDY("experiments"),
        statement="K1 in the loss and K3 in the reward make training collapse; K3 in the loss is stable but "
        "generalises worse.",
        verdict=Verdict.UNDECIDED,
        why="It takes their models and GPUs. What can be said: k1 in the loss is pure noise, and k3 in the loss points "
        "nearly along the KL's gradient while the models are close.",
        computation=_collapse,
        code=lines(
            "from kullback.claims.worlds import descents",
            "a, b = descents().statewise_forward, descents().reverse",
            "print(round(float(a @ b / ((a @ a) * (b @ b)) ** 0.5), 6))",
        ),
    ),
)
