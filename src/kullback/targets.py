"""What can be estimated or followed: the quantities that promises, objectives and audits name.

A target is defined by a divergence D between two log-distributions, written out over all outcomes,
and by where it is taken:

- ``"sequence"``: D of the two distributions over whole sequences;
- ``"state"``: Σ over prefixes, drawn from the policy and held fixed, of D of the two next-token
  distributions. This is what token-level losses descend;
- ``"sampled"``: the same over prefixes of whatever drew the sequences, the policy or another model.

For the reverse KL the two have the same value (chain rule) and different gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

from kullback.arrays import Array, Namespace, namespace
from kullback.families import Family

Place = Literal["sequence", "state", "sampled"]
Divergence = Callable[[Array, Array, Namespace], Array]


class ExactWorld(Protocol):
    """A pair of models small enough to write out."""

    def outcomes(self, place: Place) -> tuple[Array, Array, Array]:
        """Weights (n,), policy and reference log-distributions (n, outcomes) at a place."""
        ...


@dataclass(frozen=True)
class Target:
    """A named quantity that has an exact value on every exact world.

    Attributes:
        name: what reports call it.
        formula: how it is written, q the policy and p the reference.
        place: distributions over sequences, or over next tokens at prefixes held fixed.
        divergence: D(log q, log p, array namespace), summed over the last axis.
        value_of: the target whose value this one shares, where only the gradients differ.
    """

    name: str
    formula: str
    place: Place
    divergence: Divergence
    value_of: Target | None = None

    def exact(self, world: ExactWorld) -> Array:
        """Σ_n w_n D(q_n, p_n) over the world's distributions, in nats; differentiable in their logits.

        Example:
            >>> from kullback import REVERSE_KL
            >>> from kullback.oracle import TreeLM, World
            >>> q, p = TreeLM([[0.0, 0.0]], eos=0, horizon=1), TreeLM([[0.0, 1.0]], eos=0, horizon=1)
            >>> round(float(REVERSE_KL.exact(World(q, p))), 6)
            0.120115
        """
        weights, policy, reference = world.outcomes(self.place)
        xp = namespace(policy)
        return xp.sum(weights * self.divergence(policy, reference, xp))

    def __repr__(self) -> str:
        return self.name.upper()


def _reverse_kl(q: Array, p: Array, xp: Namespace) -> Array:
    mass = xp.exp(q)
    return xp.sum(mass * xp.where(mass > 0, q - p, 0.0 * mass), axis=-1)


def _forward_kl(q: Array, p: Array, xp: Namespace) -> Array:
    return _reverse_kl(p, q, xp)


def _kl_gap(q: Array, p: Array, xp: Namespace) -> Array:
    return _reverse_kl(q, p, xp) - _reverse_kl(p, q, xp)


def _jeffreys(q: Array, p: Array, xp: Namespace) -> Array:
    return _reverse_kl(q, p, xp) + _reverse_kl(p, q, xp)


def _pearson(q: Array, p: Array, xp: Namespace) -> Array:
    return xp.sum((xp.exp(p) - xp.exp(q)) ** 2 / xp.exp(q), axis=-1)


def _neyman(q: Array, p: Array, xp: Namespace) -> Array:
    return _pearson(p, q, xp)


def _hellinger(q: Array, p: Array, xp: Namespace) -> Array:
    return 0.5 * xp.sum((xp.exp(q / 2) - xp.exp(p / 2)) ** 2, axis=-1)


def _skewed(q: Array, p: Array, xp: Namespace, weight: float) -> Array:
    return _reverse_kl(q, xp.log((1 - weight) * xp.exp(q) + weight * xp.exp(p)), xp)


def _jensen_shannon(q: Array, p: Array, xp: Namespace) -> Array:
    return 0.5 * (_skewed(q, p, xp, 0.5) + _skewed(p, q, xp, 0.5))


def _total_variation(q: Array, p: Array, xp: Namespace) -> Array:
    return 0.5 * xp.sum(xp.abs(xp.exp(q) - xp.exp(p)), axis=-1)


def _cross_entropy(q: Array, p: Array, xp: Namespace) -> Array:
    mass = xp.exp(q)
    return xp.sum(mass * xp.where(mass > 0, -p, 0.0 * mass), axis=-1)


def _entropy(q: Array, p: Array, xp: Namespace) -> Array:
    return _cross_entropy(q, q, xp)


def _zero(q: Array, p: Array, xp: Namespace) -> Array:
    return xp.sum(0.0 * xp.exp(q), axis=-1)


REVERSE_KL = Target("reverse_kl", "KL(q‖p)", "sequence", _reverse_kl)
FORWARD_KL = Target("forward_kl", "KL(p‖q)", "sequence", _forward_kl)
STATEWISE_REVERSE_KL = Target(
    "statewise_reverse_kl", "Σ_t E_q[KL(q_t‖p_t)], prefixes fixed", "state", _reverse_kl, REVERSE_KL
)
STATEWISE_FORWARD_KL = Target("statewise_forward_kl", "Σ_t E_q[KL(p_t‖q_t)], prefixes fixed", "state", _forward_kl)
SAMPLED_REVERSE_KL = Target("sampled_reverse_kl", "Σ_t E_μ[KL(q_t‖p_t)], prefixes fixed", "sampled", _reverse_kl)
SAMPLED_FORWARD_KL = Target("sampled_forward_kl", "Σ_t E_μ[KL(p_t‖q_t)], prefixes fixed", "sampled", _forward_kl)
KL_GAP = Target("kl_gap", "KL(q‖p) − KL(p‖q)", "sequence", _kl_gap)
ZERO = Target("zero", "0", "sequence", _zero)
JEFFREYS = Target("jeffreys", "KL(q‖p) + KL(p‖q)", "sequence", _jeffreys)
STATEWISE_JEFFREYS = Target("statewise_jeffreys", "Σ_t E_q[J(q_t, p_t)]", "state", _jeffreys)
PEARSON_CHI2 = Target("pearson_chi2", "χ²(p‖q)", "sequence", _pearson)
STATEWISE_PEARSON_CHI2 = Target("statewise_pearson_chi2", "Σ_t E_q[χ²(p_t‖q_t)]", "state", _pearson)
NEYMAN_CHI2 = Target("neyman_chi2", "χ²(q‖p)", "sequence", _neyman)
STATEWISE_NEYMAN_CHI2 = Target("statewise_neyman_chi2", "Σ_t E_q[χ²(q_t‖p_t)]", "state", _neyman)
SQUARED_HELLINGER = Target("squared_hellinger", "1 − Σ√(qp)", "sequence", _hellinger)
STATEWISE_SQUARED_HELLINGER = Target("statewise_squared_hellinger", "Σ_t E_q[1 − Σ√(q_t p_t)]", "state", _hellinger)
JENSEN_SHANNON = Target("jensen_shannon", "JS(q, p)", "sequence", _jensen_shannon)
STATEWISE_JENSEN_SHANNON = Target("statewise_jensen_shannon", "Σ_t E_q[JS(q_t, p_t)]", "state", _jensen_shannon)
TOTAL_VARIATION = Target("total_variation", "½Σ|q − p|", "sequence", _total_variation)
STATEWISE_TOTAL_VARIATION = Target("statewise_total_variation", "Σ_t E_q[½Σ|q_t − p_t|]", "state", _total_variation)

ENTROPY = Target("entropy", "H(q) = E_q[−log q]", "sequence", _entropy)
STATEWISE_ENTROPY = Target("statewise_entropy", "Σ_t E_q[H(q_t)], prefixes fixed", "state", _entropy, ENTROPY)
CROSS_ENTROPY = Target("cross_entropy", "E_q[−log p]", "sequence", _cross_entropy)
STATEWISE_CROSS_ENTROPY = Target(
    "statewise_cross_entropy", "Σ_t E_q[−log p_t], prefixes fixed", "state", _cross_entropy, CROSS_ENTROPY
)


@cache
def alpha_divergence(alpha: float, place: Place = "sequence") -> Target:
    """Amari's divergence (Σ q^α p^(1−α) − 1) / (α(α − 1)), α ≠ 0, 1."""

    def divergence(q: Array, p: Array, xp: Namespace) -> Array:
        return (xp.sum(xp.exp(alpha * q + (1 - alpha) * p), axis=-1) - 1) / (alpha * (alpha - 1))

    formula = f"D_α={alpha:g}(q‖p) (Amari)"
    return _placed(f"alpha_{alpha:g}", formula, place, divergence)


