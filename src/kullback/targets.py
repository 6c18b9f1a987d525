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

    Example:
        >>> import kullback as kb
        >>> kb.STATEWISE_REVERSE_KL.formula, kb.STATEWISE_REVERSE_KL.value_of
        ('Σ_t E_q[KL(q_t‖p_t)], prefixes fixed', REVERSE_KL)
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

    def __reduce__(self) -> str | tuple[object, ...]:
        # What comes out of another process is the same target, which is told by identity.
        if any(target is self for target in TARGETS):
            return _named, (self.name,)
        return type(self), (self.name, self.formula, self.place, self.divergence, self.value_of)


def _named(name: str) -> Target:
    return TARGETS[name]


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


def _pair(
    name: str, formula: str, statewise: str, divergence: Divergence, *, same_value: bool = False
) -> tuple[Target, Target]:
    """The target of whole sequences and its statewise twin, whose value is the same where the chain rule says so."""
    whole = Target(name=name, formula=formula, place="sequence", divergence=divergence)
    twin = Target(
        name=f"statewise_{name}",
        formula=statewise,
        place="state",
        divergence=divergence,
        value_of=whole if same_value else None,
    )
    return whole, twin


REVERSE_KL, STATEWISE_REVERSE_KL = _pair(
    "reverse_kl", "KL(q‖p)", "Σ_t E_q[KL(q_t‖p_t)], prefixes fixed", _reverse_kl, same_value=True
)
FORWARD_KL, STATEWISE_FORWARD_KL = _pair("forward_kl", "KL(p‖q)", "Σ_t E_q[KL(p_t‖q_t)], prefixes fixed", _forward_kl)
JEFFREYS, STATEWISE_JEFFREYS = _pair("jeffreys", "KL(q‖p) + KL(p‖q)", "Σ_t E_q[J(q_t, p_t)]", _jeffreys)
PEARSON_CHI2, STATEWISE_PEARSON_CHI2 = _pair("pearson_chi2", "χ²(p‖q)", "Σ_t E_q[χ²(p_t‖q_t)]", _pearson)
NEYMAN_CHI2, STATEWISE_NEYMAN_CHI2 = _pair("neyman_chi2", "χ²(q‖p)", "Σ_t E_q[χ²(q_t‖p_t)]", _neyman)
SQUARED_HELLINGER, STATEWISE_SQUARED_HELLINGER = _pair(
    "squared_hellinger", "1 − Σ√(qp)", "Σ_t E_q[1 − Σ√(q_t p_t)]", _hellinger
)
JENSEN_SHANNON, STATEWISE_JENSEN_SHANNON = _pair("jensen_shannon", "JS(q, p)", "Σ_t E_q[JS(q_t, p_t)]", _jensen_shannon)
TOTAL_VARIATION, STATEWISE_TOTAL_VARIATION = _pair(
    "total_variation", "½Σ|q − p|", "Σ_t E_q[½Σ|q_t − p_t|]", _total_variation
)
ENTROPY, STATEWISE_ENTROPY = _pair(
    "entropy", "H(q) = E_q[−log q]", "Σ_t E_q[H(q_t)], prefixes fixed", _entropy, same_value=True
)
CROSS_ENTROPY, STATEWISE_CROSS_ENTROPY = _pair(
    "cross_entropy", "E_q[−log p]", "Σ_t E_q[−log p_t], prefixes fixed", _cross_entropy, same_value=True
)
SAMPLED_REVERSE_KL = Target("sampled_reverse_kl", "Σ_t E_μ[KL(q_t‖p_t)], prefixes fixed", "sampled", _reverse_kl)
SAMPLED_FORWARD_KL = Target("sampled_forward_kl", "Σ_t E_μ[KL(p_t‖q_t)], prefixes fixed", "sampled", _forward_kl)
KL_GAP = Target("kl_gap", "KL(q‖p) − KL(p‖q)", "sequence", _kl_gap)
ZERO = Target("zero", "0", "sequence", _zero)


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
    whole, twin = _pair(name, formula, f"Σ_t E_q[{formula}]", divergence)
    return whole if place == "sequence" else twin


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
