"""What a trainer's coefficient β multiplies: nats a token or nats a sequence."""

from __future__ import annotations

from typing import Literal, get_args

from kullback.errors import InputError

BetaUnit = Literal["token", "sequence"]


def checked_unit(unit: object, beta: float) -> BetaUnit:
    """The unit of a coefficient, which nobody can guess.

    Raises:
        InputError: none was given, or one that is no unit.

    Example:
        >>> from kullback.integrations.units import checked_unit
        >>> checked_unit("sequence", 0.04)
        'sequence'
    """
    for known in get_args(BetaUnit):
        if unit == known:
            found: BetaUnit = known
            return found
    raise InputError(
        f"beta={beta:g} came with kl_beta_unit={unit!r}: pass 'token' (it multiplies nats a token, as the trainer's "
        "own does) or 'sequence' (it multiplies nats a sequence, which is the mean length times as strong)"
    )


def sequence_coefficient(beta: float, unit: BetaUnit, mean_length: float) -> float:
    """What KL(q‖p) in nats a sequence is multiplied by: β, or β/L̄ where β is of nats a token.

    Args:
        beta: the trainer's coefficient.
        unit: what it multiplies.
        mean_length: L̄, counted tokens a sequence; 0 where nothing counts, and nothing is to be multiplied.

    Example:
        The same 0.24 is 24 times as strong in the other unit where sequences have 24 tokens:

        >>> from kullback.integrations.units import sequence_coefficient
        >>> sequence_coefficient(0.24, "sequence", 24.0), round(sequence_coefficient(0.24, "token", 24.0), 6)
        (0.24, 0.01)
    """
    if unit == "sequence":
        return beta
    return beta / mean_length if mean_length > 0 else 0.0