@cache
def skew_kl(weight: float, place: Place = "sequence") -> Target:
    """The skewed divergence KL(q ‖ (1−β)q + βp)."""

    def divergence(q: Array, p: Array, xp: Namespace) -> Array:
        return _skewed(q, p, xp, weight)

    return _placed(f"skew_{weight:g}", f"KL(q‖{1 - weight:g}q + {weight:g}p)", place, divergence)


def _placed(name: str, formula: str, place: Place, divergence: Divergence) -> Target:
    if place == "sequence":
        return Target(name, formula, place, divergence)
    return Target(f"statewise_{name}", f"Σ_t E_q[{formula}]", place, divergence)


TARGETS = Family(
    (
        REVERSE_KL,
        FORWARD_KL,
        STATEWISE_REVERSE_KL,
        STATEWISE_FORWARD_KL,
        SAMPLED_REVERSE_KL,
        SAMPLED_FORWARD_KL,
        KL_GAP,
        ZERO,
        JEFFREYS,
        STATEWISE_JEFFREYS,
        PEARSON_CHI2,
        STATEWISE_PEARSON_CHI2,
        NEYMAN_CHI2,
        STATEWISE_NEYMAN_CHI2,
        SQUARED_HELLINGER,
        STATEWISE_SQUARED_HELLINGER,
        JENSEN_SHANNON,
        STATEWISE_JENSEN_SHANNON,
        TOTAL_VARIATION,
        STATEWISE_TOTAL_VARIATION,
        ENTROPY,
        STATEWISE_ENTROPY,
        CROSS_ENTROPY,
        STATEWISE_CROSS_ENTROPY,
        alpha_divergence(0.5),
        alpha_divergence(0.5, "state"),
        skew_kl(0.1),
        skew_kl(0.1, "state"),
    )
)
