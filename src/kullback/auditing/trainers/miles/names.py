"""miles: its names of columns and of options are those of slime, from which it was made."""

from __future__ import annotations

from dataclasses import replace

from kullback.auditing.trainers.slime.names import NAMES as SLIME

NAMES = replace(SLIME, title="miles")
