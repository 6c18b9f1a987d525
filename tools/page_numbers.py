"""Numbers of the guide's section on β, of the mathematics, and of the pages on zero, mismatch and quantised models."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kullback.arrays import Float64
from kullback.claims import CLAIMS
from kullback.claims.corrections import KL_A_TOKEN, beyond, capped_mean
from kullback.claims.worlds import Pair, language, softmax, texts, updated
from kullback.claims.worlds.heads import heads
from kullback.documents import Table
from kullback.estimators.divergences import k3

SHARES = (0.3, 3.0, 6.0)
"""Typical sizes of logits in the table of floors."""


def beta_rows() -> tuple[tuple[str, str, float], ...]:
    """How a loss averages, what β is multiplied by, and that number in the world of 64 tokens."""
    drawn = texts()
    values, length = drawn.total(k3(drawn.log_ratio)), drawn.mask.sum(axis=1)
    means = {
        "sum of a sequence, mean over sequences": values.mean(),
        "mean over all tokens": values.sum() / length.sum(),
        "mean of each sequence, then over sequences": (values / length).mean(),
        "sum over the length limit": values.mean() / drawn.mask.shape[1],
    }
    places = (
        "`kl_loss`; KL in the reward; `seq-mean-token-sum`",
        "TRL `dapo`, `bnpo`; verl `token-mean`",
        "TRL `grpo`; verl `seq-mean-token-mean`",
        "TRL `dr_grpo`; verl `seq-mean-token-sum-norm`",
    )
    return tuple((how, where, float(mean)) for (how, mean), where in zip(means.items(), places, strict=True))


def beta() -> tuple[dict[str, str], Table]:
    """What one β comes to under each average, and the factor that makes `kl_loss` as strong."""
    found = beta_rows()
    whole = found[0][2]
    rows = tuple((how, where, f"{value:.4g}", f"β / {whole / value:.3g}") for how, where, value in found)
    columns = ("how the KL term is averaged", "where", "KL term, nats", "as strong in `kl_loss`")
    drawn = texts()
    length = drawn.mask.sum(axis=1)
    numbers = {
        "tokens": f"{length.mean():.1f}",
        "limit": f"{drawn.mask.shape[1]}",
        "times": f"{whole / found[1][2]:.0f}",
        "times-answers": f"{whole / found[2][2]:.0f}",
        "example": "0.04",
        "example-kl-loss": f"{0.04 / (whole / found[1][2]):.2g}",
    }
    return numbers, Table("", "", columns, rows, right=columns[2:])


def rounding() -> dict[str, str]:
    """What float32 leaves of exp(−ℓ) − 1 + ℓ and of expm1(−ℓ) + ℓ."""

    def lost(size: float, form: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        x = (rng.choice([-size, size], 20_000) * rng.uniform(0.9, 1.1, 20_000)).astype(np.float32)
        exact = np.expm1(-x.astype(np.float64)) + x.astype(np.float64)
        got = form(x).astype(np.float64)
        return float(np.median(np.abs(got / exact - 1))), float(np.mean(got < 0))

    def plain(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-x) - np.float32(1) + x)

    def expm1(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.expm1(-x) + x)

    error, negative = lost(3e-4, plain)
    return {
        "plain": f"{100 * error:.0f}%",
        "negative": f"{100 * negative:.0f}%",
        "plain-hundredth": f"{lost(1e-2, plain)[0]:.0e}".replace("e-0", "e-"),
        "expm1": f"{lost(3e-4, expm1)[0]:.0e}".replace("e-0", "e-"),
        "expm1-small": f"{100 * lost(1e-7, expm1)[0]:.0f}%",
    }


def floors() -> tuple[dict[str, str], Table]:
    """What a bfloat16 head logs of a KL of 1e-4 a token, by the size of its logits, and what the floor predicts."""
    rows = []
    numbers = {}
    for size in SHARES:
        found = heads(0, size)
        rows.append(
            (f"{size:g}", f"{found.kl:.2g}", f"{found.logged:.2g}", f"{found.floor:.2g}", f"{found.by_difference:.3g}")
        )
        numbers[f"share-{size:g}".replace(".", "-")] = f"{100 * (1 - found.kl / found.logged):.0f}%"
    columns = ("logits of about", "exact KL", "logged", "added by rounding", "from the difference")
    return numbers, Table("", "", columns, tuple(rows), right=columns)


def _drawn(change: Callable[[Float64], Float64]) -> float:
    """KL a token of the policy's own samples to a changed policy, over the texts that it writes."""
    policy, _ = language()
    drawn = texts()
    table = np.concatenate([policy.initial[None], policy.logprobs])
    before = np.concatenate([np.zeros((len(drawn.tokens), 1), dtype=int), drawn.tokens[:, :-1] + 1], axis=1)[drawn.mask]
    kl = np.sum(np.exp(table) * (table - change(table)), axis=1)
    return float(kl[before].mean())


