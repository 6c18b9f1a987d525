"""Estimators of a divergence from samples of the policy, each with its promises.

An estimator is a function of the log-ratio ℓ = log q − log p of a sample x ~ q (or, for Rao-Blackwell, of
the exact token KL), in nats. At level ``"token"`` it is applied to every token's ℓ and summed over the
sequence; at level ``"sequence"`` it is applied to the summed ℓ. Its promises say, for each level, which
target its expectation equals and whose gradient it follows; ``None`` means: none of the named targets.
Every promise is held against exact enumeration by the tests.
"""

from kullback.estimators.controls import CONTROLS, MARTINGALE, RATIO, Control
from kullback.estimators.family import (
    AMINI,
    CONTROL_VARIATE,
    CSISZAR,
    ESTIMATORS,
    K1,
    K2,
    K3,
    RAO_BLACKWELL,
    RAO_BLACKWELL_CONTROLLED,
    SCHULMAN,
    Alpha,
    Clamped,
    ControlVariate,
    Renyi,
    Skew,
    member,
    optimal_coefficient,
)
from kullback.estimators.record import LEVELS, NOTHING, ByLevel, Estimator, Level, Link, Promise, both

__all__ = [
    "AMINI",
    "CONTROLS",
    "CONTROL_VARIATE",
    "CSISZAR",
    "ESTIMATORS",
    "K1",
    "K2",
    "K3",
    "LEVELS",
    "MARTINGALE",
    "NOTHING",
    "RAO_BLACKWELL",
    "RAO_BLACKWELL_CONTROLLED",
    "RATIO",
    "SCHULMAN",
    "Alpha",
    "ByLevel",
    "Clamped",
    "Control",
    "ControlVariate",
    "Estimator",
    "Level",
    "Link",
    "Promise",
    "Renyi",
    "Skew",
    "both",
    "member",
    "optimal_coefficient",
]
