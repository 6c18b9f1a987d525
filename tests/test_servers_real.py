"""Real servers on loopback, in environments of their own: `make test-servers`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
from llama_gguf import write_gguf

import kullback as kb
from kullback.errors import ModelError
from kullback.models import BUILTIN_PROMPTS, Sampling, connect, load, score
from kullback.models.servers.model import ServerDistribution

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[1]
VLLM = Path(os.environ.get("KULLBACK_VLLM", ROOT / ".venv-vllm" / "bin" / "python"))
LLAMA = Path(os.environ.get("KULLBACK_LLAMA", ROOT / ".venv-llama" / "bin" / "python"))
LLAMA_CPP_PYTHON = Path(os.environ.get("KULLBACK_LLAMA_CPP_PYTHON", "/nowhere"))
PAIR = BUILTIN_PROMPTS.parent

QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def started(command: list[str], log: Path) -> Iterator[str]:
    """The URL of a server that a command starts, once it answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **QUIET},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                if httpx2.get(f"{url}/models").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tuned model of the built-in pair behind vLLM, with whole distributions."""
    if not VLLM.exists():
        pytest.skip("make test-servers installs vLLM")
    command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(PAIR / "tuned")]
    options = ["--served-model-name", "tuned", "--dtype", "float32", "--enforce-eager", "--max-logprobs", "-1"]
    with started([*command, *options], tmp_path_factory.mktemp("vllm") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same model behind llama.cpp's server, in float32 throughout."""
    if not LLAMA.exists():
        pytest.skip("make test-servers installs llama.cpp")
    folder = tmp_path_factory.mktemp("llama")
    write_gguf(PAIR / "tuned", folder / "tuned.gguf")
    command = [str(LLAMA), str(ROOT / "tests" / "llama_server.py"), "--model", str(folder / "tuned.gguf")]
    with started(command, folder / "log") as url:
        yield url


def test_llama_cpp_python_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Its server takes texts alone. Compiling it takes ten minutes: `make test-servers` does not."""
    if not LLAMA_CPP_PYTHON.exists():
        pytest.skip("KULLBACK_LLAMA_CPP_PYTHON=… names a python that has llama-cpp-python[server]")
    write_gguf(PAIR / "tuned", tmp_path / "tuned.gguf")
    command = [str(LLAMA_CPP_PYTHON), "-m", "llama_cpp.server", "--model", str(tmp_path / "tuned.gguf")]
    with (
        started([*command, "--logits_all", "true"], tmp_path / "log") as url,
        pytest.raises(ModelError, match="takes prompts as texts alone"),
    ):
        connect(url)


def sequences(found: kb.Comparison) -> tuple[list[list[int]], list[list[int]]]:
    return [list(r.prompt_tokens or ()) for r in found.rollouts], [list(r.tokens or ()) for r in found.rollouts]


def test_the_kl_through_vllm_is_the_local_one(vllm: str) -> None:
    found = kb.compare(vllm, "builtin:base", samples=2, max_new_tokens=48)
    assert found.settings["server_gives"] == "whole distributions"
    assert any(one.finish == "end" for one in found.rollouts)
    prompts, completions = sequences(found)
    here = score(load("builtin:tuned"), load("builtin:base"), prompts, completions)
    apart = [np.subtract(a.token_kl, b.token_kl) for a, b in zip(here, found.rollouts, strict=True)]  # type: ignore[arg-type]
    print("token KL through vLLM and here, largest difference:", max(np.abs(one).max() for one in apart))
    assert max(np.abs(one).max() for one in apart) < 1e-4


def test_the_end_token_of_vllm_has_its_log_prob(vllm: str) -> None:
    model = connect(vllm)
    assert model.end_tokens == load("builtin:tuned").end_tokens
    found = kb.compare(vllm, "builtin:base", samples=1, max_new_tokens=120)
    ended = [one for one in found.rollouts if one.finish == "end"]
    assert ended
    assert all(one.tokens is not None and one.tokens[-1] in model.end_tokens for one in ended)


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(top_p=0.9)])
def test_other_laws_through_vllm_are_the_local_ones(vllm: str, sampling: Sampling) -> None:
    found = kb.compare(
        vllm, "builtin:base", samples=1, max_new_tokens=12, temperature=sampling.temperature, top_p=sampling.top_p
    )
    here = load("builtin:tuned").logprobs(*sequences(found), sampling, drawn=True)
    assert max(np.abs(np.subtract(a, b.logprobs)).max() for a, b in zip(here, found.rollouts, strict=True)) < 1e-3  # type: ignore[arg-type]


def test_a_bracket_through_vllm_contains_the_kl(vllm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kullback.models.servers.probing.WORDS", (20, 5))
    found = kb.compare(vllm, "builtin:base", samples=4, max_new_tokens=24)
    bracket = found.brackets["policy"]
    here = score(load("builtin:tuned"), load("builtin:base"), *sequences(found))
    exact = float(np.mean([one.column("token_kl").sum() for one in here]))
    assert bracket.upper is not None
    print("at least, exact, at most:", bracket.lower.value, exact, bracket.upper.value)
    assert bracket.lower.value <= exact <= bracket.upper.value
    assert abs(bracket.estimate.value - exact) < 4 * bracket.estimate.stderr


def test_vllm_draws_for_a_local_pair_and_the_mismatch_is_found(vllm: str) -> None:
    found = kb.compare("builtin:tuned", "builtin:base", samples=4, max_new_tokens=24, sampler=vllm)
    log_ratio = np.concatenate([np.subtract(r.behavior_logprobs, r.logprobs) for r in found.rollouts])  # type: ignore[arg-type]
    assert 0 < np.abs(log_ratio).max() < 1e-3


ENGINE = """
import json, sys
import kullback as kb
if __name__ == "__main__":
    pair = "builtin:tuned", "builtin:base"
    found = kb.compare(*pair, samples=4, max_new_tokens=16, sampler="vllm", dtype="float32")
    said = {**found.to_dict()["mismatch"], "ended": sum(one.finish == "end" for one in found.rollouts)}
    json.dump(said, open(sys.argv[1], "w"))
