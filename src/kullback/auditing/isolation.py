"""The KL's part of a whole loss: what is left when the coefficient is switched off is taken away."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.filled import Filled
from kullback.auditing.subject.naming import column_of
from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import Rows, differentiate

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

FAR = ((-200.0, -0.5), (-0.5, -200.0))
"""Log-probs of the policy and the reference at which a formula may overflow."""


def isolated(subject: Subject, given: Columns, rows: Rows) -> Subject:
    """The function without what it gives beside its KL, where it gives anything.

    With advantages of 0 there is nothing but the KL, and nothing to take away. Where they are not, or where there is
    an entropy beside it, the same call with a coefficient of 0 is subtracted; where there is no coefficient,
    the advantages are set to 0.
    """
    import torch

    coefficients = subject.wires.coefficients
    if not coefficients:
        lit = [
            name
            for name, value in subject.wires.constants.items()
            if isinstance(value, Filled) and value.word != "zeros" and column_of(name) == "advantages"
        ]
        if not lit:
            return subject
        zeros = {name: Filled("zeros", subject.shape) for name in lit}
        wires = replace(subject.wires, constants={**subject.wires.constants, **zeros})
        return subject.wired(wires, f"{' and '.join(lit)} switched to zeros, so that what is left is the KL")
    off = subject.wires
    for name in coefficients:
        off = off.with_constant(name, 0.0)
    try:
        beside = subject.wired(off)(given, rows)
        on = subject(given, rows)
    except CallFailed:
        return subject
    if not bool(torch.isfinite(beside).all()) or (bool((beside == 0).all()) and not _slopes(beside, given)):
        return subject
    if torch.equal(beside, on) and not on.requires_grad:
        return subject
    return subject.isolating(off, f"what it gives with {' and '.join(coefficients)} = 0 is taken away")


def _slopes(result: Tensor, given: Columns) -> bool:
    """Whether anything that is 0 has a derivative that is not."""
    live = given["logprobs"]
    return bool((differentiate(result.sum(), [live])[0] != 0).any()) if live.requires_grad else False


def zero_keeps_nan(subject: Subject) -> bool:
    """Whether with a coefficient of 0 one far token still makes the result nan or infinite."""
    import torch

    if not subject.wires.coefficients or subject.full:
        return False
    off = subject.wires
    for name in subject.wires.coefficients:
        off = off.with_constant(name, 0.0)
    other = subject.wired(off)
    for q, p in FAR:
        near = torch.tensor([[-0.5, -0.7], [-0.9, -0.4]])
        logprobs, ref_logprobs = near.clone(), near.clone() - 0.1
        logprobs[0, 0], ref_logprobs[0, 0] = q, p
        try:
            result = other(
                {
                    "logprobs": logprobs.requires_grad_(),
                    "ref_logprobs": ref_logprobs,
                    "behavior_logprobs": logprobs.detach().clone(),
                    "mask": torch.ones((2, 2), dtype=torch.bool),
                    "tokens": torch.ones((2, 2), dtype=torch.int64),
                    "log_ratio": logprobs - ref_logprobs,
                    "ratio": torch.ones((2, 2)),
                }
            )
        except CallFailed:
            return False
        if not bool(torch.isfinite(result).all()):
            return True
    return False
