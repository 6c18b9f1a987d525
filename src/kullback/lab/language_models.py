"""Random language models at real horizons and vocabularies, by dynamic programming: nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np

from kullback.arrays import Float64
from kullback.estimators.divergences import k3
from kullback.lab.accuracy import Accuracies, PairSetting, SequenceMoments, measured
from kullback.oracle import MarkovLM
from kullback.oracle.markov import TokenFunction

PEAKED = 2.0
"""Standard deviation of the reference's logits."""

CHARTED = ("k1", "k2, sequence", "k3, sequence", "control variate, sequence", "k3, token", "Rao-Blackwell")
"""What the picture has room for; the others lie on the last two."""

STOP = 0.02
"""Probability that the reference ends at a token, about."""


def language(
    distances: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    vocabs: Sequence[int] = (4, 16, 64, 256),
    horizons: Sequence[int] = (1, 4, 16, 64, 256, 1024),
    *,
    distance: float = 0.2,
    vocab: int = 32,
    horizon: int = 64,
    samples: int = 100,
    worlds: int = 5,
    seed: int = 0,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracies:
    """Bias, variance and mean squared error of every way to KL(q‖p) of sequences, exactly, by `MarkovLM`.

    Pairs of first-order models: the reference's logits are normal with standard deviation 2, its end token has a
    probability near 0.02; the policy's logits are the reference's plus `distance` times standard normal ones.
    "Token" estimators are summed over tokens, "sequence" ones are applied to the whole log-ratio. Coefficients
    are at their best for each pair.

    Args:
        distances, vocabs, horizons: swept one at a time, the other two held at `distance`, `vocab`, `horizon`.
        samples: n, sequences whose mean is the estimate.
        worlds: random pairs a setting, over which medians are taken.
        seed: of the pairs.
        on_setting: called with how many settings are done, of how many.

    Raises:
        InputError: a vocabulary or horizon below 1, or nothing to do.

    Example:
        >>> from kullback import lab
        >>> found = lab.language([0.2], [8], [4, 64], worlds=1)
        >>> k3 = {row.setting.horizon: row.stdev for row in found.of("horizon", "k3, sequence")}
        >>> k3[64] > k3[4]
        True
    """
    return measured(
        "language",
        _world,
        PairSetting(vocab, horizon, distance),
        {"distance": distances, "horizon": horizons, "vocab": vocabs},
        samples=samples,
        worlds=worlds,
        seed=seed,
        charted=CHARTED,
        on_setting=on_setting,
    )


def pair(setting: PairSetting, rng: np.random.Generator) -> tuple[MarkovLM, MarkovLM]:
    """A policy and its reference; token 0 ends a sequence."""
    shape = (setting.vocab + 1, setting.vocab)
    reference = PEAKED * rng.normal(size=shape)
    rest = np.log(np.sum(np.exp(reference[:, 1:]), axis=1))
    reference[:, 0] = rest + np.log(STOP / (1 - STOP))
    policy = reference + setting.distance * rng.normal(size=shape)
    q, p = (MarkovLM(logits[0], logits[1:], eos=0, horizon=setting.horizon) for logits in (policy, reference))
    return q, p


def _world(setting: PairSetting, rng: np.random.Generator) -> list[SequenceMoments]:
    q, p = pair(setting, rng)
    return [SequenceMoments(name, q.reverse_kl(p), mean, variance) for name, mean, variance in ways(q, p)]


def ways(q: MarkovLM, p: MarkovLM) -> Iterator[tuple[str, float, float]]:
    """(name, mean, variance) of one sequence, for every way to KL(q‖p)."""
    truth = q.reverse_kl(p)
    first, second, _, fourth = q.log_ratio_moments(p)[1:]
    variance, chi2, jeffreys = second - first**2, q.pearson_chi2(p), truth + q.forward_kl(p)
    yield "k1", truth, q.variance(p, "k1")
    yield "k2, token", *q.moments(p, lambda x, kl: 0.5 * x * x)
    yield "k2, sequence", 0.5 * second, 0.25 * (fourth - second**2)
    yield "k3, token", truth, q.variance(p, "k3")
    yield "k3, sequence", truth, variance + chi2 - 2 * jeffreys
    yield "control variate, token", truth, _least(q, p, _log_ratio, (_ratio,))
    yield "control variate, sequence", truth, variance - (jeffreys**2 / chi2 if chi2 > 0 else 0.0)
    yield "Rao-Blackwell", truth, q.variance(p, "rao_blackwell")
    yield "Rao-Blackwell, controlled", truth, _least(q, p, _token_kl, (_martingale, _ratio))


def _log_ratio(x: Float64, kl: Float64) -> Float64:
    return x


def _token_kl(x: Float64, kl: Float64) -> Float64:
    return kl


def _martingale(x: Float64, kl: Float64) -> Float64:
    return x - kl


def _ratio(x: Float64, kl: Float64) -> Float64:
    return np.asarray(k3(x)) - x


def _least(q: MarkovLM, p: MarkovLM, plain: TokenFunction, controls: Sequence[TokenFunction]) -> float:
    """The least variance of Σ_t plain + c·controls over c, from variances of pairwise sums."""

    def variance(*parts: TokenFunction) -> float:
        return q.moments(p, lambda x, kl: np.asarray(sum(part(x, kl) for part in parts)))[1]

    parts = (plain, *controls)
    covariance = np.diag([variance(part) for part in parts])
    for i, j in combinations(range(len(parts)), 2):
        both = variance(parts[i], parts[j])
        covariance[i, j] = covariance[j, i] = 0.5 * (both - covariance[i, i] - covariance[j, j])
    own, cross, rest = covariance[0, 0], covariance[0, 1:], covariance[1:, 1:]
    return max(float(own - cross @ np.linalg.pinv(rest, rcond=1e-12, hermitian=True) @ cross), 0.0)
