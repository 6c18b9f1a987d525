"""Every checkable statement of the five documents, by number, and what decides it.

Z1 to Z18 are document 000's, D1 to D22 document 001's, R1 to R54 those of 002 and 003, one article in two languages,
and X1 to X15 document 004's. Numbers left out are definitions and advice; the modules say which.
"""

from kullback.claims.statements.family import STATEMENTS, statements_of
from kullback.claims.statements.record import Statement

__all__ = ["STATEMENTS", "Statement", "statements_of"]
