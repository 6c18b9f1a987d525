"""Published statements about estimating a KL divergence, each decided by a computation.

A claim is a record: where it is made, what it says, the verdict, and the numbers that the verdict follows from.
``kullback claims`` lists them; ``kb.CLAIMS["004-gradient-of-fS"].evidence()`` computes one.
"""

from kullback.claims.family import CLAIMS
from kullback.claims.record import Claim, Evidence, Role, Source, Verdict, judged

__all__ = ["CLAIMS", "Claim", "Evidence", "Role", "Source", "Verdict", "judged"]
