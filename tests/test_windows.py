"""Windows of a text: every token once, or those that llama.cpp scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.errors import InputError
from kullback.jobs.windows import windows_of
from kullback.models import load

TEXT = "One day the small dog went to the lake and Grace was very tired of the long way home. " * 6


def test_overlapping_windows_score_every_token_but_the_first_once() -> None:
    windows = list(windows_of([list(range(50))], 8, "overlapping", start=[]))
    assert [token for window in windows for token in window.scored] == list(range(1, 50))
    assert all(len(window.context) >= 4 for window in windows[1:])


def test_llama_cpp_scores_the_second_half_of_windows_side_by_side() -> None:
    """Its process_logits reads n_ctx - 1 - n_ctx/2 tokens from place n_ctx/2 of each chunk, and drops the rest."""
    windows = list(windows_of([list(range(21))], 8, "llama.cpp", start=[]))
    assert [window.scored for window in windows] == [[5, 6, 7], [13, 14, 15]]
    assert [window.context for window in windows] == [[0, 1, 2, 3, 4], [8, 9, 10, 11, 12]]


def test_llama_cpp_puts_the_start_token_over_the_first_of_each_window() -> None:
    windows = list(windows_of([[99, *range(1, 16)]], 8, "llama.cpp", start=[99]))
    assert [window.context[0] for window in windows] == [99, 99]
    assert windows[1].context[1:] == [9, 10, 11, 12]


def test_a_text_as_llama_cpp_scores_it_is_that_of_plain_passes_over_its_windows() -> None:
    tuned, base = load("builtin:tuned"), load("builtin:base")
    found = kb.compare_text(tuned, base, [TEXT], context_length=16, windows="llama.cpp")
    tokens = base.encode(TEXT)
    first = base.encode("")[:1]
    kls = []
    for begin in range(0, len(tokens) - 15, 16):
        row = torch.tensor([[*first, *tokens[begin + len(first) : begin + 16]]])
        with torch.no_grad():
            q, p = (torch.log_softmax(m.model(input_ids=row).logits[0].double(), dim=-1) for m in (tuned, base))
        kls += (p.exp() * (p - q)).sum(-1)[8:15].tolist()
    assert found.tokens == len(kls)
    assert found.forward.value == pytest.approx(np.mean(kls), rel=1e-3)
    assert found.settings["windows"] == "llama.cpp"
    assert found.forward.value != kb.compare_text(tuned, base, [TEXT], context_length=16).forward.value


def test_a_text_without_a_whole_window() -> None:
    with pytest.raises(InputError, match="no document has 256 tokens"):
        kb.compare_text("builtin:tuned", "builtin:base", ["One day."], windows="llama.cpp")


def test_windows_that_are_none() -> None:
    with pytest.raises(InputError, match=r"windows are overlapping or llama\.cpp"):
        kb.compare_text("builtin:tuned", "builtin:base", [TEXT], windows="half")  # type: ignore[arg-type]
