"""miles' own loss, from a checkout, with `kullback.integrations.miles`: ``make test-trainers SOURCES=FOLDER``.

Of what it stands on, its parallel state, its utilities and a kernel of Megatron's are stood in for: one rank.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import checkout, relative_error, small_world

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import miles as ours

SOURCE = checkout("miles")

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not SOURCE.is_dir(), reason="SOURCES names no folder with a checkout named miles"),
]


def cross_entropy(logits: Any, tokens: Any, group: Any) -> Any:
    """Megatron's kernel, of one rank."""
    return -logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """miles.backends.training_utils.loss_hub.losses of one rank."""
    with pytest.MonkeyPatch.context() as patch:
        store = tmp_path_factory.mktemp("rank") / "store"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        one = SimpleNamespace(rank=0, size=1, group=torch.distributed.group.WORLD)
        state = SimpleNamespace(cp=one, tp=one, intra_dp=one, is_ulysses_cp=False)
        parallel = ModuleType("miles.backends.training_utils.parallel")
        parallel.__dict__["get_parallel_state"] = lambda: state
        misc = ModuleType("miles.utils.misc")
        misc.__dict__["load_function"] = importlib.import_module
        megatron = ModuleType("megatron.core.fusions.fused_cross_entropy")
        megatron.__dict__["fused_vocab_parallel_cross_entropy"] = cross_entropy
        for name in ("megatron", "megatron.core", "megatron.core.fusions"):
            patch.setitem(sys.modules, name, ModuleType(name))
        for module in (parallel, misc, megatron):
            patch.setitem(sys.modules, module.__name__, module)
        patch.syspath_prepend(SOURCE)
        yield importlib.import_module("miles.backends.training_utils.loss_hub.losses")
        torch.distributed.destroy_process_group()
        for name in [name for name in sys.modules if name.partition(".")[0] == "miles"]:
            del sys.modules[name]


def arguments(**changed: Any) -> SimpleNamespace:
    options: dict[str, Any] = {
        "use_kl_loss": True,
        "kl_loss_coef": 0.5,
        "kl_loss_type": "k3",
        "use_unbiased_kl": False,
        "calculate_per_token_loss": False,
        "use_rollout_logprobs": False,
        "skip_actor_forward_only": False,
        "observe_training_entropy": False,
        "true_on_policy_mode": False,
        "qkv_format": "thd",
        "custom_pg_loss_reducer_function_path": None,
        "rollout_temperature": 1.0,
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
    """miles' loss as the oracle calls it: one sample after a prompt of one token."""

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
            "log_probs": [behavior_logprobs[0, :count].detach().float()],
            "ref_log_probs": [ref_logprobs[0, :count].float()],
        }
        lengths = (batch["total_lengths"], batch["response_lengths"], batch["loss_masks"])
        reducer = own.get_sum_of_sample_mean(*lengths, args.calculate_per_token_loss, args.qkv_format)
        return function(args, batch, logits, reducer)[0]

    return loss


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize(("unit", "per_token"), [("sequence", False), ("token", True)])
def test_the_gradient_is_that_of_the_sequence_kl(own: Any, unit: str, per_token: bool, staleness: float) -> None:
    """In float32, as miles computes log-probs."""
    function = ours.policy_loss(kl_objective=kb.REVERSE_KL, kl_beta_unit=unit)
    loss = loss_of(function, arguments(calculate_per_token_loss=per_token), own)
    assert relative_error(small_world(staleness=staleness), loss, kb.REVERSE_KL, scale=0.5) < 1e-5


def test_miles_own_term_follows_another_gradient(own: Any) -> None:
    loss = loss_of(own.policy_loss_function, arguments(calculate_per_token_loss=True), own)
    assert relative_error(small_world(), loss, kb.REVERSE_KL, scale=0.5) > 0.2


def test_what_does_not_fit_is_refused(own: Any) -> None:
    made = ours.policy_loss(kl_objective=kb.REVERSE_KL, kl_beta_unit="token")
    with pytest.raises(InputError, match="kl_beta_unit='token' came with calculate_per_token_loss=False"):
        made(arguments(), {}, None, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="use_kl_loss=False came"):
        made(arguments(use_kl_loss=False), {}, None, None)  # type: ignore[arg-type]
