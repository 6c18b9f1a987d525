"""Mergeable moments, tails and intervals: what turns sums into an estimate with an error."""

from kullback.statistics.intervals import skewed_interval, t_quantile
from kullback.statistics.moments import KeyedMoments, Moments
from kullback.statistics.tails import Tail, pareto_shape

__all__ = ["KeyedMoments", "Moments", "Tail", "pareto_shape", "skewed_interval", "t_quantile"]
