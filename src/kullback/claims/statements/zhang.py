"""000: what Zhang's note on TRL's estimate says, in its order."""

from __future__ import annotations

from kullback.claims.sources import ZHANG
from kullback.claims.statements.record import Statement


def _says(number: str, says: str, quote: str, *claims: str) -> Statement:
    return Statement(number=number, says=says, quotes=((ZHANG, quote),), claims=claims)


STATEMENTS = (
    _says(
        "Z1",
        "KL[q, p] = E_q[log q/p]",
        "The KL divergence between two probabilistic distributions $q$ and $p$ is written as",
        "schulman-k1-unbiased",
    ),
    _says(
        "Z2",
        "A sample mean of log q/p approximates it",
        "It can be approximated by Monte-Carlo (MC) sampling",
        "schulman-k1-unbiased",
    ),
    _says(
        "Z3",
        "The log-ratio of a sequence is the sum of its steps'",
        "calculate the stepwise log-probability difference … and then aggregate across $T$ steps",
        "000-stepwise-log-ratio",
    ),
    _says("Z4", "That mean is unbiased", "MC approximation is unbiased", "schulman-k1-unbiased"),
    _says("Z5", "It can have high variance", "but it can have high variance", "000-k1-high-variance"),
    _says("Z6", "k1 is negative for half of the samples", "negative for half of the samples", "schulman-half-negative"),
    _says(
        "Z7",
        "Its variance is high as it is negative for half",
        "it can have high variance, as … negative for half of the samples, whereas KL is always positive",
        "schulman-noisy-as-half-negative",
    ),
    _says("Z8", "KL is always positive", "KL is always positive", "000-always-positive"),
    _says(
        "Z9",
        "k3 is unbiased and of low variance",
        "which is unbiased and low-variance",
        "000-sequence-k3-quiet",
        "schulman-k3-unbiased",
        "schulman-k3-quieter",
    ),
    _says("Z10", "E_q[p/q − 1] = 0", "This estimation is unbiased because", "000-control-mean-zero"),
    _says(
        "Z11",
        "k3 of a sequence cannot be broken into steps",
        "there is no way to write it as a sum over steps",
        "000-no-steps",
    ),
    _says(
        "Z12",
        "TRL implements Eq. 2, not Schulman's k3",
        "if I understand correctly, what is implemented in TRL is",
        "000-trl-implements-eq2",
    ),
    _says("Z13", "Eq. 2 is not Eq. 1", "which is not equivalent to Eq.1", "000-eq2-is-not-eq1"),
    _says("Z14", "Eq. 2 is biased", "this estimation is *biased* because", "000-eq2-biased"),
    _says("Z15", "Eq. 2 is never negative", "Eq.2 is nicely **non-negative**", "000-eq2-nonnegative"),
    _says(
        "Z16",
        "Biased is not necessarily bad",
        "being **biased** is not necessarily bad",
        "000-biased-is-fine",
    ),
    _says(
        "Z17",
        "k2 is biased but never negative",
        "which is biased but **non-negative**",
        "001-k2-biased",
        "002-k2-nonnegative",
    ),
    _says(
        "Z18",
        "Any divergence might do",
        "I feel like it just needs to be some kind of divergence between two distributions",
        "000-any-divergence",
    ),
)
