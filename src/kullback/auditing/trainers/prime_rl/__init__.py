"""prime-rl: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.prime_rl.names import NAMES
from kullback.auditing.trainers.prime_rl.terms import PRIME_RL

__all__ = ["NAMES", "PRIME_RL"]
