"""From log-probs to a number with its error: a batch is checked, cut into blocks, summed up, merged and judged."""

from kullback.estimation.accumulator import Accumulator, estimate
from kullback.estimation.result import Estimate, Exact
from kullback.estimation.sequences import Sequences

__all__ = ["Accumulator", "Estimate", "Exact", "Sequences", "estimate"]
