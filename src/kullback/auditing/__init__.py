"""What a KL function really estimates, and whose gradient it follows: exact worlds, facts, findings."""

from kullback.auditing.report import AuditReport, Finding
from kullback.auditing.run import audit

__all__ = ["AuditReport", "Finding", "audit"]
