"""``python -m benchmarks [coverage|compare|gradients]``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import compare, coverage, gradients

TABLES: dict[str, Callable[[], str]] = {
    "coverage": coverage.table,
    "compare": compare.table,
    "gradients": gradients.table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(TABLES), choices=[*TABLES, []])
    for name in parser.parse_args().names:
        print(f"## {name}\n\n{TABLES[name]()}\n", flush=True)


if __name__ == "__main__":
    main()
