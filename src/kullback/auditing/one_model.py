"""What a function of whole distributions makes of one model on both sides, of flatter ones, and of raw logits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.handling import rows_of_every_length
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject

BOTH = frozenset({"log_distributions", "ref_log_distributions"})
PROBABILITIES = frozenset({"distributions", "ref_distributions"})

TEMPERATURES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 81))


def scaled_logits(subject: Subject) -> float:
    """By what the policy's logits are divided more than the reference's, in a function of whole distributions.

    Of two models that are one a divergence is 0. Where it is not, the temperature is looked for at which it is.
    """
    if not subject.columns >= BOTH:
        return 1.0

    def size(temperature: float) -> float:
        return float(np.abs(_with_temperature(subject, temperature)).sum())

    try:
        if size(1.0) < 1e-6:
            return 1.0
        found = _least(size)
        return found if size(found) < 1e-5 * max(1.0, size(1.0)) else 1.0
    except CallFailed:
        return 1.0


def _with_temperature(subject: Subject, temperature: float) -> Float64:
    """The result where both models have the same logits, the policy's multiplied by a temperature."""
    base = rows_of_every_length()
    logits = base["log_distributions"]
    same_one = dict.fromkeys(("logprobs", "ref_logprobs", "behavior_logprobs"), base["logprobs"])
    given = {**base, **same_one, "log_distributions": temperature * logits, "ref_log_distributions": logits}
    result = subject(given).detach().double()
    found: Float64 = (result[base["mask"]] if subject.kind == "token" else result.reshape(-1)).numpy()
    return found


def mixed_laws(subject: Subject) -> float:
    """What a function gives for one model on both sides, where its processed log-probs are after top-p."""
    base = rows_of_every_length()
    one = dict.fromkeys(("ref_logprobs", "behavior_logprobs"), base["logprobs"])
    given = {**base, **one, "ref_log_distributions": base["log_distributions"]}
    given |= {"log_ratio": given["logprobs"] * 0, "ratio": given["logprobs"] * 0 + 1}
    try:
        result = subject(given).detach().double()
    except CallFailed:
        return 0.0
    kept = result[base["mask"]] if subject.kind == "token" else result.reshape(-1)
    return float(kept.sum()) / len(base["mask"]) if float(kept.abs().max()) > 1e-6 else 0.0


def of_one_model(subject: Subject) -> float:
    """What a function of two distributions gives for one model on both sides: the largest, a token or a row."""
    if not (subject.columns >= BOTH or subject.columns >= PROBABILITIES):
        return 0.0
    try:
        found = _with_temperature(subject, 1.0)
    except CallFailed:
        return 0.0
    return float(found[np.argmax(np.abs(found))]) if np.isfinite(found).all() else 0.0


def reads_raw_logits(subject: Subject) -> bool:
    """Whether it is another function of logits that are not normalised than of those that are."""
    if not subject.wires.logits:
        return False
    base = rows_of_every_length()
    try:
        raw, normalised = (one(base).detach().double() for one in (subject, subject.normalised()))
    except CallFailed:
        return False
    if subject.kind == "token":
        raw, normalised = raw[base["mask"]], normalised[base["mask"]]
    return not np.allclose(raw.numpy(), normalised.numpy(), rtol=1e-4, atol=1e-6, equal_nan=True)


def both_tempered(subject: Subject) -> tuple[float, float] | None:
    """(T, c) where the result is c times the KL of either direction of two models whose logits are divided by T."""
    if not subject.columns >= BOTH:
        return None
    base = rows_of_every_length()
    try:
        # One number for a batch says nothing of its rows: each is then a batch of its own.
        alone = subject.kind == "scalar"
        result = subject.each(base, [[row] for row in range(len(base["mask"]))]) if alone else subject(base)
    except CallFailed:
        return None
    mask = base["mask"].numpy()
    logits = [base[name].numpy() for name in ("log_distributions", "ref_log_distributions")]
    got = (result[base["mask"]] if subject.kind == "token" else result.reshape(-1)).detach().double().numpy()
    if not np.isfinite(got).all():
        return None
    for (q, p), mean in product((logits, logits[::-1]), (False, True) if alone else (False,)):

        def fit(temperature: float, q: Float64 = q, p: Float64 = p, mean: bool = mean) -> tuple[float, float]:
            """How many times the divergence fits best, and how badly."""
            tokens = _kl_at(temperature, q, p)
            want = tokens[mask] if subject.kind == "token" else (tokens * mask).sum(-1)
            if mean:
                want = want / mask.sum(-1)
            times = float(got @ want / (want @ want))
            return times, float(np.abs(got - times * want).max() / np.abs(got).max(initial=1e-300))

        best = _least(lambda temperature: fit(temperature)[1])
        times, missed = fit(best)
        if missed < 1e-6 and times > 0 and abs(best - 1) > 1e-3:
            return round(best, 4), round(times, 4)
    return None


def _kl_at(temperature: float, q: Float64, p: Float64) -> Float64:
    """KL of every token of two models whose logits are divided by a temperature."""

    def tempered(x: Float64) -> Float64:
        scaled = x / temperature
        law: Float64 = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        return law

    a, b = tempered(q), tempered(p)
    found: Float64 = (np.exp(a) * (a - b)).sum(-1)
    return found


def _least(size: Callable[[float], float]) -> float:
    """The temperature at which something is least: on a grid, and then between its neighbours."""
    best = int(np.argmin([size(t) for t in TEMPERATURES]))
    low, high = TEMPERATURES[max(0, best - 1)], TEMPERATURES[min(len(TEMPERATURES) - 1, best + 1)]
    for _ in range(50):
        a, b = high - 0.618 * (high - low), low + 0.618 * (high - low)
        low, high = (low, b) if size(a) < size(b) else (a, high)
    return float(0.5 * (low + high))
