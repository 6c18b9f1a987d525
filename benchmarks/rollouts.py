"""Rollouts from a file to an estimate: what decoding alone costs, ours, Polars and DuckDB; and statistics in memory.

``python -m benchmarks rollouts [--tokens 50000000] [--statistics 100000000] [--runs 5]``. Every contender runs in a
process of its own, all in turn; peaks are beyond what was resident before. Polars and DuckDB come with the extra
`bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import MB, Contender, Measured, markdown, side_by_side

LENGTH = 500
"""Tokens of a sequence."""

GROUP = 4000
"""Sequences of a row group."""

SAMPLES = 4
"""Sequences of a prompt."""

WRITE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
path, tokens, length, group, samples = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
names = ["logprobs", "ref_logprobs", "prompt_id"]
kinds = [pa.list_(pa.float32()), pa.list_(pa.float32()), pa.int64()]
schema = pa.schema(list(zip(names, kinds)))
spread = dict(use_byte_stream_split=[f"{name}.list.element" for name in names[:2]])
with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, **spread) as writer:
    for start in range(0, tokens // length, group):
        rows = min(group, tokens // length - start)
        q = -rng.exponential(size=rows * length).astype(np.float32)
        p = np.minimum(q + 0.05 * rng.normal(size=q.size).astype(np.float32), 0)
        ends = pa.array(np.arange(0, q.size + 1, length), pa.int32())
        lists = [pa.ListArray.from_arrays(ends, pa.array(x)) for x in (q, p)]
        prompts = pa.array((start + np.arange(rows)) // samples)
        writer.write_table(pa.table([*lists, prompts], schema=schema))
"""
"""In a process of its own: Arrow's threads do not survive the forks that are measured."""


def written(folder: Path, tokens: int) -> Path:
    """A table of rollouts in Parquet, as `kb.write_rollouts` lays it out."""
    path = folder / f"{tokens}.parquet"
    numbers = [str(number) for number in (tokens, LENGTH, GROUP, SAMPLES)]
    subprocess.run([sys.executable, "-c", WRITE, str(path), *numbers], check=True)
    return path


# --- from a file


def decode(path: Path) -> tuple[Any, Any]:
    """Row group by row group, and nothing done with it."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        file.read_row_group(group, columns=["logprobs", "ref_logprobs"])
    return None, None


def ours(path: Path, *, groups: bool = False) -> tuple[Any, Any]:
    """The estimates of k1 and k3 with their errors, tails and influential rows."""
    import kullback as kb
    from kullback.rollouts import to_ragged

    accumulators = [kb.Accumulator(estimator=name) for name in ("k1", "k3")]
    names = ("logprobs", "ref_logprobs", *(("prompt_id",) if groups else ()))
    for columns in kb.read_rollouts(path).batches(names):
        kb.Accumulator.update_all(accumulators, to_ragged(columns))
    return None, [accumulator.result().value for accumulator in accumulators]


def estimated(path: Path) -> tuple[Any, Any]:
    """What `kullback estimate` does: both directions, χ², both units, prompts, influential rows with their text."""
    import kullback as kb

    found = kb.estimate_files(path)
    assert isinstance(found, kb.FilesEstimate)
    (k3,) = (
        answer.estimates["sequence"].value for answer in found.answers if answer.question.name == "policy_reference"
    )
    return None, [nan, k3]


def polars(path: Path) -> tuple[Any, Any]:
    """Sums a sequence of k1 and k3, and their mean and deviation, by its streaming engine."""
    import polars as pl

    ratio = pl.col("logprobs") - pl.col("ref_logprobs")
    tokens = pl.scan_parquet(path).select("logprobs", "ref_logprobs").with_row_index()
    sums = (
        tokens.explode("logprobs", "ref_logprobs")
        .group_by("index")
        .agg(k1=ratio.cast(pl.Float64).sum(), k3=((-ratio).cast(pl.Float64).exp() - 1 + ratio).sum())
    )
    found = sums.select(pl.col("k1").mean(), pl.col("k3").mean(), sd=pl.col("k1").std(), other=pl.col("k3").std())
    row = found.collect(engine="streaming").row(0)
    return None, list(row[:2])


def duckdb(path: Path) -> tuple[Any, Any]:
    """The same in SQL."""
    import duckdb as db

    ratio = "(q - p)::double"
    found = (
        db.connect()
        .execute(
            f"select avg(k1), avg(k3), stddev(k1), stddev(k3) from (select sum({ratio}) k1, "
            f"sum(exp(-{ratio}) - 1 + {ratio}) k3 from "
            "(select file_row_number, unnest(logprobs) q, unnest(ref_logprobs) p "
            f"from read_parquet('{path}', file_row_number = true)) group by file_row_number)"
        )
        .fetchall()
    )
    return None, list(found[0][:2])


# --- in memory


def plain(q: np.ndarray, p: np.ndarray, starts: np.ndarray, kind: type) -> tuple[Any, Any]:
    """What everybody writes: whole arrays."""
    ratio: np.ndarray = q.astype(kind) - p.astype(kind)
    r = np.exp(-ratio)
    parts = [ratio, 0.5 * ratio**2, r - 1 + ratio]
    sums = [np.add.reduceat(part, starts, dtype=np.float64) for part in parts]
    weights = float(r.sum(dtype=np.float64)), float((r**2).sum(dtype=np.float64))
    return None, [float(sums[0].mean()), float(sums[2].mean()), *weights]


def accumulated(q: np.ndarray, p: np.ndarray, offsets: np.ndarray) -> tuple[Any, Any]:
    """k1, k2 and k3 with errors, tails, checks and influential rows, from one pass."""
    import kullback as kb
    from kullback.estimation import Ragged

    accumulators = [kb.Accumulator(estimator=name) for name in ("k1", "k2", "k3")]
    kb.Accumulator.update_all(accumulators, Ragged.of(q, p, offsets))
    found = [accumulator.result().value for accumulator in accumulators]
    return None, [found[0], found[2]]


def drawn(tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probs of two laws in float32, and where sequences begin."""
    rng = np.random.default_rng(0)
    q = -rng.exponential(size=tokens).astype(np.float32)
    p = np.minimum(q + np.float32(0.05) * rng.standard_normal(tokens, dtype=np.float32), 0)
    return q, p, np.arange(0, tokens + 1, LENGTH)


