"""What of TRL's mixin needs no TRL: the unit of β, and what is refused before a model is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kullback as kb
from kullback.integrations.trl import KLCallback, KLMixin
from kullback.integrations.trl.batches import baseline_groups, behavior, counted, prompts
from kullback.integrations.units import sequence_coefficient


class Trainer:
    """As much of a trainer as its __init__ shows."""

    def __init__(self, model: Any = None, reward_funcs: Any = None, args: Any = None) -> None:
        self.args, self.beta = args, args.beta
        self.model = self.ref_model = model
        self.reward_weights, self.reward_func_names = torch.ones(1), ["length"]
        for name, value in vars(args).items():
            setattr(self, name, value)


class Mixed(KLMixin, Trainer):
    """The mixin before it."""


def config(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"beta": 0.04, "per_device_train_batch_size": 8, "loss_type": "grpo", **changed})


RIGHT: dict[str, Any] = {"kl_objective": kb.REVERSE_KL, "kl_beta_unit": "token"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kl_objective": kb.REVERSE_KL}, "kl_beta_unit=None: pass 'token'"),
        ({"kl_beta_unit": "token"}, "beta=0.04 came without kl_objective"),
        ({**RIGHT, "kl_beta_unit": "nats"}, "kl_beta_unit='nats'"),
        ({**RIGHT, "kl_objective": kb.ZERO}, "objective="),
        ({**RIGHT, "kl_estimator": "k2"}, "estimator=k2 came"),
        ({**RIGHT, "kl_placement": "advantage"}, "kl_placement='advantage' came"),
        ({**RIGHT, "kl_placement": "reward", "kl_estimator": "k3"}, "k3 in the reward follows"),
        ({**RIGHT, "kl_placement": "reward", "kl_objective": kb.FORWARD_KL}, "kl_objective=forward_kl came with"),
        ({**RIGHT, "kl_placement": "reward", "kl_baseline": "leave_one_out"}, "are for kl_placement='loss'"),
        ({**RIGHT, "kl_placement": "reward", "kl_truncate": 2.0}, "are for kl_placement='loss'"),
        ({**RIGHT, "kl_baseline": "mean"}, "kl_baseline='mean' came"),
        ({**RIGHT, "kl_truncate": -1.0}, "-1"),
    ],
)
def test_what_nothing_can_follow_is_refused_in_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises((kb.errors.InputError, kb.errors.NameUnknownError)) as raised:
        Mixed(args=config(), **options)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        ({"use_liger_kernel": True, "compute_liger_loss": 1}, {}, "Liger's loss has a KL of its own"),
        ({"per_device_train_batch_size": 1}, {"kl_baseline": "leave_one_out"}, "per_device_train_batch_size=1"),
        ({"sync_ref_model": True}, {"kl_estimator": kb.RAO_BLACKWELL}, "came with sync_ref_model=True"),
        ({"is_fsdp_enabled": True}, {"kl_estimator": kb.RAO_BLACKWELL}, "FSDP and DeepSpeed"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            {"kl_placement": "reward"},
            "normalize_then_sum' came with",
        ),
        ({"tools": [print]}, {"kl_placement": "reward"}, "came with tools"),
    ],
)
def test_paths_that_go_around_the_mixin_are_refused(changed: Any, options: Any, said: str) -> None:
    with pytest.raises(kb.errors.InputError, match=said):
        Mixed(args=config(**changed), **{**RIGHT, **options})


def test_without_a_coefficient_nothing_is_asked_for() -> None:
    trainer = Mixed(args=config(beta=0.0))
    assert trainer.kl_options is None
    assert trainer.beta == 0


def test_options_by_place_are_seen_before_a_model_is_loaded() -> None:
    class Loads(Trainer):
        def __init__(self, *args: Any) -> None:
            raise AssertionError("loaded")

    made = type("Made", (KLMixin, Loads), {})
    with pytest.raises(kb.errors.InputError, match="kl_beta_unit"):
        made("model", [], config(), kl_objective=kb.REVERSE_KL)


def test_cut_distributions_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Mixed(args=config(top_p=0.9, top_k=0), **RIGHT)
    assert "top_p=0.9" in caplog.text
    caplog.clear()
    Mixed(args=config(top_p=1.0, top_k=0), **RIGHT)
    assert not caplog.text


def test_a_nat_a_token_is_a_mean_length_of_nats_a_sequence() -> None:
    assert sequence_coefficient(0.24, "token", 24.0) == pytest.approx(0.01)
    assert sequence_coefficient(0.24, "sequence", 24.0) == 0.24
    assert sequence_coefficient(0.24, "token", 0.0) == 0.0


def test_columns_of_a_batch() -> None:
    batch = {
        "prompt_ids": torch.tensor([[0, 5, 6], [0, 5, 6], [7, 5, 6]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1]]),
        "tool_mask": torch.tensor([[1, 0], [1, 1], [1, 1]]),
        "old_per_token_logps": torch.tensor([[-1.0, -2.0]] * 3),
    }
    assert counted(batch).tolist() == [[True, False], [True, False], [True, True]]
    numbers = prompts(batch)
    assert numbers[0] == numbers[1] != numbers[2]
    wider = {"prompt_ids": torch.tensor([[0, 0, 5, 6]]), "prompt_mask": torch.tensor([[0, 0, 1, 1]])}
    assert prompts(wider)[0] == numbers[0]
    assert baseline_groups(numbers) is None  # the third prompt has one row here
    assert baseline_groups(numbers[:2]) == [0, 0]
    told = {**batch, "sampling_per_token_logps": torch.tensor([[-3.0, float("nan")]] * 3)}
    found = behavior(told)
    assert found is not None
    assert found.tolist() == [[-3.0, -2.0]] * 3
    assert behavior({}) is None


def test_the_callback_wants_a_trainer_with_a_reference() -> None:
    with pytest.raises(kb.errors.InputError, match="a Thing came"):
        KLCallback(type("Thing", (), {})())
    with pytest.raises(kb.errors.InputError, match="keeps no reference"):
        KLCallback(SimpleNamespace(beta=0.0))
