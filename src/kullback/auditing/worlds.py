"""The exact worlds that every audited function runs on: a literal table of pairs of models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.options import Sampler
from kullback.auditing.subject.tensors import require_torch, tensor
from kullback.oracle import TreeLM, World, exact_gradient
from kullback.oracle.loss_gradients import world_columns
from kullback.oracle.tree import prefix_count
from kullback.targets import Target

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

Aspect = Literal["value", "gradient"]
"""What of a function is held against the targets."""

EOS = 0


@dataclass(frozen=True)
class Setting:
    """A pair of models and what they are there for; the logits are sines, the same on every machine.

    Attributes:
        name: what reports call it.
        about: what it shows.
        vocab, horizon: its tokens, and the most a sequence has.
        spread: size of the reference's logits.
        distance: size of what is added to the policy's logits.
        share: how much of the reference's logits the policy's have.
        banned: a token that the policy never samples, or −1.
    """

    name: str
    about: str
    vocab: int
    horizon: int
    spread: float
    distance: float
    share: float = 1.0
    banned: int = -1

    @property
    def far(self) -> bool:
        """Whether its log-ratios go beyond what clamps let through."""
        return self.share == 0.0 or self.distance > 1.0

    def logits(self) -> tuple[Float64, Float64, Float64]:
        """Of the policy, the reference and another policy that may have drawn the sequences."""
        prefixes = prefix_count(self.vocab, self.horizon)
        index = np.arange(prefixes * self.vocab, dtype=np.float64).reshape(prefixes, self.vocab)
        reference = self.spread * np.sin(1.7 * index + 0.3)
        policy = self.share * reference + self.distance * np.sin(2.9 * index + 1.1)
        behavior = 0.5 * (policy + reference) / max(1.0, self.spread) + 0.6 * np.sin(2.3 * index + 0.7)
        if self.banned >= 0:
            policy[:, self.banned] = -np.inf
        return policy, reference, behavior


IDENTIFYING = (
    Setting("one token", "one token, no sequence", 5, 1, 1.5, 1.0),
    Setting("one far token", "one token, log-ratios beyond ±20", 4, 1, 16.0, 12.0, share=0.0),
    Setting("near", "sequences close to the reference", 3, 3, 1.5, 0.3),
    Setting("sequences", "autoregressive, with an end-of-sequence token", 4, 2, 1.2, 1.5),
    Setting("lengths", "sequences of one to five tokens", 2, 5, 0.8, 1.2),
    Setting("far", "autoregressive, log-ratios beyond ±20", 4, 2, 16.0, 12.0, share=0.0),
)
"""The worlds in which something must be equal to be called equal."""

SMALL = (
    Setting("one token", "one token, no sequence", 4, 1, 1.5, 1.0),
    Setting("near", "sequences close to the reference", 3, 2, 1.5, 0.3),
    Setting("sequences", "autoregressive, with an end-of-sequence token", 3, 2, 1.2, 1.5),
    Setting("lengths", "sequences of one to four tokens", 2, 4, 0.8, 1.2),
    Setting("far", "autoregressive, log-ratios beyond ±20", 3, 2, 16.0, 12.0, share=0.0),
)
"""The same for functions that couple the rows of a batch, whose every batch is enumerated."""

ONE_TOKEN = (
    Setting("one token", "one token, no sequence", 5, 1, 1.5, 1.0),
    Setting("one near token", "one token, close to the reference", 4, 1, 1.5, 0.2),
    Setting("one far token", "one token, log-ratios beyond ±20", 4, 1, 16.0, 12.0, share=0.0),
)

SUPPORT_EDGE = Setting(
    "support edge", "the policy never samples a token that the reference allows", 4, 2, 1.2, 1.5, banned=2
)
EXTREME = Setting("extreme", "log-ratios of hundreds of nats", 3, 2, 2.0, 400.0)

LADDER = tuple(
    Setting(f"distance {distance:g}", "the same models, further and further apart", 4, 2, 1.2, distance)
    for distance in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
)
"""For how an error grows with the distance between the models."""


@cache
def world(setting: Setting, sampler: Sampler = "on_policy") -> World:
    """A setting's exact world over torch logits, the policy's taking gradients."""
    torch = require_torch()
    policy, reference, behavior = (torch.tensor(logits, dtype=torch.float64) for logits in setting.logits())
    trees = [TreeLM(logits, EOS, setting.horizon) for logits in (policy.requires_grad_(), reference, behavior)]
    return World(trees[0], trees[1], {"on_policy": None, "off_policy": trees[2], "from_reference": trees[1]}[sampler])


@cache
def columns(setting: Setting, sampler: Sampler = "on_policy") -> Columns:
    """Every column of a batch that holds each possible sequence once, padded with zeros."""
    rows = possible(setting, sampler)
    found = {name: tensor(array)[rows] for name, array in world_columns(world(setting, sampler)).items()}
    log_ratio = found["logprobs"] - found["ref_logprobs"]
    log_weight = found["logprobs"] - found["behavior_logprobs"]
    return {**found, "log_ratio": log_ratio, "ratio": log_weight.exp()}


@cache
def possible(setting: Setting, sampler: Sampler = "on_policy") -> Tensor:
    """Numbers of the sequences that the sampler can draw."""
    return (tensor(world(setting, sampler).probability) > 0).nonzero()[:, 0]


@cache
def probability(setting: Setting, sampler: Sampler = "on_policy") -> Tensor:
    """The probability of each of them."""
    return tensor(world(setting, sampler).probability)[possible(setting, sampler)]


def logits(setting: Setting, sampler: Sampler = "on_policy") -> Tensor:
    """The policy's, which gradients are taken in."""
    return tensor(world(setting, sampler).policy.logits)


@cache
def exact(setting: Setting, sampler: Sampler, target: Target, aspect: Aspect) -> Float64:
    """A target's exact value, or its gradient in the policy's logits, flattened."""
    at = world(setting, sampler)
    if aspect == "value":
        return np.array([float(tensor(target.exact(at)).detach())])
    return exact_gradient(at, target).ravel()
