"""TRL: the KL term of `GRPOTrainer` and `RLOOTrainer`, or what either is far from its reference, watched.

From the ground up: `options` (what was asked for), `batches` (TRL's dictionaries of tensors), `hidden` (last hidden
states of a forward pass that TRL makes), `recorder` (the monitor behind both), `mixin`, `callback`. TRL itself is never
imported before a trainer is made: what is used of it are names that its versions 1.0 to 1.16 have.
"""

from kullback.integrations.trl.callback import KLCallback
from kullback.integrations.trl.mixin import KLMixin

__all__ = ["KLCallback", "KLMixin"]
