"""open-instruct: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.open_instruct.names import NAMES
from kullback.auditing.trainers.open_instruct.terms import OPEN_INSTRUCT

__all__ = ["NAMES", "OPEN_INSTRUCT"]
