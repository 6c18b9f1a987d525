"""``python -m benchmarks [coverage|fits|compare|scoring|gradients]``, or one of those with options of their own."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.sections import sections, with_sections

NAMES = ("coverage", "fits", "compare", "scoring", "gradients")
ALONE = (
    "vocab",
    "gpu",
    "rollouts",
    "monitor",
    "trl",
    "controllers",
    "controls",
    "critics",
    "engines",
    "frontier",
    "stopping",
)
"""With options of their own."""


def main() -> None:
    if sys.argv[1:2] in [[name] for name in ALONE]:
        import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
        return
    given = _parser().parse_args()
    into = Path(given.into) if given.into else None
    if given.out_of:
        found = sections(Path(given.out_of).read_text(encoding="utf-8"))
    else:
        found = {}
        for name in given.names or NAMES:
            found[name] = _table(name, given)
            print(f"## {name}\n\n{found[name]}\n", flush=True)
    if into is not None:
        before = into.read_text(encoding="utf-8") if into.exists() else ""
        into.write_text(with_sections(before, found), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--processes", type=int, default=1, help="of coverage and fits; the numbers stay the same")
    parser.add_argument("--replications", type=int, default=2000, help="of coverage; designs have half as many")
    parser.add_argument("--into", metavar="FILE", help="Markdown whose sections of these names are replaced, or made")
    parser.add_argument("--out-of", metavar="FILE", help="run nothing, and take the sections of what --into wrote")
    return parser


def _table(name: str, given: argparse.Namespace) -> str:
    # Imported when asked for: coverage and fits need NumPy and SciPy, the others torch.
    table = import_module(f"benchmarks.{name}").table
    if given.processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if name == "coverage":
        return str(table(given.replications, processes=given.processes))
    return str(table(processes=given.processes) if name == "fits" else table())


if __name__ == "__main__":
    main()
