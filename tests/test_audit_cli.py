"""``kullback audit`` as its users and their CI call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kullback.auditing.trainers import TRAINERS
from kullback.cli.app import app

LOSSES = """
import torch
from no_such_stack import anything

def k1(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs

def kinds(logprobs, ref_logprobs, mask, kind):
    return {"k1": logprobs - ref_logprobs, "k2": 0.5 * (logprobs - ref_logprobs) ** 2}[kind]

def swapped(a, b):
    return b - a, "kl"

def broken(logprobs, ref_logprobs, mask):
    raise ValueError("no")
"""

VERL = """
import ray
def kl_penalty(logprob, ref_logprob, kl_penalty):
    assert kl_penalty
    return logprob - ref_logprob
def agg_loss(loss_mat, loss_mask, loss_agg_mode):
    return (loss_mat * loss_mask).sum(-1).mean()
"""


@pytest.fixture
def losses(tmp_path: Path) -> str:
    (tmp_path / "losses.py").write_text(LOSSES)
    return str(tmp_path / "losses.py")


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["audit", *args])


def test_nothing_found_is_0_and_something_is_1(losses: str) -> None:
    assert run(f"{losses}:k1", "--placement", "reward").exit_code == 0
    result = run(f"{losses}:k1", "--placement", "loss")
    assert result.exit_code == 1
    assert "KB201 zero-gradient" in result.stdout
    assert "kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)" in result.stdout
    assert "nothing else of the file ran" in " ".join(result.stdout.split())


def test_without_a_placement_both_are_audited(losses: str) -> None:
    result = run(f"{losses}:k1")
    assert result.exit_code == 1
    assert "in the loss" in result.stdout
    assert "in the reward" in result.stdout


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [("biased-gradient", 1), ("KB201", 1), ("zero-gradient", 1), ("masking,KB301", 0), ("other-gradient", 0)],
)
def test_fail_on_takes_codes_names_and_groups(losses: str, fail_on: str, code: int) -> None:
    assert run(f"{losses}:k1", "--placement", "loss", "--fail-on", fail_on).exit_code == code


def test_a_target_that_fails_does_not_stop_the_next(losses: str) -> None:
    targets = [f"{losses}:{name}" for name in ("broken", "nothing", "k1")]
    result = run(*targets, "--placement", "reward", "--json")
    assert result.exit_code == 2
    assert "has no function nothing" in result.stderr
    audits = json.loads(result.stdout)["audits"]
    assert [audit["findings"][0]["code"] if audit["findings"] else None for audit in audits] == ["KB001", None]
    assert audits[1]["value"]["target"] == "reverse_kl"
    assert audits[1]["gradient"]["target"] == "reverse_kl"


def test_settings_maps_and_elements(losses: str) -> None:
    result = run(f"{losses}:kinds", "--placement", "metric", "--set", "kind=k2", "--json")
    assert [finding["code"] for finding in json.loads(result.stdout)["audits"][0]["findings"]] == ["KB101"]
    options = ("--map", "a=ref_logprobs", "--map", "b=logprobs", "--element", "0", "--placement", "reward")
    assert run(f"{losses}:swapped", *options).exit_code == 0


@pytest.mark.parametrize("suffix", [".md", ".html", ".json"])
def test_reports_are_written(losses: str, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"report{suffix}"
    run(f"{losses}:k1", f"{losses}:broken", "--placement", "loss", "--output", str(file))
    text = file.read_text(encoding="utf-8")
    assert "KB201" in text
    assert {".md": "| function |", ".html": "<!DOCTYPE html>", ".json": '"audits"'}[suffix] in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nobody",), "one of the trainers verl, trl"),
        (("openrlhf:k1",), "pip install openrlhf, or pass --source"),
        (("verl:k9", "--source", "{dir}"), "there is no 'k9'"),
        (("verl", "--source", "/"), "no folder verl"),
        (("{}:k1", "--placement", "loss", "--fail-on", "everything"), "--fail-on everything came"),
        (("{}:k1", "--placement", "loss", "--map", "q"), "NAME=VALUE is needed"),
        (("{}:k1", "--placement", "loss", "--output", "x.pdf"), "has to end in"),
        (("{}:k1", "--placement", "loss", "--objective", "kl"), "there is no 'kl'"),
        (("{}:k1", "--placement", "sideways"), "placement='sideways'"),
    ],
)
def test_what_cannot_run_is_one_sentence_and_2(losses: str, args: tuple[str, ...], words: str) -> None:
    (Path(losses).parent / "verl").mkdir()
    result = run(*(arg.format(losses, dir=Path(losses).parent) for arg in args))
    assert result.exit_code == 2, result.stdout
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_trainers_checkout_is_audited_term_by_term(tmp_path: Path) -> None:
    (tmp_path / "verl/trainer/ppo").mkdir(parents=True)
    (tmp_path / "verl/trainer/ppo/core_algos.py").write_text(VERL)
    result = run("verl", "--source", str(tmp_path), "--json")
    audits = {audit["subject"]: audit for audit in json.loads(result.stdout)["audits"]}
    assert set(audits) == {f"verl:{name}" for name in TRAINERS["verl"].members.names}
    assert audits["verl:k1"]["gradient"]["target"] == "zero"
    assert audits["verl:k1-reward"]["findings"] == []
    table = run("verl", "--source", str(tmp_path)).stdout
    assert "k3-seq-mean-token-sum" in table


def test_every_trainer_has_members_of_different_names() -> None:
    for trainer in TRAINERS:
        assert len(set(trainer.members.names)) == len(trainer.members)
        assert all(member.about and member.functions for member in trainer.members)


def test_help_says_that_code_runs_and_gives_an_example() -> None:
    result = run("--help")
    assert "audit only code that you would run" in " ".join(result.stdout.replace("│", " ").split())
    assert "kullback audit" in result.stdout
