"""False alarms and delays of the monitor's alarms, beside a rule of three sigmas and a CUSUM, on runs of steps.

A run's units (the mean k3 of a prompt's four answers) are drawn from pools made of tokens of known models: 32 prompts a
step, 64 tokens an answer. Without a fault a run is one pool; with one, step 50 begins another: every distance 1.5 times
as large, a sampler whose temperature differs, or one row in a hundred whose reference is read one token late.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import process_time

import numpy as np

from kullback import KLMonitor
from kullback.arrays import Float64
from kullback.monitoring.detectors import AboveBand, Change

RUN_LENGTH = 1000.0
PROMPTS, ANSWERS, TOKENS, WORDS = 32, 4, 64, 50
STEPS, CHANGE_AT, PATIENCE = 200, 50, 150
POOL = 4000

Detector = Callable[[Float64], bool]


@dataclass
class ThreeSigmas:
    """The step's mean is three standard deviations above that of the last 20 steps, as monitors do it today."""

    def __post_init__(self) -> None:
        self.past: list[float] = []

    def __call__(self, units: Float64) -> bool:
        """Whether the step raises the alarm."""
        value, past = float(units.mean()), np.array(self.past[-20:])
        self.past.append(value)
        return len(past) >= 5 and value > past.mean() + 3 * past.std()


@dataclass
class Cusum:
    """Σ(z − 1/2)₊ above 5, z by the first 20 steps: average run length 930 for normal means that are known."""

    def __post_init__(self) -> None:
        self.past: list[float] = []
        self.sum = 0.0

    def __call__(self, units: Float64) -> bool:
        """Whether the step raises the alarm."""
        self.past.append(float(units.mean()))
        if len(self.past) <= 20:
            return False
        first = np.array(self.past[:20])
        self.sum = max(0.0, self.sum + (self.past[-1] - first.mean()) / first.std(ddof=1) - 0.5)
        return self.sum > 5


def pools(seed: int = 0) -> Mapping[str, Float64]:
    """Units of each regime, nats a sequence."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(400, WORDS))
    other = logits + 0.15 * rng.normal(size=logits.shape)
    further = logits + 0.15 * np.sqrt(1.5) * rng.normal(size=logits.shape)
    rows = POOL * ANSWERS
    where = rng.integers(len(logits), size=(rows, TOKENS))
    cumulative = np.cumsum(_softmax(logits), axis=1)
    draws = (rng.random((rows, TOKENS, 1)) > cumulative[where]).sum(axis=2).clip(max=WORDS - 1)
    scale = rng.lognormal(-0.125, 0.5, size=POOL)  # prompts differ
    q, p, far = (_log_softmax(table)[where, draws] for table in (logits, other, further))
    hot = _log_softmax(logits / 1.1)[where, draws]
    late = p.copy()
    odd = rng.random(rows) < 0.01
    late[odd] = np.roll(p[odd], 1, axis=1)
    regimes = {"none": p, "KL × 1.5": far, "temperature 1.1 for 1": p + hot - q, "one row in 100 a token late": late}
    return {name: scale * _k3(q - ref).reshape(POOL, ANSWERS).mean(axis=1) for name, ref in regimes.items()}


def _softmax(logits: Float64) -> Float64:
    return np.exp(_log_softmax(logits))


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _k3(log_ratio: Float64) -> Float64:
    return np.asarray((np.expm1(-log_ratio) + log_ratio).sum(axis=-1))


def detectors(mean: float) -> Mapping[str, Callable[[], Detector]]:
    """By name; the band is 1.2 times the KL of a run without a fault."""
    return {
        "change (ours)": lambda: Change(RUN_LENGTH, PROMPTS).update,
        "band at 1.2 × KL (ours)": lambda: AboveBand(1.2 * mean, RUN_LENGTH).update,
        "three sigmas": ThreeSigmas,
        "CUSUM": Cusum,
    }


def one_run(seed: int, units: Mapping[str, Float64]) -> dict[str, dict[str, int]]:
    """For each detector: steps with a false alarm of a run of 200, and the delay of each fault, 150 where not found."""
    found: dict[str, dict[str, int]] = {}
    for name, made in detectors(float(units["none"].mean())).items():
        rng = np.random.default_rng([seed, 1])
        detector = made()
        found[name] = {"none": sum(detector(rng.choice(units["none"], PROMPTS)) for _ in range(STEPS))}
        for fault in list(units)[1:]:
            rng = np.random.default_rng([seed, 2])
            detector = made()
            for _ in range(CHANGE_AT):
                detector(rng.choice(units["none"], PROMPTS))
            steps = (step for step in range(PATIENCE) if detector(rng.choice(units[fault], PROMPTS)))
            found[name][fault] = next(steps, PATIENCE) + 1
    return found


def table(runs: int = 200, processes: int = 1) -> str:
    """Markdown: a row a detector."""
    units = pools()
    with ProcessPoolExecutor(processes) as pool:
        all_runs = list(pool.map(partial(one_run, units=units), range(runs), chunksize=8))
    faults = list(units)[1:]
    lines = [
        f"{runs} runs of {STEPS} steps, {PROMPTS} prompts × {ANSWERS} answers × {TOKENS} tokens a step; stated run "
        f"length {RUN_LENGTH:g} steps. Delay in steps, median (found within {PATIENCE}).",
        "",
        f"| alarm | false alarms in {RUN_LENGTH:g} steps | runs with one | {' | '.join(faults)} |",
        f"|---|---:|---:|{'---:|' * len(faults)}",
    ]
    for name in all_runs[0]:
        false = np.array([run[name]["none"] for run in all_runs])
        delays = [np.array([run[name][fault] for run in all_runs]) for fault in faults]
        cells = [f"{np.median(delay):.0f} ({np.mean(delay <= PATIENCE):.0%})" for delay in delays]
        rate = false.mean() / STEPS * RUN_LENGTH
        lines.append(f"| {name} | {rate:.2f} | {np.mean(false > 0):.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(steps: int = 200, rows: int = 64) -> str:
    """Markdown: milliseconds of processor time that a step of `kullback.KLMonitor` takes, its numbers included."""
    lines = [f"| {rows} rows, four a prompt | ms a step, median | 95% of steps below |", "|---|---:|---:|"]
    for tokens in (32, 128):
        for both in (False, True):
            rng, monitor, taken = np.random.default_rng(0), KLMonitor(limit=1.0), []
            for step in range(steps):
                p = -rng.exponential(size=(rows, tokens))
                q = np.minimum(p + 0.2 * rng.normal(size=p.shape), 0)
                engine = np.minimum(q + 0.01 * rng.normal(size=p.shape), 0) if both else None
                mask = np.arange(tokens) < rng.integers(1, tokens + 1, rows)[:, None]
                start = process_time()
                monitor.update(q, p, mask, behavior_logprobs=engine, groups=np.arange(rows) // 4, step=step)
                monitor.metrics()
                taken.append(1000 * (process_time() - start))
            name = f"{tokens} tokens, {'both readings' if both else 'one reading'}"
            lines.append(f"| {name} | {np.median(taken):.1f} | {np.quantile(taken, 0.95):.1f} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks monitor", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cost", action="store_true", help="what a step of the monitor costs, and nothing else")
    options = parser.parse_args(arguments)
    print(cost() if options.cost else table(options.runs, options.processes))
