"""On a GPU: what an odd number of words costs, and what each of the ways around it saves; the head's options.

``python -m benchmarks.gpu_odd`` prints single products at even and odd sizes with and without aligned rows, the two
forms from hidden states with each way switched off, and the weighted form at several workspaces. Medians of CUDA
events, forward and backward, milliseconds; peak memory beyond the inputs with the gradients, MB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import gpu, gpu_parts
from benchmarks.gpu import forgetting
from benchmarks.measure import MB
from benchmarks.vocab_cases import Work
from benchmarks.vocab_peers import Inputs, Shape
from kullback.vocab import heads, products, triton_kernels, weighted_ops
from kullback.vocab.formulas import divergence_of

RUNS = 5
TOKENS, ODD, EVEN, WORDS, HIDDEN = 8192, 50257, 50304, 131072, 4096
DEVICE = torch.device("cuda")


def row(name: str, work: Callable[[], Any]) -> None:
    """Print one."""
    with forgetting():
        try:
            work()
            found = [gpu.seconds_and_peak(work, DEVICE) for _ in range(RUNS)]
        except Exception as error:
            print(f"| {name} | {gpu.failure(error)} | |", flush=True)
            return
        ms, peak = statistics.median(s for s, _ in found) * 1e3, max(p for _, p in found) / MB
        print(f"| {name} | {ms:.2f} | {peak:.0f} |", flush=True)


def single_products() -> None:
    """Each of a step's products alone, at sizes and row spacings of several kinds."""
    h = torch.randn(TOKENS, HIDDEN, device=DEVICE, dtype=torch.bfloat16)
    for words, spacing in ((EVEN, EVEN), (ODD, ODD), (ODD, 50264), (ODD, 50304), (50256, 50304)):
        w = torch.randn(words, HIDDEN, device=DEVICE, dtype=torch.bfloat16)
        out = torch.empty(TOKENS, spacing, device=DEVICE)[:, :words]
        g = torch.randn(TOKENS, spacing, device=DEVICE, dtype=torch.bfloat16)[:, :words]
        of = f"{words} words, rows {spacing} apart"
        row(f"logits, {of}", partial(torch.mm, h, w.T, out_dtype=torch.float32, out=out))
        row(f"to hidden, {of}", partial(torch.mm, g, w))
        row(f"to weight, {of}", partial(torch.mm, g.T, h))
        row(f"logits in parts, {of}", partial(products.in_parts, h, w.T, out, add=False))
        del w, out, g


@contextmanager
def without(*ways: str) -> Iterator[None]:
    """Ways around an odd number of words switched off."""
    patches: dict[str, Any] = {
        "parts": mock.patch.object(products, "_parts", lambda size: [slice(0, size)]),
        "held": mock.patch.object(weighted_ops, "worth_holding", return_value=False),
    }
    with ExitStack() as stack:
        for name in ways:
            stack.enter_context(patches[name])
        yield


def inputs(words: int) -> Inputs:
    torch.manual_seed(0)
    with DEVICE:
        return gpu_parts.shared(Shape(TOKENS, words, torch.bfloat16, hidden=HIDDEN, noise=0.03))


def forms(words: int) -> None:
    """Both forms, with each way off, and the plain formula."""
    x = inputs(words)
    known, upstream = gpu_parts.known(), gpu_parts.any_upstream()
    for off in ((), ("parts",), ("held",), ("parts", "held")):
        with without(*off):
            label = f"without {' and '.join(off)}" if off else "all"
            row(f"weights known, {words} words, {label}", partial(known, x))
            if "held" not in off or len(off) > 1:
                row(f"any upstream, {words} words, {label}", partial(upstream, x))
    row(f"naive, {words} words", partial(gpu_parts.HEAD_PEERS["naive"], x))


def workspaces() -> None:
    """The even vocabulary at several workspaces, gradients held or added up."""
    x = inputs(WORDS)
    for off in ((), ("held",)):
        for size in (1 << 28, 1 << 29, 1 << 30, 1 << 31, 1 << 32):
            work: Work = gpu_parts.known(workspace=size)
            with without(*off):
                label = "added up" if off else "held"
                row(f"weights known, {WORDS} words, {size >> 20} MiB, {label}", partial(work, x))
    row("weights known, default", partial(gpu_parts.known(), x))
    for size in (1 << 29, 1 << 30):
        upstream = gpu_parts.any_upstream(workspace=size)
        row(f"any upstream, {WORDS} words, {size >> 20} MiB", partial(upstream, x))


def head_peers() -> None:
    """What else computes the even vocabulary; their compilers take their time."""
    x = inputs(WORDS)
    for name, peer in gpu_parts.HEAD_PEERS.items():
        row(f"{name}, {WORDS} words", partial(peer, x))


def from_logits() -> None:
    """The KL from logits at an even and an odd number of words, and at odd ones in spaced rows."""
    for words, spacing in ((EVEN, EVEN), (ODD, ODD), (ODD, EVEN)):
        for dtype in (torch.bfloat16, torch.float32):
            q, p = (torch.randn(TOKENS, spacing, device=DEVICE).to(dtype)[:, :words] for _ in range(2))
            text = f"{words} words, rows {spacing} apart, {str(dtype)[6:]}"
            row(f"statistics, {text}", partial(triton_kernels.pair_statistics, q, p, 1.0))
            row(f"gradient, {text}", partial(gradient, q, p))
            del q, p


def gradient(q: Tensor, p: Tensor) -> None:
    saved = torch.zeros(len(q), 5, device=DEVICE, dtype=torch.float64)
    out = products.aligned(torch.empty, len(q), q.shape[1], q.dtype, q.device)
    triton_kernels.pair_gradients(
        q,
        p,
        saved,
        torch.ones(len(q), device=DEVICE),
        divergence=divergence_of("kl", 1.0),
        temperature=1.0,
        outs=(out, None),
    )


def main() -> None:
    """Print every part, and start none after the budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_odd", description=__doc__)
    parser.add_argument("--budget", type=float, default=90.0, help="seconds after which no part is started")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "No CUDA device is here: run this on a machine with one.\n")
    stop = time.monotonic() + asked.budget
    name: str = torch.cuda.get_device_name()
    print(f"{name}, default workspace {heads.default_workspace(DEVICE) >> 20} MiB")
    parts: dict[str, Callable[[], None]] = {
        "forms": partial(forms, ODD),
        "products": single_products,
        "workspaces": workspaces,
        "logits": from_logits,
        "peers": head_peers,
        "even": partial(forms, EVEN),
    }
    for title, part in parts.items():
        if time.monotonic() > stop:
            print(f"{title}: not started, the time is up")
            continue
        print(f"\n### {title}\n\n| | ms | peak, MB |\n|---|---:|---:|", flush=True)
        part()


if __name__ == "__main__":
    main()
