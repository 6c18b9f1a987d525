"""Token KLs against the whole law of the model on the right, where it has tokens that the other lacks."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def with_mass(columns: dict[str, np.ndarray], q_mass: Tensor | None, p_mass: Tensor | None) -> dict[str, np.ndarray]:
    """Columns of two laws over the shared tokens, with the probability outside these.

    KL(q‖m·p) = KL(q‖p) − log m for laws q and p over the shared tokens, of which the whole law has the mass m.

    Args:
        columns: as `kullback.models.Scores` has them.
        q_mass, p_mass: log m of each model, (tokens,); None where it is 0.
    """
    for kl, outside, log_mass in (("reverse_token_kl", "outside", q_mass), ("token_kl", "ref_outside", p_mass)):
        if log_mass is not None:
            found = log_mass.cpu().double().numpy()
            columns = {**columns, kl: columns[kl] - found, outside: -np.expm1(found)}
    return columns
