"""Gradients of TRL's trainers with the mixin, on policies small enough to write out: ``make test-trl``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kullback as kb

pytest.importorskip("trl")
from transformers import AutoModelForCausalLM
from trl_worlds import (
    HORIZON,
    PROMPT,
    Gradients,
    exact_gradient,
    length,
    make_folder,
    policy_of,
    trainer_of,
)

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

STEPS = 100
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_folder(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def live(policy: Any) -> list[Any]:
    return [x for x in policy.parameters() if x.requires_grad]


def gradients(
    kind: str, folder: Path, policy: Any, *, after: Callable[[int], None] | None = None, **options: Any
) -> tuple[Gradients, Any]:
    kept = Gradients()
    options = {"max_steps": STEPS, "logging_steps": STEPS, **options}
    trainer = trainer_of(kind, folder, policy, callbacks=[kept.callback(live(policy), after)], **options)
    trainer.train()
    return kept, trainer


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_estimator": kb.K3},
        {"kl_estimator": kb.RAO_BLACKWELL},
        {"kl_baseline": "leave_one_out"},
        {"kl_estimator": kb.RAO_BLACKWELL, "kl_baseline": "leave_one_out"},
    ],
    ids=["k1", "k3", "rao-blackwell", "k1-baseline", "rao-blackwell-baseline"],
)
def test_on_policy_the_gradient_is_the_sequence_kls(
    kind: str, options: dict[str, Any], folder: Path, reference: Any
) -> None:
    policy = policy_of(folder)
    kept, _ = gradients(kind, folder, policy, **options)
    found = kept.against(exact_gradient(policy, reference))
    print(kind, options, found)
    assert found.worst < 4.5
    assert abs(found.share - 1) < 4 * found.share_error < 0.25  # k3's is the largest, 0.050


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_in_the_reward_it_is_the_same(kind: str, folder: Path, reference: Any) -> None:
    """GRPO's own division, by the number of tokens, is the one of `dr_grpo`: HORIZON tokens a row."""
    policy = policy_of(folder)
    options = {"loss_type": "dr_grpo", "scale_rewards": "none"} if kind == "GRPO" else {}
    kept, _ = gradients(kind, folder, policy, kl_placement="reward", **options)
    whole = 1 - 1 / 8 if kind == "GRPO" else 1  # the mean of a group of eight has the row in it
    exact = exact_gradient(policy, reference) * whole / (HORIZON if kind == "GRPO" else 1)
    found = kept.against(exact)
    print(kind, "reward", found)
    assert found.worst < 4.5
    assert abs(found.share - 1) < 4 * found.share_error < 0.2


@pytest.mark.parametrize("target", [kb.STATEWISE_REVERSE_KL, kb.FORWARD_KL, kb.STATEWISE_FORWARD_KL])
@pytest.mark.parametrize("estimator", [kb.K1, kb.RAO_BLACKWELL])
def test_the_other_objectives(target: kb.Target, estimator: kb.Estimator, folder: Path, reference: Any) -> None:
    policy = policy_of(folder, apart=0.1)
    kept, _ = gradients("GRPO", folder, policy, kl_objective=target, kl_estimator=estimator)
    found = kept.against(exact_gradient(policy, reference, target))
    print(target.name, estimator.name, found)
    assert found.worst < 4.5


def test_the_stock_term_follows_something_else(folder: Path, reference: Any) -> None:
    """k3 of GRPO, without its division by the lengths, which would be one more difference: dr_grpo, times HORIZON."""
    policy = policy_of(folder)
    kept, trainer = gradients("GRPO", folder, policy, mixed=False, loss_type="dr_grpo", beta=float(HORIZON))
    found = kept.against(exact_gradient(policy, reference))
    print("stock", found)
    assert found.worst > 15
    assert found.apart > 0.3
    # Which gradient it follows instead depends on TRL's version; either leaves out what a token does to those after it.
    corrected = trainer.args.use_bias_correction_kl
    target = kb.STATEWISE_REVERSE_KL if corrected else kb.STATEWISE_FORWARD_KL
    instead = kept.against(exact_gradient(policy, reference, target))
    print("stock", target.name, instead)
    assert instead.worst < 4.5


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
@pytest.mark.parametrize("estimator", [kb.K1, kb.RAO_BLACKWELL])
def test_off_policy_over_three_epochs(kind: str, estimator: kb.Estimator, folder: Path, reference: Any) -> None:
    """The policy that draws, and those that two steps made of it, are always the same three."""
    policies = [policy_of(folder, apart=apart) for apart in (0.3, 0.26, 0.22)]
    policy = copy.deepcopy(policies[0])

    def move(steps: int) -> None:
        policy.load_state_dict(policies[steps % 3].state_dict())

    kept, _ = gradients(kind, folder, policy, after=move, num_iterations=3, max_steps=3 * STEPS, kl_estimator=estimator)
    for epoch, at in enumerate(policies):
        found = kept.against(exact_gradient(at, reference), slice(epoch, None, 3))
        print(kind, estimator.name, "epoch", epoch, found)
        assert found.worst < 4.5
        assert abs(found.share - 1) < 4 * found.share_error < 0.3


