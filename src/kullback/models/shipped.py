"""The pair of models and the prompts that ship with the package."""

from __future__ import annotations

from pathlib import Path

BUILTIN = Path(__file__).parent / "builtin"
BUILTIN_PROMPTS = BUILTIN / "prompts.txt"
