"""The same quantities from hidden states and heads, as custom operators.

Logits are made, used and forgotten a block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from kullback.vocab import partition
from kullback.vocab.backends import block_kernels
from kullback.vocab.formulas import divergence_of, wide
from kullback.vocab.heads import Head, HeadGradients, HeadPlan, empty_like, tiles
from kullback.vocab.operators import plainly
from kullback.vocab.ops import check_tokens, local_index, plain_arithmetic, refuse_second_derivative
from kullback.vocab.pairs import HeadPair, head_pair

P = ParamSpec("P")
R = TypeVar("R")
HeadFunction = Callable[Concatenate[list[Tensor], HeadPlan, P], R]
"""What is computed of hidden, weight and bias of each head, and of how logits are made of them."""

PLAN = "bool[] biased, float[] numbers, str precision, int difference, int workspace, str backend"
"""A ``HeadPlan`` as the schema of an operator has it."""


def head_operator(
    schema: str, like: Callable[..., R], *, gradient: bool = False
) -> Callable[[HeadFunction[P, R]], HeadFunction[P, R]]:
    """Make a function an operator, which torch.compile, autocast and checkpointing call without a look inside.

    Args:
        schema: as torch writes it, name first; tensors and plan are ``Tensor[] tensors`` and ``PLAN``.
        like: empty tensors of the result's shapes, from the function's arguments.
        gradient: whether it makes gradients, whose own derivative is refused.
    """

    def operator_of(function: HeadFunction[P, R]) -> HeadFunction[P, R]:
        name, signature = schema.split("(", 1)
        operator = torch.library.custom_op(
            f"kullback::{name}", _unpacked(function), mutates_args=(), schema=f"({signature}"
        )
        operator.register_fake(_unpacked(like))
        if gradient:
            refuse_second_derivative(operator)

        @wraps(function)
        def call(tensors: list[Tensor], plan: HeadPlan, /, *rest: P.args, **options: P.kwargs) -> R:
            if plainly():
                return function(tensors, plan, *rest, **options)
            result: R = operator(
                tensors,
                *rest,
                biased=list(plan.biased),
                numbers=[number for pair in plan.numbers for number in pair],
                precision=plan.precision,
                difference=plan.difference,
                workspace=plan.workspace,
                backend=plan.backend,
                **options,
            )
            return result

        return call

    return operator_of


def _unpacked(function: Callable[..., R]) -> Callable[..., R]:
    """The function as an operator calls it: only numbers, strings and tensors cross, so the plan comes in pieces."""

    def run(
        tensors: list[Tensor],
        *rest: Any,
        biased: list[bool],
        numbers: list[float],
        precision: str,
        difference: int,
        workspace: int,
        backend: str,
        **options: Any,
    ) -> R:
        plan = HeadPlan(
            biased=tuple(biased),
            numbers=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
            precision=precision,
            difference=difference,
            workspace=workspace,
            backend=backend,
        )
        return function(tensors, plan, *rest, **options)

    return run


def heads_of(tensors: Iterable[Tensor], plan: HeadPlan) -> list[Head]:
    """Heads from hidden, weight and bias of each, one after the other; a head without a bias has no third."""
    rest = iter(tensors)
    return [
        Head(
            hidden=next(rest),
            weight=next(rest),
            bias=next(rest) if biased else None,
            scale=scale,
            softcap=softcap,
            half=plan.precision == "bfloat16",
            half_gradients=plan.precision != "float32",
        )
        for biased, (scale, softcap) in zip(plan.biased, plan.numbers, strict=True)
    ]


def pair_of(tensors: list[Tensor], plan: HeadPlan) -> HeadPair:
    """Two heads, and after them, where it was prepared, the difference of their weights."""
    rest = iter(tensors)
    q, p = heads_of(rest, plan)
    return head_pair(q, p, plan, next(rest, None)) if plan.difference else HeadPair(q=q, p=p)


def _statistics_like(tensors: list[Tensor], *_: object, **__: object) -> Tensor:
    hidden = tensors[0]
    return torch.empty((len(hidden), 3), dtype=wide(hidden.new_empty(0)).dtype, device=hidden.device)


def gradients_like(tensors: list[Tensor], plan: HeadPlan, *_: object, wanted: list[bool], **__: object) -> list[Tensor]:
    """Empty tensors as ``HeadGradients.results`` returns them."""
    rest = iter(tensors)
    inputs = [x for biased in plan.biased for x in (next(rest), next(rest), next(rest) if biased else None)]
    nothing = tensors[0].new_empty(0)
    return [empty_like(nothing if x is None else x, want, torch.empty) for x, want in zip(inputs, wanted, strict=True)]


@head_operator(f"head_pair_statistics(Tensor[] tensors, *, {PLAN}) -> Tensor", _statistics_like)
def pair_statistics(tensors: list[Tensor], plan: HeadPlan) -> Tensor:
    """(tokens, 3): see ``formulas.pair_statistics``; q's head, then p's."""
    pair = pair_of(tensors, plan)
    kernels = block_kernels(plan.backend)

    def of_block(at: slice, across: slice) -> Tensor:
        z, second, _ = pair.block(pair.q.uncapped(at, across), at, across, slope=False)
        return kernels.pair_statistics(z, second, 1.0, pair.difference)

    with plain_arithmetic(pair.q.hidden):
        return partition.join_pairs(every_block(of_block, *tiles(pair.q, 2, plan.workspace)))


@head_operator(
    f"head_pair_sums(Tensor[] tensors, Tensor normalisers, *, {PLAN}, str divergence, float skew) -> Tensor",
    _statistics_like,
)
def pair_sums(tensors: list[Tensor], plan: HeadPlan, normalisers: Tensor, *, divergence: str, skew: float) -> Tensor:
    """(tokens, 3): see ``formulas.pair_sums``."""
    pair = pair_of(tensors, plan)
    kernels, kind = block_kernels(plan.backend), divergence_of(divergence, skew)

    def of_block(at: slice, across: slice) -> Tensor:
        z, second, _ = pair.block(pair.q.uncapped(at, across), at, across, slope=False)
        return kernels.pair_sums(
            z, second, normalisers[at], divergence=kind, temperature=1.0, difference=pair.difference
        )

    with plain_arithmetic(pair.q.hidden):
        return partition.join_sums(every_block(of_block, *tiles(pair.q, 2, plan.workspace)))


def every_block(of_block: Callable[[slice, slice], Tensor], rows: list[slice], columns: list[slice]) -> Tensor:
    """(tokens, blocks, 3): the statistics of every block of columns."""
    parts = [torch.cat([of_block(at, across) for at in rows]) for across in columns]
    return torch.stack(parts, dim=1)


@head_operator(
    f"head_pair_gradients(Tensor[] tensors, Tensor saved, Tensor upstream, *, {PLAN}, "
    "str divergence, float skew, bool[] wanted) -> Tensor[]",
    gradients_like,
    gradient=True,
)
def pair_gradients(
    tensors: list[Tensor],
    plan: HeadPlan,
    saved: Tensor,
    upstream: Tensor,
    *,
    divergence: str,
    skew: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients to hidden, weight and bias of q, then of p; one that is not wanted is empty."""
    pair = pair_of(tensors, plan)
    q, p = pair.q, pair.p
    kernels, kind = block_kernels(plan.backend), divergence_of(divergence, skew)
    rows, columns = tiles(q, 2, plan.workspace)
    of_q, of_p = HeadGradients(q, wanted[:3], rows, columns), HeadGradients(p, wanted[3:], rows, columns)
    want_q, want_p = any(wanted[:3]), any(wanted[3:])
    with plain_arithmetic(q.hidden):
        for across in columns:
            with of_q.over(across) as to_q, of_p.over(across) as to_p:
                for at in rows:
                    z = q.uncapped(at, across)
                    slope_q = q.slope(z) if want_q else None
                    z, second, slope_p = pair.block(z, at, across, want_p)
                    # The gradients overwrite the logits, which nothing reads again: a block is held once, not twice.
                    grad_q = of_q.room(z, slope_q, at) if want_q else None
                    grad_p = of_p.room(second, slope_p, at) if want_p else None
                    kernels.pair_gradients(
                        z,
                        second,
                        saved[at],
                        upstream[at],
                        divergence=kind,
                        temperature=1.0,
                        outs=(grad_q, grad_p),
                        difference=pair.difference,
                    )
                    if grad_p is not None:
                        to_p(at, grad_p, slope_p)
                    if grad_q is not None:
                        to_q(at, grad_q, slope_q)
    return [*of_q.results(), *of_p.results()]


