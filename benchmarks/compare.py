"""What the main job costs, and how much each estimator gains on the built-in pair."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

import kullback as kb


def table(runs: int = 5) -> str:
    """Wall time and peak memory of ``kullback compare``, and standard errors as ratios to k1's, as Markdown."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kullback", "compare", "--json"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = [
        f"`kullback compare`: median {statistics.median(seconds):.1f} s of {runs} runs "
        f"({min(seconds):.1f} to {max(seconds):.1f} s), peak memory {peak:.0f} MB.",
        "",
        "| estimator | nats/sequence | standard error / k1's | nats/token | standard error / k1's |",
        "|---|---:|---:|---:|---:|",
    ]
    found = kb.compare()
    first = found.rows[0]
    for row in found.rows:
        a, b = row.per_sequence, row.per_token
        lines.append(
            f"| {a.estimator} ({a.level}) | {a.value:.3f} | {a.stderr / first.per_sequence.stderr:.3f} "
            f"| {b.value:.4f} | {b.stderr / first.per_token.stderr:.3f} |"
        )
    return "\n".join(lines)
