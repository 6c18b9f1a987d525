"""The fused forms in a training step: compiled, checkpointed, retained, of any shape; and what wrong calls say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.utils.checkpoint import checkpoint
from vocab_heads import (
    KLS,
    LOGPROBS,
    MANY_BLOCKS,
    TOKENS,
    assert_same,
    every_block,
    few_rows,  # noqa: F401 — a fixture of every test here
    numbers,
    token_kl,
    token_logprobs,
    true_kl,
    two_heads,
    weighted_kl,
    weighted_logprobs,
)
from vocab_truth import COMPILER_WARNINGS, WAYS, needs_compiler, with_gradients

from kullback import vocab
from kullback.errors import InputError, KullbackError, ShapeError
from kullback.vocab import compiled, weighted_ops

pytestmark = COMPILER_WARNINGS

TENSORS = two_heads(torch.float32)
CALLS = {
    "token_kl": functools.partial(token_kl, workspace=MANY_BLOCKS),
    "skewed": functools.partial(token_kl, workspace=MANY_BLOCKS, skew=0.3, softcap=2.0),
    "weighted_kl": functools.partial(weighted_kl, workspace=MANY_BLOCKS),
    "logprobs": functools.partial(lambda h, w, b, *_, **o: token_logprobs(h, w, b, **o), workspace=MANY_BLOCKS),
    "weighted_logprobs": lambda h, w, b, *_: weighted_logprobs(h, w, b, workspace=MANY_BLOCKS),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def some_gradients(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Value and gradients to the policy's three tensors."""
    return with_gradients(lambda *policy: function(*policy, *tensors[3:]), *tensors[:3])


