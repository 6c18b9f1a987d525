"""How many operations a computation takes, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kullback.arrays import Float64


def operations(compute: Callable[..., object], *arrays: Float64) -> int:
    """Entries that all elementwise operations and sums of a computation on arrays go through.

    Example:
        >>> import numpy as np
        >>> from kullback.claims.worlds import operations
        >>> operations(lambda x: np.exp(x).sum(), np.zeros(10))
        20
    """
    done = 0

    class Counted(np.ndarray):
        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
            nonlocal done
            plain = [np.asarray(x) for x in inputs]
            done += max(x.size for x in plain)
            result = getattr(ufunc, method)(*plain, **{k: v for k, v in options.items() if k != "out"})
            return result.view(Counted) if isinstance(result, np.ndarray) else result

    compute(*(array.view(Counted) for array in arrays))
    return done


def _log_normaliser(logits: Float64) -> Float64:
    largest = logits.max()
    total: Float64 = largest + np.log(np.exp(logits - largest).sum())
    return total


def token_kl(policy: Float64, reference: Float64) -> float:
    """KL(q‖p) of one token from the logits of both, (vocab,), written out."""
    log_q, log_p = policy - _log_normaliser(policy), reference - _log_normaliser(reference)
    return float((np.exp(log_q) * (log_q - log_p)).sum())


def drawn_k3(policy: Float64, reference: Float64, token: int = 0) -> float:
    """k3 of one drawn token from the same logits: the normalisers go through all of them too."""
    ratio = (policy[token] - _log_normaliser(policy)) - (reference[token] - _log_normaliser(reference))
    return float(np.expm1(-ratio) + ratio)
