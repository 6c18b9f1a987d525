"""The fused forms: from hidden states and LM heads, equal to the logits forms and without their logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.utils.checkpoint import checkpoint
from vocab_truth import WAYS, needs_compiler, peak_bytes, with_gradients

from kullback import vocab
from kullback.errors import InputError, KullbackError, ShapeError
from kullback.vocab import compiled, heads

pytestmark = [  # torch warns of itself while it compiles
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
INF = math.inf
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENS, WIDTH, HIDDEN, REF_HIDDEN = 43, 300, 6, 9
ONE_BLOCK, MANY_BLOCKS = None, 1
"""Workspaces: all logits at once, or 128 columns (one row, where rows are kept whole) at a time."""


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of sixteen tokens, so that forty-three make three."""
    monkeypatch.setattr(heads, "BLOCK_ROWS", 16)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1000 * len(shape) + shape[-1]))


def two_heads(dtype: torch.dtype = torch.float64, biases: str = "both", width: int = WIDTH) -> list[Tensor | None]:
    """hidden, weight, bias of the policy; the same of a reference with hidden states of another size."""
    policy, reference = (numbers(TOKENS, n).to(dtype) for n in (HIDDEN, REF_HIDDEN))
    of_policy, of_reference = (numbers(width, n, seed=1).to(dtype) for n in (HIDDEN, REF_HIDDEN))
    bias, ref_bias = (numbers(width, seed=seed).to(dtype) for seed in (2, 3))
    return [
        *(policy, of_policy, bias if biases in ("both", "policy") else None),
        *(reference, of_reference, ref_bias if biases in ("both", "reference") else None),
    ]


IDS = torch.arange(TOKENS) * 37 % WIDTH
WEIGHTS, ENTROPY_WEIGHTS = truth.weights(TOKENS).double(), truth.weights(TOKENS).flip(0).double()


# The four functions and what they are, all of (hidden, weight, bias, …).


def token_kl(h: Tensor, w: Tensor, b: Tensor | None, rh: Tensor, rw: Tensor, rb: Tensor | None, **o: Any) -> Tensor:
    return vocab.linear_token_kl(h, w, rh, rw, bias=b, ref_bias=rb, **o)


def weighted_kl(h: Tensor, w: Tensor, b: Tensor | None, rh: Tensor, rw: Tensor, rb: Tensor | None, **o: Any) -> Tensor:
    return vocab.linear_weighted_kl(h, w, rh, rw, WEIGHTS.to(h.dtype), bias=b, ref_bias=rb, **o)[0]


def true_kl(
    h: Tensor,
    w: Tensor,
    b: Tensor | None,
    rh: Tensor,
    rw: Tensor,
    rb: Tensor | None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    **options: Any,
) -> Tensor:
    q, p = (truth.head_logits(*head, scale=scale, softcap=softcap) for head in ((h, w, b), (rh, rw, rb)))
    return truth.token_kl(q, p, **options)


def token_logprobs(h: Tensor, w: Tensor, b: Tensor | None, **o: Any) -> Tensor:
    return torch.stack(vocab.linear_token_logprobs(h, w, IDS, bias=b, entropy=True, **o), dim=-1)


def weighted_logprobs(h: Tensor, w: Tensor, b: Tensor | None, **o: Any) -> Tensor:
    each = WEIGHTS.to(h.dtype), ENTROPY_WEIGHTS.to(h.dtype)
    return vocab.linear_weighted_logprobs(h, w, IDS, each[0], entropy_weights=each[1], bias=b, **o)[0]


def true_logprobs(
    h: Tensor, w: Tensor, b: Tensor | None, *, scale: float = 1.0, softcap: float | None = None, **options: Any
) -> Tensor:
    return truth.token_logprobs(truth.head_logits(h, w, b, scale=scale, softcap=softcap), IDS, **options)


def sum_of_kl(*args: Any, **options: Any) -> Tensor:
    value = true_kl(*args, **options)
    return (WEIGHTS.to(value.dtype) * value).sum()


