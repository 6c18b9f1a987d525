"""What a function keeps between its calls is seen and taken back, wherever it keeps it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kullback as kb
from kullback.auditing.subject.memory import memory_of
from kullback.auditing.subject.numbers import Unseen, unseen_numbers

COUNT = 0
LOG: list[float] = []


def in_a_global() -> None:
    global COUNT
    COUNT += 1


def in_a_list_of_its_module() -> None:
    LOG.append(1.0)


def _in_a_cell() -> tuple[Callable[[], None], Callable[[], object]]:
    count = 0

    def fn() -> None:
        nonlocal count
        count += 1

    return fn, lambda: count


class Counts:
    """Keeps in itself, in its class and in what it holds."""

    total = 0

    def __init__(self) -> None:
        self.calls = 0
        self.inner = SimpleNamespace(calls=0)
        self.by_name = {"calls": [0]}

    def __call__(self) -> None:
        self.calls += 1
        Counts.total += 1
        self.inner.calls += 1
        self.by_name["calls"].append(1)
        self.new = True

    def seen(self) -> object:
        return self.calls, Counts.total, self.inner.calls, list(self.by_name["calls"]), hasattr(self, "new")


def _keepers() -> list[tuple[str, Callable[[], None], Callable[[], object]]]:
    cell, count = _in_a_cell()
    counts = Counts()
    attributed: Any = lambda: setattr(attributed, "calls", 1)  # noqa: E731
    return [
        ("a global", in_a_global, lambda: COUNT),
        ("a list", in_a_list_of_its_module, lambda: list(LOG)),
        ("a cell", cell, count),
        ("an object", counts, counts.seen),
        ("itself", attributed, lambda: hasattr(attributed, "calls")),
    ]


@pytest.mark.parametrize("keeper", _keepers(), ids=lambda one: one[0])
def test_what_is_kept_is_seen_and_taken_back(
    keeper: tuple[str, Callable[[], None], Callable[[], object]],
) -> None:
    _, fn, seen = keeper
    before, kept = seen(), memory_of([fn]).now()
    assert kept.same()
    fn()
    assert seen() != before
    assert not kept.same()
    kept.take_back()
    assert kept.same()
    assert seen() == before


def test_a_tensor_that_is_changed_in_place_is_seen() -> None:
    held = SimpleNamespace(table=torch.zeros(3))
    kept = memory_of([held]).now()
    held.table.add_(1)
    assert not kept.same()


def test_what_is_too_large_to_be_watched_is_not_called_the_same() -> None:
    held = SimpleNamespace(parts=[[i] for i in range(3000)])
    assert not memory_of([held]).now().same()


def test_numbers_of_many_batches_decide_nothing() -> None:
    def logged(x: torch.Tensor) -> torch.Tensor:
        logs.append(x.sum().item())
        return x * 2

    def decides(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x

    logs: list[object] = []
    rows = torch.ones(4, 2)
    with unseen_numbers():
        assert torch.equal(torch.vmap(logged)(rows), rows * 2)
        assert isinstance(logs[0], Unseen)
        with pytest.raises(RuntimeError, match="number of many batches"):
            torch.vmap(decides)(rows)
        assert rows.sum().item() == 8.0
    assert rows.sum().item() == 8.0
    with pytest.raises(RuntimeError):
        torch.vmap(logged)(rows)


def test_a_function_that_logs_is_audited_as_it_is_without() -> None:
    logs: list[float] = []

    def plain(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ((logprobs - ref_logprobs) * mask).sum(-1).mean()

    def logging(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found = plain(logprobs, ref_logprobs, mask)
        logs.append(found.item())
        return found

    mine, theirs = (kb.audit(fn, placement="metric") for fn in (logging, plain))
    assert [finding.code for finding in mine.findings] == [finding.code for finding in theirs.findings]
    assert mine.value.target is theirs.value.target is kb.REVERSE_KL