def test_off_policy_the_stock_term_is_wrong_too(folder: Path, reference: Any) -> None:
    policies = [policy_of(folder, apart=apart) for apart in (0.3, 0.26, 0.22)]
    policy = copy.deepcopy(policies[0])

    def move(steps: int) -> None:
        policy.load_state_dict(policies[steps % 3].state_dict())

    options = {"loss_type": "dr_grpo", "beta": float(HORIZON), "num_iterations": 3, "max_steps": 3 * STEPS}
    kept, _ = gradients("GRPO", folder, policy, after=move, mixed=False, **options)
    for epoch, at in enumerate(policies):
        found = kept.against(exact_gradient(at, reference), slice(epoch, None, 3))
        print("stock epoch", epoch, found)
        assert found.worst > 6


def test_what_an_engine_drew_is_weighted_by_its_own_law(folder: Path, reference: Any) -> None:
    """The path of vLLM, whose log-probs come with the tokens: here another model draws."""
    policy, engine = policy_of(folder), policy_of(folder, apart=0.26)

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        ids, logps = [], []
        for _ in prompts:
            tokens, law = list(PROMPT), []
            for _ in range(HORIZON):
                with torch.no_grad():
                    scores = engine(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
                tokens.append(int(torch.multinomial(scores.exp(), 1)))
                law.append(float(scores[tokens[-1]]))
                if tokens[-1] == 0:
                    break
            ids.append(tokens[1:])
            logps.append(law)
        return {"prompt_ids": [PROMPT] * len(prompts), "completion_ids": ids, "logprobs": logps}

    kept, trainer = gradients("GRPO", folder, policy, rollout_func=rollout)
    found = kept.against(exact_gradient(policy, reference))
    print("engine", found)
    assert found.worst < 4.5
    assert abs(found.share - 1) < 4 * found.share_error < 0.3
    assert trainer.state.log_history[0]["kullback/mismatch/k3"] > 0.01


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_type_keeps_its_own_part(loss_type: str, folder: Path) -> None:
    """What the mixin adds to the gradient is the same everywhere, and the rest is the trainer's without a KL."""

    def one(**options: Any) -> torch.Tensor:
        policy = policy_of(folder)
        kept, _ = gradients("GRPO", folder, policy, max_steps=1, loss_type=loss_type, **options)
        return kept.rows[0]

    level = {"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}
    alone = one(**level)
    whole = one(reward=length, **level)
    stock = one(reward=length, beta=0.0, mixed=False, **level)
    policy = policy_of(folder)
    plain, _ = gradients("GRPO", folder, policy, max_steps=1, loss_type="grpo")
    assert torch.allclose(alone, plain.rows[0], rtol=1e-4, atol=1e-6)
    assert float(stock.norm()) > 1e-3
    assert torch.allclose(whole, alone + stock, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
@pytest.mark.parametrize("estimator", [kb.K1, kb.RAO_BLACKWELL])
def test_accumulated_batches_are_one_batch(kind: str, estimator: kb.Estimator, folder: Path) -> None:
    def one(rows: int, **options: Any) -> torch.Tensor:
        policy = policy_of(folder)
        kept, _ = gradients(
            kind, folder, policy, max_steps=1, per_device_train_batch_size=rows, kl_estimator=estimator, **options
        )
        return kept.rows[0]

    whole = one(64)
    parts = one(16, gradient_accumulation_steps=4)
    assert float((parts - whole).norm() / whole.norm()) < 1e-5


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_a_token_is_a_mean_length_of_a_sequence(kind: str, folder: Path) -> None:
    def one(**options: Any) -> tuple[torch.Tensor, dict[str, float]]:
        kept, trainer = gradients(kind, folder, policy_of(folder), max_steps=1, logging_steps=1, **options)
        return kept.rows[0], trainer.state.log_history[0]

    whole, _ = one()
    part, log = one(kl_beta_unit="token")
    mean = log["completions/mean_length"]
    assert log["kl/coefficient"] == pytest.approx(1 / mean)
    assert float((part * mean - whole).norm() / whole.norm()) < 1e-5
    assert log["kl"] * mean == pytest.approx(log["kl/sequence"], rel=1e-5)
