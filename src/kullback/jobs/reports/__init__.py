"""Reports on disk: what a file of numbers says of itself, and whether what it claims can be computed again."""

from kullback.jobs.reports.again import Again, again_from_files
from kullback.jobs.reports.claims import SCHEMA, Made, claimed, digest, read_report
from kullback.jobs.reports.verification import Check, Verification, verified

__all__ = [
    "SCHEMA",
    "Again",
    "Check",
    "Made",
    "Verification",
    "again_from_files",
    "claimed",
    "digest",
    "read_report",
    "verified",
]
