"""Where two models differ most: prompts, positions and single tokens, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from kullback.documents import Record
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


class Decode(Protocol):
    """The text of some tokens, with or without special ones."""

    def __call__(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text."""
        ...


class PromptMean(NamedTuple):
    """How far the models are apart on a prompt's sequences, nats a sequence."""

    prompt_id: int
    prompt: str
    nats_per_sequence: float
    sequences: int


class PositionMean(NamedTuple):
    """How far they are apart at the new token number `position`, from 0, nats a token."""

    position: int
    nats_per_token: float
    tokens: int


@dataclass(frozen=True)
class Total:
    """A sum of token KLs in nats, and how many sequences or tokens it is over."""

    nats: float = 0.0
    count: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.nats + other.nats, self.count + other.count)

    @property
    def mean(self) -> float:
        """Nats for each."""
        return self.nats / self.count


Place = tuple[int, tuple[int, ...]]
"""A prompt's number and the tokens after it."""


@dataclass
class Hotspots:
    """Sums of the exact token KL by prompt and by position, and the sites where it is largest.

    Attributes:
        prompts, texts: sums by prompt, and its text.
        positions: sums by position.
        sites: the largest, by place.
    """

    prompts: dict[int, Total] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    positions: dict[int, Total] = field(default_factory=dict)
    sites: dict[Place, Site] = field(default_factory=dict)

    def add(self, rollout: Rollout, top: np.ndarray, ref_top: np.ndarray, decode: Decode) -> None:
        """Count one sequence; `top` and `ref_top` are each model's most likely token at every position."""
        prompt, token_kl = int(rollout.prompt_id or 0), rollout.column("token_kl")
        if prompt not in self.texts:
            self.texts[prompt] = decode(list(rollout.prompt_tokens or ()), special=False)
        self.prompts[prompt] = self.prompts.get(prompt, Total()) + Total(float(np.sum(token_kl)), 1)
        for position, kl in enumerate(token_kl.tolist()):
            self.positions[position] = self.positions.get(position, Total()) + Total(kl, 1)
        for position in np.argsort(-token_kl)[:SITES].tolist():
            if len(self.sites) < SITES or token_kl[position] > self._smallest().token_kl:
                self._add_site(rollout, position, tops=(int(top[position]), int(ref_top[position])), decode=decode)

    def __add__(self, later: Hotspots) -> Hotspots:
        """Those of these sequences followed by later ones, as if all had been added to one; sums to rounding."""
        sites = {**self.sites, **{place: site for place, site in later.sites.items() if place not in self.sites}}
        largest = sorted(sites, key=lambda place: -sites[place].token_kl)[:SITES]
        return Hotspots(
            prompts=_added(self.prompts, later.prompts),
            texts={**later.texts, **self.texts},
            positions=_added(self.positions, later.positions),
            sites={place: sites[place] for place in largest},
        )

    def _smallest(self) -> Site:
        return min(self.sites.values(), key=lambda site: site.token_kl)

    def _add_site(self, rollout: Rollout, position: int, *, tops: tuple[int, int], decode: Decode) -> None:
        tokens = rollout.tokens or ()
        place = (int(rollout.prompt_id or 0), tuple(tokens[:position]))
        if place in self.sites:  # the same prefix has the same KL, whatever was drawn after it
            return
        before = [*(rollout.prompt_tokens or ()), *place[1]][-CONTEXT:]
        self.sites[place] = Site(
            prompt_id=place[0],
            position=position,
            context=decode(before, special=False),
            token=decode([tokens[position]]),
            probability=float(np.exp(rollout.column("logprobs")[position])),
            ref_probability=float(np.exp(rollout.column("ref_logprobs")[position])),
            top=decode([tops[0]]),
            ref_top=decode([tops[1]]),
            token_kl=float(rollout.column("token_kl")[position]),
        )
        if len(self.sites) > SITES:
            del self.sites[min(self.sites, key=lambda other: self.sites[other].token_kl)]

    def top_prompts(self, n: int = 5) -> list[PromptMean]:
        """The prompts, largest mean first."""
        rows = [PromptMean(i, self.texts[i], total.mean, total.count) for i, total in self.prompts.items()]
        return sorted(rows, key=lambda row: -row.nats_per_sequence)[:n]

    def top_positions(self, n: int = 5) -> list[PositionMean]:
        """The positions, largest mean first, among those that many sequences reach."""
        enough = max((total.count for total in self.positions.values()), default=0) / 10
        rows = [
            PositionMean(i, total.mean, total.count) for i, total in self.positions.items() if total.count >= enough
        ]
        return sorted(rows, key=lambda row: -row.nats_per_token)[:n]

    def top_sites(self, n: int = SITES) -> list[Site]:
        """The sites, largest KL first."""
        return sorted(self.sites.values(), key=lambda site: -site.token_kl)[:n]

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        return {
            "prompts": [row._asdict() for row in self.top_prompts()],
            "positions": [row._asdict() for row in self.top_positions()],
            "tokens": [asdict(site) for site in self.top_sites()],
        }


def _added(first: dict[int, Total], second: dict[int, Total]) -> dict[int, Total]:
    keys = dict.fromkeys([*first, *second])
    return {key: first.get(key, Total()) + second.get(key, Total()) for key in keys}
