"""verl's own `ppo_loss` with the KL of `kullback.integrations.verl` in it: ``make test-trainers``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import verl as ours

pytest.importorskip("verl")
from tensordict import TensorDict
from trainer_worlds import relative_error, small_world
from verl.utils import tensordict_utils
from verl.workers.config import FSDPActorConfig
from verl.workers.utils import losses

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

PAGE = Path(__file__).resolve().parents[1] / "docs/verl.md"
TOKENS, SEQUENCES = 40, 16


@pytest.fixture
def config() -> Any:
    return FSDPActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        use_kl_loss=True,
        kl_loss_coef=0.5,
        kl_loss_type="k3",
        entropy_coeff=0.0,
    )


def data_of(old: Any, reference: Any, mask: Any, *, nested: bool, ranks: int = 1) -> Any:
    """A micro-batch as verl's workers hand it to the loss: prompts of one token."""
    rows, time = mask.shape
    lengths = mask.sum(-1).tolist()
    columns = {"old_log_probs": old.detach(), "ref_log_prob": reference, "advantages": torch.zeros_like(reference)}
    columns |= {"response_mask": mask.long(), "responses": torch.zeros(rows, time, dtype=torch.long)}
    if nested:
        columns = {
            name: torch.nested.nested_tensor([x[:n] for x, n in zip(column, lengths, strict=True)], layout=torch.jagged)
            for name, column in columns.items()
        }
        columns["prompts"] = torch.nested.nested_tensor([torch.zeros(1).long()] * rows, layout=torch.jagged)
    else:
        columns["prompts"] = torch.zeros(rows, 1, dtype=torch.long)
        columns["attention_mask"] = torch.cat([torch.ones(rows, 1).bool(), mask], -1).long()
    data = TensorDict(columns, batch_size=[rows])
    tensordict_utils.assign_non_tensor(data, dp_size=ranks, batch_num_tokens=TOKENS, global_batch_size=SEQUENCES)
    return data


def packed(logprobs: Any, mask: Any) -> Any:
    """The model's log-probs without padding: those of each row, and one more at its end."""
    return torch.cat([torch.cat([row[keep], row.new_zeros(1)]) for row, keep in zip(logprobs, mask, strict=True)])


def loss_of(config: Any, *, nested: bool = False, ranks: int = 1) -> Any:
    """verl's loss as the oracle calls it."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        data = data_of(behavior_logprobs, ref_logprobs, mask, nested=nested, ranks=ranks)
        return losses.ppo_loss(config, {"log_probs": packed(logprobs, mask)}, data)[0]

    return loss


@pytest.fixture
def installed() -> Iterator[None]:
    with ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token"):
        yield


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("staleness", [0.0, 0.4])
def test_the_gradient_is_that_of_the_sequence_kl(config: Any, installed: None, staleness: float, nested: bool) -> None:
    world = small_world(staleness=staleness)
    loss = loss_of(config, nested=nested, ranks=2)
    assert relative_error(world, loss, kb.REVERSE_KL, scale=0.5 * 2 / TOKENS) < 1e-6


@pytest.mark.parametrize("objective", [kb.REVERSE_KL, kb.STATEWISE_REVERSE_KL, kb.FORWARD_KL])
def test_two_rows_and_nats_a_sequence(config: Any, objective: kb.Target) -> None:
    with ours.install(kl_objective=objective, kl_beta_unit="sequence", kl_estimator=kb.K3):
        loss = loss_of(config)
        assert relative_error(small_world(), loss, objective, scale=0.5 * 2 / SEQUENCES, rows=2) < 1e-6


def test_verls_own_term_follows_another_gradient(config: Any) -> None:
    world = small_world()
    assert relative_error(world, loss_of(config), kb.REVERSE_KL, scale=0.5 / TOKENS) > 0.2


def test_the_log_and_what_is_left_alone(config: Any) -> None:
    q, p = torch.tensor([[-0.5, -1.0]], requires_grad=True), torch.tensor([[-0.7, -1.5]])
    data = data_of(q, p, torch.ones(1, 2).bool(), nested=False)
    output = {"log_probs": packed(q, torch.ones(1, 2).bool())}
    stock = losses.ppo_loss
    plain, before = stock(config, output, data)
    with ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token") as installed:
        assert losses.ppo_loss is not stock
        assert "verl.workers.utils.losses" in installed.places
        loss, after = losses.ppo_loss(config, output, data)
        assert set(after) == set(before) | {"kl_loss/sequence"}
        assert after["kl_coef"] == 0.5
        assert after["kl_loss"].aggregate() == pytest.approx(0.7 / TOKENS)
        assert after["kl_loss/sequence"].aggregate() == pytest.approx(0.7 / SEQUENCES)
        assert after["actor/pg_loss"].values == before["actor/pg_loss"].values
        object.__setattr__(config, "use_kl_loss", False)
        off, _ = losses.ppo_loss(config, output, data)
        with pytest.raises(InputError, match="was replaced already"):
            ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token")
    assert losses.ppo_loss is stock
    assert float(loss) == pytest.approx(float(off) + 0.5 * 0.7 / TOKENS)
    assert float(plain) != pytest.approx(float(loss))


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def ppo_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> None:
        """Another one."""

    monkeypatch.setattr(losses, "ppo_loss", ppo_loss)
    with pytest.raises(InputError, match=r"is not as this was written for .* those of verl 0\.9\.1"):
        ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token")


def test_the_module_of_the_page_reaches_the_worker(tmp_path: Path) -> None:
    """As Ray's workers start: verl imports the module that the environment names first of all."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "my_kl.py").write_text(code, encoding="utf-8")
    script = "import verl\nfrom verl.workers.utils.losses import ppo_loss\nprint('of', ppo_loss.__code__.co_filename)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "VERL_USE_EXTERNAL_MODULES": "my_kl", "PYTHONPATH": os.pathsep.join([".", *sys.path])},
        check=False,
    )
    assert "kullback" in result.stdout, result.stderr[-2000:]
