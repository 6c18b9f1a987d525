"""Xu (004): estimating the gradient of the KL divergence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64, stop_gradient, to_numpy
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, smallest, stated, within
from kullback.claims.sources import COMEDY, DEEPSEEK, LIU, TANG, XIHUAI, XU
from kullback.claims.worlds import (
    BY_HAND,
    BY_HAND_SCORE,
    Pair,
    chances,
    close_pair,
    descents,
    followed,
    live_pair,
    live_tree,
    off,
    pair,
    relative,
    tree,
)
from kullback.estimators import K3
from kullback.estimators.divergences import k3
from kullback.surrogates import SURROGATES, squared_about
from kullback.targets import FORWARD_KL, REVERSE_KL

if TYPE_CHECKING:
    import torch


def _gradient_of_k1(seed: int) -> Iterator[Evidence]:
    world = live_tree(seed)
    got = followed(world, SURROGATES["f_N"].fn)
    yield stated("‖E ∂f_N‖, sequences", float(np.linalg.norm(got)), "=", 0.0)
    got = followed(world, SURROGATES["k1_loss"].fn)
    yield stated("‖E ∂Σ_t k1_t‖", float(np.linalg.norm(got)), "=", 0.0)


def mean_square(coefficients: Float64) -> float:
    """E‖c·∂log q − ∂KL‖² in the probability of the first of two outcomes, q = (.8, .2), p = (.5, .5)."""
    wanted = BY_HAND.mean(BY_HAND.log_ratio * BY_HAND_SCORE)
    return BY_HAND.mean((coefficients * BY_HAND_SCORE - wanted) ** 2)


def _worst(seed: int) -> Iterator[Evidence]:
    yield smallest("mean squared error of ∂f_N", mean_square(np.ones(2)), "≥", mean_square(BY_HAND.log_ratio - 5))
    world = pair(seed)
    wanted = world.gradient(world.log_ratio)
    error = world.spread(np.ones(5)) + float(wanted @ wanted)
    yield stated("the same in a random world, against ∂½(ℓ − 20)²", error, "≥", world.spread(world.log_ratio - 20))
    yield instead("its part along the gradient", float(world.gradient(np.ones(5)) @ wanted), "=", 0.0)
    yield realistic("‖∇KL(q‖p)‖, all of which it misses", float(np.linalg.norm(descents().reverse)), "=", 0.0)


def _squared(seed: int) -> Iterator[Evidence]:
    world = pair(seed)
    yield stated(
        "E[ℓ·∇log q], one draw, off ∇KL(q‖p) by",
        relative(world.gradient(world.log_ratio), _finite(world)),
        "=",
        0.0,
        tolerance=1e-6,
    )
    live = live_tree(seed)
    got = followed(live, SURROGATES["k2_sequence_loss"].fn)
    yield stated("E ∂½(Σ_t ℓ_t)², sequences, off by", off(got, live, REVERSE_KL), "=", 0.0)
    got = followed(live, SURROGATES["k2_loss"].fn)
    yield instead("E ∂Σ_t ½ℓ_t², as trainers write it, off by", off(got, live, REVERSE_KL), ">", 0.01)


def _finite(world: Pair) -> Float64:
    """∇KL(q‖p) in the logits of q, by central differences."""
    logits, step = np.log(world.q), 1e-6
    return np.array(
        [
            (Pair(_moved(logits, i, step), world.p).kl - Pair(_moved(logits, i, -step), world.p).kl) / (2 * step)
            for i in range(len(logits))
        ]
    )


def _moved(logits: Float64, place: int, step: float) -> Float64:
    moved = np.exp(logits + step * (np.arange(len(logits)) == place))
    return np.asarray(moved / moved.sum())


def _any_constant(seed: int) -> Iterator[Evidence]:
    live = live_tree(seed)
    for constant in (-3.0, 1.0, 10.0):
        got = followed(live, partial(squared_about, constant=constant))
        yield stated(f"E ∂½(c + ℓ)², c = {constant:g}, off ∇KL(q‖p) by", off(got, live, REVERSE_KL), "=", 0.0)
    world = pair(seed)
    best = -world.mean(world.log_ratio * world.score_square) / world.mean(world.score_square)
    quiet = world.spread(world.log_ratio + best)
    yield instead("variance at c* = −E[ℓ‖s‖²]/E‖s‖² against c = 0", quiet, "≤", world.spread(world.log_ratio))
    yield instead("variance at c* + 0.1 against c*", world.spread(world.log_ratio + best + 0.1), ">", quiet)


def off_fx(world: Pair) -> float:
    """‖E ∂f_S − E f_X‖/‖E f_X‖ in the logits of q."""
    return relative(world.gradient(1 - world.r), world.gradient(world.log_ratio))


def _gradient_of_k3(seed: int) -> Iterator[Evidence]:
    near, nearer, apart = (close_pair(seed, distance) for distance in (0.01, 0.005, 2.0))
    yield stated("E ∂f_S off E f_X by, logits 0.01 apart", off_fx(near), "=", 0.0, tolerance=0.02)
    yield stated("the same at half the distance, over that", off_fx(nearer) / off_fx(near), "=", 0.5, tolerance=0.02)
    yield instead("the same, logits 2 apart", off_fx(apart), ">", 0.02)
    yield instead("there E ∂f_S off ∇KL(p‖q) by", relative(apart.gradient(1 - apart.r), apart.q - apart.p), "=", 0.0)
    live = live_tree(seed)
    got = followed(live, SURROGATES["f_S"].fn)
    yield instead("E ∂f_S of sequences off ∇KL(p‖q) by", off(got, live, FORWARD_KL), "=", 0.0)
    found = descents()
    yield realistic("∇KL(p‖q) off ∇KL(q‖p) by", relative(found.forward, found.reverse), "=", 0.0)


def _tempting(seed: int) -> Iterator[Evidence]:
    live = live_tree(seed)
    for name in ("f_N", "f_S"):
        yield within(
            f"E ∂{name} off ∇KL(q‖p) by", off(followed(live, SURROGATES[name].fn), live, REVERSE_KL), ">", 0.01
        )
    for name, loss in (("ρ·f_S, ρ = q/sg(q)", weighted), ("f = the exact KL of a token", token_kl)):
        one = live_pair(pair(seed))
        got = followed(one, loss)
        yield stated(f"E ∂({name}), one token, off ∇KL(q‖p) by", off(got, one, REVERSE_KL), ">", 0.01)
    yield stated("E ∂(ρ·f_S) of sequences, off by", off(followed(live, weighted), live, REVERSE_KL), ">", 0.01)
    world = pair(seed)
    for coefficient in (0.3, 2.0):
        got = world.gradient(1 - coefficient * world.r)
        what = f"E ∂(−log r + λ(r − 1)) off λ∇KL(p‖q) by, λ = {coefficient:g}"
        yield instead(what, relative(got, coefficient * (world.q - world.p)), "=", 0.0)


def weighted(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ρ·f_S of a sequence, ρ = q/sg(q): worth f_S, and its derivative carries the score."""
    q, p = (mask * q).sum(-1), (mask * p).sum(-1)
    return (q - stop_gradient(q)).exp() * k3(q - p)


