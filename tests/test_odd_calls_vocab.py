"""Odd calls of kb.vocab: NumPy, lists and servers' records are taken; what cannot be right is a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from kullback import vocab
from kullback.errors import InputError, KullbackError

NAN, INF = math.nan, math.inf
A, B, C, D = (math.log(x) for x in (0.5, 0.3, 0.2, 0.4))
LOWER = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.4) + 0.2 * math.log(0.2 / 0.4)
"""Of q = (0.5, 0.3, 0.2) and p = (0.2, 0.4, 0.4), of whose third word nothing was sent."""

HEAD = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.4)


class Logprob:
    """As vLLM's Python engine returns them."""

    def __init__(self, logprob: float) -> None:
        self.logprob, self.rank, self.decoded_token = logprob, 1, "x"


def openai(**words: float) -> list[dict[str, Any]]:
    return [{"token": word, "logprob": value, "bytes": None} for word, value in words.items()]


def chat(**words: float) -> dict[str, Any]:
    return {"token": "a", "logprob": A, "top_logprobs": openai(**words)}


TAKEN: list[tuple[str, Any, Any]] = [
    ("tensors", torch.tensor([[A, B]], dtype=torch.float64), torch.tensor([[C, D]], dtype=torch.float64)),
    ("numpy", np.array([[A, B]]), np.array([[C, D]])),
    ("lists", [[A, B]], [[C, D]]),
    ("numpy and a list", np.array([[A, B]]), [[C, D]]),
    ("lists with ids", ([[7, 9]], [[A, B]]), ([[9, 7]], [[D, C]])),
    ("numpy with ids", (np.array([[7, 9]]), np.array([[A, B]])), (np.array([[9, 7]]), np.array([[D, C]]))),
    ("fillers", ([[7, 9, -1, -1]], [[A, B, -INF, -INF]]), ([[9, 7]], [[D, C]])),
    ("chat", [chat(a=A, b=B)], [chat(b=D, a=C)]),
    ("a whole chat", {"content": [chat(a=A, b=B)]}, {"content": [chat(b=D, a=C)]}),
    ("top_logprobs", [openai(a=A, b=B)], [openai(b=D, a=C)]),
    ("completions", [{"a": A, "b": B}], [{"b": D, "a": C}]),
    ("a whole completion", {"top_logprobs": [{"a": A, "b": B}], "tokens": ["a"]}, [{"b": D, "a": C}]),
    ("vLLM as JSON", [{"7": {"logprob": A}, "9": {"logprob": B}}], [{"9": {"logprob": D}, "7": {"logprob": C}}]),
    ("vLLM", [{7: Logprob(A), 9: Logprob(B)}], [{9: Logprob(D), 7: Logprob(C)}]),
    ("vLLM against ids as text", [{7: Logprob(A), 9: Logprob(B)}], [{"token_id:9": D, "token_id:7": C}]),
    ("SGLang", [[(A, 7, None), (B, 9, "x")]], [[(D, 9, None), (C, 7, None)]]),
    ("SGLang as JSON", [[[A, 7, None], [B, 9, None]]], [[[D, 9, None], [C, 7, None]]]),
    ("SGLang against vLLM", [[(A, 7, None), (B, 9, None)]], [{9: Logprob(D), 7: Logprob(C)}]),
]


@pytest.mark.parametrize(("q", "p"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN])
def test_lists_are_read_however_they_come(q: Any, p: Any) -> None:
    found = vocab.topk_kl(q, p, max_log_ratio=0.0)
    assert found.lower.tolist() == pytest.approx([LOWER], rel=1e-12)
    assert found.upper.tolist() == pytest.approx([HEAD], rel=1e-12)
    assert vocab.topk_kl(q, p).upper.tolist() == [INF]


def test_jax_arrays_and_one_position() -> None:
    assert vocab.topk_kl(jnp.array([[A, B]]), jnp.array([[C, D]])).lower.tolist() == pytest.approx([LOWER], rel=1e-6)
    for q, p in (([A, B], [C, D]), ([(A, 7, None), (B, 9, None)], [(D, 9, None), (C, 7, None)])):
        found = vocab.topk_kl(q, p)
        assert found.lower.shape == ()
        assert found.lower.item() == pytest.approx(LOWER, rel=1e-12)


