"""What a backend offers: the functions of one block of logits, whoever computes them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from kullback.vocab.formulas import Divergence

Outputs = tuple[Tensor | None, Tensor | None]
"""Where the gradients to the logits of q and of p are written; None where one is not wanted."""


class BlockKernels(Protocol):
    """What a backend computes of one block of logits, (rows, columns): a module of these functions.

    The logits are z/T. Statistics are returned; gradients, which are as large as the block, are written to ``outs``
    or ``out``, which may be the logits themselves. With ``difference`` the second block holds z_q − z_p instead of
    z_p, and the gradient that is written for it is still the one to z_p.
    """

    def pair_statistics(self, zq: Tensor, zp: Tensor, temperature: float, /, difference: bool = False) -> Tensor:
        """See ``formulas.pair_statistics``."""

    def pair_sums(
        self,
        zq: Tensor,
        zp: Tensor,
        normalisers: Tensor,
        /,
        *,
        divergence: Divergence,
        temperature: float,
        difference: bool = False,
    ) -> Tensor:
        """See ``formulas.pair_sums``."""

    def pair_gradients(
        self,
        zq: Tensor,
        zp: Tensor,
        saved: Tensor,
        upstream: Tensor,
        /,
        *,
        divergence: Divergence,
        temperature: float,
        outs: Outputs,
        difference: bool = False,
    ) -> None:
        """See ``formulas.pair_gradients``."""

    def token_statistics(self, z: Tensor, index: Tensor, temperature: float, /) -> Tensor:
        """See ``formulas.token_statistics``."""

    def token_gradients(
        self,
        z: Tensor,
        index: Tensor,
        saved: Tensor,
        /,
        *,
        of_logprob: Tensor,
        of_entropy: Tensor,
        temperature: float,
        out: Tensor,
    ) -> None:
        """See ``formulas.token_gradients``."""
