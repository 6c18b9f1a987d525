"""miles: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.miles.names import NAMES
from kullback.auditing.trainers.miles.terms import MILES

__all__ = ["MILES", "NAMES"]