def test_records_of_different_lengths_and_a_sample() -> None:
    q = [{"a": A, "b": B}, {"a": A}]
    p = [{"b": D, "a": C}, {"a": C, "c": D}]
    found = vocab.topk_kl(q, p, tokens=["a", "z"], logprobs=[A, -2.0], ref_logprobs=[C, -3.0])
    assert found.lower[0].item() == pytest.approx(LOWER, rel=1e-12)
    head, gap = 0.5 * math.log(0.5 / 0.2), 0.5 - 0.2
    second = head + (1.0 + math.expm1(-1.0)) - gap
    assert found.estimate is not None
    assert found.estimate.tolist() == pytest.approx([HEAD - (0.8 - 0.6), second], rel=1e-12)


@pytest.mark.parametrize("inside", [[1, 0], np.array([1, 0], dtype=np.uint8), torch.tensor([1, 0], dtype=torch.uint8)])
def test_inside_may_be_0_and_1(inside: Any) -> None:
    rows = {"policy_topk": [[A, B]] * 2, "reference_topk": [[C, D]] * 2}
    sample = {"logprobs": [A, -2.0], "ref_logprobs": [C, -3.0]}
    want = vocab.topk_kl(**rows, **sample, inside=torch.tensor([True, False])).estimate
    got = vocab.topk_kl(**rows, **sample, inside=inside).estimate
    assert want is not None
    assert got is not None
    assert torch.equal(want, got)


