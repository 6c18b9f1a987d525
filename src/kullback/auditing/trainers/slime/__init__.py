"""slime: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.slime.names import NAMES
from kullback.auditing.trainers.slime.terms import SLIME

__all__ = ["NAMES", "SLIME"]
