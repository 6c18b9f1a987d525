"""From log-probs to a number with its error: a batch is checked, cut into blocks, summed up, merged and judged.

In the order of the journey: `sequences` and `ragged` (a batch, checked), `block` (a few of its rows at a level, weighted),
`recipe` and `flat` (what is summed of them), `summary` with `moments` and `tails` (what is remembered, and merges),
`conclusion` with `intervals` and `doubts` (value, error, warnings), `result`; `accumulator` walks it.
"""

from kullback.estimation.accumulator import Accumulator, estimate
from kullback.estimation.ragged import Ragged
from kullback.estimation.result import Estimate, Exact
from kullback.estimation.sequences import Sequences

__all__ = ["Accumulator", "Estimate", "Exact", "Ragged", "Sequences", "estimate"]
