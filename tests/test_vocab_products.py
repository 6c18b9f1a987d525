"""Products added up in a result: as exact as its dtype, however many they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vocab_truth import peak_bytes

from kullback.vocab import products

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
HALF = [torch.bfloat16, torch.float16]
every_half = pytest.mark.parametrize("dtype", HALF, ids=["bfloat16", "float16"])
WORDS, TOKENS, HIDDEN = 37, 5, 6


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows of a product, and some of its terms, at a time."""
    monkeypatch.setitem(products.SLICE_BYTES, "cpu", 200)
    monkeypatch.setattr(products, "WIDENED_ROWS", 2)


def factors(count: int, of_gradient: torch.dtype, of_hidden: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator().manual_seed(count)
    shapes = (TOKENS, WORDS), (TOKENS, HIDDEN)
    drawn = [[torch.randn(*shape, generator=made, dtype=torch.float64) for shape in shapes] for _ in range(count)]
    return [(a.to(of_gradient).T, b.to(of_hidden)) for a, b in drawn]


def added(pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> Tensor:
    result = torch.full((WORDS, HIDDEN), math.nan, dtype=dtype)
    sums = products.total(result, torch.promote_types(dtype, torch.float32), len(pairs))
    for a, b in pairs:
        sums.add(a, b)
    sums.finish()
    return result


@every_dtype
@pytest.mark.parametrize("count", [1, 2, 7, 400])
def test_a_sum_of_products_is_rounded_once(count: int, dtype: torch.dtype) -> None:
    """Half a unit in the last place of the result, and what float32, or its upper 24 bits, lose on the way."""
    exact = torch.promote_types(dtype, torch.float32)
    pairs = factors(count, exact, dtype)
    got = added(pairs, dtype).double()
    terms = torch.stack([a.double() @ b.double() for a, b in pairs])
    factors_alone = torch.stack([a.double().abs() @ b.double().abs() for a, b in pairs])
    want, partial = terms.sum(dim=0), terms.cumsum(dim=0).abs().sum(dim=0)
    on_the_way = (2.0**-17 if dtype in HALF else torch.finfo(exact).eps) * partial
    within = TOKENS * torch.finfo(exact).eps * factors_alone.sum(dim=0)
    assert ((got - want).abs() <= 0.505 * torch.finfo(dtype).eps * want.abs() + on_the_way + within).all()


@every_half
def test_many_small_terms_are_not_swallowed(dtype: torch.dtype) -> None:
    """A running sum in half precision stops to grow at 256 or 2048 times its terms."""
    count = 6000
    got = added([(torch.ones(WORDS, 1), torch.ones(1, HIDDEN))] * count, dtype)
    running = torch.zeros((), dtype=dtype)
    for _ in range(count):
        running += 1
    assert (got == torch.tensor(float(count)).to(dtype)).all()
    assert running < count / 2


@every_half
def test_products_of_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rounded logits: each product is rounded, their sum is not until the end."""
    monkeypatch.setattr(products, "half_is_fast", lambda: True)
    pairs = factors(3, dtype, dtype)
    want = sum((a @ b).float() for a, b in pairs)
    assert isinstance(want, Tensor)
    torch.testing.assert_close(added(pairs, dtype), want.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-4)


@every_half
def test_what_is_not_finite_stays_so(dtype: torch.dtype) -> None:
    (a, b), other = factors(2, torch.float32, torch.float32)
    a[0, 0], a[1, 0], a[2, 0] = math.nan, math.inf, -math.inf
    got = added([(a, b), other, other], dtype)
    assert got[0].isnan().all()
    assert torch.equal(got[1:3], (a @ b)[1:3].to(dtype))
    assert got[3:].isfinite().all()


@every_half
def test_a_half_precision_sum_takes_a_byte_an_entry_beside_the_result(dtype: torch.dtype) -> None:
    pairs = [(a, b) for a, b in factors(3, torch.float32, dtype)]
    buffers = 6 * 200 + sum(x.nbytes for x in pairs[0])  # slices of 200 bytes in half precision, and factors' parts
    whole = torch.empty(40 * WORDS, HIDDEN, dtype=dtype)

    def work() -> None:
        sums = products.total(whole, torch.float32, len(pairs))
        for a, b in pairs:
            sums.add(a.repeat(40, 1), b)
        sums.finish()

    given = 4 * 40 * WORDS * TOKENS
    assert peak_bytes(work) <= given + whole.numel() + buffers < given + 2 * whole.numel()


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shape", [(128, 128, 128), (7, 300, 5), (129, 130, 257), (301, 3, 400)], ids=str)
def test_a_product_in_parts_of_even_sizes(shape: tuple[int, int, int], add: bool) -> None:
    rows, inner, columns = shape
    made = torch.Generator().manual_seed(0)
    a, b, start = (
        torch.randn(*size, generator=made, dtype=torch.float64)
        for size in ((rows, inner), (inner, columns), (rows, columns))
    )
    out = start.clone() if add else torch.full_like(start, math.nan)
    products.in_parts(a, b, out, add)
    torch.testing.assert_close(out, a @ b + (start if add else 0.0))
