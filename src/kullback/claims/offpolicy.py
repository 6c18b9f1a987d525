"""RPG and DeepSeek: losses over samples that an older policy drew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, stated, within
from kullback.claims.sources import DEEPSEEK, NEMO, RPG, SLIME, TRL
from kullback.claims.worlds import (
    ENDLESS,
    chances,
    descents,
    followed,
    live_pair,
    live_tree,
    off,
    pair,
    relative,
    sampled,
    tensor,
    texts,
    token_ratios,
    tree,
)
from kullback.estimators import K3
from kullback.estimators.divergences import k1, k3
from kullback.oracle import TreeLM, World
from kullback.surrogates import SURROGATES
from kullback.targets import FORWARD_KL, REVERSE_KL, SAMPLED_REVERSE_KL, STATEWISE_REVERSE_KL

if TYPE_CHECKING:
    import torch


def _unnormalised(seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng(seed)
    old, new = rng.uniform(0.1, 1.0, size=(2, 5))
    y = new / old
    divergence = float(np.sum(old * np.log(old / new)) + np.sum(new - old))
    yield stated("Σ π_old·k3(π/π_old), masses that are not 1", float(old @ (y - 1 - np.log(y))), "=", divergence)
    other = float(np.sum(new * np.log(new / old)) + np.sum(old - new))
    yield stated("Σ π·k3(π_old/π)", float(new @ (1 / y - 1 + np.log(y))), "=", other)


BETA = 0.3


def rpg_rows(seed: int) -> Iterator[tuple[str, Float64, Float64, Float64]]:
    """Each row: the gradients of its loss, of its REINFORCE form, and the −∇J of the table, by autograd."""
    world = live_pair(pair(seed))
    rng = np.random.default_rng(seed)
    old, reward = pair(seed + 500).q, rng.normal(size=5)
    logits = tensor(world.policy.logits)
    import torch

    log_q = tensor(world.policy.log_distributions)[0]
    mu, gain = torch.tensor(old), torch.tensor(reward)
    w = (log_q - mu.log()).exp()
    fixed = w.detach()
    rows: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
        "UFKL": (-w * gain + BETA * (w - w.log() - 1), fixed * gain - BETA * (fixed - 1)),
        "URKL": (-w * gain + BETA * (w * w.log() - w), fixed * (gain - BETA * fixed.log())),
        "FKL": (-w * gain - BETA * log_q, fixed * gain + BETA),
        "RKL": (w * (-gain + BETA * w.log()), fixed * (gain - BETA * fixed.log() - BETA)),
    }
    for name, (loss, coefficient) in rows.items():
        direct = torch.autograd.grad((mu * loss).sum(), logits, retain_graph=True)[0].numpy()
        reinforce = torch.autograd.grad(-(mu * coefficient * log_q).sum(), logits, retain_graph=True)[0].numpy()
        yield name, direct, reinforce, _objective(world, name, old, reward)


def _objective(world: World, name: str, old: Float64, reward: Float64) -> Float64:
    """∇ of −E_π[R] + β·divergence, summed over all outcomes: what each row means to descend."""
    import torch

    log_q = tensor(world.policy.log_distributions)[0]
    mu, gain = torch.tensor(old), torch.tensor(reward)
    forward = (mu * (mu.log() - log_q)).sum() + (log_q.exp() - mu).sum() * (name == "UFKL")
    reverse = (log_q.exp() * (log_q - mu.log())).sum() + (mu - log_q.exp()).sum() * (name == "URKL")
    total = -(log_q.exp() * gain).sum() + BETA * (forward if "F" in name else reverse)
    return np.asarray(torch.autograd.grad(total, tensor(world.policy.logits), retain_graph=True)[0].numpy())


def _rpg_losses(seed: int) -> Iterator[Evidence]:
    for name, direct, _, objective in rpg_rows(seed):
        yield stated(f"gradient of the {name} loss off that of its objective by", relative(direct, objective), "=", 0.0)


def _rpg_reinforce(seed: int) -> Iterator[Evidence]:
    for name, direct, reinforce, _ in rpg_rows(seed):
        yield stated(f"REINFORCE form of {name} off the loss by", relative(reinforce, direct), "=", 0.0)


def _best_and_last() -> Iterator[Evidence]:
    wrong = [name for name, (last, best) in AIME25.items() if last > best]
    yield instead("entries of its AIME25 columns with a best below the last", len(wrong), "=", 1)
    best, last = AIME25["RPG-URKL"]
    yield instead("best − last of RPG-URKL, the two exchanged", best - last, ">", 0.0)


AIME25 = {
    "GRPO": (0.3354, 0.4063),
    "DAPO": (0.4469, 0.4740),
    "RPG-UFKL": (0.4698, 0.4865),
    "RPG-URKL": (0.5261, 0.4938),
}
"""Last and best accuracy, as table 3 prints them."""


def _corrected(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed, off_policy=True)
    got = followed(world, SURROGATES["k3_token_ratio"].fn)
    yield within(
        "E_μ ∇Σ_t ρ_t k3_t off Σ_t E_μ[∇KL(q_t‖p_t)], prefixes of μ fixed, by",
        off(got, world, SAMPLED_REVERSE_KL),
        "=",
        0.0,
    )
    yield stated("off ∇KL(q‖p) of sequences by", off(got, world, REVERSE_KL), "=", 0.0)
    same = live_tree(seed)
    got = followed(same, SURROGATES["k3_token_ratio"].fn)
    yield within("on-policy, off Σ_t E_q[∇KL(q_t‖p_t)] by", off(got, same, STATEWISE_REVERSE_KL), "=", 0.0)
    detached = followed(live_pair(pair(seed)), SURROGATES["k3_token_ratio_detached"].fn)
    yield instead(
        "with the ratio detached, one token, off ∇KL(p‖q) by",
        off(detached, live_pair(pair(seed)), FORWARD_KL),
        "=",
        0.0,
    )
    found = descents()
    yield realistic(
        "on-policy, realistic world, off ∇KL(q‖p) by", relative(found.statewise_reverse, found.reverse), "=", 0.0
    )


def _unbounded(seed: int) -> Iterator[Evidence]:
    q = 10.0 ** -np.arange(1, 9)
    yield stated("|1 − r| of k3 in the loss at q = 1e-8, p = 0.1", float(abs(1 - 0.1 / q[-1])), ">", 1e6)
    yield stated("the corrected coefficient |ℓ| there", float(abs(math.log(q[-1] / 0.1))), "<", 20.0)
    world = pair(seed, scale=3.0)
    yield instead(
        "largest q|1 − r| = |q − p|: the token is as rare as its weight is large",
        float((world.q * np.abs(1 - world.r)).max()),
        "≤",
        1.0,
    )


def _length_means(seed: int) -> Iterator[Evidence]:
    fixed = _fixed_length(seed)
    for world, say, where in ((fixed, within, "of one length"), (tree(seed), stated, "that end by themselves")):
        lengths = world.policy.mask.sum(axis=1)
        per_token = float(world.exact(REVERSE_KL)) / float(chances(world) @ lengths)
        for name, kernel in (("k1", k1), ("k3", k3)):
            got = float(chances(world) @ (kernel(token_ratios(world)).sum(axis=1) / lengths))
            yield say(f"E[(1/T)Σ_t {name}_t], sequences {where}, against KL/E[T]", got, "=", per_token)
    end, token = float(ENDLESS.q[0]), ENDLESS.token
    inverse = -end * math.log(end) / (1 - end)  # E[1/T]
    rest = float(ENDLESS.q[1:] @ token.log_ratio[1:]) / (1 - end)
    got = float(token.log_ratio[0]) * inverse + rest * (1 - inverse)
    yield instead(
        "E[(1/T)Σ_t k1_t], tokens (.1, .45, .45) against (.05, .6, .35)", got, "=", 0.163805, tolerance=5.1e-7
    )
    yield instead("KL/E[T] there", ENDLESS.kl * end, "=", 0.052949, tolerance=5.1e-7)
    drawn = texts()
    lengths = drawn.mask.sum(axis=1)
    yield realistic(
        "E[(1/T)Σ_t k1_t] in millinats",
        sampled(1e3 * drawn.sums / lengths),
        "=",
        1e3 * float(drawn.log_ratio.sum() / lengths.sum()),
    )


def _fixed_length(seed: int) -> World:
    """A random pair whose end token is too rare to matter."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(2, 7, 3))
    tables[:, :, 0] = -60.0
    return World(*(TreeLM(table, 0, 3) for table in tables))


