"""Ziegler et al. and trlx: what the adaptive controller of the KL coefficient holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from kullback.arrays import Float64
from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, realistic, stated, within
from kullback.claims.sources import TRL, TRLX, VERL, ZIEGLER
from kullback.claims.worlds import texts
from kullback.estimators.divergences import k3

TARGET = 6.0
"""The KL a sequence that is asked for, in nats, as in the first PPO trainers."""

BATCHES = 4_000


def held(measured: Callable[[float], Float64], target: float) -> float:
    """The KL at which E clip(k̂/target − 1, ±0.2) = 0, so that the coefficient rests; `measured` draws k̂ at a KL."""
    low, high = 1e-3 * target, 1e3 * target
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        error = float(np.mean(np.clip(measured(middle) / target - 1, -0.2, 0.2)))
        low, high = (low, middle) if error > 0 else (middle, high)
    return low


def means_of(values: Callable[[Float64], Float64], n: int) -> Callable[[float], Float64]:
    """Means over batches of n sequences whose ℓ ~ N(KL, 2KL), as between Gaussians of one scale."""
    noise = np.random.default_rng(0).normal(size=(BATCHES, n))
    return lambda kl: np.asarray(values(kl + np.sqrt(2 * kl) * noise).mean(axis=1))


def _controller() -> Iterator[Evidence]:
    length = float(texts().mask.sum(axis=1).mean())
    k1 = means_of(np.asarray, 64)
    by_token = held(lambda kl: k1(kl) / length, TARGET)
    yield stated(
        "KL of sequences over the target of 6, k̂ a mean over their 36 tokens",
        by_token / TARGET,
        "=",
        1.0,
        tolerance=0.1,
    )
    quiet = held(k1, TARGET)
    yield within("the same, k̂ the sum of k1 a sequence, 64 of them", quiet / TARGET, "=", 1.0, tolerance=0.02)
    loud = held(means_of(k3, 16), TARGET)
    yield instead("the same, k̂ the k3 of 16 whole sequences", loud / TARGET, ">", 1.1)
    yield realistic("mean length that is lost by a mean over tokens", length, "=", 1.0)


CLAIMS = (
    Claim(
        id="ziegler-controller",
        source=ZIEGLER("the adaptive KL coefficient"),
        statement="The adaptive controller holds the KL at its target.",
        verdict=Verdict.CONDITION,
        why="It rests where E clip(k̂/target − 1, ±0.2) = 0. Fed with a mean over tokens it allows the length times "
        "the target; fed with a skewed k̂ it holds its median rather than its mean.",
        condition="k̂ is the sum over a sequence, its noise small and even: k1 or exact token KLs of many sequences.",
        computation=_controller,
        code=lines(
            "import numpy as np",
            "from kullback.claims.controller import held, means_of",
            "from kullback.claims.worlds import texts",
            "k1, length = means_of(np.asarray, 64), texts().mask.sum(axis=1).mean()",
            "print(round(held(lambda kl: k1(kl) / length, 6.0) / 6.0, 4))",
        ),
        meant="The sum of k1 over a sequence, which is what its authors' code has.",
        also=(TRLX("issue 438"), TRL("PPO's adap_kl_ctrl"), VERL("AdaptiveKLController, fed with token means")),
    ),
)
