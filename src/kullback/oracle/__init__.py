"""Exact worlds: language models small enough that every sequence can be written out."""

from kullback.oracle.gradients import LossMoments, exact_gradient, loss_moments
from kullback.oracle.tree import TreeLM
from kullback.oracle.world import World

__all__ = ["LossMoments", "TreeLM", "World", "exact_gradient", "loss_moments"]
