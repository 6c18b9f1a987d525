"""Full-vocabulary functions on a GPU beside what else computes them there: correctness, time, peak memory and error.

``python -m benchmarks.gpu --json FILE`` first runs ``pytest -m gpu`` (every kernel against float64), then measures
every part, the most telling first; nothing else may use the GPU meanwhile. Rows are printed and written as they
come, and ``--budget SECONDS`` starts nothing after that time, so a short loan of a machine loses nothing. Times are
medians of CUDA events; memory is ``torch.cuda.max_memory_allocated`` beyond the inputs, gradients included; errors are
those of the first 64 tokens against float64. ``--device cpu`` runs the same at tiny shapes, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_parts
from benchmarks.gpu_parts import PARTS, Part
from benchmarks.measure import MB
from benchmarks.vocab_cases import Work
from benchmarks.vocab_peers import Inputs
from kullback.vocab import heads

KNOBS: dict[str, tuple[int, ...]] = {"BLOCK": (1024, 2048, 4096), "WARPS": (2, 4, 8)}
"""Names in ``kullback.vocab.triton_kernels`` that are tried."""
WORKSPACES = (1 << 29, 1 << 30, 1 << 31, 1 << 32)
ROWS = (8192,)
TEST_SECONDS = 150


@dataclass(frozen=True)
class Row:
    """What one contender of one part has cost; a failure in words instead of numbers.

    Attributes:
        part, name: of what.
        ms, fastest, slowest: of its runs, forward and backward.
        peak_mb: beyond the inputs, with the gradients.
        of_floor: time over the floor.
        worst, mean: relative error of the worst token, and of the mean over tokens; or in nats, as the part says.
        gradient: relative error, of the norm, of the gradient to the first leaf.
        note: why there are no numbers, or what else to know.
    """

    part: str
    name: str
    ms: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    peak_mb: float | None = None
    of_floor: float | None = None
    worst: float | None = None
    mean: float | None = None
    gradient: float | None = None
    note: str = ""

    def __str__(self) -> str:
        numbers = (
            self.ms,
            self.fastest,
            self.slowest,
            self.peak_mb,
            self.of_floor,
            self.worst,
            self.mean,
            self.gradient,
        )
        cells = ("" if x is None else f"{x:.4g}" for x in numbers)
        return f"| {self.name} | {' | '.join(cells)} | {self.note} |"


HEADER = (
    "| | ms | fastest | slowest | peak, MB | × floor | worst token | mean | gradient | |\n|---|" + "---:|" * 8 + "---|"
)


@dataclass
class Log:
    """Rows as they come: printed, and written to a file after each.

    Attributes:
        device, runs: what is measured on, and how often.
        stop: time after which nothing is started.
        path: of the JSON, or None.
        facts: of the machine.
        rows: so far.
    """

    device: torch.device
    runs: int
    stop: float
    path: Path | None
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def late(self) -> bool:
        """Whether nothing more is to be started."""
        return time.monotonic() > self.stop

    def add(self, row: Row) -> None:
        """Print a row and write all."""
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        """All there is, to the file."""
        if self.path is not None:
            self.path.write_text(json.dumps({"facts": self.facts, "rows": [asdict(r) for r in self.rows]}, indent=1))


# --- measuring


def seconds_and_peak(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Of one run."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start, 0.0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start_event, stop_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start_event.record()
    held = work()
    stop_event.record()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del held
    return start_event.elapsed_time(stop_event) / 1e3, float(peak)


def measured(work: Callable[[], Any], log: Log) -> dict[str, Any]:
    """Times and memory of the runs of a work that has been warmed up."""
    found = [seconds_and_peak(work, log.device) for _ in range(log.runs)]
    ms = [1e3 * s for s, _ in found]
    return {
        "ms": statistics.median(ms),
        "fastest": min(ms),
        "slowest": max(ms),
        "peak_mb": max(peak for _, peak in found) / MB,
    }


@contextmanager
def forgetting() -> Iterator[None]:
    """What it leaves in memory is given back."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def failure(error: BaseException) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def contender(part: Part, name: str, work: Work, inputs: Inputs, truth: gpu_parts.Truth, log: Log) -> Row:
    """One row: a warm-up, which is checked, then the runs."""
    if log.late:
        return Row(part.name, name, note="not started: the time is up")
    with forgetting():
        try:
            grads, values = work(inputs)
            errors = part.errors(grads, values, truth)
            del grads, values
            costs = measured(partial(work, inputs), log)
        except Exception as error:
            return Row(part.name, name, note=failure(error))
        return Row(part.name, name, **(costs | errors), of_floor=costs["ms"] / (1e3 * part.floor(log.facts)))


def run_part(part: Part, log: Log) -> None:
    """All contenders of one part."""
    shape = part.shape if log.device.type == "cuda" else part.shape.small()
    part = part.sized(shape)
    print(f"\n### {part.title}: {shape}\n\nFloor: {part.counts}. Errors {part.unit}.\n\n{HEADER}", flush=True)
    with forgetting():
        torch.manual_seed(0)
        with log.device:
            inputs = part.make(shape)
        truth = part.truth(inputs)
        for name, work in part.works.items():
            if log.device.type == "cuda" or "triton" not in name:
                log.add(contender(part, name, work, inputs, truth, log))
        del inputs, truth


# --- the machine


