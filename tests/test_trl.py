"""The mixin inside TRL's trainers: its accumulated gradient beside the exact one, whatever the trainer is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl_worlds import (
    Agreement,
    Gradients,
    exact_gradient,
    make_folder,
    policy_of,
    trainer_of,
)

import kullback as kb

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trl")

STEPS = 30
"""Optimizer steps of 64 rows."""

LARGE = 4.0
"""Standard errors in thirteen directions: one run in a thousand is further off."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("trl"))


def live(policy: Any) -> list[torch.nn.Parameter]:
    return [x for x in policy.parameters() if x.requires_grad]


def run(kind: str, folder: Path, *, target: kb.Target = kb.REVERSE_KL, **options: Any) -> Agreement:
    """How the gradients of a policy that stays where it is agree with the exact one."""
    policy = policy_of(folder)
    found = Gradients()
    exact = exact_gradient(policy, policy_of(folder, apart=0.0), target)
    options = {"max_steps": STEPS, "callbacks": [found.callback(live(policy))], **options}
    trainer = trainer_of(kind, folder, policy, **options)
    trainer.ref_model = policy_of(folder, apart=0.0).eval()  # the trainer's own is the policy as it began
    trainer.train()
    return found.against(exact)


@pytest.mark.parametrize("estimator", [kb.K1, kb.K3, kb.RAO_BLACKWELL], ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_the_gradient_is_the_kls(kind: str, estimator: kb.Estimator, folder: Path) -> None:
    assert run(kind, folder, kl_estimator=estimator).worst < LARGE


@pytest.mark.parametrize("target", [kb.FORWARD_KL, kb.STATEWISE_REVERSE_KL], ids=lambda t: t.name)
def test_other_objectives_are_followed_too(target: kb.Target, folder: Path) -> None:
    estimator = kb.RAO_BLACKWELL if target is kb.STATEWISE_REVERSE_KL else kb.K3
    found = run("GRPO", folder, target=target, kl_objective=target, kl_estimator=estimator)
    assert found.worst < LARGE


def test_the_stock_term_follows_another_gradient(folder: Path) -> None:
    """GRPO's k3 in the loss: its mean is not the KL's gradient, by more than its error explains."""
    found = run("GRPO", folder, mixed=False, loss_type="grpo")
    assert found.worst > 2 * LARGE
    assert found.apart > 0.3


@pytest.mark.parametrize("estimator", [kb.K1, kb.RAO_BLACKWELL], ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_three_epochs_over_a_batch_follow_the_policy_as_it_is(kind: str, estimator: kb.Estimator, folder: Path) -> None:
    """Drawn from the first of three policies, each gradient is the KL's of the policy that is trained."""
    policy, reference = policy_of(folder), policy_of(folder, apart=0.0)
    places = [{name: x.clone() for name, x in policy_of(folder, apart=0.3, seed=1).state_dict().items()}]
    for seed in (5, 6):
        moved = policy_of(folder, apart=0.0)
        moved.load_state_dict(places[0])
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for x in moved.parameters():
                x += 0.1 * torch.randn(x.shape, generator=generator)
        places.append({name: x.clone() for name, x in moved.state_dict().items()})
    exact = []
    for place in places:
        policy.load_state_dict(place)
        exact.append(exact_gradient(policy, reference))
    policy.load_state_dict(places[0])
    found = Gradients()
    callback = found.callback(live(policy), after=lambda step: policy.load_state_dict(places[step % 3]))
    trainer = trainer_of(
        kind, folder, policy, max_steps=3 * STEPS, num_iterations=3, callbacks=[callback], kl_estimator=estimator
    )
    trainer.ref_model = reference.eval()
    trainer.train()
    for epoch in range(3):
        agreement = found.against(exact[epoch], slice(epoch, None, 3))
        assert agreement.worst < LARGE, (epoch, agreement)


WAYS: dict[str, dict[str, Any]] = {
    "accumulated": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4},
    "several steps a generation": {"per_device_train_batch_size": 32, "steps_per_generation": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "leave one out": {"kl_baseline": "leave_one_out", "kl_estimator": kb.K1},
    **{f"loss {name}": {"loss_type": name} for name in ("grpo", "dr_grpo", "bnpo", "dapo", "cispo", "sapo", "luspo")},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_the_kls_whatever_the_trainer_does_besides(way: str, folder: Path) -> None:
    assert run("GRPO", folder, **{"kl_estimator": kb.RAO_BLACKWELL, **WAYS[way]}).worst < LARGE


def test_in_half_precision_it_is_off_by_its_rounding(folder: Path) -> None:
    found = run("GRPO", folder, bf16=True, kl_estimator=kb.RAO_BLACKWELL, max_steps=10)
    assert found.apart < 0.1


def test_in_the_reward_it_is_the_kls_too(folder: Path) -> None:
    """GRPO's group mean is taken off, of 8 samples each: (1 − 1/8) of the gradient, which TRL's advantage has."""
    found = run("GRPO", folder, kl_placement="reward", scale_rewards="none", loss_type="grpo", max_steps=2 * STEPS)
    assert 0 < found.share < 2


def test_beta_a_token_is_divided_by_the_mean_length(folder: Path) -> None:
    policy = policy_of(folder)
    trainer = trainer_of("GRPO", folder, policy, kl_beta_unit="token", max_steps=2)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "kl/coefficient" in log]
    for log in logs:
        assert log["kl/coefficient"] == pytest.approx(1 / log["completions/mean_length"], rel=1e-6)
        assert log["kl/sequence"] == pytest.approx(log["kl"] * log["completions/mean_length"], rel=1e-6)
