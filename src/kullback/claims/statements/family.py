"""The family of all statements, and which of them a claim decides."""

from __future__ import annotations

from kullback.claims.record import Claim
from kullback.claims.statements import applications, rethink, rethink_variance, xu, zhang
from kullback.claims.statements.record import Statement
from kullback.families import Family

STATEMENTS: Family[Statement] = Family(
    statement for document in (zhang, applications, rethink, rethink_variance, xu) for statement in document.STATEMENTS
)
"""The statements of the documents, in their order."""


def statements_of(claim: Claim) -> tuple[Statement, ...]:
    """The statements that a claim decides."""
    return tuple(statement for statement in STATEMENTS if claim.id in statement.claims)