def sum_of_logprobs(*args: Any, **options: Any) -> Tensor:
    value = true_logprobs(*args, **options)
    return (torch.stack([WEIGHTS, ENTROPY_WEIGHTS], dim=-1).to(value.dtype) * value).sum()


KLS = {"token": (token_kl, true_kl), "weighted": (weighted_kl, sum_of_kl)}
LOGPROBS = {"token": (token_logprobs, true_logprobs), "weighted": (weighted_logprobs, sum_of_logprobs)}
every_kl = pytest.mark.parametrize(("form", "written_out"), KLS.values(), ids=KLS)
every_logprob = pytest.mark.parametrize(("form", "written_out"), LOGPROBS.values(), ids=LOGPROBS)
every_block = pytest.mark.parametrize("workspace", [ONE_BLOCK, MANY_BLOCKS], ids=["one block", "many blocks"])

NUMBERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.5},
    "softcap": {"softcap": 2.0},
    "temperature": {"temperature": 1.7},
    "all": {"scale": 1.5, "softcap": 3.0, "temperature": 0.8},
}
every_number = pytest.mark.parametrize("options", NUMBERS.values(), ids=NUMBERS)
every_bias = pytest.mark.parametrize("biases", ["neither", "policy", "reference", "both"])


def assert_same(got: list[Tensor], want: list[Tensor], rtol: float = 1e-11) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours, theirs, rtol=rtol, atol=rtol * float(theirs.abs().amax()) if theirs.numel() else 0.0
        )


# --- values and gradients --------------------------------------------------------------------------------------------


@every_block
@every_number
@every_kl
@pytest.mark.parametrize("way", WAYS)
def test_kls_are_those_of_the_logits(
    way: str, form: Any, written_out: Any, options: dict[str, Any], workspace: int | None
) -> None:
    options = {**options, **WAYS[way]}
    tensors = two_heads()
    got = with_gradients(functools.partial(form, workspace=workspace, **options), *tensors)
    assert_same(got, with_gradients(functools.partial(written_out, **options), *tensors))


@every_block
@every_bias
@every_kl
def test_biases(biases: str, form: Any, written_out: Any, workspace: int | None) -> None:
    tensors = two_heads(biases=biases)
    got = with_gradients(functools.partial(form, workspace=workspace, direction="forward"), *tensors)
    assert_same(got, with_gradients(functools.partial(written_out, direction="forward"), *tensors))


@every_block
@every_number
@every_logprob
@pytest.mark.parametrize("biases", ["neither", "both"])
def test_logprobs_are_those_of_the_logits(
    biases: str, form: Any, written_out: Any, options: dict[str, Any], workspace: int | None
) -> None:
    head = two_heads(biases=biases)[:3]
    got = with_gradients(functools.partial(form, workspace=workspace, **options), *head)
    assert_same(got, with_gradients(functools.partial(written_out, **options), *head))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_to_all_six_by_finite_differences(way: str) -> None:
    tensors = [x.requires_grad_() for x in two_heads(width=140)]
    weights = WEIGHTS.clone().requires_grad_()
    options = {**WAYS[way], **NUMBERS["all"], "workspace": MANY_BLOCKS}
    assert torch.autograd.gradcheck(functools.partial(token_kl, **options), tensors, fast_mode=True)
    h, w, b, rh, rw, rb = tensors
    assert torch.autograd.gradcheck(
        lambda weights, *_: vocab.linear_weighted_kl(h, w, rh, rw, weights, bias=b, ref_bias=rb, **options)[0],
        [weights, *tensors],
        fast_mode=True,
    )


def test_gradients_of_logprobs_by_finite_differences() -> None:
    head = [x.requires_grad_() for x in two_heads()[:3]]
    both = [x.clone().requires_grad_() for x in (WEIGHTS, ENTROPY_WEIGHTS)]
    options = {**NUMBERS["all"], "workspace": MANY_BLOCKS}
    assert torch.autograd.gradcheck(functools.partial(token_logprobs, **options), head, fast_mode=True)
    h, w, b = head
    assert torch.autograd.gradcheck(
        lambda first, second, *_: vocab.linear_weighted_logprobs(
            h, w, IDS, first, entropy_weights=second, bias=b, **options
        )[0],
        [*both, *head],
        fast_mode=True,
    )


