"""Last hidden states of the forward passes that TRL makes, and the heads that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kullback.errors import InputError
from kullback.models.heads import LMHead, head_of
from kullback.vocab import linear_token_kl, linear_token_logprobs
from kullback.vocab.logits import TokenDirection

TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Nats by which the median log-prob of a head may differ from the trainer's."""

HALF = 0.1
"""The same where something is in half precision."""


def unwrapped(model: Any) -> Any:
    """The causal language model below an adapter."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


class HiddenTap:
    """Keeps what the backbone of a model returns, while it is open.

    Raises:
        InputError: a model whose backbone cannot be told from the whole.
    """

    def __init__(self, model: Any) -> None:
        whole = unwrapped(model)
        backbone = whole.base_model
        if backbone is whole:
            raise InputError(
                f"estimator=rao_blackwell needs the last hidden states, but {type(whole).__name__} has no backbone "
                "that gives them: use kullback.K1"
            )
        self._open = False
        self._taken: list[Tensor] = []
        backbone.register_forward_hook(self._keep)

    def _keep(self, _: Any, __: Any, output: Any) -> None:
        if self._open:
            self._taken.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)

    @contextmanager
    def opened(self) -> Iterator[list[Tensor]]:
        """What is returned in the meantime."""
        self._open, self._taken = True, []
        try:
            yield self._taken
        finally:
            self._open, self._taken = False, []


def predicting(taken: list[Tensor], width: int) -> Tensor:
    """The hidden states that predict the last so many tokens, of all the rows."""
    return torch.cat([x[:, -width - 1 : -1] for x in taken])


@dataclass
class Heads:
    """The heads of a policy and its reference, and how they are read.

    Attributes:
        policy, reference: modules; the same one under an adapter.
        temperature: that the trainer divides logits by.
    """

    policy: Any
    reference: Any
    temperature: float
    agreed: bool = False

    def token_kl(
        self, hidden: Tensor, ref_hidden: Tensor, tokens: Tensor, logps: Tensor, direction: TokenDirection
    ) -> Tensor:
        """The exact KL at every prefix, (batch, time), differentiable; no (tokens, vocabulary) is held.

        Raises:
            InputError: heads that are no plain linear layers, or make other log-probs than the trainer.
        """
        q, p = self._head(self.policy), self._head(self.reference)
        rounded = torch.is_autocast_enabled(hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            if not self.agreed:
                with torch.no_grad():
                    self._hold(q, hidden.detach(), tokens, logps.detach(), rounded=rounded)
            found: Tensor = linear_token_kl(
                hidden,
                q.weight,
                ref_hidden.to(hidden.dtype),
                p.weight,
                bias=q.bias,
                ref_bias=p.bias,
                direction=direction,
                temperature=self.temperature,
                scale=q.scale,
                softcap=q.softcap or None,
            )
        return found

    def _head(self, model: Any) -> LMHead:
        found = head_of(unwrapped(model))
        if found is None:
            raise InputError(
                "estimator=rao_blackwell reads the LM head, which here is no plain linear layer (an adapter on it, a "
                "quantised, sharded or hooked one): leave the head out of it, or use kullback.K1"
            )
        return found[1]

    def _hold(self, head: LMHead, hidden: Tensor, tokens: Tensor, logps: Tensor, *, rounded: bool) -> None:
        """Once: that the head makes the trainer's log-probs."""
        own = linear_token_logprobs(
            hidden,
            head.weight,
            tokens,
            bias=head.bias,
            temperature=self.temperature,
            scale=head.scale,
            softcap=head.softcap or None,
        )
        assert isinstance(own, Tensor)
        widths = {hidden.dtype, head.weight.dtype, logps.dtype}
        allowed = HALF if rounded or not widths <= set(TOLERANCES) else max(TOLERANCES[dtype] for dtype in widths)
        scored = logps != 0  # what TRL does not score is 0
        apart = (own.to(logps.dtype) - logps).abs()[scored]
        if apart.numel() and float(apart.median()) > allowed:
            raise InputError(
                f"the LM head makes log-probs that are {float(apart.median()):.2g} nats from the trainer's: the model "
                "does something to its logits that is not known here; use kullback.K1"
            )
        self.agreed = True
