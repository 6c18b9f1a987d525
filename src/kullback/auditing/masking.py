"""What a function does with masks, lengths, the token that ends a sequence, and behaviour log-probs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Array, Float64
from kullback.auditing.probes import Probe
from kullback.auditing.subject.arrays import CallFailed, differentiate
from kullback.auditing.subject.wiring import Subject

GARBAGE = ((-7.7, -0.2), (-0.1, -3.3))
"""Log-probs of the policy and the reference that padding may hold."""


@dataclass(frozen=True)
class Treatment:
    """Facts; None where there is nothing to see.

    Attributes:
        takes_mask: whether it has a mask at all.
        padding: "ignored", "counted" where what padding holds changes the result, or None for results a token.
        width: whether more padding, all zeros, changes the result.
        last_counts, first_counts: whether the last and the first token of a sequence have any effect.
        length: "sum", "mean" or "other": how the result grows with the number of equal tokens.
    """

    takes_mask: bool
    padding: str | None = None
    width: bool | None = None
    last_counts: bool | None = None
    first_counts: bool | None = None
    length: str | None = None


@dataclass(frozen=True)
class Behavior:
    """What it does with behaviour log-probs.

    Attributes:
        ratio: "token", "prefix", "earlier tokens", "sequence", "geometric mean", "ignored", "upside down"
            or "other".
        low, high: what the ratio is clipped to; 0 and inf where it is not.
        detached: whether the ratio carries no gradient; None where it cannot be told.
    """

    ratio: str
    low: float = 0.0
    high: float = float("inf")
    detached: bool | None = None


def treatment(probe: Probe) -> Treatment:
    """Look at padding, lengths and ends by changing one thing at a time."""
    takes_mask = "mask" in probe.subject.columns
    if not probe.possible:
        return Treatment(takes_mask)
    by_token = probe.subject.kind == "token"
    facts: dict[str, object] = {}
    for name, look in (("ends", _ends), ("length", _length), ("padding", _padding)):
        if by_token and name == "padding":
            continue
        try:
            facts |= look(probe)
        except CallFailed:
            continue
    return Treatment(takes_mask, **facts)  # type: ignore[arg-type]


def _row(length: int, width: int, fill: tuple[float, float] = (0.0, 0.0)) -> tuple[Float64, Float64, Array]:
    """One sequence of different log-probs, padded to a width."""
    q = np.full((1, width), fill[0])
    p = np.full((1, width), fill[1])
    q[0, :length] = -0.4 - 0.3 * np.arange(length)
    p[0, :length] = -1.1 - 0.2 * np.cos(np.arange(length))
    mask = np.arange(width)[None, :] < length
    return q, p, mask


def _value(probe: Probe, q: Float64, p: Float64, mask: Array) -> float:
    return float(probe.at(q, p, mask=mask)[0][0])


def _same(a: float, b: float) -> bool:
    return bool(np.isclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))


def _padding(probe: Probe) -> dict[str, object]:
    plain = _value(probe, *_row(2, 4))
    filled = [_value(probe, *_row(2, 4, fill)) for fill in GARBAGE]
    wider = _value(probe, *_row(2, 7))
    leaks = not all(_same(plain, other) for other in filled)
    return {"padding": "counted" if leaks else "ignored", "width": not _same(plain, wider)}


def _ends(probe: Probe) -> dict[str, object]:
    q, p, mask = _row(3, 3)
    plain = _value(probe, q, p, mask)
    moved = []
    for place in range(3):
        other = p.copy()
        other[0, place] -= 0.9
        other_q = q.copy()
        other_q[0, place] -= 0.17
        moved.append(not _same(plain, _value(probe, other_q, other, mask)))
    return {"first_counts": moved[0], "last_counts": moved[2]} if any(moved) else {}


def _length(probe: Probe) -> dict[str, object]:
    values = []
    for length in (1, 2, 4):
        q, p = np.full((1, length), -0.9), np.full((1, length), -1.6)
        values.append(_value(probe, q, p, np.ones((1, length), dtype=bool)))
    one, two, four = values
    if _same(one, 0.0):
        return {}
    if _same(two, 2 * one) and _same(four, 4 * one):
        return {"length": "sum"}
    if _same(two, one) and _same(four, one):
        return {"length": "mean"}
    return {"length": "other"}


def behavior(probe: Probe) -> Behavior | None:
    """Look at behaviour log-probs by changing one token's; None where the function does not take any."""
    if not {"behavior_logprobs", "ratio"} & probe.subject.columns or not probe.possible:
        return None
    try:
        return _behavior(probe)
    except CallFailed:
        return None


