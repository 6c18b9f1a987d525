"""The family of all claims, in the order of their sources."""

from __future__ import annotations

from kullback.claims import schulman, schulman_tables
from kullback.claims.record import Claim
from kullback.families import Family

CLAIMS: Family[Claim] = Family((*schulman.CLAIMS, *schulman_tables.CLAIMS))
