"""tinker-cookbook: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.tinker.names import NAMES
from kullback.auditing.trainers.tinker.terms import TINKER

__all__ = ["NAMES", "TINKER"]
