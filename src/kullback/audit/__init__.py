"""What a KL function really estimates, and whose gradient it follows: exact worlds, facts, findings."""

from kullback.audit.report import AuditReport, Finding
from kullback.audit.run import audit

__all__ = ["AuditReport", "Finding", "audit"]
