"""The KL losses that trainers write today, each with what it is, whose gradient it follows, and for which samples.

A surrogate is a function of log-probs whose mean over sampled rows is differentiated with the samples held
fixed. What it follows depends on what drew the rows: the policy itself, another policy, or the reference.
``None`` means: none of the named targets. Every promise is held against exact enumeration by the tests.
"""

from kullback.surrogates.family import SURROGATES
from kullback.surrogates.formulas import squared_about
from kullback.surrogates.record import BySampler, Surrogate

__all__ = ["SURROGATES", "BySampler", "Surrogate", "squared_about"]
