"""Run by tests: a comparison with workers, again and again from where it was killed, and somebody who kills it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SCRIPT = """
import json, sys
import kullback as kb
options = json.loads(sys.argv[1])
kb.compare(prompts=["One day", "The small dog", "Grace", "A bird sang"], samples=50, max_new_tokens=4, batch_size=1,
           resume=True, **options)
"""
SHARDS = 200

SCORING = """
import json, sys
import kullback as kb
options = json.loads(sys.argv[1])
kb.score_files(policy="builtin:tuned", reference="builtin:base", overwrite_columns=True, resume=True, **options)
"""


def begun(options: str, script: str = SCRIPT) -> subprocess.Popen[bytes]:
    """The job in a process group of its own."""
    return subprocess.Popen([sys.executable, "-c", script, options], stdout=subprocess.DEVNULL, start_new_session=True)


def below(pid: int) -> list[int]:
    """The processes that a process started, and those that these started."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            said = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(said[1]) == pid and said[0] != "Z":
            found += [int(path.parent.name), *below(int(path.parent.name))]
    return found


def names(pid: int) -> str:
    """How a process was called."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def killed_to_the_end(
    options: str,
    shards: Path,
    kills: int,
    *,
    driver: float,
    victim: str,
    ray: float = 0.0,
    seed: int = 0,
    script: str = SCRIPT,
    batches: int = SHARDS,
) -> dict[str, int]:
    """Kill a job at random until so many kills are done, then let it come to its end; how many of each there were.

    Args:
        options: of the script, as JSON.
        shards: the job's folder of them.
        kills: in all.
        driver: share of kills that hit who hands out the work; `ray` those that hit a process of Ray itself.
        victim: what a worker's command line has in it.
        ray: see `driver`.
        seed: of the choice.
        script: what the job runs.
        batches: shards that there will be.
    """
    rng, counts = np.random.default_rng(seed), {"worker": 0, "driver": 0, "ray": 0, "lives": 1}
    job, before = begun(options, script), -1
    # As many shards between two kills, so that the kills are spread over the whole job.
    per_kill = batches / (kills + 1)
    while True:
        ended = job.poll()
        if ended == 0:
            return counts
        if ended is not None:
            assert ended < 0 or counts["ray"], f"the job ended with {ended}, and nobody killed it"
            job = begun(options, script)
            counts["lives"] += 1
        done = len(list(shards.glob("*.parquet")))
        made = counts["worker"] + counts["driver"] + counts["ray"]
        if made < kills and done > before and done >= per_kill * made:
            time.sleep(float(rng.uniform(0, 0.02)))
            what = _kill(job, rng, driver=driver, ray=ray, victim=victim)
            if what:
                counts[what] += 1
                before = done if what == "worker" else before
        time.sleep(0.005)


def _kill(job: subprocess.Popen[bytes], rng: np.random.Generator, *, driver: float, ray: float, victim: str) -> str:
    chance = rng.random()
    if chance < driver:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        return "driver"
    there = below(job.pid)
    if chance < driver + ray:
        found = [pid for pid in there if "raylet/raylet" in names(pid)]
    else:
        found = [pid for pid in there if victim in names(pid)]
    if not found:
        return ""
    os.kill(int(rng.choice(found)), signal.SIGKILL)
    return "ray" if chance < driver + ray else "worker"
