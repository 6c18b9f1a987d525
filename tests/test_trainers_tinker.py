"""tinker-cookbook's own module with `kullback.integrations.tinker_cookbook`: ``make test-trainers``.

Tinker's client, which trains on servers, is stood in for: tensors, sequences, and a loss of importance sampling.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import audited, relative_error, small_world

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import tinker_cookbook as ours

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]


class TensorData:
    def __init__(self, values: Any) -> None:
        self.values, self.data = values, values.tolist()

    @classmethod
    def from_torch(cls, values: Any) -> TensorData:
        return cls(values)

    def to_torch(self) -> Any:
        return self.values


def traced(function: Any) -> Any:
    @wraps(function)
    async def called(*arguments: Any, **options: Any) -> Any:
        return await function(*arguments, **options)

    return called


@pytest.fixture(scope="module")
def own() -> Iterator[Any]:
    """tinker_cookbook.rl.metrics."""
    found = importlib.util.find_spec("tinker_cookbook")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tinker-cookbook is not installed")
    root = Path(found.submodule_search_locations[0])
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("tinker_cookbook", root), ("tinker_cookbook.rl", root / "rl")):
            package = ModuleType(name)
            package.__path__ = [str(folder)]
            patch.setitem(sys.modules, name, package)
        tinker = ModuleType("tinker")
        kinds = ("Datum", "ModelInput", "SamplingClient")
        tinker.__dict__.update(dict.fromkeys(kinds, SimpleNamespace), TensorData=TensorData)
        modules = {
            "tinker": tinker,
            "tinker_cookbook.utils": SimpleNamespace(trace=SimpleNamespace(scope=traced)),
            "tinker_cookbook.utils.cost_estimation": SimpleNamespace(TokenUsage=SimpleNamespace),
            "tinker_cookbook.utils.misc_utils": SimpleNamespace(safezip=lambda *rows: list(zip(*rows, strict=True))),
        }
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        metrics = importlib.import_module("tinker_cookbook.rl.metrics")

        async def score_sequences(client: Any, sequences: Any) -> Any:
            return [[None, *row] for row in client], "usage"

        patch.setattr(metrics, "score_sequences", score_sequences)
        patch.setattr(metrics, "_full_sequence_inputs", lambda data: data)
        yield metrics
        for name in [name for name in sys.modules if name.partition(".")[0] == "tinker_cookbook"]:
            del sys.modules[name]


def data_of(logprobs: Any, mask: Any) -> list[Any]:
    """Datums whose advantages without a KL are 0."""
    return [
        SimpleNamespace(
            loss_fn_inputs={
                "logprobs": TensorData(row.detach()),
                "mask": TensorData(keep.float()),
                "advantages": TensorData(torch.zeros_like(row).detach()),
            }
        )
        for row, keep in zip(logprobs, mask, strict=True)
    ]


def penalised(own: Any, data: list[Any], reference: Any, discount: float = 0.0) -> Any:
    return asyncio.run(own.incorporate_kl_penalty(data, reference.tolist(), 0.5, discount))


def loss_of(own: Any, discount: float = 0.0) -> Any:
    """Tinker's loss of importance sampling, −Σ A_t q_t/sg(q_t), as the oracle calls it."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any) -> Any:
        data = data_of(logprobs, mask)
        penalised(own, data, ref_logprobs, discount)
        ratio = torch.exp(torch.where(mask, logprobs - logprobs.detach(), 0.0))
        advantages = torch.stack([datum.loss_fn_inputs["advantages"].to_torch() for datum in data])
        return -(advantages.where(mask, 0.0) * ratio).sum()

    return loss


def installed(objective: kb.Target = kb.REVERSE_KL, **options: Any) -> Any:
    return ours.install(kl_objective=objective, kl_beta_unit="sequence", **options)


@pytest.mark.parametrize("objective", [kb.REVERSE_KL, kb.STATEWISE_REVERSE_KL, kb.FORWARD_KL])
@pytest.mark.parametrize("baseline", [None, "leave_one_out"])
def test_the_gradient_is_the_objectives(own: Any, objective: kb.Target, baseline: str | None) -> None:
    """In float32, as Tinker's log-probs come."""
    with installed(objective, kl_baseline=baseline):
        assert relative_error(small_world(), loss_of(own), objective, scale=0.5 * 2, rows=2) < 1e-5


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_the_cookbooks_own_penalty_follows_another_gradient(own: Any, discount: float) -> None:
    """With a discount of 1 too: the mean over the batch, added up over the tokens to come, rewards length."""
    loss = loss_of(own, discount)
    assert relative_error(small_world(), loss, kb.REVERSE_KL, scale=0.5 * 2, rows=2) > 0.2


def test_the_audit_names_the_gradient(own: Any) -> None:
    assert audited(loss_of(own), role="surrogate")[0] is not kb.REVERSE_KL
    with installed():
        assert audited(loss_of(own), role="surrogate")[0] is kb.REVERSE_KL


def test_the_log_and_what_is_left_alone(own: Any) -> None:
    q, p, mask = torch.tensor([[-0.5, -1.0]]), torch.tensor([[-0.7, -1.5]]), torch.ones(1, 2)
    stock = own.incorporate_kl_penalty
    before, usage = penalised(own, data_of(q, mask), p)
    with installed():
        data = data_of(q, mask)
        after, spent = penalised(own, data, p)
        assert after.pop("kl_policy_base/sequence") == pytest.approx(0.7)
        assert (after, spent) == (pytest.approx(before), usage)
        assert data[0].loss_fn_inputs["advantages"].to_torch().tolist() == pytest.approx([-0.35, -0.25])
        with pytest.raises(InputError, match="was replaced already"):
            installed()
        with pytest.raises(InputError, match="kl_discount_factor=1 came"):
            penalised(own, data, p, 1.0)
    assert own.incorporate_kl_penalty is stock


def test_another_unit_is_refused(own: Any) -> None:
    with pytest.raises(InputError, match="kl_beta_unit='token' came with tinker-cookbook"):
        ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token")
