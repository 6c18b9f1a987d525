"""Whether two models have one LM head: the same tensor, or two that were loaded apart and hold the same numbers."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class _Known:
    """What a comparison found; it holds as long as neither tensor is written to."""

    other: weakref.ref[Tensor]
    state: tuple[int, ...]
    equal: bool


_KNOWN: WeakIdKeyDictionary = WeakIdKeyDictionary()

SAMPLED_ROWS = 64
"""Of a head, that are looked at before all of it is: trained heads differ in every row."""


def same_head(weight: Tensor, ref_weight: Tensor) -> bool:
    """Whether both weights hold the same numbers; what is frozen is compared once, and again after it was written to.

    What is trained is compared every time: PyTorch's fused optimizers write to parameters without counting it in their
    version (2.13), and a head that is no longer the reference's would be taken for it ever after.
    """
    if weight is ref_weight:
        return True
    if (weight.shape, weight.dtype, weight.device) != (ref_weight.shape, ref_weight.dtype, ref_weight.device):
        return False
    if not _may_be_read(weight) or not _may_be_read(ref_weight):
        return False
    if weight.requires_grad or ref_weight.requires_grad:
        return _equal(weight.detach(), ref_weight.detach())
    state = _state(weight, ref_weight)
    known: _Known | None = _KNOWN.get(weight)  # type: ignore[no-untyped-call]
    if known is None or known.other() is not ref_weight or known.state != state:
        known = _Known(weakref.ref(ref_weight), state, _equal(weight.detach(), ref_weight.detach()))
        _KNOWN[weight] = known
    return bool(known.equal)


def _may_be_read(x: Tensor) -> bool:
    """Not while torch traces or records what is done, nor where a tensor is spread over devices."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta:
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def _state(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(n for x in tensors for n in (x.data_ptr(), 0 if x.is_inference() else x._version))


def _equal(weight: Tensor, ref_weight: Tensor) -> bool:
    if weight.data_ptr() == ref_weight.data_ptr() and weight.stride() == ref_weight.stride():
        return True
    step = max(1, len(weight) // SAMPLED_ROWS)
    return torch.equal(weight[::step], ref_weight[::step]) and torch.equal(weight, ref_weight)
