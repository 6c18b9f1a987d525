"""Run in a mount namespace of its own: comparisons on disks that fill; prints what came of each as a line of JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import kullback as kb
from kullback import cli

LINE = ["compare", "--samples", "8", "--max-new-tokens", "4", "--batch-size", "16"]


def run(output: Path) -> tuple[int, str, str]:
    sys.argv = ["kullback", *LINE, "--output", str(output)]
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
    return int(str(status or 0)), out.getvalue(), err.getvalue()


def _held(path: Path) -> list[list[float]] | str:
    try:
        return [rollout.logprobs.tolist() for rollout in kb.read_rollouts(path)]
    except kb.errors.FileError as error:
        return str(error)


def main(disk: Path, sizes: list[int]) -> None:
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(disk)], check=True)
        try:
            status, out, err = run(disk / "results")
            files = sorted(file.name for file in (disk / "results").iterdir())
            (name,) = [name for name in files if name.startswith("rollouts")] or [""]
            held = _held(disk / "results" / name) if name else []
            print(json.dumps({"size": size, "status": status, "out": out, "err": err, "files": files, "held": held}))
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
