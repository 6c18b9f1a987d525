"""``python -m benchmarks [coverage|compare|gradients]``; ``vocab``, ``gpu``, ``monitor`` have options of their own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from benchmarks import compare, coverage, gradients

TABLES: dict[str, Callable[[], str]] = {
    "coverage": coverage.table,
    "compare": compare.table,
    "gradients": gradients.table,
}


def main() -> None:
    if sys.argv[1:2] in (["vocab"], ["gpu"], ["monitor"]):
        import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(TABLES), choices=[*TABLES, []])
    for name in parser.parse_args().names:
        print(f"## {name}\n\n{TABLES[name]()}\n", flush=True)


if __name__ == "__main__":
    main()
