"""RPG: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.rpg.names import NAMES
from kullback.auditing.trainers.rpg.terms import RPG

__all__ = ["NAMES", "RPG"]