def _tempered(temperature: float) -> Callable[[Float64], Float64]:
    return lambda table: np.log(softmax(table / temperature))


def mismatch() -> tuple[dict[str, str], Table]:
    """KL a token between sampler and scorer, for causes that can be computed, and what weights are left."""
    drawn = texts()
    stale = drawn.total(updated().token_kl(language()[0], drawn.tokens)).sum() / drawn.mask.sum()
    head = heads(0, 3.0)
    rows = (
        ("logits of about 3 rounded to bfloat16 in each engine", f"{head.floor:.1e}"),
        ("logits moved by 0.1, a few updates old", f"{stale:.1e}"),
        ("temperature 0.9 in the engine, 1 in the trainer", f"{_drawn(_tempered(1 / 0.9)):.1e}"),
        ("temperature 0.7 in the engine, 1 in the trainer", f"{_drawn(_tempered(1 / 0.7)):.1e}"),
    )
    table = Table(
        "", "", ("cause", "KL, nats a token"), tuple((a, _power(b)) for a, b in rows), right=("KL, nats a token",)
    )
    numbers = {
        "kl": f"{KL_A_TOKEN:g}",
        **{f"mean-{t}": f"{capped_mean(KL_A_TOKEN * t, 2.0):.3g}" for t in (10, 100, 400)},
        "left-1000": f"{100 * math.exp(-2 * KL_A_TOKEN * 1000):.1g}%",
        "hundredth": f"{math.log(100) / 2 / KL_A_TOKEN:.0f}",
        "above-1000": f"{100 * beyond(Pair(np.array([0.5, 0.5]), np.array([0.55, 0.45])), 1000, 2.0):.0f}%",
        "below-1000": f"{100 * (1 - beyond(Pair(np.array([0.5, 0.5]), np.array([0.55, 0.45])), 1000, 0.5)):.0f}%",
    }
    return numbers, table


def _power(text: str) -> str:
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def zero() -> dict[str, str]:
    """How small a KL still shows, by what it is stored and printed in."""
    step = 2.0**-5  # of bfloat16 between 4 and 8
    return {
        "step": f"{step:g}",
        "token-floor": _power(f"{step**2 / 12:.0e}"),
        "hidden": f"{100 * _unseen(1e-4, step):.0f}%",
    }


def _unseen(kl: float, step: float) -> float:
    """Share of tokens whose two log-probs, ℓ ~ N(KL, 2KL) apart, round to one number: E[(1 − |ℓ|/step)₊]."""
    x = kl + math.sqrt(2 * kl) * np.random.default_rng(0).normal(size=200_000)
    return float(np.maximum(0.0, 1 - np.abs(x) / step).mean())


def quantised() -> dict[str, str]:
    """How much too small an error is that takes a text's tokens for independent."""
    _, alike, world = (number.computed for number in CLAIMS["llama-token-errors"].evidence())
    return {"alike": f"{alike:.1f}", "world": f"{world:.2f}"}
