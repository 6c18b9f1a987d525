"""Experiments that redo and extend what has been published on KL estimation: ``kullback lab``.

Each is a function that returns a frozen result with `to_dict()`, `tables()` and `chart()`.
"""

from kullback.lab.gaussian import Gaussian, gaussian

__all__ = [
    "Gaussian",
    "gaussian",
]
