"""TRL's mixin under adapters, half precision, compilers, checkpointing and two processes: ``make test-trl``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import kullback as kb

pytest.importorskip("trl")
from transformers import AutoModelForCausalLM
from trl_worlds import Gradients, exact_gradient, exact_value, length, make_folder, policy_of, trainer_of

from kullback.integrations.trl import KLCallback

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

BOTH = [kb.K1, kb.RAO_BLACKWELL]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_folder(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def one_step(kind: str, folder: Path, **options: Any) -> torch.Tensor:
    policy, kept = policy_of(folder), Gradients()
    trainer_of(
        kind, folder, policy, max_steps=1, callbacks=[kept.callback(list(policy.parameters()))], **options
    ).train()
    return kept.rows[0]


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    ],
    ids=["checkpointing", "checkpointing-reentrant", "compile"],
)
def test_the_gradient_does_not_change(options: dict[str, Any], estimator: kb.Estimator, folder: Path) -> None:
    plain = one_step("GRPO", folder, kl_estimator=estimator)
    found = one_step("GRPO", folder, kl_estimator=estimator, **options)
    assert torch.allclose(found, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_bfloat16_autocast(kind: str, estimator: kb.Estimator, folder: Path, reference: Any) -> None:
    policy, kept = policy_of(folder), Gradients()
    keep = kept.callback(list(policy.parameters()))
    trainer_of(
        kind, folder, policy, max_steps=100, logging_steps=100, bf16=True, kl_estimator=estimator, callbacks=[keep]
    ).train()
    found = kept.against(exact_gradient(policy, reference))
    print("bf16", kind, estimator.name, found)
    assert abs(found.share - 1) < 0.03 + 4 * found.share_error < 0.25


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_an_adapter_on_its_base(kind: str, estimator: kb.Estimator, folder: Path, reference: Any) -> None:
    """The reference is the model without the adapter: one head, and no second model."""
    from peft import LoraConfig

    adapter = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"])
    kept = Gradients()
    policy = AutoModelForCausalLM.from_pretrained(folder)
    options = {"max_steps": 100, "logging_steps": 100, "kl_estimator": estimator, "peft_config": adapter}
    trainer = trainer_of(kind, folder, policy, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.6 * torch.randn(parameter.shape, generator=generator)
    trainer.add_callback(kept.callback([x for x in trainer.model.parameters() if x.requires_grad]))
    trainer.train()
    assert trainer.ref_model is None
    exact = exact_gradient(trainer.model, reference)
    found = kept.against(exact)
    print("lora", kind, estimator.name, found, exact_value(trainer.model, reference))
    assert found.worst < 4.5
    assert abs(found.share - 1) < 4 * found.share_error < 0.3


def test_an_adapter_on_the_head_is_refused(folder: Path) -> None:
    from peft import LoraConfig

    adapter = LoraConfig(r=2, target_modules=["q_proj", "lm_head"])
    policy = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"reads the LM head|adapter to `lm_head`"):  # TRL's own since 1.16
        trainer_of("GRPO", folder, policy, kl_estimator=kb.RAO_BLACKWELL, peft_config=adapter).train()


WORKER = """
import json, os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
import kullback as kb
from trl_worlds import *
from transformers import AutoModelForCausalLM
from pathlib import Path
folder, kind, estimator = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
policy, kept = policy_of(folder), Gradients()
reference = AutoModelForCausalLM.from_pretrained(folder)
trainer = trainer_of(kind, folder, policy, max_steps=60, logging_steps=60, kl_estimator=estimator,
    per_device_train_batch_size=32, ddp_backend="gloo",
    callbacks=[kept.callback(list(policy.parameters()))])
