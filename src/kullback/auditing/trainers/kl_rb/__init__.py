"""kl-rb: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.kl_rb.names import NAMES
from kullback.auditing.trainers.kl_rb.terms import KL_RB

__all__ = ["KL_RB", "NAMES"]
