"""Which backend computes where nobody says: compiled where that pays, and a sentence where it cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kullback import vocab
from kullback.errors import InputError
from kullback.vocab import backends
from kullback.vocab.backends import LARGE_CALL, backend_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing computed yet, nothing in the cache, and a compiler that works."""
    monkeypatch.setattr(backends, "TALLY", backends.Tally())
    monkeypatch.setattr(backends, "_marker", lambda: tmp_path / "made")
    monkeypatch.setattr(backends, "_failure", lambda: None)
    monkeypatch.setattr(backends.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CXX", raising=False)
    for cached in (backends._price, backends.compiler_works):
        cached.cache_clear()
    yield
    for cached in (backends._price, backends.compiler_works):
        cached.cache_clear()


@pytest.mark.parametrize("backend", [None, "auto"])
def test_a_large_call_is_compiled_at_once(backend: str | None) -> None:
    assert backend_for(backend, CPU, LARGE_CALL - 1) == "eager"
    assert backend_for(backend, CPU, LARGE_CALL) == "compile"


def test_small_calls_are_compiled_once_they_have_cost_as_much(tmp_path: Path) -> None:
    def calls(logits: int = LARGE_CALL // 2) -> int:
        backends.TALLY.seconds = 0.0
        backends._price.cache_clear()
        return next(n for n in range(10**6) if backend_for(None, CPU, logits) == "compile")

    new = calls()
    (tmp_path / "made").touch()
    made = calls()
    saved = backends.SAVED_NANOSECONDS * 1e-9 * (LARGE_CALL // 2)
    assert saved * (new + 1) == pytest.approx(backends.COMPILE_SECONDS, abs=saved)
    assert saved * (made + 1) == pytest.approx(backends.CACHED_SECONDS, abs=saved)


def test_a_missing_compiler_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler is here .*; backend='eager' says that this is known"):
        assert backend_for(None, CPU, LARGE_CALL) == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend_for(None, CPU, LARGE_CALL) == "eager"


def test_a_compiler_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    backends.compiler_works.cache_clear()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no room\nat all")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(backends.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.warns(RuntimeWarning, match="torch.compile fails: OSError: no room; backend"):
        assert backend_for(None, CPU, LARGE_CALL) == "eager"


def test_what_is_named_is_taken() -> None:
    assert backend_for("eager", CPU, LARGE_CALL) == "eager"
    assert backend_for("compile", CPU, 1) == "compile"
    with pytest.raises(InputError, match="backend 'fast' came, but there are auto, eager, compile, triton"):
        vocab.token_kl(torch.zeros(1, 2), torch.zeros(1, 2), backend="fast")


def test_the_size_of_a_call_counts_rows_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(backends.TALLY, "pays", lambda logits: seen.append(logits))
    hidden, weight = torch.zeros(2, 3, 4), torch.zeros(7, 4)
    vocab.linear_token_kl(hidden, weight, hidden, weight)
    vocab.token_kl(torch.zeros(2, 3, 7), torch.zeros(2, 3, 7))
    assert seen == [42, 42]