# --- tables


def rows_of(found: Mapping[str, Measured], base: str, tokens: int) -> list[list[str]]:
    """A row a contender, with its time against that of `base`."""
    rows = []
    for name, x in found.items():
        if not x.runs:
            rows.append([name, f"did not run: {x.failure}", "", "", "", ""])
            continue
        low, high = x.spread
        times = [f"{1e3 * x.seconds:.0f}" + (" ~" if x.disturbed else ""), f"{1e3 * low:.0f} – {1e3 * high:.0f}"]
        value = "–" if x.value is None else f"{x.value[0]:.6f}, {x.value[1]:.6f}"
        ratio = f"{x.seconds / found[base].seconds:.2f}"
        rows.append([name, *times, f"{1e9 * x.seconds / tokens:.1f}", ratio, f"{x.peak / MB:.0f}", value])
    return rows


COLUMNS = ("", "ms", "from – to", "ns a token", "× base", "peak, MB", "k1, k3")


def from_file(path: Path, tokens: int, runs: int) -> str:
    """Decoding alone, ours, Polars and DuckDB."""
    contenders: dict[str, Contender] = {
        "decode alone": lambda: decode(path),
        "kullback": lambda: ours(path),
        "kullback, by prompt": lambda: ours(path, groups=True),
        "kullback estimate": lambda: estimated(path),
        "polars": lambda: polars(path),
        "duckdb": lambda: duckdb(path),
    }
    found = side_by_side(contenders, runs)
    size = path.stat().st_size / MB
    return f"{tokens:,} tokens, {size:.0f} MB\n\n" + markdown(COLUMNS, rows_of(found, "decode alone", tokens))


def in_memory(tokens: int, runs: int) -> str:
    """Ours against whole arrays."""
    q, p, offsets = drawn(tokens)
    contenders: dict[str, Contender] = {
        "NumPy, float32": lambda: plain(q, p, offsets[:-1], np.float32),
        "NumPy, float64": lambda: plain(q, p, offsets[:-1], np.float64),
        "kullback": lambda: accumulated(q, p, offsets),
    }
    found = side_by_side(contenders, runs)
    return f"{tokens:,} tokens\n\n" + markdown(COLUMNS, rows_of(found, "kullback", tokens))


def growth(folder: Path, sizes: Sequence[int], runs: int) -> str:
    """Ours from files of several sizes."""
    paths = {tokens: written(folder, tokens) for tokens in sizes}

    def one(path: Path) -> Callable[[], tuple[Any, Any]]:
        return lambda: ours(path)

    found = side_by_side({f"{tokens:,} tokens": one(path) for tokens, path in paths.items()}, runs)
    rows = [
        [name, f"{1e3 * x.seconds:.0f}", f"{1e9 * x.seconds / tokens:.1f}", f"{x.peak / MB:.0f}"]
        for (name, x), tokens in zip(found.items(), sizes, strict=True)
    ]
    return markdown(("", "ms", "ns a token", "peak, MB"), rows)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=50_000_000, help="of the file")
    parser.add_argument("--statistics", type=int, default=100_000_000, help="tokens in memory")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), options.tokens)
        print(f"## From a file\n\n{from_file(path, options.tokens, options.runs)}\n", flush=True)
        sizes = [options.tokens // 50, options.tokens // 5, options.tokens]
        print(f"## Growth\n\n{growth(Path(folder), sizes, options.runs)}\n", flush=True)
    print(f"## In memory\n\n{in_memory(options.statistics, options.runs)}", flush=True)
