"""Exact worlds: language models small enough that every sequence can be written out."""

from kullback.oracle.tree import TreeLM
from kullback.oracle.world import World

__all__ = ["TreeLM", "World"]
