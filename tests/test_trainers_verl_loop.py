"""verl's own worker and engine on a CPU, with the KL in its loss: ``make test-trainers``.

`TrainingWorker.train_mini_batch` splits the batch, `FSDPEngineWithLMHead` runs the model, sums gradients and steps; the
model is a plain one in place of a sharded one. The batch is every sequence once, by the law under which all of them are
equally likely, so that its weighted gradient is the exact one and not an estimate of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl_worlds import HORIZON, PROMPT, WORDS, exact_gradient, exact_value, make_folder, policy_of

import kullback as kb
from kullback.integrations import verl as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Ray says of itself where verl imports it
    pytest.importorskip("verl")
    from tensordict import TensorDict
    from transformers import AutoModelForCausalLM
    from verl.utils import tensordict_utils
    from verl.utils.profiler import DistProfiler
    from verl.workers import engine_workers
    from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig
    from verl.workers.engine import base
    from verl.workers.engine.fsdp import transformer_impl
    from verl.workers.utils import losses
    from verl.workers.utils.padding import left_right_2_no_padding

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

EOS = 0
BETA = 0.5


def sequences(prefix: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """All that can be drawn: they end, or are as long as may be."""
    if len(prefix) == HORIZON or EOS in prefix:
        return [prefix]
    return [row for word in range(len(WORDS)) for row in sequences((*prefix, word))]


ROWS = sequences()


@pytest.fixture(scope="module", autouse=True)
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One process, and the names of devices that verl asks its platforms for, which are of accelerators."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (transformer_impl, base, engine_workers):
            patch.setattr(module, "get_device_name", lambda: "cpu", raising=False)
            patch.setattr(module, "get_device_id", lambda: "cpu", raising=False)
        memory = SimpleNamespace(max_memory_allocated=lambda: 0, max_memory_reserved=lambda: 0)
        patch.setattr(engine_workers, "get_torch_device", lambda: memory)
        yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


class Plain(transformer_impl.FSDPEngineWithLMHead):  # type: ignore[misc]
    """verl's engine around a model that is in one piece."""

    def __init__(self, module: Any) -> None:
        base.BaseEngine.__init__(self)
        self.module, self.rank, self.mode = module, 0, None
        self.engine_config = FSDPEngineConfig(use_torch_compile=False, fsdp_size=1, strategy="fsdp")
        self.optimizer_config = FSDPOptimizerConfig(lr=0.0, clip_grad=1e9)
        self.ulysses_device_mesh = self.ulysses_parallel_group = None
        self.ulysses_sequence_parallel_size = 1
        self.use_ulysses_sp = self.pad_to_length = self._qat_enabled = False
        self._is_offload_param = self._is_offload_optimizer = self._is_lora = False
        self._autocast_dtype, self.scaler = torch.float32, None
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.gradients: list[torch.Tensor] = []
        self.optimizer.register_step_pre_hook(self._keep)

    def _keep(self, *_: Any) -> None:
        self.gradients.append(torch.cat([x.grad.reshape(-1).double() for x in self.module.parameters()]))


def worker_of(policy: Any, loss: Any) -> Any:
    """verl's worker, of which Ray and the sharding are left out."""
    worker = object.__new__(engine_workers.TrainingWorker)
    worker.engine = Plain(policy)
    worker.engine_config, worker.model_config = worker.engine.engine_config, {"use_remove_padding": False}
    worker.loss_fn, worker.flops_counter, worker.device_name = loss, None, "cpu"
    worker.profiler = DistProfiler(rank=0, config=None)
    return worker


def scored(model: Any, rows: list[tuple[int, ...]]) -> torch.Tensor:
    """log-probs of the words of every row, 0 behind its end."""
    found = torch.zeros(len(rows), HORIZON)
    with torch.no_grad():
        for i, row in enumerate(rows):
            laws = model(input_ids=torch.tensor([[*PROMPT, *row]])).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
            found[i, : len(row)] = laws.gather(-1, torch.tensor(row)[:, None])[:, 0]
    return found


