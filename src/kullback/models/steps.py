"""Rows that a model reads step by step: each distinct prompt once, and no row after its end, where its cache allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kullback.models.batches import left_padded
from kullback.models.protocols import Tokens

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel

DROPPED = 8
"""One of so many rows has to have ended before ended ones are dropped: that copies the cache, as every step does."""


class Steps:
    """Rows that are drawn: what is kept of what they have read, and what they read next.

    Prompts of different lengths are padded on the left, masked, and numbered from their own first token.

    Attributes:
        at: which of the prompts each row goes on from, (rows,).
        going: whether a row has not ended, (rows,).
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Tokens]) -> None:
        self.model = model
        number: dict[tuple[int, ...], int] = {}
        copies = [number.setdefault(tuple(prompt), len(number)) for prompt in prompts]
        shared = model.picks_rows and len(number) < len(prompts)
        self._copies = torch.tensor(copies, device=model.device) if shared else None
        self._tokens, self._mask = left_padded(model, [*number] if shared else prompts)
        # Counted from a row's first real token: models with absolute positions would else see the padding's length.
        self._positions = (self._mask.cumsum(dim=-1) - 1).clamp(min=0)
        self._cache: Any = None
        self.at = torch.arange(len(prompts), device=model.device)
        self.going = torch.ones(len(prompts), dtype=torch.bool, device=model.device)

    def read(self) -> torch.Tensor:
        """The next logits of every row, (rows, vocab)."""
        options: dict[str, object] = {"position_ids": self._positions, "logits_to_keep": 1}
        if self.model.mixes_lengths:
            # Rows that are not padded need none, and Mamba multiplies one state by the mask of the whole row: its
            # log-probs are then off by 0.7 nats from the second step on.
            options["attention_mask"] = self._mask
        options = {name: value for name, value in options.items() if name in self.model.accepts}
        logits, self._cache = self.model.step(self._tokens, self._cache, **options)
        return self.of_rows(logits)

    def of_rows(self, read: torch.Tensor) -> torch.Tensor:
        """What the last reading found, row by row: of distinct prompts it was found once."""
        return read if self._copies is None else read[self._copies]

    def follow(self, token: torch.Tensor) -> None:
        """Go on with the tokens that were drawn, (rows, 1)."""
        if self._copies is not None:
            self._pick(self._copies)
            self._copies = None
        ended = len(self.going) - int(self.going.sum())
        if self.model.picks_rows and DROPPED * ended >= len(self.going):
            left = torch.nonzero(self.going)[:, 0]
            self._pick(left)
            token, self.at, self.going = token[left], self.at[left], self.going[left]
        # Without a cache every step reads the whole row again.
        cached = self._cache is not None
        following = self._positions[:, -1:] + 1
        self._tokens = token if cached else torch.cat([self._tokens, token], dim=-1)
        self._positions = following if cached else torch.cat([self._positions, following], dim=-1)
        self._mask = torch.cat([self._mask, torch.ones_like(token)], dim=-1)

    def _pick(self, rows: torch.Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]
