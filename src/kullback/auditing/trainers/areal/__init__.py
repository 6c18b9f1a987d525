"""AReaL: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.areal.names import NAMES
from kullback.auditing.trainers.areal.terms import AREAL

__all__ = ["AREAL", "NAMES"]
