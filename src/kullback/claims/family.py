"""The family of all claims, in the order of their sources."""

from __future__ import annotations

from kullback.claims import (
    amini,
    applications,
    controller,
    corrections,
    distillation,
    liu,
    logged,
    metrics,
    mismatch,
    objectives,
    offpolicy,
    placement,
    rethink,
    rethink_estimators,
    rethink_practice,
    rethink_training,
    rounding,
    schulman,
    schulman_tables,
    trainers,
    vocabulary,
    xu,
    zhang,
)
from kullback.claims.record import Claim
from kullback.families import Family

_SOURCES = (
    zhang,
    applications,
    rethink,
    rethink_estimators,
    rethink_practice,
    rethink_training,
    xu,
    schulman,
    schulman_tables,
    amini,
    placement,
    liu,
    offpolicy,
    mismatch,
    vocabulary,
    trainers,
    logged,
    objectives,
    metrics,
    controller,
    corrections,
    distillation,
    rounding,
)

CLAIMS: Family[Claim] = Family(claim for source in _SOURCES for claim in source.CLAIMS)
