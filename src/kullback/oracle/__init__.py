"""Exact worlds: language models small enough that every sequence can be written out."""

from kullback.oracle.loss_gradients import LossMoments, exact_gradient, loss_moments
from kullback.oracle.markov import MarkovGradient, MarkovLM
from kullback.oracle.reference import reference_world, relative_gradient_variance, relative_variance
from kullback.oracle.tree import TreeLM
from kullback.oracle.world import World

__all__ = [
    "LossMoments",
    "MarkovGradient",
    "MarkovLM",
    "TreeLM",
    "World",
    "exact_gradient",
    "loss_moments",
    "reference_world",
    "relative_gradient_variance",
    "relative_variance",
]
