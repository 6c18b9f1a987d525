"""How far a language-model policy is from its reference: exact, cheap and checkable KL."""

from kullback import errors, oracle, weights
from kullback.audit import AuditReport, audit
from kullback.compare import Comparison, compare
from kullback.estimate import Accumulator, estimate
from kullback.estimators import (
    ESTIMATORS,
    K1,
    K2,
    K3,
    RAO_BLACKWELL,
    RAO_BLACKWELL_CONTROLLED,
    Alpha,
    Clamped,
    ControlVariate,
    Estimator,
    Renyi,
    Skew,
    optimal_coefficient,
)
from kullback.losses import kl_loss, kl_reward
from kullback.results import Estimate, Exact
from kullback.rollouts import Rollout, read_rollouts, write_rollouts
from kullback.surrogates import SURROGATES, Surrogate
from kullback.targets import (
    FORWARD_KL,
    REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_REVERSE_KL,
    TARGETS,
    ZERO,
    Target,
)
from kullback.textual import TextComparison, compare_text

__version__ = "0.1.0"

__all__ = [
    "ESTIMATORS",
    "FORWARD_KL",
    "K1",
    "K2",
    "K3",
    "RAO_BLACKWELL",
    "RAO_BLACKWELL_CONTROLLED",
    "REVERSE_KL",
    "STATEWISE_FORWARD_KL",
    "STATEWISE_REVERSE_KL",
    "SURROGATES",
    "TARGETS",
    "ZERO",
    "Accumulator",
    "Alpha",
    "AuditReport",
    "Clamped",
    "Comparison",
    "ControlVariate",
    "Estimate",
    "Estimator",
    "Exact",
    "Renyi",
    "Rollout",
    "Skew",
    "Surrogate",
    "Target",
    "TextComparison",
    "audit",
    "compare",
    "compare_text",
    "errors",
    "estimate",
    "kl_loss",
    "kl_reward",
    "optimal_coefficient",
    "oracle",
    "read_rollouts",
    "weights",
    "write_rollouts",
]