@head_operator(
    f"head_token_statistics(Tensor[] tensors, Tensor tokens, *, {PLAN}, int start, int size) -> Tensor",
    _statistics_like,
)
def token_statistics(tensors: list[Tensor], plan: HeadPlan, tokens: Tensor, *, start: int, size: int) -> Tensor:
    """(tokens, 3): see ``formulas.token_statistics``."""
    check_tokens(tokens, size)
    (head,) = heads_of(tensors, plan)
    kernels = block_kernels(plan.backend)

    def of_block(at: slice, across: slice) -> Tensor:
        index = local_index(tokens[at], start + across.start, across.stop - across.start)
        return kernels.token_statistics(head.logits(at, across), index, 1.0)

    with plain_arithmetic(head.hidden):
        return partition.join_tokens(every_block(of_block, *tiles(head, 1, plan.workspace)))


@head_operator(
    "head_token_gradients(Tensor[] tensors, Tensor tokens, Tensor saved, Tensor upstream, *, "
    f"{PLAN}, int start, bool[] wanted) -> Tensor[]",
    gradients_like,
    gradient=True,
)
def token_gradients(
    tensors: list[Tensor],
    plan: HeadPlan,
    tokens: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    start: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients to hidden, weight and bias; one that is not wanted is empty.

    ``upstream`` is (2, tokens): the gradients to the log-probs, and to the entropies.
    """
    (head,) = heads_of(tensors, plan)
    kernels = block_kernels(plan.backend)
    of_logprob, of_entropy = upstream.unbind(dim=0)
    rows, columns = tiles(head, 1, plan.workspace)
    gradients = HeadGradients(head, wanted, rows, columns)
    with plain_arithmetic(head.hidden):
        for across in columns:
            with gradients.over(across) as add:
                for at in rows:
                    z = head.uncapped(at, across)
                    slope = head.slope(z)
                    z = head.capped(z)
                    grad = gradients.room(z, slope, at)
                    index = local_index(tokens[at], start + across.start, across.stop - across.start)
                    kernels.token_gradients(
                        z,
                        index,
                        saved[at],
                        of_logprob=of_logprob[at],
                        of_entropy=of_entropy[at],
                        temperature=1.0,
                        out=grad,
                    )
                    add(at, grad, slope)
    return list(gradients.results())
