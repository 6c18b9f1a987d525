"""A vocabulary split over two or four gloo processes gives what one process gives, forward and backward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import vocab_truth as truth
from torch import Tensor
from vocab_truth import WAYS

from kullback import vocab
from kullback.errors import InputError

TOKENS, WIDTH, HIDDEN, REF_HIDDEN = 9, 12, 5, 7
UNEVEN = {1: (WIDTH,), 2: (5, 7), 4: (1, 6, 2, 3)}
"""Widths of shards that differ, by the number of ranks."""
INF = math.inf


@dataclass(frozen=True)
class Place:
    """A rank and its group; rank 0 of 1 without a group is the one process that judges."""

    rank: int = 0
    ranks: int = 1
    group: Any = None

    def part(self, x: Tensor, dim: int, uneven: bool = False) -> Tensor:
        """This rank's columns or rows, as a leaf."""
        widths = UNEVEN[self.ranks] if uneven else (x.shape[dim] // self.ranks,) * self.ranks
        return x.split(widths, dim)[self.rank].clone().requires_grad_()

    def start(self, uneven: bool) -> int | None:
        return sum(UNEVEN[self.ranks][: self.rank]) if uneven and self.group else None

    def distributed(self, x: Tensor) -> Tensor:
        """The whole as a DTensor over the vocabulary."""
        if not self.group:
            return x.clone().requires_grad_()
        from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor

        return distribute_tensor(x, DeviceMesh("cpu", list(range(self.ranks))), [Shard(-1)]).requires_grad_()


Found = dict[str, list[Tensor]]
"""Tensors that are the "same" on every rank, or the "columns" or "rows" of this rank."""
Case = Callable[[Place], Found]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


IDS = torch.arange(TOKENS) * 5 % WIDTH
WEIGHTS, ENTROPY_WEIGHTS = truth.weights(TOKENS).double(), truth.weights(TOKENS).flip(0).double()


def backward(value: Tensor) -> Tensor:
    value.backward(truth.weights(*value.shape).to(value.dtype))
    return value.detach()


def gradients(*leaves: Tensor) -> list[Tensor]:
    return [x.grad.full_tensor() if hasattr(x.grad, "full_tensor") else x.grad for x in leaves]


# --- cases -----------------------------------------------------------------------------------------------------------


def kl(at: Place, pair: tuple[Tensor, Tensor], **options: Any) -> Found:
    q, p = (at.part(z, -1) for z in pair)
    return {"same": [backward(vocab.token_kl(q, p, group=at.group, **options))], "columns": gradients(q, p)}


def kl_of_dtensors(at: Place, width: int, **options: Any) -> Found:
    q, p = (at.distributed(normal(TOKENS, width, seed=seed)) for seed in (0, 1))
    value = backward(vocab.token_kl(q, p, **options))
    return {"same": [value, *gradients(q, p)]}


def logprobs(at: Place, logits: Tensor, uneven: bool = False, **options: Any) -> Found:
    z, tokens = at.part(logits, -1, uneven), IDS.view(logits.shape[:-1])
    both = vocab.token_logprobs(z, tokens, entropy=True, group=at.group, vocab_start=at.start(uneven), **options)
    return {"same": [backward(torch.stack(both, dim=-1))], "columns": gradients(z)}


def logprobs_of_dtensors(at: Place, width: int) -> Found:
    z = at.distributed(normal(TOKENS, width))
    value = backward(torch.stack(vocab.token_logprobs(z, IDS % width, entropy=True), dim=-1))
    return {"same": [value, *gradients(z)]}


def heads(at: Place, uneven: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """hidden, weight and bias of both models."""
    sizes = ((HIDDEN, 0), (REF_HIDDEN, 10))
    q, p = (
        [
            normal(TOKENS, size, seed=seed).requires_grad_(),
            at.part(normal(WIDTH, size, seed=seed + 1), 0, uneven),
            at.part(normal(WIDTH, seed=seed + 2), 0, uneven),
        ]
        for size, seed in sizes
    )
    return q, p


def found(value: Tensor, *models: list[Tensor]) -> Found:
    hidden, rows = [x for x, *_ in models], [x for _, *rest in models for x in rest]
    return {"same": [value, *gradients(*hidden)], "rows": gradients(*rows)}


def linear_kl(at: Place, **options: Any) -> Found:
    q, p = heads(at)
    options.update(bias=q[2], ref_bias=p[2], group=at.group)
    return found(backward(vocab.linear_token_kl(*q[:2], *p[:2], **options)), q, p)


def weighted_kl(at: Place, uneven: bool = False, **options: Any) -> Found:
    q, p = heads(at, uneven)
    options.update(bias=q[2], ref_bias=p[2], group=at.group)
    total, each = vocab.linear_weighted_kl(*q[:2], *p[:2], WEIGHTS, **options)
    result = found(backward(total), q, p)
    return {**result, "same": [*result["same"], each]}


def one_head(at: Place, form: Callable[..., Tensor], **options: Any) -> Found:
    """Of two models with one head: difference products."""
    q = [normal(TOKENS, HIDDEN).requires_grad_(), at.part(normal(WIDTH, HIDDEN, seed=1), 0)]
    ref_hidden = normal(TOKENS, HIDDEN, seed=2).requires_grad_()
    return found(backward(form(*q, ref_hidden, q[1], group=at.group, **options)), q, [ref_hidden])


def log_ratios(*tensors: Tensor, **options: Any) -> Tensor:
    return torch.stack(vocab.linear_log_ratio(*tensors, IDS, **options), dim=-1)


def one_head_weighted(*tensors: Tensor, **options: Any) -> Tensor:
    return vocab.linear_weighted_kl(*tensors, WEIGHTS, **options)[0]


def linear_logprobs(at: Place, uneven: bool = False, **options: Any) -> Found:
    q, _ = heads(at, uneven)
    options.update(bias=q[2], group=at.group, vocab_start=at.start(uneven))
    both = vocab.linear_token_logprobs(*q[:2], IDS, entropy=True, **options)
    return found(backward(torch.stack(both, dim=-1)), q)


def weighted_logprobs(at: Place, uneven: bool = False, **options: Any) -> Found:
    q, _ = heads(at, uneven)
    options.update(bias=q[2], group=at.group, vocab_start=at.start(uneven))
    total, *each = vocab.linear_weighted_logprobs(*q[:2], IDS, WEIGHTS, entropy_weights=ENTROPY_WEIGHTS, **options)
    result = found(backward(total), q)
    return {**result, "same": [*result["same"], *each]}


PAIR = normal(TOKENS, WIDTH), normal(TOKENS, WIDTH, seed=1)


def banned(z: Tensor, *ranges: tuple[int, int, int]) -> Tensor:
    """The words from–to of a row excluded."""
    z = z.clone()
    for row, start, stop in ranges:
        z[row, start:stop] = -INF
    return z


BANNED = (  # whole shards of two and of four ranks: by both, by the policy, by the reference, and everything
    banned(PAIR[0], (0, 0, 6), (1, 3, 6), (2, 0, 9), (3, 6, 12), (5, 0, 12), (7, 0, 12)),
    banned(PAIR[1], (0, 0, 6), (1, 3, 6), (2, 0, 6), (4, 6, 12), (6, 0, 12), (7, 0, 12)),
)
NUMBERS: dict[str, Any] = {"scale": 1.5, "softcap": 3.0, "temperature": 0.8}
MANY_BLOCKS: dict[str, Any] = {"workspace": 1}
ROWS_BY_WIDTH: dict[str, Any] = {"workspace": 8 * 2 * WIDTH}
"""Room for a few rows of a shard, and for more of a narrower one."""

CASES: dict[str, Case] = {
    "kl of one head": functools.partial(one_head, form=vocab.linear_token_kl, **MANY_BLOCKS),
    "jensen_shannon of one head": functools.partial(one_head, form=vocab.linear_token_kl, direction="jensen_shannon"),
    "weighted kl of one head": functools.partial(one_head, form=one_head_weighted, softcap=3.0),
    "log-ratios of one head": functools.partial(one_head, form=log_ratios, softcap=3.0),
    **{f"kl {way}": functools.partial(kl, pair=PAIR, **options) for way, options in WAYS.items()},
    **{f"kl {way}, words excluded": functools.partial(kl, pair=BANNED, **options) for way, options in WAYS.items()},
    "kl at a temperature": functools.partial(kl, pair=PAIR, temperature=0.7),
    "kl of (batch, time, vocab)": functools.partial(kl, pair=tuple(z.view(3, 3, WIDTH) for z in PAIR)),
    "kl of float32": functools.partial(kl, pair=tuple(z.float() for z in PAIR)),
    "kl of bfloat16": functools.partial(kl, pair=tuple(z.bfloat16() for z in PAIR)),
    "kl that is small": functools.partial(kl, pair=(PAIR[0].float(), (PAIR[0] + 1e-3 * PAIR[1] + 7.3).float())),
    "kl far from 0": functools.partial(kl, pair=(1e4 * PAIR[0], 1e4 * PAIR[1])),
    **{f"kl of DTensors, {way}": functools.partial(kl_of_dtensors, width=WIDTH, **o) for way, o in WAYS.items()},
    **{f"kl of DTensors of {n} words": functools.partial(kl_of_dtensors, width=n) for n in (11, 13, 9, 3)},
    "logprobs": functools.partial(logprobs, logits=PAIR[0]),
    "logprobs at a temperature": functools.partial(logprobs, logits=PAIR[0], temperature=0.7),
    "logprobs of (batch, time, vocab)": functools.partial(logprobs, logits=PAIR[0].view(3, 3, WIDTH)),
    "logprobs, words excluded": functools.partial(logprobs, logits=banned(PAIR[0], (0, 3, 12), (1, 0, 6))),
    "logprobs of uneven shards": functools.partial(logprobs, logits=PAIR[0], uneven=True),
    **{f"logprobs of DTensors of {n} words": functools.partial(logprobs_of_dtensors, width=n) for n in (12, 11, 9, 3)},
    **{f"linear kl {way}": functools.partial(linear_kl, **options) for way, options in WAYS.items()},
    "linear kl, capped": functools.partial(linear_kl, **NUMBERS, **MANY_BLOCKS),
    **{f"weighted kl {way}": functools.partial(weighted_kl, **options) for way, options in WAYS.items()},
    "weighted kl, capped": functools.partial(weighted_kl, **NUMBERS, **MANY_BLOCKS),
    "weighted kl of uneven shards": functools.partial(weighted_kl, uneven=True, **ROWS_BY_WIDTH),
    "linear logprobs": linear_logprobs,
    "linear logprobs, capped": functools.partial(linear_logprobs, **NUMBERS, **MANY_BLOCKS),
    "linear logprobs of uneven shards": functools.partial(linear_logprobs, uneven=True),
    "weighted logprobs": weighted_logprobs,
    "weighted logprobs, capped": functools.partial(weighted_logprobs, **NUMBERS, **MANY_BLOCKS),
    "weighted logprobs of uneven shards": functools.partial(weighted_logprobs, uneven=True, **ROWS_BY_WIDTH),
}
TOLERANCES = {"kl of float32": 1e-6, "kl of bfloat16": 1e-2, "kl that is small": 1e-4, "kl far from 0": 1e-9}


# --- wrong calls, and what is sent -----------------------------------------------------------------------------------


def wrong_calls(at: Place) -> dict[str, str]:
    """What each call raised on this rank."""
    from torch.distributed.tensor import DeviceMesh, Replicate, Shard, distribute_tensor

    mesh = DeviceMesh("cpu", list(range(at.ranks)))
    placements = {"rows": Shard(0), "whole": Replicate(), "columns": Shard(-1)}
    placed = {name: distribute_tensor(PAIR[0], mesh, [placement]) for name, placement in placements.items()}
    mine = at.part(PAIR[0], -1)
    uneven = {"group": at.group, "vocab_start": at.start(True)}
    calls: dict[str, Callable[[], Any]] = {
        "rows split": lambda: vocab.token_kl(placed["rows"], placed["rows"]),
        "not split": lambda: vocab.token_logprobs(placed["whole"], IDS),
        "one split": lambda: vocab.token_kl(placed["columns"].to_local(), placed["columns"]),
        "token too large": lambda: vocab.token_logprobs(mine, IDS + WIDTH, group=at.group),
        "token below 0": lambda: vocab.token_logprobs(mine, IDS - WIDTH, group=at.group),
        "token too large, uneven": lambda: vocab.token_logprobs(at.part(PAIR[0], -1, True), IDS + WIDTH, **uneven),
    }
    return {name: _raised(call) for name, call in calls.items()}


def _raised(call: Callable[[], Any]) -> str:
    try:
        call()
    except InputError as error:
        return str(error)
    return "nothing"


RAISED = {
    "rows split": "redistribute it with Shard(-1)",
    "not split": "redistribute it with Shard(-1)",
    "one split": "split over different groups: split both over one",
    "token too large": "tokens holds 23, but the vocabulary has the ids 0 to 11",
    "token below 0": "tokens holds -12, but the vocabulary has the ids 0 to 11",
    "token too large, uneven": "tokens holds 23, but",
}


def collectives(at: Place) -> dict[str, list[int]]:
    """Bytes that a rank gives to each collective: in the forward pass, and in all."""
    sent: list[int] = []
    for name, given in {"all_reduce": 0, "all_gather": 1, "all_gather_into_tensor": 1}.items():
        setattr(dist, name, functools.partial(_counted, getattr(dist, name), sent, given))
    pair = [at.part(z, -1) for z in PAIR]
    q, p = heads(at)
    calls: dict[str, Callable[[], Tensor]] = {
        "kl": lambda: vocab.token_kl(*pair, group=at.group),
        "skewed": lambda: vocab.token_kl(*pair, group=at.group, skew=0.3),
        "logprobs": lambda: sum(vocab.token_logprobs(pair[0], IDS, entropy=True, group=at.group)),
        "linear kl": lambda: vocab.linear_token_kl(*q[:2], *p[:2], group=at.group),
    }
    counts = {}
    for name, call in calls.items():
        sent.clear()
        value = call()
        counts[f"{name} forward"] = list(sent)
        value.sum().backward()
        counts[name] = list(sent)
    return counts


def _counted(collective: Callable[..., Any], sent: list[int], given: int, *args: Any, **options: Any) -> Any:
    sent.append(args[given].nbytes)
    return collective(*args, **options)


# --- the processes ---------------------------------------------------------------------------------------------------


def _worker(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    at = Place(rank, ranks, dist.group.WORLD)
    # An exception ends this rank, and by its closed connections the others.
    results: dict[str, Any] = {name: case(at) for name, case in CASES.items()}
    if ranks == 4:  # two pairs of ranks, as data and tensor parallelism together have them
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        own = Place(rank % 2, 2, pairs[rank // 2])
        results["pairs"] = {name: CASES[name](own) for name in IN_PAIRS}
    results["raised"] = wrong_calls(at)
    results["sent"] = collectives(at)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


IN_PAIRS = (
    "kl reverse",
    "kl skewed",
    "logprobs",
    "logprobs of uneven shards",
    "linear kl reverse",
    "weighted kl reverse",
)


def run(ranks: int, folder: Path) -> list[dict[str, Any]]:
    """What every rank found."""
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(rank, ranks, str(folder))) for rank in range(ranks)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    for worker in workers:
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0] * ranks
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def difference(ranks: list[Any], want: Found, tolerance: float) -> str:
    """How the ranks' tensors differ from those of one process; "" where they do not."""
    try:
        for rank in ranks:
            torch.testing.assert_close(rank["same"], want["same"], rtol=tolerance, atol=0.1 * tolerance, equal_nan=True)
        for kind, dim in (("columns", -1), ("rows", 0)):
            whole = [torch.cat(parts, dim) for parts in zip(*(rank.get(kind, []) for rank in ranks), strict=True)]
            finite = [_finite(x, want["same"][0]) if kind == "columns" else x for x in whole]
            right = [_finite(x, want["same"][0]) if kind == "columns" else x for x in want.get(kind, [])]
            torch.testing.assert_close(finite, right, rtol=tolerance, atol=0.1 * tolerance)
    except AssertionError as error:
        return str(error)
    return ""


def _finite(gradient: Tensor, value: Tensor) -> Tensor:
    """Gradients to the logits of tokens that have a value."""
    return gradient[~value.isnan()] if value.ndim == gradient.ndim - 1 else gradient


def assert_as_one_process(results: list[dict[str, Any]], names: Iterable[str]) -> None:
    differing = {
        name: difference([rank[name] for rank in results], CASES[name](Place()), TOLERANCES.get(name, 1e-11))
        for name in names
    }
    assert {name: text for name, text in differing.items() if text} == {}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_find_what_one_process_finds(ranks: int, tmp_path: Path) -> None:
    """Values and gradients; where a call is wrong, the same sentence on all; and only numbers a token are sent."""
    results = run(ranks, tmp_path)
    assert_as_one_process(results, CASES)
    if ranks == 4:
        for pair in (results[:2], results[2:]):
            assert_as_one_process([rank["pairs"] for rank in pair], IN_PAIRS)
    for rank in results:
        for name, words in RAISED.items():
            assert words in rank["raised"][name], name
        assert rank["sent"] == SENT


THREE = 3 * 8 * TOKENS
SENT = {
    **{"kl forward": [THREE], "kl": [THREE]},
    **{"skewed forward": [THREE, THREE], "skewed": [THREE, THREE]},
    **{"logprobs forward": [THREE], "logprobs": [THREE]},
    **{"linear kl forward": [THREE], "linear kl": [THREE, 8 * TOKENS * HIDDEN, 8 * TOKENS * REF_HIDDEN]},
}
"""Of each rank forward, and in all: backward only the gradients to the hidden states, which all ranks share."""