def test_a_weighted_sum_shows_the_divergences_it_sums() -> None:
    h, w, b, rh, rw, rb = two_heads()
    total, shown = vocab.linear_weighted_kl(
        h.requires_grad_(), w, rh, rw, WEIGHTS.view(TOKENS), bias=b, ref_bias=rb, workspace=MANY_BLOCKS
    )
    torch.testing.assert_close(shown, true_kl(h, w, b, rh, rw, rb).detach(), rtol=1e-12, atol=1e-14)
    assert total.item() == pytest.approx(float(WEIGHTS @ shown), rel=1e-13)
    assert not shown.requires_grad
    _, logprobs, entropies = vocab.linear_weighted_logprobs(h, w, IDS, WEIGHTS, bias=b)
    want = true_logprobs(h, w, b).detach()
    torch.testing.assert_close(torch.stack([logprobs, entropies], dim=-1), want, rtol=1e-12, atol=1e-14)
    assert not logprobs.requires_grad
    assert not entropies.requires_grad


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_weights_of_any_dtype(dtype: torch.dtype) -> None:
    mask = torch.arange(TOKENS) % 3 > 0
    h, w, _, rh, rw, _ = two_heads(torch.float32)

    def of(weights: Tensor) -> list[list[Tensor]]:
        return [
            with_gradients(lambda h, w: vocab.linear_weighted_kl(h, w, rh, rw, weights)[0], h, w),
            with_gradients(
                lambda h, w: vocab.linear_weighted_logprobs(h, w, IDS, weights, entropy_weights=weights)[0], h, w
            ),
        ]

    for got, want in zip(of(mask.to(dtype)), of(mask.float()), strict=True):
        assert_same([x.float() for x in got], want, rtol=1e-6)


@every_kl
@every_block
def test_only_what_needs_a_gradient_gets_one(form: Any, written_out: Any, workspace: int | None) -> None:
    """Whatever of the six is frozen, the others' gradients stay the same."""
    tensors = two_heads(torch.float32)
    _, *whole = with_gradients(functools.partial(form, workspace=workspace), *tensors)
    for trained in [(0,), (1,), (2,), (0, 1), (3,), (4,), (5,), (0, 3), (1, 4, 5)]:
        leaves = [x.clone().requires_grad_(i in trained) for i, x in enumerate(tensors)]
        value = form(*leaves, workspace=workspace)
        value.backward(truth.weights(*value.shape))
        for i, (leaf, want) in enumerate(zip(leaves, whole, strict=True)):
            assert leaf.grad is None if i not in trained else torch.equal(leaf.grad, want), (trained, i)


@every_kl
def test_one_head_for_both_models_gets_both_gradients(form: Any, written_out: Any) -> None:
    h, w, b, *_ = two_heads()
    rh = h.roll(1, dims=0)
    got, want = (
        with_gradients(lambda h, w, b, rh, f=f: f(h, w, b, rh, w, b), h, w, b, rh) for f in (form, written_out)
    )
    assert_same(got, want)


@every_kl
def test_equal_models_are_at_exactly_zero(form: Any, written_out: Any) -> None:
    h, w, b, *_ = two_heads(torch.float32)
    for x in with_gradients(functools.partial(form, workspace=MANY_BLOCKS), h, w, b, h, w, b):
        assert (x == 0).all()


