"""slime's own loss, from a checkout, with `kullback.integrations.slime`: ``make test-trainers SOURCES=FOLDER``.

Of what slime stands on, Megatron's groups alone are stood in for: one rank.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import relative_error, small_world

import kullback as kb
from kullback.integrations import slime as ours

SOURCE = Path(os.environ.get("KULLBACK_SOURCES", "nowhere")) / "slime"

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not SOURCE.is_dir(), reason="SOURCES names no folder with a checkout named slime"),
]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """slime.backends.megatron_utils.loss of one rank."""
    with pytest.MonkeyPatch.context() as patch:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path_factory.mktemp('rank') / 'store'}", rank=0, world_size=1
        )
        mpu = ModuleType("megatron.core.mpu")
        mpu.get_context_parallel_world_size = lambda: 1  # type: ignore[attr-defined]
        mpu.get_context_parallel_rank = lambda: 0  # type: ignore[attr-defined]
        mpu.get_tensor_model_parallel_group = lambda: torch.distributed.group.WORLD  # type: ignore[attr-defined]
        core, megatron = ModuleType("megatron.core"), ModuleType("megatron")
        core.mpu, megatron.core = mpu, core  # type: ignore[attr-defined]
        for stand_in in (megatron, core, mpu):
            patch.setitem(sys.modules, stand_in.__name__, stand_in)
        patch.syspath_prepend(SOURCE)
        for name in ("slime.backends", "slime.backends.megatron_utils"):
            package = ModuleType(name)
            package.__path__ = [str(SOURCE / name.replace(".", "/"))]
            patch.setitem(sys.modules, name, package)
        yield importlib.import_module("slime.backends.megatron_utils.loss")
        torch.distributed.destroy_process_group()


def arguments(**changed: Any) -> SimpleNamespace:
    options: dict[str, Any] = {
        "use_kl_loss": True,
        "kl_loss_coef": 0.5,
        "kl_loss_type": "k3",
        "use_unbiased_kl": False,
        "calculate_per_token_loss": False,
        "use_rollout_logprobs": False,
        "rollout_temperature": 1.0,
        "rollout_top_p": 1.0,
        "log_probs_chunk_size": -1,
        "allgather_cp": False,
        "entropy_coef": 0.0,
        "use_opsm": False,
        "advantage_estimator": "grpo",
        "eps_clip": 0.2,
        "eps_clip_high": 0.2,
        "eps_clip_c": None,
        "get_mismatch_metrics": False,
        "use_tis": False,
    }
    return SimpleNamespace(**{**options, **changed})


def loss_of(function: Any, args: Any, own: Any) -> Any:
    """slime's loss as the oracle calls it: one sample after a prompt of one token."""

    def loss(
        logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any, tokens: Any, log_distributions: Any
    ) -> Any:
        count = int(mask.sum())
        sample = torch.cat([torch.zeros(1, dtype=torch.long), tokens[0, :count].long()])
        # Log-probs of the vocabulary are logits; the last position predicts nothing.
        logits = torch.cat([log_distributions[:, :count], torch.zeros_like(log_distributions[:, :1])], 1).float()
        batch = {
            "unconcat_tokens": [sample],
            "total_lengths": [count + 1],
            "response_lengths": [count],
            "loss_masks": [torch.ones(count)],
            "advantages": [torch.zeros(count)],
            "log_probs": [behavior_logprobs[0, :count].float()],
            "ref_log_probs": [ref_logprobs[0, :count].float()],
        }
        lengths = (batch["total_lengths"], batch["response_lengths"], batch["loss_masks"], None)
        return function(args, batch, logits, own.get_sum_of_sample_mean(*lengths, args.calculate_per_token_loss))[0]

    return loss


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize(("unit", "per_token"), [("sequence", False), ("token", True)])
def test_the_gradient_is_that_of_the_sequence_kl(own: Any, unit: str, per_token: bool, staleness: float) -> None:
    function = ours.policy_loss(kl_objective=kb.REVERSE_KL, kl_beta_unit=unit)
    loss = loss_of(function, arguments(calculate_per_token_loss=per_token), own)
    assert relative_error(small_world(staleness=staleness), loss, kb.REVERSE_KL, scale=0.5) < 1e-5


def test_slimes_own_term_follows_another_gradient(own: Any) -> None:
    loss = loss_of(own.policy_loss_function, arguments(calculate_per_token_loss=True), own)
    assert relative_error(small_world(), loss, kb.REVERSE_KL, scale=0.5) > 0.2
