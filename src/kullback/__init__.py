"""How far a language-model policy is from its reference: exact, cheap and checkable KL."""

import typing as _typing
from importlib import import_module as _import_module

from kullback import errors, oracle, weights
from kullback.auditing import AuditReport, audit
from kullback.estimation import Accumulator, Estimate, Exact, estimate
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
from kullback.jobs.comparison import compare
from kullback.jobs.files.job import estimate_files
from kullback.jobs.files.outcome import FilesEstimate
from kullback.jobs.files.sides import SideBySide
from kullback.jobs.outcomes import Comparison, TextComparison
from kullback.jobs.rescoring.job import score_files
from kullback.jobs.rescoring.outcome import Rescored
from kullback.jobs.text import compare_text
from kullback.losses import TokenCritic, TokenValue, kl_loss, kl_reward
from kullback.monitoring import KLMonitor
from kullback.rollouts import Rollout, Rollouts, read_rollouts, write_rollouts
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

if _typing.TYPE_CHECKING:
    from kullback import lab, models, vocab
    from kullback.claims import CLAIMS
    from kullback.monitoring import controllers

__version__ = "0.2.0"

_ON_DEMAND = {
    "CLAIMS": "kullback.claims",
    "controllers": "kullback.monitoring.controllers",
    "lab": "kullback.lab",
    "models": "kullback.models",
    "vocab": "kullback.vocab",
}
"""What needs torch, or takes a tenth of the time of an import, and where it is: loaded when it is first named."""

__all__ = [
    "CLAIMS",
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
    "FilesEstimate",
    "KLMonitor",
    "Renyi",
    "Rescored",
    "Rollout",
    "Rollouts",
    "SideBySide",
    "Skew",
    "Surrogate",
    "Target",
    "TextComparison",
    "TokenCritic",
    "TokenValue",
    "audit",
    "compare",
    "compare_text",
    "controllers",
    "errors",
    "estimate",
    "estimate_files",
    "kl_loss",
    "kl_reward",
    "lab",
    "models",
    "optimal_coefficient",
    "oracle",
    "read_rollouts",
    "score_files",
    "vocab",
    "weights",
    "write_rollouts",
]


def __getattr__(name: str) -> _typing.Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module 'kullback' has no attribute {name!r}")
    room = _import_module(_ON_DEMAND[name])
    return globals().setdefault(name, getattr(room, name, room))


def __dir__() -> list[str]:
    # Rooms that happen to be imported are no part of the surface.
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