def _old_samples(seed: int) -> Iterator[Evidence]:
    on, off_policy = tree(seed), tree(seed, off_policy=True)
    for world, say, where in ((on, within, "the policy"), (off_policy, stated, "π_old")):
        values = to_numpy(world.summand(K3, "token"))
        yield say(f"E Σ_t k3_t, samples from {where}", float(chances(world) @ values), "=", float(on.exact(REVERSE_KL)))
    q, p, mu = (to_numpy(lm.logprobs) for lm in (off_policy.policy, off_policy.reference, off_policy.sampler))
    weight = np.exp(np.cumsum(q - mu, axis=1))
    cumulative = np.sum(np.where(off_policy.policy.mask, weight * k3(q - p), 0.0), axis=1)
    yield instead("E_μ Σ_t ρ_{1:t} k3_t", float(chances(off_policy) @ cumulative), "=", float(on.exact(REVERSE_KL)))
    token = np.sum(np.where(off_policy.policy.mask, np.exp(q - mu) * k3(q - p), 0.0), axis=1)
    yield instead(
        "E_μ Σ_t ρ_t k3_t, one token's ratio each",
        float(chances(off_policy) @ token),
        "≠",
        float(on.exact(REVERSE_KL)),
    )


CLAIMS = (
    Claim(
        id="rpg-k3-unnormalised",
        source=RPG("appendix D"),
        statement="E over π_old of k3(π/π_old) is the unnormalised KL(π_old‖π), and E over π of k3(π_old/π) is "
        "UKL(π‖π_old).",
        verdict=Verdict.HOLDS,
        why="Σ π_old(w − 1 − log w) = Σ π_old log(π_old/π) + Σ(π − π_old), term by term.",
        computation=_unnormalised,
        code=lines(
            "import numpy as np",
            "old, new = np.random.default_rng(0).uniform(0.1, 1.0, size=(2, 5))",
            "y = new / old",
            "print(round(old @ (y - 1 - np.log(y)), 9), round(np.sum(old * np.log(old / new)) + np.sum(new - old), 9))",
        ),
    ),
    Claim(
        id="rpg-losses",
        source=RPG("tables 1 and 4"),
        statement="The four losses over samples of π_old have the gradients of their objectives.",
        verdict=Verdict.HOLDS,
        why="The weight w = π/π_old stays in the graph: E_old[f(w)] is a function of π whose derivative is meant.",
        condition="Each outcome is one draw, supp π ⊆ supp π_old. Token by token the prefixes are π_old's.",
        computation=_rpg_losses,
        code=lines(
            "from kullback.claims.offpolicy import rpg_rows",
            "from kullback.claims.worlds import relative",
            "for name, direct, reinforce, objective in rpg_rows(0):",
            "    print(name, round(relative(direct, objective), 9))",
        ),
    ),
    Claim(
        id="rpg-reinforce-forms",
        source=RPG("tables 2 and 4"),
        statement="The REINFORCE-style losses, with the coefficient held fixed, have the same gradients.",
        verdict=Verdict.HOLDS,
        why="∇w = w∇log π, so ∇f(w) = f′(w)w∇log π.",
        computation=_rpg_reinforce,
        code=lines(
            "from kullback.claims.offpolicy import rpg_rows",
            "from kullback.claims.worlds import relative",
            "for name, direct, reinforce, objective in rpg_rows(0):",
            "    print(name, round(relative(reinforce, direct), 9))",
        ),
    ),
    Claim(
        id="rpg-best-and-last",
        source=RPG("table 3"),
        statement="RPG-URKL on AIME25 ends at .5261 with a best of .4938.",
        verdict=Verdict.UNDECIDED,
        why="It takes their runs. What can be said: a best over training is at least the last, so that the two cannot "
        "both be as printed. It is the only such entry, and exchanged they are in order: a misprint, which says "
        "nothing of the method.",
        computation=_best_and_last,
        code=lines(
            "from kullback.claims.offpolicy import AIME25",
            "wrong = [name for name, (last, best) in AIME25.items() if last > best]",
            "print(len(wrong), wrong)",
        ),
    ),
    Claim(
        id="deepseek-corrected-k3",
        source=DEEPSEEK("V3.2, eq. (7)"),
        statement="Multiplying each token's k3 by π/π_old makes the KL's gradient unbiased.",
        verdict=Verdict.CONDITION,
        why="E_μ[ρ_t k3_t | prefix] = KL(q_t‖p_t) as a function of q. The prefixes stay those that were drawn, so what "
        "a token does to later KLs is missing, on-policy too.",
        condition="For the KL of the next token at the sampled prefixes; the ratio in the graph, not clipped. For "
        "sequences the weight is ρ_{1:t}.",
        computation=_corrected,
        code=lines(
            "from kullback import REVERSE_KL, SURROGATES as S",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(0, off_policy=True)",
            "print(round(off(followed(world, S['k3_token_ratio'].fn), world, REVERSE_KL), 6))",
        ),
        also=(
            TRL("use_bias_correction_kl, “unbiased KL divergence estimator”"),
            SLIME("importance_ratio"),
            RPG("on GRPO"),
            NEMO("use_on_policy_kl_approximation"),
        ),
    ),
    Claim(
        id="deepseek-unbounded-weight",
        source=DEEPSEEK("V3.2, on K3"),
        statement="Where π is far below π_ref, the gradient of k3 gives a token unbounded weight.",
        verdict=Verdict.HOLDS,
        why="The coefficient is 1 − r, and r = π_ref/π → ∞. With the ratio it is ℓ, which grows like a logarithm.",
        condition="A token once drawn; in the mean q|1 − r| = |q − p| stays below 1.",
        computation=_unbounded,
        code=lines(
            "import numpy as np",
            "from kullback.claims.worlds import Pair",
            "w = Pair(np.array([1e-8, 1 - 1e-8]), np.array([0.1, 0.9]))",
            "print(round(abs(1 - w.r[0]), 3), round(abs(w.log_ratio[0]), 3))",
        ),
    ),
    Claim(
        id="deepseek-length-means",
        source=DEEPSEEK("GRPO, 1/|o| Σ_t"),
        statement="Averaged over each output's tokens, the per-token k3 is an unbiased estimate of the KL a token.",
        verdict=Verdict.CONDITION,
        why="The length is not known when a token is drawn, so E[(1/T)Σ(r_t − 1)] ≠ 0 and E[S/T] ≠ E[S]/E[T]: k1 and "
        "k3 have two limits, and neither is KL/E[T].",
        condition="All outputs of one length; or divide the sum by a constant, or totals by totals.",
        computation=_length_means,
        code=lines(
            "import kullback as kb, numpy as np",
            "from kullback.claims.worlds import tree",
            "w = tree(seed=0); x = w.policy.logprobs - w.reference.logprobs; n = w.policy.mask.sum(axis=1)",
            "for k in (kb.K1, kb.K3):",
            "    print(round(float(w.probability @ (np.where(w.policy.mask, k(x), 0).sum(axis=1) / n)), 6))",
        ),
    ),
    Claim(
        id="deepseek-old-samples",
        source=DEEPSEEK("GRPO and R1, samples of π_old"),
        statement="k3 over samples of π_old is an unbiased estimate of KL(π_θ‖π_ref).",
        verdict=Verdict.CONDITION,
        why="Its mean under μ is Σ μ(r − 1 − log r), another number. Weighted by ρ_{1:t} it is right.",
        condition="π_old = π_θ: the first step after sampling.",
        computation=_old_samples,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import tree",
            "for world in (tree(0, off_policy=True), tree(0)):",
            "    print(round(float(world.probability @ world.summand(kb.K3, 'token')), 6))",
        ),
        also=(NEMO("“makes the KL approximation off-policy”"),),
    ),
)
