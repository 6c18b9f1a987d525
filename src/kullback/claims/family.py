"""The family of all claims, in the order of their sources."""

from __future__ import annotations

from kullback.claims import draft, schulman, schulman_tables, zhang
from kullback.claims.record import Claim
from kullback.families import Family

_SOURCES = (zhang, draft, schulman, schulman_tables)

CLAIMS: Family[Claim] = Family(claim for source in _SOURCES for claim in source.CLAIMS)
