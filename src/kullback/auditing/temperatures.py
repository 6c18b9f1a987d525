"""Temperatures in a function of whole distributions: on one side, or on both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.handling import rows_of_every_length
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject

TEMPERATURES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 81))
"""Where one is looked for."""


def scaled_logits(subject: Subject) -> float:
    """By what the policy's logits are divided more than the reference's, in a function of whole distributions.

    Of two models that are one a divergence is 0. Where it is not, the temperature is looked for at which it is.
    """
    if not {"log_distributions", "ref_log_distributions"} <= subject.columns:
        return 1.0

    def size(temperature: float) -> float:
        return float(np.abs(_of_one_model(subject, temperature)).sum())

    try:
        if size(1.0) < 1e-6:
            return 1.0
        found = _least(size)
        return found if size(found) < 1e-5 * max(1.0, size(1.0)) else 1.0
    except CallFailed:
        return 1.0


PAIRS = np.array(
    [
        [[0.0, -0.4, -1.1, -2.3], [-0.9, 0.0, -1.6, -0.7]],
        [[-1.3, -0.2, 0.0, -0.8], [0.0, -0.5, -0.3, -2.0]],
        [[-2.2, 0.0, -0.6, -0.1], [-0.2, -1.4, 0.0, -0.9]],
    ]
)
"""Logits of three pairs of models, of one token each: no two divergences stand in the same ratio for all three."""


def both_scaled(subject: Subject) -> tuple[float, float]:
    """By what a function divides the logits of both models, and how many times its KL of those it is; 1 and 1 else.

    The KL of the models at one temperature is no multiple of that at another. So the temperature is looked for at
    which three pairs have the same multiple.
    """
    if not {"log_distributions", "ref_log_distributions"} <= subject.columns or "tokens" in subject.columns:
        return 1.0, 1.0
    try:
        got = np.array([_of_pair(subject, q, p) for q, p in PAIRS])
    except CallFailed:
        return 1.0, 1.0
    if not (np.isfinite(got).all() and (got > 0).all()):
        return 1.0, 1.0
    for turned in (False, True):

        def spread(temperature: float, turned: bool = turned) -> float:
            return float(np.ptp(np.log(got / _divergences(temperature, turned=turned))))

        at = _least(spread)
        times = float(np.exp(np.mean(np.log(got / _divergences(at, turned=turned)))))
        if spread(at) < 1e-5:
            return (1.0, 1.0) if abs(at - 1.0) < 1e-2 else (at, 1.0 if abs(times - 1.0) < 1e-4 else times)
    return 1.0, 1.0


def _divergences(temperature: float, *, turned: bool) -> Float64:
    """KL(q‖p) of each of the pairs at a temperature, or KL(p‖q)."""
    laws = np.exp(PAIRS / temperature)
    laws /= laws.sum(-1, keepdims=True)
    first, second = (laws[:, 1], laws[:, 0]) if turned else (laws[:, 0], laws[:, 1])
    found: Float64 = np.sum(first * np.log(first / second), -1)
    return found


def _least(size: Callable[[float], float]) -> float:
    """The temperature at which something is smallest: the best of a grid, and golden sections around it."""
    best = int(np.argmin([size(t) for t in TEMPERATURES]))
    low, high = TEMPERATURES[max(0, best - 1)], TEMPERATURES[min(len(TEMPERATURES) - 1, best + 1)]
    for _ in range(50):
        a, b = high - 0.618 * (high - low), low + 0.618 * (high - low)
        low, high = (low, b) if size(a) < size(b) else (a, high)
    return float(0.5 * (low + high))


def _of_pair(subject: Subject, q: Float64, p: Float64) -> float:
    """The result for one token of two models with these logits."""
    import torch

    rows, words = ROWS_OF_A_PAIR, q.shape[-1]
    laws = [torch.tensor(logits).log_softmax(-1).expand(rows, 1, words).clone() for logits in (q, p)]
    one = torch.ones((rows, 1), dtype=torch.float64)
    given = {
        **dict.fromkeys(("logprobs", "behavior_logprobs"), laws[0][..., 0]),
        "ref_logprobs": laws[1][..., 0],
        "mask": one.bool(),
        "token_kl": one,
        "reverse_token_kl": one,
        "log_distributions": laws[0],
        "ref_log_distributions": laws[1],
        "log_ratio": (laws[0] - laws[1])[..., 0],
        "ratio": one,
    }
    return float(subject(given).detach().double().sum())


ROWS_OF_A_PAIR = 3
"""More rows than tokens, as a first call has."""


def _of_one_model(subject: Subject, temperature: float) -> Float64:
    """The result where both models have the same logits, the policy's multiplied by a temperature."""
    base = rows_of_every_length()
    logits = base["log_distributions"]
    same_one = dict.fromkeys(("logprobs", "ref_logprobs", "behavior_logprobs"), base["logprobs"])
    given = {**base, **same_one, "log_distributions": temperature * logits, "ref_log_distributions": logits}
    result = subject(given).detach().double()
    found: Float64 = (result[base["mask"]] if subject.kind == "token" else result.reshape(-1)).numpy()
    return found
