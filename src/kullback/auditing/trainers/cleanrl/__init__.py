"""CleanRL: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.cleanrl.names import NAMES
from kullback.auditing.trainers.cleanrl.terms import CLEANRL

__all__ = ["CLEANRL", "NAMES"]
