"""What sentences show of values that came, and what they say of packages that are not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kullback as kb
from kullback.errors import KullbackError, install_line, remedy, shown

LONG = {"text": "x" * 9000, "integer": 10**5000, "list": list(range(9000)), "object": type("T" * 300, (), {})()}
ROW = [[-1.0]]
CALLS: dict[str, Callable[[object], object]] = {
    "a log-prob": lambda x: kb.estimate([[x]], ROW, estimator=kb.K3),
    "an estimator": lambda x: kb.estimate(ROW, ROW, estimator=x),
    "a level": lambda x: kb.estimate(ROW, ROW, estimator=kb.K3, level=x),
    "a mask": lambda x: kb.estimate(ROW, ROW, mask=[[x]], estimator=kb.K3),
    "a truncation": lambda x: kb.estimate(ROW, ROW, behavior_logprobs=ROW, truncate=x, estimator=kb.K3),
    "a seed": lambda x: kb.compare(seed=x),
    "a number of samples": lambda x: kb.compare(samples=x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", ["text", "integer", "list", "object"])
def test_a_value_of_any_length_leaves_a_sentence(call: Callable[[object], object], kind: str) -> None:
    with pytest.raises(KullbackError) as found:
        call(LONG[kind])
    assert len(str(found.value)) < 900


def test_what_is_short_is_shown_whole() -> None:
    assert [shown(value) for value in ("k1", -3, 0.1, None, [1, 2])] == ["'k1'", "-3", "0.1", "None", "[1, 2]"]


def test_the_command_that_brings_a_package() -> None:
    assert remedy(ModuleNotFoundError(name="jax.numpy")) in ("", install_line("jax"))  # "" where it is there
    assert remedy(ModuleNotFoundError(name="no_such_package")) == ""
    assert remedy(ModuleNotFoundError(name="numpy.nothing")) == ""  # NumPy is there
    assert remedy(ValueError("odd")) == ""


@pytest.mark.parametrize(
    "code",
    [
        "import jax.numpy as jnp\ndef kl(logprobs, ref_logprobs):\n    return jnp.exp(logprobs)\n",
        "def kl(logprobs, ref_logprobs):\n    import jax\n    return jax.numpy.exp(logprobs)\n",
    ],
)
def test_audited_code_that_lacks_a_package_says_what_brings_it(code: str, tmp_path: Path) -> None:
    (tmp_path / "loss.py").write_text(code)
    script = "import sys; sys.modules['jax'] = None\nfrom kullback import cli\ncli.main()"
    command = [sys.executable, "-c", script, "audit", f"{tmp_path / 'loss.py'}:kl"]
    done = subprocess.run(command, capture_output=True, text=True, env=None)
    assert done.returncode == 2
    assert f"{install_line('jax')} brings it" in " ".join(done.stdout.split())
