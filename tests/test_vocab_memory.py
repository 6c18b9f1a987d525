"""Memory of large results: huge pages where there are some, and the same for one block after the other."""

from __future__ import annotations

import errno
import mmap

import pytest
import torch
from vocab_truth import token_kl, with_gradients

from kullback import vocab
from kullback.vocab import memory
from kullback.vocab.heads import Head

CPU = torch.device("cpu")


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every result counts as large; the sizes that were mapped."""
    sizes: list[int] = []

    class Counted(mmap.mmap):
        def __new__(cls, fileno: int, length: int, **options: int) -> Counted:
            sizes.append(length)
            return super().__new__(cls, fileno, length, **options)

    monkeypatch.setattr(memory, "LARGE_BYTES", 1)
    monkeypatch.setattr(mmap, "mmap", Counted)
    return sizes


needs_huge_pages = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no huge pages")


@needs_huge_pages
def test_a_large_result_is_mapped_and_outlives_its_maker(mapped: list[int]) -> None:
    made = [memory.empty((3, 5), dtype=dtype, device=CPU) for dtype in (torch.float32, torch.bfloat16, torch.uint8)]
    assert mapped == [60, 30, 15]
    for i, x in enumerate(made):
        x.fill_(i)
    assert [x.float().mean().item() for x in made] == [0, 1, 2]


@needs_huge_pages
def test_gradients_are_the_same_in_mapped_memory(mapped: list[int]) -> None:
    q, p = torch.randn(2, 7, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(with_gradients(vocab.token_kl, q, p), with_gradients(token_kl, q, p))
    assert mapped == [q.nbytes, p.nbytes]


def test_a_system_without_huge_pages_gets_ordinary_ones(mapped: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError(errno.EINVAL, "no huge pages")

    monkeypatch.setattr(mmap.mmap, "madvise", refused, raising=False)
    assert memory.empty((2, 3), dtype=torch.float32, device=CPU).fill_(1).sum() == 6
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    mapped.clear()
    assert memory.empty((2, 3), dtype=torch.float32, device=CPU).fill_(1).sum() == 6
    assert mapped == []


def test_scratch_memory_serves_one_block_after_the_other() -> None:
    hidden, weight = torch.randn(6, 4), torch.randn(9, 4)
    head = Head(hidden=hidden, weight=weight, softcap=2.0)
    whole = head.logits(slice(0, 6), slice(0, 9)).clone()
    first = head.of_logits.memory.data_ptr()
    part = head.logits(slice(2, 4), slice(1, 8))
    assert part.data_ptr() == first
    torch.testing.assert_close(part, whole[2:4, 1:8])
    assert head.slope(part) is not None
    torch.testing.assert_close(part, whole[2:4, 1:8])  # slopes lie beside the logits


def test_scratch_memory_grows_and_changes_its_dtype() -> None:
    scratch = memory.Scratch()
    for shape, dtype in (((2, 3), torch.float32), ((4, 5), torch.float32), ((2, 2), torch.bfloat16)):
        x = scratch.empty(shape, dtype=dtype, device=CPU)
        assert (x.shape, x.dtype) == (shape, dtype)