def token_kl(q: torch.Tensor, p: torch.Tensor, mask: torch.Tensor, token_kl: torch.Tensor) -> torch.Tensor:
    """Σ_t KL_t, which looks at no sample but for its prefixes."""
    return (mask * token_kl).sum(-1)


def _of_r1(seed: int) -> Iterator[Evidence]:
    world = tree(seed)
    policy, reference = (np.exp(to_numpy(lm.sequence_logprobs)) for lm in (world.policy, world.reference))
    printed = reference / policy - np.log(reference / policy) - 1
    wanted = np.log(policy / reference) + reference / policy - 1
    yield stated("largest |R1's (2) − f_S| of an output", float(np.abs(printed - wanted).max()), "=", 0.0)
    gap = np.abs(to_numpy(world.summand(K3, "token")) - wanted)
    yield instead("largest |Σ_t k3_t − f_S|, as trainers sum it", float(gap.max()), ">", 0.0)
    old = tree(seed, off_policy=True)
    values = to_numpy(old.summand(K3, "sequence"))
    yield instead(
        "E of (2) over outputs of π_old, as in R1, − KL", float(chances(old) @ values - old.exact(REVERSE_KL)), "≠", 0.0
    )


def _explains(seed: int) -> Iterator[Evidence]:
    found = descents()
    pairs = {"k3 of whole outputs": found.forward, "k3 of tokens": found.statewise_forward}
    for name, got in pairs.items():
        cosine = float(got @ found.reverse / (np.linalg.norm(got) * np.linalg.norm(found.reverse)))
        yield instead(f"cosine of what {name} follows with ∇KL(q‖p), realistic world", cosine, ">", 0.9)
    live = live_tree(seed, off_policy=True)
    got = followed(live, SURROGATES["k3_sequence_loss"].fn)
    yield instead("samples from π_old, as in R1: off ∇KL(p‖q) by", off(got, live, FORWARD_KL), ">", 0.01)


