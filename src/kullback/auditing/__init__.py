"""What a KL function really estimates, and whose gradient it follows: exact worlds, facts, findings."""

from kullback.auditing.report import Audited, AuditReport, Failed, Finding
from kullback.auditing.run import audit

__all__ = ["AuditReport", "Audited", "Failed", "Finding", "audit"]
