"""Random categorical distributions: one token, any vocabulary, every sum written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kullback.errors import InputError
from kullback.estimators import (
    K1,
    K2,
    K3,
    Clamped,
    ControlVariate,
    Estimator,
)
from kullback.lab.accuracy import Accuracies, PairSetting, SequenceMoments, measured
from kullback.oracle import TreeLM, World, relative_variance
from kullback.targets import REVERSE_KL

DEFAULT: tuple[Estimator, ...] = (K1, K2, K3, ControlVariate("fit"), Clamped(K3, log_ratio=2.0))
"""What estimates KL(q‖p) from samples; the exact sum over the vocabulary has no error on one token."""

PEAKED = 2.0
"""Standard deviation of the reference's logits: about as peaked as a language model's next token."""


def categorical(
    distances: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    vocabs: Sequence[int] = (4, 16, 64, 256, 1024, 4096),
    *,
    distance: float = 0.5,
    vocab: int = 256,
    estimators: Sequence[Estimator] = DEFAULT,
    samples: int = 100,
    worlds: int = 10,
    seed: int = 0,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracies:
    """Bias, variance and mean squared error of estimators on random categorical pairs, exactly.

    The reference's logits are normal with standard deviation 2; the policy's are the reference's plus `distance`
    times standard normal ones. Each estimator is compared with what it promises to estimate, and with KL(q‖p)
    where it promises nothing. Fitted coefficients are at their best, which leave-one-out reaches as n grows.

    Args:
        distances: swept at vocabulary `vocab`.
        vocabs: swept at distance `distance`.
        distance, vocab: what is held fixed while the other is swept.
        estimators: members of `kullback.ESTIMATORS`, applied to the one token.
        samples: n, whose mean is the estimate.
        worlds: random pairs a setting, over which medians are taken.
        seed: of the pairs.
        on_setting: called with how many settings are done, of how many.

    Raises:
        InputError: an estimator that is no mean, or nothing to do.

    Example:
        >>> from kullback import lab
        >>> found = lab.categorical(distances=[0.2], vocabs=[16], worlds=2)
        >>> [round(found.of("distance", name)[0].bias, 6) for name in ("k1", "k3")]
        [0.0, 0.0]
    """
    for estimator in estimators:
        if estimator.link is not None:
            raise InputError(f"{estimator.name} is a function of a mean, not a mean: it has no bias at one sample")

    def world(setting: PairSetting, rng: np.random.Generator) -> list[SequenceMoments]:
        reference = PEAKED * rng.normal(size=(1, setting.vocab))
        policy = reference + setting.distance * rng.normal(size=reference.shape)
        at = World(*(TreeLM(logits, eos=0, horizon=1) for logits in (policy, reference)))
        return [_moments(at, estimator) for estimator in estimators]

    return measured(
        "categorical",
        world,
        PairSetting(vocab, 1, distance),
        {"distance": distances, "vocab": vocabs},
        samples=samples,
        worlds=worlds,
        seed=seed,
        charted=[estimator.name for estimator in estimators],
        on_setting=on_setting,
    )


def _moments(at: World, estimator: Estimator) -> SequenceMoments:
    mean = float(at.value(estimator, "token"))
    truth = float(at.exact(estimator.value_of["token"] or REVERSE_KL))
    return SequenceMoments(estimator.name, truth, mean, relative_variance(at, estimator, "token") * mean**2)
