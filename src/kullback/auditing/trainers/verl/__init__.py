"""verl: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.verl.names import NAMES
from kullback.auditing.trainers.verl.terms import VERL

__all__ = ["NAMES", "VERL"]
