"""Liger-Kernel: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.liger.names import NAMES
from kullback.auditing.trainers.liger.terms import LIGER

__all__ = ["LIGER", "NAMES"]
