"""torchtune: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.torchtune.names import NAMES
from kullback.auditing.trainers.torchtune.terms import TORCHTUNE

__all__ = ["NAMES", "TORCHTUNE"]
