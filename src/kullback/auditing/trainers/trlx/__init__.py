"""trlx: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.trlx.names import NAMES
from kullback.auditing.trainers.trlx.terms import TRLX

__all__ = ["NAMES", "TRLX"]