def test_zero_weights_silence_infinite_tokens() -> None:
    h, w, _, rh, rw, _ = two_heads(torch.float32)
    rw[3], rh[:, 0] = 0.0, torch.arange(TOKENS) % 2 * 10.0
    rw[3, 0] = -3e38  # −inf for every other token
    alive = torch.arange(TOKENS) % 2 == 0
    weights = alive / alive.sum()

    def total(h: Tensor, w: Tensor, at: Any = slice(None), workspace: int | None = MANY_BLOCKS) -> Tensor:
        return vocab.linear_weighted_kl(h[at], w, rh[at], rw, weights[at], workspace=workspace)[0]

    assert vocab.linear_token_kl(h, w, rh, rw).isinf().tolist() == (~alive).tolist()
    got = with_gradients(total, h, w)
    assert_same(got, with_gradients(functools.partial(total, at=alive), h, w), rtol=1e-5)
    assert all(x.isfinite().all() for x in got)

    def of_tokens(h: Tensor, w: Tensor, at: Any = slice(None)) -> Tensor:
        return vocab.linear_weighted_logprobs(h[at], w, never[at], weights[at])[0]

    never = torch.full((TOKENS,), 3)
    assert vocab.linear_token_logprobs(rh, rw, never).isneginf().tolist() == (~alive).tolist()
    of_all, of_alive = of_tokens(rh, rw), of_tokens(rh, rw, alive)
    torch.testing.assert_close(of_all, of_alive, rtol=1e-6, atol=0.0)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_block
@every_kl
@pytest.mark.parametrize("way", WAYS)
def test_kls_err_no_more_than_from_float32_logits(
    way: str, form: Any, written_out: Any, workspace: int | None, dtype: torch.dtype
) -> None:
    """Of the naive implementations the better: half-precision inputs, multiplied in float32."""
    tensors = two_heads(dtype)
    exact = functools.partial(written_out, **WAYS[way])
    got = with_gradients(functools.partial(form, workspace=workspace, **WAYS[way]), *tensors)
    naive = with_gradients(lambda *xs: exact(*(x.float() for x in xs)), *tensors)
    assert got[0].dtype == torch.float32
    assert [x.dtype for x in got[1:]] == [x.dtype for x in tensors]
    floor = WAYS[way].get("skew", 0.0)  # terms as large as the share of the mixture cancel in the gradient
    truth.assert_errors(got, naive, truth.true(exact, *tensors), floor=floor)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_block
@every_logprob
def test_logprobs_err_no_more_than_from_float32_logits(
    form: Any, written_out: Any, workspace: int | None, dtype: torch.dtype
) -> None:
    head = two_heads(dtype)[:3]
    got = with_gradients(functools.partial(form, workspace=workspace), *head)
    naive = with_gradients(lambda *xs: written_out(*(x.float() for x in xs)), *head)
    truth.assert_errors(got, naive, truth.true(written_out, *head))


