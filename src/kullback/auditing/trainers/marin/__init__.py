"""marin: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.marin.names import NAMES
from kullback.auditing.trainers.marin.terms import MARIN

__all__ = ["MARIN", "NAMES"]
