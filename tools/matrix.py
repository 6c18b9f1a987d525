"""The wheel in fresh environments: other Pythons, the oldest and the newest of what it needs, each extra alone.

``python tools/matrix.py versions [3.12 …]`` and ``python tools/matrix.py extras [hf …]``; `make test-matrix` runs both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

TESTS = (
    *("test_estimators", "test_estimate", "test_ragged", "test_losses", "test_oracle", "test_markov", "test_vocab"),
    *("test_rollouts", "test_rollouts_files", "test_readers", "test_prompts", "test_compare", "test_models_shipped"),
    *("test_watch", "test_notebooks", "test_pages"),
)
"""What is run with other versions: the numbers, the gradients, the models, files and faces."""

WITH = ("dumps", "frames", "hf", "jax", "report")
BESIDE = ("array-api-strict", "hypothesis", "mpmath", "pytest", "pytest-xdist", "statsmodels")
"""What the tests themselves need, of any version."""


@dataclass(frozen=True)
class Smoke:
    """What an extra is for, as a line that works with it alone."""

    extra: str
    code: str


ESTIMATE = "import kullback as kb; e = kb.estimate([[-.5, -1.]] * 3, [[-.7, -1.2]] * 3, estimator='k3')"
COMMAND = "import sys; from kullback.cli import main; sys.argv = ['kullback', {}]; main()"
DUMP = "open('d.jsonl', 'w').write('{\"logprobs\": [-0.5, -1.0], \"ref_logprobs\": [-0.7, -1.5], \"step\": 1}\\n' * 4)"

LOG = (
    "import os; os.environ['WANDB_MODE'] = 'offline'; from kullback.jobs.watching.trackers import tracker; "
    "one = tracker('{}'); one.log({{'kl': 0.1}}, 1); one.close()"
)

SMOKES = (
    Smoke("", f"{ESTIMATE}; assert e.value > 0"),
    Smoke(
        "torch",
        "import torch, kullback as kb; q = torch.randn(2, 9); assert kb.vocab.token_kl(q, q).max() < 1e-6; "
        "assert kb.audit(lambda q, p: q - p, placement='reward')",
    ),
    Smoke("triton", "import torch, triton, kullback as kb; kb.vocab.token_kl(torch.randn(2, 9), torch.randn(2, 9))"),
    Smoke("hf", "import kullback as kb; assert kb.compare(samples=1, max_new_tokens=2).estimates"),
    Smoke("report", "import kullback as kb; kb.lab.gaussian(samples=100).plot().save('a.svg')"),
    Smoke(
        "datasets",
        "import datasets; datasets.Dataset.from_dict({'prompt': ['a', 'b']}).save_to_disk('d'); "
        "from kullback.jobs.prompts import read_prompts; assert read_prompts('d') == ['a', 'b']",
    ),
    Smoke("frames", f"{ESTIMATE}; assert e.to_frame().shape[0] == 1"),
    Smoke("fast", f"import numba; {ESTIMATE}; assert e.value > 0"),
    Smoke("dumps", f"{DUMP}; " + COMMAND.format("'estimate', 'd.jsonl'")),
    Smoke(
        "jax",
        "import jax.numpy as np, kullback as kb; q = np.array([[-.5, -1.]]); "
        "assert kb.kl_loss(q, q - .1, objective=kb.REVERSE_KL) > 0",
    ),
    Smoke("ray", "import ray, kullback as kb; assert kb.compare(samples=1, max_new_tokens=2).estimates"),
    Smoke("peft", "import peft, kullback as kb; assert kb.compare(samples=1, max_new_tokens=2).estimates"),
    Smoke("trl", "from kullback.integrations.trl import KLCallback, KLMixin; assert KLMixin and KLCallback"),
    Smoke("gguf", "import gguf, kullback as kb; assert kb.models.load('builtin:base')"),
    Smoke(
        "servers",
        "import kullback as kb\ntry: kb.models.connect('http://127.0.0.1:9/v1', attempts=1)\n"
        "except kb.errors.ModelError as error: assert 'cannot be reached' in str(error), error",
    ),
    *(Smoke(name, LOG.format(f"{name}:{name}")) for name in ("tensorboard", "trackio", "wandb")),
    Smoke("quantised", "import torchao, bitsandbytes, kullback as kb; assert kb.models.load('builtin:base')"),
)


def main(what: str, *names: str) -> int:
    """Run one of the two; the exit status is the number of environments that failed."""
    failed = 0
    for name, said in _versions(names) if what == "versions" else _extras(names):
        print(f"{name:22} {said}", flush=True)
        failed += said != "passes"
    return failed


def _versions(wanted: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    with TemporaryDirectory(prefix="kullback-matrix-") as place:
        wheel = _wheel(Path(place))
        for python, oldest in (("3.11", True), ("3.11", False), ("3.12", False), ("3.13", False), ("3.14", False)):
            name = f"Python {python}, {'oldest' if oldest else 'newest'}"
            if wanted and python not in wanted:
                continue
            if not (program := _interpreter(python)):
                yield name, "not tried: there is no such Python on this machine"
                continue
            folder = Path(place) / name.replace(" ", "").replace(",", "-")
            yield name, _tested(program, folder, f"{wheel}[{','.join(WITH)}]", oldest=oldest)
            shutil.rmtree(folder, ignore_errors=True)


def _tested(program: str, folder: Path, package: str, *, oldest: bool) -> str:
    bounds = folder.with_suffix(".txt")
    bounds.write_text("\n".join(_lower_bounds()) if oldest else "", encoding="utf-8")
    said = _installed(program, folder, [package, *BESIDE], bounds)
    if said:
        return said
    files = [str(ROOT / "tests" / f"{name}.py") for name in TESTS]
    # Deprecations of versions that CI does not have are no failure here; a wrong number is.
    options = ["-q", "-n", "2", "-p", "no:cacheprovider", "-W", "default", "--override-ini", "doctest_optionflags="]
    return _ran([folder / "bin" / "python", "-m", "pytest", *options, *files], ROOT)


def _extras(wanted: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    with TemporaryDirectory(prefix="kullback-matrix-") as place:
        wheel = _wheel(Path(place))
        for smoke in SMOKES:
            if wanted and smoke.extra not in wanted:
                continue
            folder = Path(place) / (smoke.extra or "bare")
            package = f"{wheel}[{smoke.extra}]" if smoke.extra else str(wheel)
            said = _installed(sys.executable, folder, [package], ROOT / "constraints.txt")
            empty = Path(place) / "empty"
            empty.mkdir(exist_ok=True)
            yield smoke.extra or "(no extra)", said or _ran([folder / "bin" / "python", "-c", smoke.code], empty)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(empty)


def _wheel(place: Path) -> Path:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", place, ROOT], check=True)
    [wheel] = place.glob("*.whl")
    return wheel


def _interpreter(version: str) -> str | None:
    """A Python of this version that runs; pyenv's shims are there for versions that are not."""
    for program in (f"python{version}", *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))):
        found = shutil.which(program)
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    return None


def _lower_bounds() -> list[str]:
    """Every requirement at the least version that the project says it works with."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name in ("torch", *WITH) for line in extras[name])]
    found = [re.match(r"([\w-]+)>=([\d.]+)", line) for line in lines]
    return sorted({f"{one[1]}=={one[2]}{('.0.*', '.*', '')[one[2].count('.')]}" for one in found if one})


def _installed(program: str, folder: Path, packages: list[str], bounds: Path) -> str:
    """Nothing, or why they could not be installed."""
    if program == sys.executable:
        venv.create(folder, with_pip=True)
    else:
        subprocess.run([program, "-m", "venv", folder], check=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--prefer-binary", *packages]
    done = subprocess.run(
        command, env={**os.environ, "PIP_CONSTRAINT": str(bounds)}, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
    return "" if done.returncode == 0 else f"cannot be installed: {lines[0] if lines else done.stderr[-300:]}"


def _ran(command: list[object], folder: Path) -> str:
    # PYTHONPATH would bring the checkout in place of the wheel.
    env = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return "passes"
    print(done.stdout[-6000:], done.stderr[-3000:], file=sys.stderr)
    return f"fails: {(done.stdout + done.stderr).strip().splitlines()[-1]}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
