"""OpenRLHF: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.openrlhf.names import NAMES
from kullback.auditing.trainers.openrlhf.terms import OPENRLHF

__all__ = ["NAMES", "OPENRLHF"]
