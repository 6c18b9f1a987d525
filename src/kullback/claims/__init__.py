"""Published statements about estimating a KL divergence, each decided by a computation.

A claim is a record: where it is made, what it says, the verdict, and the numbers that the verdict follows from.
``kullback claims`` lists them; ``kb.CLAIMS["004-gradient-of-fS"].evidence()`` computes one.

A module that holds the claims of one source bears its name: its author (`amini`, `liu`, `schulman`, `xu`, `zhang`), or
its title where there is none (`applications`, `rethink`). Where several sources speak of one thing the module bears the
name of that (`placement`, `offpolicy`, `mismatch`, `vocabulary`, `trainers`, `logged`, and what practitioners meet:
`objectives`, `metrics`, `controller`, `corrections`, `distillation`, `rounding`), and its first line names them.

`questions` lists claims by what people ask, `statements` by what the five documents say; `pages` shows them on a
terminal, `index` as pages of the docs.
"""

from kullback.claims.family import CLAIMS
from kullback.claims.record import Claim, Evidence, Role, Source, Verdict, judged

__all__ = ["CLAIMS", "Claim", "Evidence", "Role", "Source", "Verdict", "judged"]
