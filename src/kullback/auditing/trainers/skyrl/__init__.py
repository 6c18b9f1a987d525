"""SkyRL: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.skyrl.names import NAMES
from kullback.auditing.trainers.skyrl.terms import SKYRL

__all__ = ["NAMES", "SKYRL"]