@pytest.mark.slow
@every_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_compile_autocast_and_checkpoint_change_nothing(call: Callable[..., Tensor], dtype: torch.dtype) -> None:
    def under_autocast(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return call(*tensors)

    torch._dynamo.reset()
    same = {
        "torch.compile": torch.compile(call, backend="aot_eager", fullgraph=True),
        "autocast": under_autocast,
        "checkpoint": lambda *tensors: checkpoint(call, *tensors, use_reentrant=False),
        "again": call,
    }
    torch.compiler.reset()  # forgets the other calls, of which one process may compile eight
    tensors = [x.to(dtype) for x in TENSORS]
    want = some_gradients(call, tensors)
    for name, function in same.items():
        assert all(map(torch.equal, some_gradients(function, tensors), want)), name


@every_call
def test_a_second_derivative_is_refused(call: Callable[..., Tensor]) -> None:
    leaf = TENSORS[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(call(leaf, *TENSORS[1:]).square().sum(), leaf, create_graph=True)
    with pytest.raises(KullbackError, match=r"first derivatives only: .* write the divergence out with torch"):
        first.square().sum().backward()


@every_call
def test_a_retained_graph_gives_the_same_gradient_again(call: Callable[..., Tensor]) -> None:
    """Whatever happened in place to the first."""
    leaves = [x.clone().requires_grad_() for x in TENSORS[:3]]
    loss = call(*leaves, *TENSORS[3:]).sum()
    first = [x.clone() for x in torch.autograd.grad(loss, leaves, retain_graph=True)]
    for x in torch.autograd.grad(loss, leaves, retain_graph=True):
        x.mul_(7.0)
    for _ in range(3):
        loss.backward(retain_graph=True)
    for leaf, want in zip(leaves, first, strict=True):
        torch.testing.assert_close(leaf.grad, 3 * want)
        leaf.grad.zero_()
    loss.backward()
    assert all(torch.equal(leaf.grad, want) for leaf, want in zip(leaves, first, strict=True))


@every_call
def test_a_loss_may_be_scaled(call: Callable[..., Tensor]) -> None:
    plain = some_gradients(call, TENSORS)
    scaled = some_gradients(lambda *xs: 1024.0 * call(*xs), TENSORS)
    assert_same(scaled, [1024.0 * x for x in plain], rtol=1e-6)


@every_call
def test_inputs_stay_as_they_were(call: Callable[..., Tensor]) -> None:
    tensors = [x.clone() for x in TENSORS]
    some_gradients(call, tensors)
    assert all(map(torch.equal, tensors, TENSORS))


def test_a_training_step_by_the_weighted_sum_is_that_of_the_tokens() -> None:
    mask = (torch.arange(TOKENS) % 4 > 0).double()
    h, w, b, rh, rw, rb = two_heads()
    by_token = with_gradients(
        lambda h, w: (vocab.linear_token_kl(h, w, rh, rw, bias=b, ref_bias=rb) * mask).sum() / mask.sum(), h, w
    )
    known = with_gradients(
        lambda h, w: vocab.linear_weighted_kl(h, w, rh, rw, mask / mask.sum(), bias=b, ref_bias=rb)[0], h, w
    )
    assert_same(known, by_token)


# --- shapes and wrong calls ------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "one token": lambda x: x[0],
    "(batch, time, hidden)": lambda x: x[:6].view(2, 3, -1),
    "without the last token": lambda x: x[:6].view(2, 3, -1)[:, :-1],
    "time before batch": lambda x: x[:6].view(2, 3, -1).transpose(0, 1),
    "every other token": lambda x: x[::2],
    "one row for all": lambda x: x[:1].expand(5, -1),
    "no token": lambda x: x[:0],
    "no time": lambda x: x[:0].view(3, 0, x.shape[-1]),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_shape_and_stride(view: Callable[[Tensor], Tensor]) -> None:
    h, w, b, rh, rw, rb = two_heads()
    h, rh = view(h), view(rh)
    tokens = torch.zeros(h.shape[:-1], dtype=torch.long)
    weights = truth.weights(*tokens.shape).double()
    want = with_gradients(true_kl, h, w, b, rh, rw, rb)
    assert_same(with_gradients(token_kl, h, w, b, rh, rw, rb), want)
    total, shown = vocab.linear_weighted_kl(h, w, rh, rw, weights, bias=b, ref_bias=rb)
    torch.testing.assert_close(shown, want[0], rtol=1e-11, atol=1e-14)
    assert total.item() == pytest.approx(float((weights * want[0]).sum()), rel=1e-12)
    got = vocab.linear_token_logprobs(h, w, tokens, bias=b, entropy=True)
    both = truth.token_logprobs(truth.head_logits(h, w, b), tokens)
    torch.testing.assert_close(torch.stack(got, dim=-1), both, rtol=1e-12, atol=1e-14)


@every_block
def test_heads_of_any_stride(workspace: int | None) -> None:
    tensors = two_heads()
    turned = [x if x is None else x.T.contiguous().T if x.ndim == 2 else x.repeat_interleave(2)[::2] for x in tensors]
    assert not turned[1].is_contiguous()
    for form, _ in KLS.values():
        of = functools.partial(form, workspace=workspace)
        assert_same(with_gradients(of, *turned), with_gradients(of, *tensors))


@pytest.mark.parametrize(("tokens", "width"), [(0, 5), (1, 1), (1, 129), (5, 2)])
def test_small_shapes_with_gradients(tokens: int, width: int) -> None:
    h, w, rh, rw = numbers(tokens, 3), numbers(width, 3), numbers(tokens, 4), numbers(width, 4)
    tensors = [x.double() for x in (h, w, rh, rw)]
    want = with_gradients(lambda h, w, rh, rw: true_kl(h, w, None, rh, rw, None), *tensors)
    got = with_gradients(vocab.linear_token_kl, *tensors)
    weights = truth.weights(tokens).double()
    known = with_gradients(lambda *xs: vocab.linear_weighted_kl(*xs, weights)[0], *tensors)
    for ours, theirs in [*zip(got, want, strict=True), *zip(known[1:], want[1:], strict=True)]:
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


H, W, ID = torch.zeros(2, 4), torch.zeros(3, 4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: vocab.linear_token_kl(H, W[:, :3], H, W), ShapeError, "hidden has shape (2, 4) and weight (3, 3)"),
        (lambda: vocab.linear_token_kl(H, W[0], H, W), ShapeError, "(…, hidden) and (vocab, hidden) are needed"),
        (lambda: vocab.linear_token_kl(H, W, H, W[:, :3]), ShapeError, "ref_hidden has shape (2, 4) and ref_weight"),
        (lambda: vocab.linear_token_kl(H, W, H[:1], W), ShapeError, "both must hold the same tokens"),
        (lambda: vocab.linear_token_kl(H, W, H, W[:2]), ShapeError, "weight has 3 words and ref_weight 2: cut both"),
        (lambda: vocab.linear_token_kl(H, W, H, W, bias=W[0]), ShapeError, "bias has shape (4,), but the head has 3"),
        (lambda: vocab.linear_token_kl(H, W, H, W, ref_bias=W[0]), ShapeError, "ref_bias has shape (4,)"),
        (lambda: vocab.linear_token_kl(H.long(), W, H, W), InputError, "hidden holds torch.int64, but floating"),
        (lambda: vocab.linear_token_kl(H, W, H, W.int()), InputError, "ref_weight holds torch.int32, but floating"),
        (lambda: vocab.linear_token_kl(H, W, H, W, direction="k1"), InputError, "direction 'k1' came"),
        (lambda: vocab.linear_token_kl(H, W, H, W, skew=2), InputError, "skew=2 came"),
        (lambda: vocab.linear_token_kl(H, W, H, W, temperature=0), InputError, "temperature=0 came"),
        (lambda: vocab.linear_token_kl(H, W, H, W, softcap=0), InputError, "softcap=0 came, but it must be above 0"),
        (lambda: vocab.linear_token_kl(H, W, H, W, softcap=-30), InputError, "None leaves the logits uncapped"),
        (
            lambda: vocab.linear_token_kl(H, W, H, W, precision="fp8"),
            InputError,
            "it is 'float32', 'mixed', 'bfloat16' or None",
        ),
        (
            lambda: vocab.linear_token_kl(H, W, H, W, backend="tpu"),
            InputError,
            "there are auto, eager, compile, triton",
        ),
        (lambda: vocab.linear_token_kl(H, W, H, W, workspace=-1), InputError, "workspace=-1 came"),
        (lambda: vocab.linear_weighted_kl(H, W, H, W, H), ShapeError, "token_weights has shape (2, 4), but hidden"),
        (lambda: vocab.linear_weighted_kl(H, W, H, W[:2], H[:, 0]), ShapeError, "cut both to one vocabulary"),
        (lambda: vocab.linear_weighted_kl(H, W, H, W, H[:, 0], softcap=0), InputError, "softcap=0 came"),
        (lambda: vocab.linear_token_logprobs(H, W, ID[:1]), ShapeError, "tokens has shape (1,), but hidden (2, 4)"),
        (lambda: vocab.linear_token_logprobs(H, W, ID + 2), InputError, "tokens holds 3, but the vocabulary has"),
        (lambda: vocab.linear_token_logprobs(H, W, ID.float()), InputError, "tokens holds torch.float32, but"),
        (lambda: vocab.linear_token_logprobs(H, W, ID, bias=W), ShapeError, "bias has shape (3, 4)"),
        (lambda: vocab.linear_token_logprobs(H, W, ID, temperature=-2), InputError, "temperature=-2 came"),
        (lambda: vocab.linear_weighted_logprobs(H, W, ID, ID[:1]), ShapeError, "token_weights has shape (1,)"),
        (
            lambda: vocab.linear_weighted_logprobs(H, W, ID, H[:, 0], entropy_weights=H),
            ShapeError,
            "entropy_weights has shape (2, 4), but hidden (2, 4) needs one a token",
        ),
        (lambda: vocab.linear_weighted_logprobs(H, W, ID - 1, H[:, 0]), InputError, "tokens holds -1, but"),
    ],
)
def test_wrong_calls_say_what_to_do(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("way", WAYS)
def test_compiled_blocks(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 to the last digits: whatever is written over what is still read would be off by far more."""
    monkeypatch.setattr(compiled, "BLOCK_WIDTH", 50)
    options = {**WAYS[way], "workspace": 16 * 128 * 8 * 2}
    cases = [(form, written_out, two_heads(), options) for form, written_out in KLS.values()]
    if way == "reverse":
        cases += [(form, out, two_heads()[:3], {"workspace": 16 * 128 * 8}) for form, out in LOGPROBS.values()]
    with dynamo.patch(recompile_limit=100):
        for form, written_out, inputs, given in cases:
            got = with_gradients(functools.partial(form, backend="compile", **given), *inputs)
            said = {name: value for name, value in given.items() if name != "workspace"}
            want = with_gradients(functools.partial(written_out, **said), *inputs)
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("held", [False, True])
def test_gradients_of_all_rows_may_be_held(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: every block's gradient to the logits is kept, and multiplied once."""
    asked = []
    monkeypatch.setattr(weighted_ops, "worth_holding", lambda head, wanted, rows: asked.append(len(rows)) or held)
    made = torch.Generator().manual_seed(0)
    h, w, r = (torch.randn(*size, generator=made, dtype=torch.float64) for size in ((10, 8), (37, 8), (10, 8)))
    weights, ids = torch.linspace(0, 1, 10, dtype=torch.float64), torch.arange(10)
    h, w = h.requires_grad_(), w.requires_grad_()
    kl = vocab.linear_weighted_kl(h, w, r, w.detach(), weights, workspace=37 * 8 * 6)[0]
    logprobs = vocab.linear_weighted_logprobs(h, w, ids, weights, workspace=37 * 8 * 4)[0]
    of_q, of_p = (h @ w.T).log_softmax(-1), (r @ w.detach().T).log_softmax(-1)
    true = (of_q.exp() * (of_q - of_p)).sum(-1) @ weights, of_q[ids, ids] @ weights
    for got, want in zip((kl, logprobs), true, strict=True):
        grads = (torch.autograd.grad(x, (h, w), retain_graph=True) for x in (got, want))
        for ours, exact in zip(*grads, strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
    assert min(asked) > 1
