"""Where two models differ most: prompts, positions and single tokens, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kullback.rollouts import Rollout

SITES = 10
"""Sites that are remembered."""

CONTEXT = 12
"""Tokens before a site that are shown."""


@dataclass(frozen=True)
class Site:
    """A prefix at which the two next-token distributions are far apart.

    Attributes:
        prompt_id, position: where: the completion's token number `position`, from 0.
        context: the text just before.
        token: what was drawn.
        probability, ref_probability: of what was drawn, under the policy and the reference.
        top, ref_top: what each model finds most likely.
        token_kl: exact KL of the two next-token distributions, nats.
    """

    prompt_id: int
    position: int
    context: str
    token: str
    probability: float
    ref_probability: float
    top: str
    ref_top: str
    token_kl: float


@dataclass
class Hotspots:
    """Sums of the exact token KL by prompt and by position, and the sites where it is largest."""

    prompts: dict[int, tuple[float, int, str]] = field(default_factory=dict)
    positions: dict[int, tuple[float, int]] = field(default_factory=dict)
    sites: dict[tuple[int, tuple[int, ...]], Site] = field(default_factory=dict)

    def add(self, rollout: Rollout, top: np.ndarray, ref_top: np.ndarray, decode: Callable[..., str]) -> None:
        """Count one sequence; `top` and `ref_top` are each model's most likely token at every position."""
        prompt, token_kl = rollout.prompt_id or 0, rollout.column("token_kl")
        total, count, text = self.prompts.get(prompt, (0.0, 0, ""))
        text = text or decode(list(rollout.prompt_tokens or ()), special=False)
        self.prompts[prompt] = (total + float(np.sum(token_kl)), count + 1, text)
        for position, kl in enumerate(token_kl.tolist()):
            total, count = self.positions.get(position, (0.0, 0))
            self.positions[position] = (total + kl, count + 1)
        for position in np.argsort(-token_kl)[:SITES].tolist():
            if len(self.sites) < SITES or token_kl[position] > self._smallest().token_kl:
                self._add_site(rollout, position, top, ref_top, decode)

    def _smallest(self) -> Site:
        return min(self.sites.values(), key=lambda site: site.token_kl)

    def _add_site(
        self,
        rollout: Rollout,
        position: int,
        top: np.ndarray,
        ref_top: np.ndarray,
        decode: Callable[..., str],
    ) -> None:
        tokens = rollout.tokens or ()
        prefix = tuple(tokens[:position])
        key = (rollout.prompt_id or 0, prefix)
        if key in self.sites:  # the same prefix has the same KL, whatever was drawn after it
            return
        before = [*(rollout.prompt_tokens or ()), *prefix][-CONTEXT:]
        self.sites[key] = Site(
            prompt_id=key[0],
            position=position,
            context=decode(before, special=False),
            token=decode([tokens[position]]),
            probability=float(np.exp(rollout.column("logprobs")[position])),
            ref_probability=float(np.exp(rollout.column("ref_logprobs")[position])),
            top=decode([int(top[position])]),
            ref_top=decode([int(ref_top[position])]),
            token_kl=float(rollout.column("token_kl")[position]),
        )
        if len(self.sites) > SITES:
            del self.sites[min(self.sites, key=lambda other: self.sites[other].token_kl)]

    def top_prompts(self, n: int = 5) -> list[tuple[int, str, float, int]]:
        """(prompt id, text, mean nats a sequence, sequences), largest first."""
        rows = [(i, text, total / count, count) for i, (total, count, text) in self.prompts.items()]
        return sorted(rows, key=lambda row: -row[2])[:n]

    def top_positions(self, n: int = 5) -> list[tuple[int, float, int]]:
        """(position, mean nats a token, tokens), largest first, among positions many sequences reach."""
        enough = max((count for _, count in self.positions.values()), default=0) / 10
        rows = [(i, total / count, count) for i, (total, count) in self.positions.items() if count >= enough]
        return sorted(rows, key=lambda row: -row[1])[:n]

    def top_sites(self, n: int = SITES) -> list[Site]:
        """The sites, largest KL first."""
        return sorted(self.sites.values(), key=lambda site: -site.token_kl)[:n]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "prompts": [
                dict(zip(("prompt_id", "prompt", "nats_per_sequence", "sequences"), row, strict=True))
                for row in self.top_prompts()
            ],
            "positions": [
                dict(zip(("position", "nats_per_token", "tokens"), row, strict=True)) for row in self.top_positions()
            ],
            "tokens": [asdict(site) for site in self.top_sites()],
        }