IDS = ([[7, 9]], [[A, B]])
SAMPLE = {"logprobs": [A], "ref_logprobs": [C]}

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: vocab.topk_kl(([[7, 7]], [[A, B]]), IDS), "the word 7 twice"),
    (lambda: vocab.topk_kl(IDS, ([[9, 9]], [[A, B]])), "reference_topk has the word 9 twice"),
    (lambda: vocab.topk_kl(([[7, -1]], [[A, B]]), IDS), "a negative id with a log-prob"),
    (lambda: vocab.topk_kl(([[7.0, 9.0]], [[A, B]]), IDS), "ids are integers"),
    (lambda: vocab.topk_kl(([[A, B]], [[7, 9]]), IDS), "ids are integers"),
    (lambda: vocab.topk_kl(([[True, False]], [[A, B]]), IDS), "ids are integers"),
    (lambda: vocab.topk_kl(([[7, 9]] * 2, [[A, B]] * 2), IDS), "one list for each position"),
    (lambda: vocab.topk_kl([[A, NAN]], [[C, D]]), "policy_topk[0, 1] is nan"),
    (lambda: vocab.topk_kl([[A, B]], [[C, NAN]]), "reference_topk[0, 1] is nan"),
    (lambda: vocab.topk_kl([[A, -9999.0]], [[C, D]]), "policy_topk[0, 1] is -9999"),
    (lambda: vocab.topk_kl([[A, B]], [[C, -3.4e38]]), "where a log-prob is not known"),
    (lambda: vocab.topk_kl([[0.5, 0.3]], [[C, D]]), "give log-probs, not logits"),
    (lambda: vocab.topk_kl([[INF, B]], [[C, D]]), "give log-probs, not logits"),
    (lambda: vocab.topk_kl(A, C), "is one number"),
    (lambda: vocab.topk_kl("ab", [[C, D]]), "policy_topk is a str"),
    (lambda: vocab.topk_kl([[A, None]], [[C, D]]), "of which no tensor is made"),
    (lambda: vocab.topk_kl([[A, B], [A]], [[C, D], [C]]), "rows of numbers of one length"),
    (lambda: vocab.topk_kl([[1, 2]], [[C, D]]), "floating-point numbers are needed"),
    (lambda: vocab.topk_kl(np.ma.array([[A, B]], mask=[[0, 1]]), [[C, D]]), "is a masked array"),
    (lambda: vocab.topk_kl([[B]], [[math.log(0.9)]], max_log_ratio=0.0), "e^1.95 times"),
    (lambda: vocab.topk_kl([[A, B]], [[C, D]], max_log_ratio=NAN), "a bound on log(q/p)"),
    (lambda: vocab.topk_kl([[A, B]], [[C, D]], max_log_ratio="1"), "a bound on log(q/p)"),  # type: ignore[arg-type]
    (lambda: vocab.topk_kl([[A, B]], [[C, D]], inside=[2], **SAMPLE), "inside[0] is 2"),
    (lambda: vocab.topk_kl([[A, B]], [[C, D]], inside=[0.5], **SAMPLE), "inside[0] is 0.5"),
    (lambda: vocab.topk_kl([[A, B]] * 2, [[C, D]] * 2, inside=[True], **SAMPLE), "one sampled token a list"),
    (lambda: vocab.topk_kl([[A, B]], [[C, D]], inside=[[True]], **SAMPLE), "one sampled token a list"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[[7]], **SAMPLE), "one sampled token a list"),
    (lambda: vocab.topk_kl(([[7, 9]] * 2, [[A, B]] * 2), ([[7, 9]] * 2, [[A, B]] * 2), tokens=[7], **SAMPLE), "(2,)"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[7.0], **SAMPLE), "ids of tokens are integers"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[7], logprobs=[NAN], ref_logprobs=[C]), "logprobs[0] is nan"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[7], logprobs=[-INF], ref_logprobs=[C]), "logprobs[0] is -inf"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[7], logprobs=[A], ref_logprobs=[-9999.0]), "ref_logprobs[0] is -9999"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[7], logprobs=[1.5], ref_logprobs=[C]), "at most 0"),
    (lambda: vocab.topk_kl(IDS, IDS, tokens=[7], coefficient=NAN, **SAMPLE), "λ is a finite number"),
    (lambda: vocab.topk_kl([None, {"a": A}], [None, {"a": A}]), "policy_topk[0] is None"),
    (lambda: vocab.topk_kl([{"a": A}], [{7: Logprob(A)}]), "named by id and others by text"),
    (lambda: vocab.topk_kl([{"a": A}], [[A]]), "records for both, or arrays"),
    (lambda: vocab.topk_kl([{"a": A}] * 2, [{"a": A}]), "2 positions and reference_topk 1"),
    (lambda: vocab.topk_kl([openai(a=A) + openai(a=A)], [openai(a=A)]), "the word 'a' twice"),
    (lambda: vocab.topk_kl([{7: {"logprob": None}}], [{7: {"logprob": A}}]), "the log-prob None"),
    (lambda: vocab.topk_kl([{"a": -9999.0}], [{"a": A}]), "policy_topk[0, 0] is -9999"),
    (lambda: vocab.token_kl([[0.0], [0.0, 1.0]], [[0.0, 1.0]]), "logits is a list of which no tensor is made"),
    (lambda: vocab.token_kl("ab", [[0.0, 1.0]]), "logits is a str"),
    (lambda: vocab.token_logprobs([[0.0, 1.0]], [0.5]), "the ids of tokens are integers"),
    (lambda: vocab.token_logprobs([[0.0, 1.0]], [[0, 1]]), "one token a row"),
    (lambda: vocab.linear_token_kl(*[np.zeros((2, 2))] * 4), "but a torch tensor is needed"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_right_is_a_sentence(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(KullbackError) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outside", [1e-4, 5e-7, 1e-9])
def test_bounds_hold_where_almost_nothing_is_outside(dtype: torch.dtype, outside: float) -> None:
    q = torch.tensor([[math.log1p(-outside)]], dtype=torch.float64).to(dtype)
    p = torch.zeros(1, 1, dtype=dtype)
    ratio = math.log(outside) + 690.0
    exact = outside * ratio + (1 - outside) * math.log1p(-outside)
    assert vocab.topk_kl(q, p).upper.item() == INF
    found = vocab.topk_kl(q, p, max_log_ratio=ratio)
    assert 0 < found.lower.item() <= exact * (1 + 1e-6)
    assert exact * (1 - 1e-6) <= found.upper.item() <= exact * (1 + 1e-3)


def test_bounds_of_a_whole_vocabulary_in_float32_meet() -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn(50, 20, dtype=torch.float64, generator=generator).log_softmax(-1) for _ in range(2))
    exact = (q.exp() * (q - p)).sum(-1)
    found = vocab.topk_kl(q.float(), p.float())
    torch.testing.assert_close(found.lower.double(), exact, rtol=1e-5, atol=1e-6)
    assert (found.upper.double() >= exact - 1e-6).all()


def test_golden_logits_in_numpy() -> None:
    q, p = np.zeros((1, 2)), np.array([[0.0, 1.0]])
    want = vocab.token_kl(torch.tensor(q), torch.tensor(p))
    assert torch.equal(vocab.token_kl(q, p), want)
    assert torch.equal(vocab.token_kl(q.tolist(), jnp.asarray(p, dtype=jnp.float32)).float(), want.float())
    assert vocab.token_logprobs(p, [1]).item() == pytest.approx(-math.log1p(math.exp(-1)), rel=1e-12)
    with pytest.raises(InputError):
        vocab.renormalised_topk_kl([[A, NAN]], [[C, D]])
    renormalised = vocab.renormalised_topk_kl(np.array([[A, B]]), [[C, D]]).item()
    assert renormalised == pytest.approx(HEAD / 0.8 - math.log(0.8 / 0.6), rel=1e-12)
