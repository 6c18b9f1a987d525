"""LM heads: what makes logits of a model's last hidden states, as far as a model shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kullback.vocab.heads import Head

SCALES = {"logit_scale": 1, "logits_scaling": -1, "lm_head_multiplier": 1}
"""What configs call a factor of the logits, and the power it comes in."""

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configs call c in c·tanh(logits/c)."""

ACCUMULATED = 64
"""Units in the last place of float32 by which two products of one matrix may differ, of the largest logit."""

FLOAT32 = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class LMHead:
    """Logits c·tanh(s(h·Wᵀ + b)/c) of hidden states h.

    Attributes:
        weight: W, (vocab, hidden).
        bias: b, (vocab,), or None.
        scale: s.
        softcap: c; 0 leaves the logits uncapped.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0

    @property
    def vocab(self) -> int:
        """Logits a token."""
        return len(self.weight)

    def with_hidden(self, hidden: Tensor, words: slice, temperature: float = 1.0) -> Head:
        """The head of some words at a temperature, with (tokens, hidden) to make logits of, which are not rounded."""
        return Head(
            hidden=hidden,
            weight=self.weight if words == slice(0, self.vocab) else self.weight[words],
            bias=None if self.bias is None else self.bias[words],
            scale=self.scale / temperature,
            softcap=self.softcap / temperature,
        )

    def rounded_logits(self, hidden: Tensor) -> Tensor:
        """(tokens, vocab), each step in the model's dtype, as the model itself makes them."""
        z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        z = z if self.scale == 1 else z * self.scale
        return torch.tanh(z / self.softcap) * self.softcap if self.softcap else z

    def agrees(self, hidden: Tensor, logits: Tensor) -> bool:
        """Whether a model's own logits of some hidden states, (tokens, vocab), are this head's, up to rounding.

        Every logit is within what its roundings can make, and all together are not longer or shorter.
        """
        if logits.shape != (len(hidden), self.vocab) or not bool(torch.isfinite(logits).all()):
            return False
        with torch.inference_mode():
            mine = self.with_hidden(hidden, slice(0, self.vocab)).logits(slice(None), slice(None))
            own = logits.to(mine.dtype, copy=True)
            sizes = torch.stack([(own * mine).sum(), mine.square().sum()])
            eps = max(torch.finfo(dtype).eps for dtype in (logits.dtype, hidden.dtype, self.weight.dtype))
            roundings = 1 + (self.scale != 1) + (self.bias is not None) + 3 * bool(self.softcap)
            # One product of half precision is rounded once, from float32: a word may be off by half a last place.
            floor = ACCUMULATED * min(eps, FLOAT32) * mine.abs().amax(dim=-1, keepdim=True)
            beyond = own.sub_(mine).abs_().sub_(mine.abs_(), alpha=0.6 * eps * roundings) > floor
            longer = (sizes[0] / sizes[1].clamp(min=torch.finfo(torch.float32).tiny) - 1).abs()
        return not bool(beyond.any()) and bool(longer <= max(eps / 8, 16 * FLOAT32))


def head_of(model: Any) -> tuple[torch.nn.Module, LMHead] | None:
    """The module that makes a model's logits, with what its config says is done to them; None where it is no plain one.

    What is found is a guess, to be held against the model's own logits: see ``LMHead.agrees``.
    """
    find = getattr(model, "get_output_embeddings", None)
    module = find() if callable(find) else None
    if not isinstance(module, torch.nn.Linear) or not _is_plain(module):
        return None
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = 1.0
    for name, power in SCALES.items():
        factor = getattr(config, name, None)
        scale *= float(factor) ** power if isinstance(factor, int | float) and factor else 1.0
    softcap = next((float(getattr(config, name)) for name in CAPS if getattr(config, name, None)), 0.0)
    return module, LMHead(weight=module.weight, bias=module.bias, scale=scale, softcap=softcap)


def _is_plain(module: torch.nn.Linear) -> bool:
    """Whether a linear layer does nothing but h·Wᵀ + b, with numbers that can be read: no adapter, no quantisation."""
    tensors = [module.weight] if module.bias is None else [module.weight, module.bias]
    readable = all(type(x) in (Tensor, torch.nn.Parameter) and x.is_floating_point() and not x.is_meta for x in tensors)
    changed = "forward" in vars(module) or type(module).forward is not torch.nn.Linear.forward
    hooked = module._forward_hooks or module._forward_pre_hooks
    return readable and not changed and not hooked and (module.bias is None or bool(module.bias.isfinite().all()))