"""


def test_vllm_as_an_engine_samples_and_its_mismatch_is_reported(tmp_path: Path) -> None:
    if not VLLM.exists():
        pytest.skip("make test-servers installs vLLM")
    (tmp_path / "run.py").write_text(ENGINE)
    command = [str(VLLM), str(tmp_path / "run.py"), str(tmp_path / "said.json")]
    path = {"PYTHONPATH": str(ROOT / "src"), **QUIET}
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    print("KL(vLLM‖policy) of float32 weights:", said["kl"]["value"], "ESS", said["ess"])
    assert abs(said["kl"]["value"]) < 1e-6
    assert said["ess"] > 0.999 * said["sequences"]


def test_the_page_on_servers_runs(vllm: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "servers.md").read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code.replace("http://127.0.0.1:8000/v1", vllm), {})
        assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\) +# (.*)", code)


def test_vllm_is_a_model_with_whole_distributions(vllm: str) -> None:
    model = connect(vllm)
    assert isinstance(model, ServerDistribution)
    assert (model.vocab, model.context, model.capabilities.law) == (512, 256, "raw")


def test_the_kl_through_llama_cpp_is_the_local_one(llama: str) -> None:
    found = kb.compare(llama, "builtin:base", samples=2, max_new_tokens=48)
    assert found.settings["server_gives"] == "whole distributions"
    assert any(one.finish == "end" for one in found.rollouts)
    assert connect(llama).end_tokens == load("builtin:tuned").end_tokens
    here = score(load("builtin:tuned"), load("builtin:base"), *sequences(found))
    apart = [np.subtract(a.token_kl, b.token_kl) for a, b in zip(here, found.rollouts, strict=True)]  # type: ignore[arg-type]
    print("token KL through llama.cpp and here, largest difference:", max(np.abs(one).max() for one in apart))
    assert max(np.abs(one).max() for one in apart) < 1e-4


def test_a_bracket_through_llama_cpp_contains_the_kl(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kullback.models.servers.probing.WORDS", (20, 5))
    found = kb.compare(llama, "builtin:base", samples=4, max_new_tokens=24)
    bracket = found.brackets["policy"]
    here = score(load("builtin:tuned"), load("builtin:base"), *sequences(found))
    exact = float(np.mean([one.column("token_kl").sum() for one in here]))
    assert bracket.upper is not None
    assert bracket.lower.value <= exact <= bracket.upper.value
    assert abs(bracket.estimate.value - exact) < 4 * bracket.estimate.stderr


@pytest.mark.parametrize("law", [{}, {"temperature": 0.7}, {"top_p": 0.9, "temperature": 0.8}])
def test_llama_cpp_draws_for_a_local_pair(llama: str, law: dict[str, float]) -> None:
    """Of another law its log-probs are not: they are made of whole distributions."""
    found = kb.compare("builtin:tuned", "builtin:base", samples=4, max_new_tokens=24, sampler=llama, **law)
    log_ratio = np.concatenate([np.subtract(r.behavior_logprobs, r.logprobs) for r in found.rollouts])  # type: ignore[arg-type]
    assert 0 < np.abs(log_ratio).max() < 1e-3
    assert not [warning for row in found.rows for warning in row.per_sequence.warnings if "q/μ" in warning]
