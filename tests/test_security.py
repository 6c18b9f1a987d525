"""What hostile files, folders, names, prompts and targets can and cannot do: a test a sentence of docs/security.md."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kullback as kb
from kullback import cli, models

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
SCRIPT = "<script>steal()</script>\x1b[2J\u202e"


class Touch:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def run(arguments: list[str]) -> None:
    """The command, which ends in SystemExit."""
    sys.argv = ["kullback", *arguments]
    sys.exit(cli.main())


def rows(**more: object) -> list[dict[str, object]]:
    return [
        {"logprobs": [-0.5, -1.0 - at], "ref_logprobs": [-0.7, -1.5], "prompt_id": str(at), **more} for at in range(4)
    ]


def written(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.mark.parametrize("name", ["rollouts.pkl", "rollouts.pt", "rollouts.bin"])
def test_a_pickle_is_not_executed(tmp_path: Path, name: str) -> None:
    place = tmp_path / "made"
    (tmp_path / name).write_bytes(pickle.dumps(Touch(place)))
    with pytest.raises(kb.errors.KullbackError):
        list(kb.read_rollouts(tmp_path / name))
    assert not place.exists()


def test_objects_in_arrays_are_not_unpickled(tmp_path: Path) -> None:
    place = tmp_path / "made"
    held = np.array([Touch(place)], dtype=object)
    np.savez(tmp_path / "rollouts.npz", logprobs=held)
    with pytest.raises(kb.errors.KullbackError):
        list(kb.read_rollouts(tmp_path / "rollouts.npz"))
    assert not place.exists()


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    place = tmp_path / "made"
    (tmp_path / "cassette.yaml").write_text(f"interactions: !!python/object/apply:os.mkdir ['{place}']\n")
    with pytest.raises(kb.errors.KullbackError):
        list(kb.read_rollouts(tmp_path / "cassette.yaml"))
    assert not place.exists()


def test_a_condition_is_compared_and_not_executed(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", rows())
    for where in ("__import__('os').mkdir('made')", "step > os.mkdir('made')"):
        with pytest.raises(kb.errors.KullbackError):
            kb.estimate_files(file, where=where)


@pytest.mark.parametrize("face", ["terminal", "json", "html", "md"])
def test_texts_stay_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str], face: str) -> None:
    file = written(tmp_path / "a.jsonl", [{**row, "step": 1, "environment": SCRIPT} for row in rows()] + rows(step=2))
    output = tmp_path / f"report.{face}"
    more = ["--json"] if face == "json" else ["--output", str(output)] if face != "terminal" else []
    with pytest.raises(SystemExit) as ended:
        run(["estimate", str(file), "--by", "environment", *more])
    assert ended.value.code == 0
    said = capsys.readouterr().out + (output.read_text(encoding="utf-8") if output.exists() else "")
    assert "steal()" in said
    assert not {"\x1b", "\u202e"} & set(said)
    assert face not in ("html", "md") or "<script>steal" not in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [5.0, float("nan"), float("inf"), "1e400"])
def test_numbers_that_cannot_be_log_probs_are_refused(tmp_path: Path, value: object) -> None:
    file = written(tmp_path / "a.jsonl", [*rows(), {"logprobs": [value], "ref_logprobs": [-0.5]}])
    with pytest.raises(kb.errors.KullbackError) as refused:
        kb.estimate_files(file)
    assert len(str(refused.value)) < 1000


def test_a_file_is_answered_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert kb.estimate_files(written(tmp_path / "a.jsonl", rows())).main.estimates["token"].n == 4


def folder_of_a_model(into: Path) -> Path:
    config = {"architectures": ["Evil"], "model_type": "evil", "auto_map": {}}
    config["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "modeling_evil.Evil")
    into.mkdir()
    (into / "config.json").write_text(json.dumps(config))
    (into / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(into / 'made')!r})\nclass Evil: pass\n")
    return into


def test_code_in_a_models_folder_is_not_executed(tmp_path: Path) -> None:
    folder = folder_of_a_model(tmp_path / "model")
    with pytest.raises(kb.errors.ModelError):
        models.load(str(folder))
    assert not (folder / "made").exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    source = models.BUILTIN_PROMPTS.parent / "base"
    folder, place = tmp_path / "model", tmp_path / "made"
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(place)))
    with pytest.raises(kb.errors.ModelError, match="pickled weights are not read"):
        models.load(str(folder))
    assert not place.exists()


@pytest.mark.parametrize("name", ["builtin:../../../etc", "builtin:/etc", "builtin:base/../.."])
def test_built_in_names_stay_inside(name: str) -> None:
    with pytest.raises(kb.errors.KullbackError):
        models.load(name)


def test_a_prompt_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": SCRIPT}) + "\n" + json.dumps({"prompt": "The dog"}) + "\n")
    with pytest.raises(SystemExit) as ended:
        run(["compare", "--prompts", str(prompts), "--samples", "2", "--max-new-tokens", "3"])
    assert ended.value.code == 0
    assert not {"\x1b", "\u202e"} & set(capsys.readouterr().out)


def test_a_target_is_executed(tmp_path: Path) -> None:
    """The page says so, and so it is: whoever audits a file runs it."""
    (tmp_path / "target.py").write_text(
        f"import os\n\nos.mkdir({str(tmp_path / 'made')!r})\n\n\n"
        "def k1(logprobs, ref_logprobs):\n    return logprobs - ref_logprobs\n"
    )
    with pytest.raises(SystemExit):
        run(["audit", f"{tmp_path / 'target.py'}:k1", "--placement", "reward"])
    assert (tmp_path / "made").exists()


def test_a_report_runs_nothing_and_writes_nothing_unless_told(tmp_path: Path) -> None:
    """Nor does it load a model; `tests/test_reports.py` has the same of experiments."""
    target, made = tmp_path / "target.py", tmp_path / "made"
    target.write_text(f"import os\n\nos.mkdir({str(made)!r})\n\n\ndef k1(a, b):\n    return a - b\n")
    for kind, asked in (
        ("audit", {"targets": [f"{target}:k1"], "objective": None, "source": None}),
        ("lab plan", {"words": ["no/policy", "no/reference", "--output", str(made)]}),
        ("lab lambda", {"words": ["-n", "2", "--output", str(made), "--report", f"{made}.html"]}),
    ):
        report = {"schema": 1, "kind": kind, "asked": asked, "rests_on": [], "beside": {"../../x": "0"}}
        (tmp_path / "r.json").write_text(json.dumps({"report": report}))
        with pytest.raises(SystemExit):
            run(["verify", str(tmp_path / "r.json")])
        assert not made.exists()
        assert not made.with_suffix(".html").exists()


def test_a_million_tokens_are_one_row() -> None:
    rng = np.random.default_rng(0)
    q = np.log(rng.uniform(0.2, 0.8, size=(2, 1_000_000)))
    found = kb.estimate(q, np.minimum(q + rng.normal(0, 0.01, size=q.shape), 0), estimator=kb.K3)
    assert found.value == pytest.approx(50, rel=0.05)


def test_a_vocabulary_of_a_million_words() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.zeros(1, 2, 1_000_000)
    other = logits.clone()
    other[..., 0] = 5.0
    kl = kb.vocab.token_kl(logits, other, backend="eager")
    mass = np.log1p((np.exp(5.0) - 1) / 1e6)
    assert kl.numpy() == pytest.approx(np.full((1, 2), mass - 5e-6), rel=1e-3)


@pytest.mark.slow
def test_a_gigabyte_of_prompts(tmp_path: Path) -> None:
    """It is read whole, then refused as more sequences than a run holds; in memory that is bounded."""
    row = json.dumps({"prompt": "a dog ran to the old house. " * 7, "answer": "so"}) + "\n"
    with (tmp_path / "prompts.jsonl").open("w") as file:
        for _ in range(1000):
            file.write(row * (10**6 // len(row) + 1))
    code = (
        "import resource\nfrom kullback.cli import main\n"
        "try: main()\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    line = ["compare", "--prompts", str(tmp_path / "prompts.jsonl")]
    found = subprocess.run(
        [sys.executable, "-c", code, *line], capture_output=True, text=True, timeout=900, check=False
    )
    assert found.returncode == 2
    assert "sequences were asked for, 16 of each of" in found.stderr
    assert "but a run holds at most 5,000,000: lower samples, or compare parts of the prompts" in found.stderr
    assert int(found.stdout.split()[-1]) < 8 * 2**20  # kilobytes


def test_every_sentence_names_a_test_that_is_here() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert set(named) == {name for name in globals() if name.startswith("test_")} - {
        "test_every_sentence_names_a_test_that_is_here"
    }
