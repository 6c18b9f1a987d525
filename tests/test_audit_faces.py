"""Exit codes, methods, annotations and pages: what the command line says of functions of a repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import kullback as kb
from kullback.auditing.assignments import Request, assignments
from kullback.auditing.subject.source.files import shown
from kullback.cli.app import app

LOSSES = """
import torch

def k1(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs

def k3(new, ref, mask):
    x = ref - new
    return (torch.expm1(x) - x) * mask

def broken(logprobs, ref_logprobs, mask):
    raise ValueError("no")

def unknown(a, b):
    return a - b

def policy_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, cfg):
    rho, gain = torch.exp((logprobs - old_logprobs.detach()) * mask), advantages.unsqueeze(1)
    policy = -torch.minimum(rho * gain, rho.clamp(0.8, 1.2) * gain)
    return ((policy + cfg.beta * 0.5 * (logprobs - ref_logprobs) ** 2) * mask).sum(-1).mean()

class Base:
    def _k1(self, x):
        return x

class Trainer(Base):
    beta = 0.1

    def __init__(self, kind="k1", scale=2.0):
        self.kind, self.scale = kind, scale

    @property
    def doubled(self):
        return 2 * self.beta

    def penalty(self, logprobs, ref_logprobs, mask):
        return self.doubled * self._k1(logprobs - ref_logprobs) * mask

    def scaled(self, logprobs, ref_logprobs, mask):
        return self.scale * (logprobs - ref_logprobs) * mask

    def compute_loss(self, model, inputs):
        ids = inputs["input_ids"]
        logits = model(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[:, :-1]
        logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        policy = -torch.exp(logps - logps.detach()) * inputs["advantages"].unsqueeze(1)
        kl = 0.5 * (logps - inputs["ref_per_token_logps"]) ** 2
        return ((policy + self.args.beta * kl) * inputs["completion_mask"]).sum(-1).mean()
"""


@pytest.fixture
def losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "lost.py").write_text("import no_such_stack" + LOSSES)
    monkeypatch.chdir(tmp_path)
    return "losses.py"


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["audit", *args])


def report(target: str, placement: str, **settings: object) -> kb.AuditReport:
    (made,) = assignments(target, None, Request(placement=placement, settings=settings))
    return made.report()


@pytest.mark.parametrize("name", ["broken", "unknown"])
@pytest.mark.parametrize("fail_on", ["biased-gradient", "KB201"])
def test_what_could_not_be_run_is_2_whatever_counts(losses: str, name: str, fail_on: str) -> None:
    assert run(f"{losses}:{name}", "--placement", "loss", "--fail-on", fail_on).exit_code == 2
    assert run(f"{losses}:{name}", f"{losses}:k1", "--placement", "reward").exit_code == 2


def test_the_line_to_paste_works(losses: str) -> None:
    refused = run(f"{losses}:unknown", "--placement", "reward")
    flat = " ".join(refused.stdout.split())
    pasted = re.findall(r"--map \S+=\S+", flat)[:2]
    assert pasted == ["--map a=logprobs", "--map b=ref_logprobs"]
    again = run(f"{losses}:unknown", "--placement", "reward", *" ".join(pasted).split())
    assert again.exit_code == 0


@pytest.mark.parametrize("file", ["losses.py", "lost.py"])
def test_a_method_has_its_class(losses: str, file: str) -> None:
    """Attributes, properties and methods of its class and of a base, imported or taken out of a file."""
    assert report(f"{file}:Trainer.penalty", "reward").value.scale == pytest.approx(0.2)
    assert report(f"{file}:Trainer.penalty", "reward", **{"self.beta": 0.5}).value.scale == 1.0


def test_what_init_sets_is_there_where_it_can_be_called(losses: str) -> None:
    assert report("losses.py:Trainer.scaled", "reward").value.scale == 2.0
    assert report("losses.py:Trainer.scaled", "reward", **{"self.scale": 3.0}).value.scale == 3.0
    assert "--set self.scale=VALUE" in report("lost.py:Trainer.scaled", "reward").findings[0].message


@pytest.mark.parametrize("file", ["losses.py", "lost.py"])
def test_a_method_of_a_model_and_inputs_gets_a_tiny_model(losses: str, file: str) -> None:
    found = report(f"{file}:Trainer.compute_loss", "loss", **{"self.args.beta": 0.04})
    assert (found.gradient.target, found.gradient.scale) == (kb.STATEWISE_REVERSE_KL, 0.04)
    assert found.wiring["ref_per_token_logps"] == "ref_logprobs"
    assert found.wiring["model"] == "a model of the policy"


def test_a_policy_loss_from_the_command_line(losses: str) -> None:
    options = ("--placement", "loss", "--set", "advantages=ones", "--set", "cfg.beta=0.04", "--json")
    audit = json.loads(run(f"{losses}:policy_loss", *options).stdout)["audits"][0]
    assert (audit["gradient"]["target"], audit["gradient"]["scale"]) == ("statewise_reverse_kl", 0.04)
    assert not {"KB403", "KB108"} & {finding["code"] for finding in audit["findings"]}
    assert audit["wiring"]["cfg"] == "beta=0.04"


def test_a_finding_of_one_placement_says_so(losses: str) -> None:
    audits = json.loads(run(f"{losses}:k1", "--json").stdout)["audits"]
    assert [finding["note"] for audit in audits for finding in audit["findings"]] == [
        "Only in the loss: in the reward it is not found"
    ]


def test_json_has_a_schema_a_severity_and_no_path_of_the_machine(losses: str, tmp_path: Path) -> None:
    for file in ("losses.py", "lost.py"):
        text = run(f"{tmp_path / file}:k3", "--placement", "loss", "--json").stdout
        record = json.loads(text)
        assert record["schema"] == "kullback.audit/2"
        assert str(tmp_path) not in text
        (audit,) = record["audits"]
        assert (audit["status"], audit["main"], audit["file"]) == ("wrong", "KB202", file)
        assert {finding["severity"] for finding in audit["findings"]} <= {"warn", "wrong"}


def test_annotations_stand_beside_the_line(losses: str) -> None:
    lines = run(f"{losses}:k3", "--placement", "loss", "--format", "github").stdout.splitlines()
    assert lines[0].startswith("::error file=losses.py,line=7,title=KB202 other-gradient::losses.py:k3, in the loss")
    assert "kb.kl_loss(new, ref, mask, objective=kb.REVERSE_KL)" in lines[0]
    assert lines[-1] == "losses.py:k3, in the loss: wrong"
    assert run(f"{losses}:k3", "--format", "sarif").exit_code == 2


def test_a_page_has_a_table_pictures_and_links_to_its_rules(losses: str, tmp_path: Path) -> None:
    run(f"{losses}:k1", f"{losses}:k3", "--output", "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for code in ("kb201", "kb202", "kb210"):
        assert f'<a href="#{code}">' in page
        assert f'id="{code}"' in page
    assert "<table>" in page
    assert "How errors grow" in page
    assert "statewise: token by token" in page
    assert str(tmp_path) not in page


def test_many_audits_are_a_comment_of_one_table(losses: str, tmp_path: Path) -> None:
    run(f"{losses}:k1", f"{losses}:k3", "--output", "comment.md")
    comment = (tmp_path / "comment.md").read_text(encoding="utf-8")
    assert "| function | verdict | placed |" in comment
    assert comment.count("KB301") <= 3
    assert "new → logprobs" in comment
    assert len(comment) < 5000


def test_paths_are_shown_without_the_machine() -> None:
    assert shown("/usr/lib/python3/site-packages/trl/trainer/utils.py") == "trl/trainer/utils.py"
    assert shown("/nowhere/at/all/losses.py") == "losses.py"
    assert shown("here/losses.py") == "here/losses.py"