def roofs(log: Log) -> None:
    """What the device does at best: bandwidth, and products with each kind of factor and result."""
    cuda = log.device.type == "cuda"
    log.facts.update(device=torch.cuda.get_device_name() if cuda else "cpu", torch=torch.__version__)
    x = torch.ones(1 << (28 if cuda else 20), device=log.device)
    y = torch.empty_like(x)
    log.facts["bandwidth"] = max(2 * x.nbytes / best(lambda: y.copy_(x), log), x.nbytes / best(lambda: x.sum(), log))
    tokens, words, hidden = (8192, 16384, 4096) if cuda else (64, 256, 32)
    h, w, g = (
        torch.randn(*size, device=log.device, dtype=torch.bfloat16)
        for size in ((tokens, hidden), (words, hidden), (tokens, words))
    )
    flops = 2.0 * tokens * words * hidden
    works: dict[str, Callable[[], Any]] = {
        "logits": lambda: h @ w.T,
        "to_hidden": lambda: g @ w,
        "to_weight": lambda: g.T @ h,
        "logits_float32_out": lambda: torch.mm(h, w.T, out_dtype=torch.float32),
        "to_weight_added_float32": partial(_added, torch.zeros(words, hidden, device=log.device), g.T, h),
        "float32_factors": lambda: h.float() @ w.float().T,
    }
    for name, work in works.items():
        try:
            log.facts[f"flops_{name}"] = flops / best(work, log)
        except Exception as error:
            log.facts[f"flops_{name}"] = failure(error)
    print(json.dumps(log.facts, indent=1), flush=True)
    log.write()


def _added(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


def best(work: Callable[[], Any], log: Log) -> float:
    """Seconds of the fastest of several runs."""
    return min(seconds_and_peak(work, log.device)[0] for _ in range(8))


def tests(log: Log) -> None:
    """``pytest -m gpu``: correctness first."""
    files = "tests/test_vocab_gpu.py", "tests/test_vocab_triton.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--noconftest",
        "-m",
        "gpu",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    plugins = [part for name in ("benchmark", "xdist", "randomly") for part in ("-p", f"no:{name}")]
    try:
        done = subprocess.run([*command, *plugins], capture_output=True, text=True, timeout=TEST_SECONDS)
        told = done.stdout[-9000:] + done.stderr[-2000:]
    except subprocess.TimeoutExpired as error:
        told = f"more than {TEST_SECONDS} s: {str(error.stdout)[-3000:]}"
    log.facts["tests"] = told
    print(told, flush=True)
    log.write()


# --- tuning


def sweeps(log: Log) -> None:
    """Sizes of tiles, then workspaces and rows of blocks."""
    print(f"\n### Sizes\n\n{HEADER}", flush=True)
    with forgetting():
        tiles(log)
    with forgetting():
        blocks(log)


def tiles(log: Log) -> None:
    """The KL from logits at every size of Triton's tiles."""
    from kullback.vocab import triton_kernels as kernels

    part = PARTS["kl"]
    with log.device:
        inputs = part.make(part.shape)
    before = {name: getattr(kernels, name) for name in KNOBS}
    for values in product(*KNOBS.values()):
        setting = dict(zip(KNOBS, values, strict=True))
        for name, value in setting.items():
            setattr(kernels, name, value)
        sized("tiles", str(setting), part.works["kullback, triton"], inputs, log)
    for name, value in before.items():
        setattr(kernels, name, value)


def blocks(log: Log) -> None:
    """Both forms from hidden states at several workspaces and rows of a block."""
    part = PARTS["one_head"]
    with log.device:
        inputs = part.make(part.shape)
    before = heads.BLOCK_ROWS_ELSEWHERE
    for workspace in WORKSPACES:
        sized("blocks", f"weights known, {workspace >> 20} MiB", gpu_parts.known(workspace=workspace), inputs, log)
        for rows in ROWS:
            heads.BLOCK_ROWS_ELSEWHERE = rows
            text = f"any upstream, {workspace >> 20} MiB, {rows} rows"
            sized("blocks", text, gpu_parts.any_upstream(workspace=workspace), inputs, log)
    heads.BLOCK_ROWS_ELSEWHERE = before


def sized(part: str, name: str, work: Work, inputs: Inputs, log: Log) -> None:
    """One row without errors."""
    if log.late:
        return
    with forgetting():
        try:
            work(inputs)
            log.add(Row(part, name, **measured(partial(work, inputs), log)))
        except Exception as error:
            log.add(Row(part, name, note=failure(error)))


# --- all of it


def guarded(name: str, part: Callable[[], None], log: Log) -> None:
    """A part whose failure is a row."""
    if log.late:
        log.add(Row(name, "", note="not started: the time is up"))
        return
    started = time.monotonic()
    try:
        part()
    except Exception as error:
        log.add(Row(name, "", note=failure(error)))
    log.facts.setdefault("seconds", {})[name] = round(time.monotonic() - started, 1)
    log.write()


def everything(log: Log) -> Mapping[str, Callable[[], None]]:
    """Every part by its name, in order."""
    parts: dict[str, Callable[[], None]] = {"roofs": partial(roofs, log)}
    if log.device.type == "cuda":
        parts["tests"] = partial(tests, log)
    parts |= {name: partial(run_part, part, log) for name, part in PARTS.items()}
    if log.device.type == "cuda":
        parts["sweeps"] = partial(sweeps, log)
    return parts


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every part that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", help="roofs, tests, sweeps, " + ", ".join(PARTS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--budget", type=float, default=270.0, help="seconds after which nothing is started")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device is here: run this on a machine with one, or see that it runs with --device cpu.")
        sys.exit(2)
    runs = asked.runs if asked.device == "cuda" else 1
    log = Log(torch.device(asked.device), runs, time.monotonic() + asked.budget, asked.json)
    parts = everything(log)
    if unknown := set(asked.parts) - set(parts):
        parser.error(f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(parts)}")
    for name in asked.parts or parts:
        if name != "roofs" and "bandwidth" not in log.facts:
            guarded("roofs", parts["roofs"], log)
        guarded(name, parts[name], log)


if __name__ == "__main__":
    main()