def equally_likely() -> torch.Tensor:
    """log μ of the words, μ(word | prefix) the share of the sequences that go on so."""
    found = torch.zeros(len(ROWS), HORIZON)
    for i, row in enumerate(ROWS):
        for t in range(len(row)):
            before, after = (sum(other[:n] == row[:n] for other in ROWS) for n in (t, t + 1))
            found[i, t] = torch.tensor(after / before).log()
    return found


def batch(policy: Any, reference: Any) -> Any:
    """What verl's trainer hands to `update_actor`."""
    rows = len(ROWS)
    responses = torch.tensor([[*row, *[EOS] * (HORIZON - len(row))] for row in ROWS])
    mask = torch.tensor([[t < len(row) for t in range(HORIZON)] for row in ROWS])
    prompts = torch.tensor([PROMPT] * rows)
    attention = torch.cat([torch.ones_like(prompts), mask.long()], dim=1)
    columns = {
        "prompts": prompts,
        "responses": responses,
        "input_ids": torch.cat([prompts, responses], dim=1),
        "attention_mask": attention,
        "position_ids": (attention.cumsum(-1) - 1).clamp(min=0),
        "response_mask": mask.long(),
        "old_log_probs": equally_likely(),
        "ref_log_prob": scored(reference, ROWS),
        "advantages": torch.zeros(rows, HORIZON),
    }
    data = left_right_2_no_padding(TensorDict(columns, batch_size=[rows]))
    tensordict_utils.assign_non_tensor(
        data,
        temperature=1.0,
        calculate_entropy=False,
        global_batch_size=rows,
        mini_batch_size=rows,
        epochs=1,
        seed=1,
        dataloader_kwargs={"shuffle": True},
        use_remove_padding=False,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=10,
        max_token_len_per_gpu=100,
    )
    return data


def gradient(policy: Any, reference: Any, *, mode: str = "seq-mean-token-sum") -> tuple[torch.Tensor, dict[str, Any]]:
    """That of a step of the worker, in four micro-batches, and its log."""
    config = FSDPActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=10,
        use_kl_loss=True,
        kl_loss_coef=BETA,
        kl_loss_type="low_var_kl",
        entropy_coeff=0.0,
        loss_agg_mode=mode,
    )
    worker = worker_of(policy, partial(losses.ppo_loss, config=config))
    output = worker.train_mini_batch(batch(policy, reference))
    [found] = worker.engine.gradients
    return found, tensordict_utils.get(output, "metrics")


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("target", [kb.REVERSE_KL, kb.STATEWISE_REVERSE_KL, kb.FORWARD_KL])
def test_a_step_of_the_worker_has_the_exact_gradient(folder: Path, reference: Any, target: kb.Target) -> None:
    policy = policy_of(folder)
    with ours.install(kl_objective=target, kl_beta_unit="sequence"):
        found, log = gradient(policy, reference)
    assert apart(found, BETA * exact_gradient(policy, reference, target)) < 1e-5
    if target is kb.REVERSE_KL:
        assert sum(log["kl_loss/sequence"]) == pytest.approx(exact_value(policy, reference), rel=1e-5)


def test_a_step_as_verl_has_it_follows_something_else(folder: Path, reference: Any) -> None:
    policy = policy_of(folder)
    found, _ = gradient(policy, reference)
    assert apart(found, BETA * exact_gradient(policy, reference)) > 0.3


def test_nats_a_token_are_of_the_whole_mini_batch(folder: Path, reference: Any) -> None:
    policy = policy_of(folder)
    with ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token"):
        found, _ = gradient(policy, reference, mode="token-mean")
    length = sum(map(len, ROWS)) / len(ROWS)
    assert apart(found, BETA / length * exact_gradient(policy, reference)) < 1e-5
