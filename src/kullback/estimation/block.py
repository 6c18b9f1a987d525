"""A block of sequences at a level, with the weight that each of its log-ratios carries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.sequences import Sequences
from kullback.weights import Truncation, cumulative_weights


@dataclass(frozen=True)
class Block:
    """Arrays (batch, time); at level "sequence" every row is one token, the whole sequence.

    Attributes:
        log_ratio: ℓ, 0 where masked or where the policy excludes what another one drew.
        token_kl: exact token KLs.
        ref_mass: the reference's probability of the tokens that the policy does not exclude.
        mask: True where a token counts.
        weight, before: the importance weight of what is known with and without the token itself.
        whole, log_weight: of the whole sequence, (batch,).
        length: counted tokens, (batch,).
        last: True at each row's last counted token, (batch, time) at either level.
    """

    log_ratio: Float64
    token_kl: Float64
    ref_mass: Float64
    mask: np.ndarray
    weight: Float64
    before: Float64
    whole: Float64
    log_weight: Float64
    length: Float64
    last: np.ndarray

    @classmethod
    def of(cls, sequences: Sequences, level: str, truncation: Truncation | None) -> Block:
        """Float64 rows, each with a counted token, at a level."""
        log_ratio, mask = sequences.log_ratio(), sequences.mask
        token_kl = np.zeros_like(log_ratio) if sequences.token_kl is None else sequences.token_kl
        ref_mass = np.ones_like(log_ratio) if sequences.ref_mass is None else sequences.ref_mass
        log_weights = np.zeros_like(log_ratio)
        if sequences.behavior_logprobs is not None:
            log_weights = np.where(mask, sequences.logprobs - sequences.behavior_logprobs, 0.0)
            # A token the policy excludes has weight 0, so whatever its ratio is does not matter.
            log_ratio = np.where(np.isneginf(sequences.logprobs), 0.0, log_ratio)
        weight, before = cumulative_weights(log_weights)
        if truncation is not None:
            weight, before = truncation.fn(weight), truncation.fn(before)
        if level == "sequence" or (truncation is not None and truncation.self_normalised):
            weight = before = np.broadcast_to(weight[:, -1:], weight.shape)
        whole, length = weight[:, -1], mask.sum(axis=1).astype(np.float64)
        final = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
        last = np.arange(mask.shape[1]) == final[:, None]
        if level == "sequence":
            log_ratio, token_kl = log_ratio.sum(axis=1)[:, None], token_kl.sum(axis=1)[:, None]
            mask, ref_mass = np.ones_like(log_ratio, dtype=bool), np.ones_like(log_ratio)
            weight, before = weight[:, -1:], before[:, -1:]
        return cls(
            log_ratio=log_ratio,
            token_kl=token_kl,
            ref_mass=ref_mass,
            mask=mask,
            weight=weight,
            before=before,
            whole=whole,
            log_weight=log_weights.sum(axis=1),
            length=length,
            last=last,
        )

    def sums(self, values: Float64) -> Float64:
        """Σ over the counted tokens of each row, (batch,)."""
        return np.asarray(np.where(self.mask, values, 0.0).sum(axis=1))