def _behavior(probe: Probe) -> Behavior:
    x, s = 0.8, 0.15
    last, first = probe.tokens([0.0, x], [0.0, 0.0]), probe.tokens([x, 0.0], [0.0, 0.0])
    if _same(last, 0.0) or _same(first, 0.0):
        return Behavior("other")
    own = probe.tokens([0.0, x], [0.0, s]) / last
    before = probe.tokens([0.0, x], [s, 0.0]) / last
    after = probe.tokens([x, 0.0], [0.0, s]) / first
    seen = np.log(np.maximum([own, before, after], 1e-12)) / s
    table = {
        "ignored": (0, 0, 0),
        "token": (1, 0, 0),
        "prefix": (1, 1, 0),
        "earlier tokens": (0, 1, 0),
        "sequence": (1, 1, 1),
        "geometric mean": (0.5, 0.5, 0.5),
        "upside down": (-1, 0, 0),
    }
    ratio = next((name for name, want in table.items() if np.allclose(seen, want, atol=1e-3)), "other")
    if ratio in ("ignored", "other", "upside down"):
        return Behavior(ratio)
    low, high = _clip(probe, ratio)
    return Behavior(ratio, low, high, _detached(probe))


def _clip(probe: Probe, ratio: str) -> tuple[float, float]:
    """The least and the most that a weight becomes, from ratios of exp(±6) on a small term that no clamp sees."""
    x, reach = 0.02, 6.0
    plain = probe.tokens([0.0, x], [0.0, 0.0])

    def weight(s: float) -> float:
        first, second = {"earlier tokens": (s, 0.0), "geometric mean": (s, s)}.get(ratio, (0.0, s))
        return probe.tokens([0.0, x], [first, second]) / plain

    high, low = weight(reach), weight(-reach)
    return (low if low > 1.05 * np.exp(-reach) else 0.0), (high if high < 0.95 * np.exp(reach) else float("inf"))


def _detached(probe: Probe) -> bool | None:
    """Whether a weight adds k·∇log q to the gradient, from one token with μ = q."""
    q, p, h = np.array([[-1.0]]), np.array([[-1.9]]), 1e-4
    values, slope = probe.at(q, p, q)
    up, down = (probe.at(q + d, p, q + d)[0][0] for d in (h, -h))
    own = (up - down) / (2 * h)
    if _same(float(values[0]), 0.0):
        return None
    share = (float(slope[0, 0]) - own) / float(values[0])
    if abs(share) < 1e-2:
        return True
    return False if abs(share - 1.0) < 1e-2 else None


def unseen_vocabulary(subject: Subject) -> tuple[int, int] | None:
    """(tokens of the vocabulary that have an effect, vocabulary), for a function of whole distributions."""
    import torch

    if not {"log_distributions", "ref_log_distributions"} & subject.columns:
        return None
    vocab = 8
    index = torch.arange(vocab, dtype=torch.float64)
    q = (-0.55 * index).log_softmax(-1).expand(1, 1, vocab).clone().requires_grad_()
    p = (-0.4 * index + 0.1 * torch.sin(index)).log_softmax(-1).expand(1, 1, vocab).clone().requires_grad_()
    token = torch.zeros((1, 1), dtype=torch.int64)
    given = {
        "logprobs": q[..., 0],
        "ref_logprobs": p[..., 0],
        "behavior_logprobs": q[..., 0].detach(),
        "mask": torch.ones((1, 1), dtype=torch.bool),
        "tokens": token,
        "token_kl": (q.exp() * (q - p)).sum(-1),
        "reverse_token_kl": (p.exp() * (p - q)).sum(-1),
        "log_distributions": q,
        "ref_log_distributions": p,
        "log_ratio": (q - p)[..., 0],
        "ratio": torch.ones((1, 1), dtype=torch.float64),
    }
    result = subject(given).sum()
    if not result.requires_grad:
        return None
    gradients = differentiate(result, (q, p))
    touched = sum(gradient.reshape(-1).abs() for gradient in gradients) > 1e-12
    return int(touched.sum()), vocab
