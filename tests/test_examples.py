"""The worked runs go through, and end with their picture."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_hand_written_loop(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "reinforce.py"), "--batches", "6", "--output", str(tmp_path / "x.svg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    runs = re.findall(r"reward (\S+) to (\S+), KL \S+, exact \S+ nats .* in (\d) of (\d) intervals", done.stdout)
    assert len(runs) == 2
    for first, last, inside, known in runs:
        assert float(last) > float(first)
        assert inside == known == "2"
    assert "<svg" in (tmp_path / "x.svg").read_text()


def test_the_hand_written_loop_is_short() -> None:
    assert len((EXAMPLES / "reinforce.py").read_text().splitlines()) <= 150
