"""NeMo-RL: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.nemo_rl.names import NAMES
from kullback.auditing.trainers.nemo_rl.terms import NEMO_RL

__all__ = ["NAMES", "NEMO_RL"]
