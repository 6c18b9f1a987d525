"""The code of the RLHF book: what it calls things, and its KL terms."""

from __future__ import annotations

from kullback.auditing.trainers.rlhf_book.names import NAMES
from kullback.auditing.trainers.rlhf_book.terms import RLHF_BOOK

__all__ = ["NAMES", "RLHF_BOOK"]
