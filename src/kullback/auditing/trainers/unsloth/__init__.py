"""Unsloth: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.unsloth.names import NAMES
from kullback.auditing.trainers.unsloth.terms import UNSLOTH

__all__ = ["NAMES", "UNSLOTH"]