def nearby_bfloat16() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of two models 6e-5 nats apart and their head; logits of standard deviation 3."""
    hidden = numbers(32, 256)
    weight = (numbers(8192, 256, seed=1) * 3 / 16).bfloat16()
    return hidden.bfloat16(), (hidden + 3.1e-3 * numbers(32, 256, seed=2)).bfloat16(), weight


@pytest.mark.parametrize("weighted", [False, True], ids=["token", "weighted"])
def test_a_small_kl_of_bfloat16_hidden_states(weighted: bool) -> None:
    hidden, ref_hidden, weight = nearby_bfloat16()
    want = true_kl(*(x.double() if x is not None else None for x in (hidden, weight, None, ref_hidden, weight, None)))
    assert 5e-5 < want.mean() < 7e-5

    def kl(precision: str) -> Tensor:
        if weighted:
            weights = torch.full((len(hidden),), 1 / len(hidden))
            total, each = vocab.linear_weighted_kl(hidden, weight, ref_hidden, weight, weights, precision=precision)
            assert total.item() == pytest.approx(each.mean().item(), rel=1e-6)
            return each.double()
        return vocab.linear_token_kl(hidden, weight, ref_hidden, weight, precision=precision).double()

    assert ((kl("float32") - want).abs() <= 0.02 * want).all()
    assert kl("input").mean() > 2 * want.mean()  # the rounding of logits adds about 2e-4


def test_rounded_logits_are_those_of_a_bfloat16_product() -> None:
    hidden, ref_hidden, weight = nearby_bfloat16()
    got = vocab.linear_token_kl(hidden, weight, ref_hidden, weight, precision="input")
    want = truth.token_kl((hidden @ weight.T).double(), (ref_hidden @ weight.T).double())
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-8)
    rounded, plain = (
        vocab.linear_token_logprobs(hidden.float(), weight.float(), torch.arange(32), precision=precision)
        for precision in ("input", "float32")
    )
    assert torch.equal(rounded, plain)


# --- memory ----------------------------------------------------------------------------------------------------------

MEGABYTE = 1 << 20
LARGE = {"tokens": 1024, "vocab": 8192, "hidden": 32}
SMALL = 12 * MEGABYTE
"""What the kernels' own buffers, four of a megabyte and the formulas' fifteen of a quarter, and the numbers of each
token may take."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["token_kl", "jensen_shannon", "weighted_kl", "logprobs", "weighted_logprobs"])
def test_tokens_times_vocabulary_is_never_held(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the rows of real blocks
    tokens, width, size = LARGE.values()
    q, p = ([numbers(tokens, size, seed=i).to(dtype), numbers(width, size, seed=i).to(dtype)] for i in (0, 1))
    ids, weights, workspace = torch.arange(tokens), torch.ones(tokens), 4 * MEGABYTE
    calls: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "token_kl": (lambda **o: vocab.linear_token_kl(*q, *p, **o), [*q, *p]),
        "jensen_shannon": (lambda **o: vocab.linear_token_kl(*q, *p, direction="jensen_shannon", **o), [*q, *p]),
        "weighted_kl": (lambda **o: vocab.linear_weighted_kl(*q, *p, weights, **o)[0], [*q, *p]),
        "logprobs": (lambda **o: sum(vocab.linear_token_logprobs(*q, ids, entropy=True, **o)), q),
        "weighted_logprobs": (
            lambda **o: vocab.linear_weighted_logprobs(*q, ids, weights, entropy_weights=weights, **o)[0],
            q,
        ),
    }
    call, leaves = calls[name]
    gradients = sum(x.requires_grad_().nbytes for x in leaves)
    if dtype == torch.bfloat16 and name.startswith("weighted"):
        gradients += sum(x.numel() for x in leaves if len(x) == width)  # added up beside it, as documented

    def peak(function: Callable[..., Tensor], **options: Any) -> int:
        return peak_bytes(lambda: torch.autograd.grad(function(**options).sum(), leaves))

    logits = 4 * tokens * width
    assert gradients + workspace + SMALL < logits
    assert peak(call, workspace=workspace) <= gradients + workspace + SMALL
    naive = {"logprobs": true_naive_logprobs, "weighted_logprobs": true_naive_logprobs}.get(name, true_naive_kl)
    assert peak(lambda: naive(*leaves)) > gradients + workspace + SMALL + logits


def true_naive_kl(*tensors: Tensor) -> Tensor:
    return truth.token_kl(truth.head_logits(*tensors[:2]), truth.head_logits(*tensors[2:]))


def true_naive_logprobs(*tensors: Tensor) -> Tensor:
    return truth.token_logprobs(truth.head_logits(*tensors), torch.arange(len(tensors[0])))


def test_a_frozen_head_costs_no_gradient_of_it() -> None:
    tokens, width, size = 8, 4096, 512
    hidden, weight = numbers(tokens, size).requires_grad_(), numbers(width, size)
    ids = torch.arange(tokens)
    for call in (
        lambda: vocab.linear_token_logprobs(hidden, weight, ids),
        lambda: vocab.linear_weighted_logprobs(hidden, weight, ids, torch.ones(tokens))[0],
    ):
        assert peak_bytes(lambda call=call: torch.autograd.grad(call().sum(), hidden)) < weight.nbytes / 2


# --- as part of a training step --------------------------------------------------------------------------------------

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
        (lambda: vocab.linear_token_kl(H, W, H, W, precision="fp8"), InputError, "it is 'float32' or 'input'"),
        (lambda: vocab.linear_token_kl(H, W, H, W, backend="tpu"), InputError, "there are eager, compile, triton"),
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