trainer.train()
found = kept.against(exact_gradient(policy, reference))
if dist.get_rank() == 0:
    log = trainer.state.log_history[0]
    print("RESULT" + json.dumps({**vars(found), "ranks": dist.get_world_size(), "kl": log["kl/sequence"],
        "exact": exact_value(policy, reference)}))
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("kind", "estimator"), [("GRPO", "k1"), ("GRPO", "rao_blackwell"), ("RLOO", "rao_blackwell")])
def test_two_processes(kind: str, estimator: str, folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29711", str(script)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(kb.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder), kind, estimator], capture_output=True, text=True, env=environment, timeout=400
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    found = json.loads(lines[0].removeprefix("RESULT"))
    print(kind, estimator, found)
    assert found["ranks"] == 2
    assert found["worst"] < 4.5
    assert abs(found["share"] - 1) < 4 * found["share_error"] < 0.3
    assert found["kl"] == pytest.approx(found["exact"], rel=0.1)


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_the_callback_only_logs(kind: str, folder: Path, reference: Any) -> None:
    def run(watched: bool) -> tuple[list[torch.Tensor], Any, float]:
        policy = policy_of(folder)
        before = exact_value(policy, reference)
        options = {"max_steps": 6, "learning_rate": 1e-2, "reward": length, "num_iterations": 2}
        trainer = trainer_of(kind, folder, policy, mixed=False, **options)
        if watched:
            trainer.add_callback(KLCallback(trainer))
        trainer.train()
        return [x.detach().clone() for x in policy.parameters()], trainer.state.log_history, before

    plain, without, _ = run(False)
    found, log, before = run(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert not any(name.startswith("kullback/") for entry in without for name in entry)
    assert {name for entry in without for name in entry} < {name for entry in log for name in entry}
    first = log[0]
    assert first["kullback/policy/low"] <= before <= first["kullback/policy/high"]
    seen = ["kullback/policy/k1" in entry for entry in log[:6]]
    assert seen == [True, False] * 3  # a batch that is learned from again is not counted again


def test_without_a_coefficient_the_trainer_is_the_stock_one(folder: Path) -> None:
    def run(mixed: bool) -> list[torch.Tensor]:
        policy = policy_of(folder)
        trainer_of(
            "GRPO", folder, policy, mixed=mixed, beta=0.0, max_steps=3, learning_rate=1e-2, reward=length
        ).train()
        return [x.detach().clone() for x in policy.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_the_log_is_right_beside_the_exact_kl(folder: Path, reference: Any) -> None:
    policy = policy_of(folder)
    options = {"max_steps": 30, "logging_steps": 30, "kl_estimator": kb.RAO_BLACKWELL}
    trainer = trainer_of("GRPO", folder, policy, **options)
    trainer.train()
    log, exact = trainer.state.log_history[0], exact_value(policy, reference)
    assert log["kl/sequence"] == pytest.approx(exact, rel=0.05)
    assert abs(log["kullback/policy/rao_blackwell"] - exact) < 4.5 * log["kullback/policy/stderr"]
    assert log["kl/sequence"] == pytest.approx(log["kl"] * log["completions/mean_length"], rel=0.02)


def test_evaluation_has_the_term_too(folder: Path, reference: Any) -> None:
    from trl_worlds import dataset

    for kind in ("GRPO", "RLOO"):
        policy = policy_of(folder)
        trainer = trainer_of(kind, folder, policy, kl_estimator=kb.RAO_BLACKWELL, per_device_eval_batch_size=64)
        trainer.evaluate(eval_dataset=dataset(64))
        found = trainer.state.log_history[-1]
        assert found["eval_kl/sequence"] == pytest.approx(exact_value(policy, reference), rel=0.2)


def test_the_page_says_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).resolve().parents[1] / "docs/trl.md"
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], space)
    log = space["trainer"].state.log_history[0]
    assert {"kl", "kl/sequence", "kl/coefficient", "kullback/policy/rao_blackwell"} <= set(log)
    assert log["kl/coefficient"] == pytest.approx(0.04 / log["completions/mean_length"])


def test_a_teacher_in_place_of_the_reference_distils(folder: Path) -> None:
    """On-policy distillation by the trainer: a constant reward, and the student comes near."""
    teacher, student = policy_of(folder, apart=0.3, seed=5).eval(), policy_of(folder)
    before = exact_value(student, teacher)
    options = {"max_steps": 60, "logging_steps": 60, "learning_rate": 3e-2, "kl_estimator": kb.RAO_BLACKWELL}
    trainer = trainer_of("RLOO", folder, student, **options)
    trainer.ref_model.load_state_dict(teacher.state_dict())
    trainer.train()
    after = exact_value(student, teacher)
    print("distilled", before, after)
    assert after < 0.1 * before
