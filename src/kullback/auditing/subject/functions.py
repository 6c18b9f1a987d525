"""What is audited: a function of anybody's, called with what its parameters ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]
"""Code of any library: what it takes and returns is found out by calling it."""
