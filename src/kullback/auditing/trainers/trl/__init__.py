"""TRL: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.trl.names import NAMES
from kullback.auditing.trainers.trl.terms import TRL

__all__ = ["NAMES", "TRL"]
