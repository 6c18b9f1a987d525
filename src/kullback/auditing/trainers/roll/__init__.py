"""ROLL: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.roll.names import NAMES
from kullback.auditing.trainers.roll.terms import ROLL

__all__ = ["NAMES", "ROLL"]