CLAIMS = (
    Claim(
        id="004-gradient-of-fN",
        source=XU("“For estimator f_N”"),
        statement="The mean of ∂f_N = ∂log(q/p) is 0, so k1 in the loss follows nothing.",
        verdict=Verdict.HOLDS,
        why="E_q[∇log q] = ∇Σq = 0.",
        condition="Samples from the policy itself.",
        computation=_gradient_of_k1,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import followed, live_tree",
            'got = followed(live_tree(seed=0), kb.SURROGATES["f_N"].fn)',
            "print(round(float(np.linalg.norm(got)), 9))",
        ),
        also=(TANG("pitfall 1"), COMEDY("K1 in loss"), LIU("k1 as loss"), XIHUAI("k1 as loss")),
    ),
    Claim(
        id="004-fN-worst",
        source=XU("“For estimator f_N”"),
        statement="∂f_N is the worst possible estimator of the gradient.",
        verdict=Verdict.FAILS,
        why="It has mean 0, but an unbiased ∂½(c + ℓ)² with an unlucky c has a larger mean squared error; and the same "
        "k1, put into the reward, is unbiased.",
        condition="The worst in what it is after: its mean carries nothing of the gradient.",
        computation=_worst,
        code=lines(
            "from kullback.claims.worlds import BY_HAND",
            "from kullback.claims.xu import mean_square",
            "print(round(mean_square(0 * BY_HAND.q + 1), 6), round(mean_square(BY_HAND.log_ratio - 5), 6))",
        ),
        meant="That it is useless in a loss, which is right.",
        by_hand="q = (.8, .2), p = (.5, .5): ∂f_N = 1.25 or −5, error 8.17; ∂½(ℓ − 5)² = −5.66 or 29.6, error 198.7.",
    ),
    Claim(
        id="004-fX-unbiased",
        source=XU("derivation"),
        statement="f_X = ½∂(log q/p)² is an unbiased estimator of ∂KL(q‖p).",
        verdict=Verdict.HOLDS,
        why="∂Σ q log(q/p) = E[ℓ∂log q] + E[∂log q], and the second term is 0.",
        condition="One draw is one outcome: a whole sequence. Summed over tokens it keeps prefixes fixed and is "
        "biased.",
        computation=_squared,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world = live_tree(seed=0)",
            'for name in ("k2_sequence_loss", "k2_loss"):',
            "    print(round(off(followed(world, kb.SURROGATES[name].fn), world, kb.REVERSE_KL), 9))",
        ),
    ),
    Claim(
        id="004-any-constant",
        source=XU("after the derivation"),
        statement="½∂(c + log q/p)² is unbiased for every constant c.",
        verdict=Verdict.HOLDS,
        why="c·E[∂log q] = 0: c is a baseline. The best is c* = −E[ℓ‖s‖²]/E‖s‖², near −KL.",
        condition="c does not depend on the sample.",
        computation=_any_constant,
        code=lines(
            "import kullback as kb",
            "from functools import partial",
            "from kullback.claims.worlds import followed, live_tree, off",
            "world, loss = live_tree(seed=0), partial(kb.surrogates.squared_about, constant=10.0)",
            "print(round(off(followed(world, loss), world, kb.REVERSE_KL), 9))",
        ),
    ),
    Claim(
        id="004-gradient-of-fS",
        source=XU("“So when p(x) is close to q(x)”"),
        statement="When p is close to q, ∂f_S is a good approximation to the unbiased estimator of ∂KL(q‖p).",
        verdict=Verdict.HOLDS,
        why="1 − r = ℓ + O(ℓ²): the error is of the order of the distance.",
        condition="Far apart it follows what it always follows exactly, the other KL: E ∂f_S = E[(1 − r)∂log q] = "
        "∂KL(p‖q).",
        computation=_gradient_of_k3,
        code=lines(
            "from kullback.claims.worlds import close_pair",
            "from kullback.claims.xu import off_fx",
            "print([round(off_fx(close_pair(0, distance)), 6) for distance in (0.01, 2.0)])",
        ),
        meant="The last line of the post writes ∂f_X for f_X.",
        also=(LIU("k3 as loss"),),
    ),
    Claim(
        id="004-tempting",
        source=XU("“However, it is not an unbiased estimator”"),
        statement="The derivative of an unbiased estimator of the KL is not an unbiased estimator of its derivative.",
        verdict=Verdict.CONDITION,
        why="The distribution of the samples moves with the parameters too, and ∂f leaves that out. −log r + λ(r − 1) "
        "gives λ∂KL(p‖q). An f that carries the score in itself is worth the same and has the right derivative.",
        condition="f looks at the ratio only, as f_N and f_S do. ρ·f_S with ρ = q/sg(q), the exact KL of a token, and "
        "kullback.kl_loss are unbiased in both.",
        computation=_tempting,
        code=lines(
            "import kullback as kb",
            "from kullback.claims.worlds import followed, live_tree, off",
            "from kullback.claims.xu import weighted",
            "world, losses = live_tree(seed=0), (weighted, kb.SURROGATES['f_S'].fn, kb.SURROGATES['f_N'].fn)",
            "print([round(off(followed(world, loss), world, kb.REVERSE_KL), 6) for loss in losses])",
        ),
        also=(TANG("pitfall 1"),),
    ),
    Claim(
        id="004-R1-equation",
        source=XU("“e.g. DeepSeek R1 eq (2)”"),
        statement="DeepSeek-R1's equation (2) is f_S.",
        verdict=Verdict.HOLDS,
        why="π_ref/π_θ − log(π_ref/π_θ) − 1 of a whole output is f_S of it.",
        condition="As a formula. R1 averages it over outputs of π_old, where its mean is another number; trainers sum "
        "tokens.",
        computation=_of_r1,
        code=lines(
            "import numpy as np, kullback as kb",
            "from kullback.claims.worlds import tree",
            "w = tree(seed=0); x = w.policy.sequence_logprobs - w.reference.sequence_logprobs",
            "for level in ('sequence', 'token'):",
            "    print(round(float(abs(w.summand(kb.K3, level) - (np.exp(-x) + x - 1)).max()), 6))",
        ),
        also=(DEEPSEEK("R1, eq. (2)"),),
    ),
    Claim(
        id="004-explains-R1",
        source=XU("last sentence"),
        statement="That ∂f_S approximates f_X may explain why f_S is useful in DeepSeek-R1's training.",
        verdict=Verdict.UNDECIDED,
        why="What made R1 work is no computation. What can be said: in the realistic world what k3 follows points "
        "nearly along ∇KL(q‖p); R1's samples come from π_old, for which ∂f_S follows neither KL.",
        computation=_explains,
        code=lines(
            "from kullback.claims.worlds import descents",
            "a, b = descents().forward, descents().reverse",
            "print(round(float(a @ b / ((a @ a) * (b @ b)) ** 0.5), 6))",
        ),
        also=(DEEPSEEK("R1, eq. (2)"),),
    ),
)
