"""The family of all claims, in the order of their sources."""

from __future__ import annotations

from kullback.claims import (
    amini,
    draft,
    gradients,
    liu,
    logged,
    mismatch,
    offpolicy,
    rethink,
    rethink_training,
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
    draft,
    rethink,
    rethink_training,
    xu,
    schulman,
    schulman_tables,
    amini,
    gradients,
    liu,
    offpolicy,
    mismatch,
    vocabulary,
    trainers,
    logged,
)

CLAIMS: Family[Claim] = Family(claim for source in _SOURCES for claim in source.CLAIMS)
