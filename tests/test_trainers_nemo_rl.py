"""NeMo-RL's own loss, out of a checkout, with `kullback.integrations.nemo_rl`: ``make test-trainers SOURCES=…``."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import audited, checkout, relative_error, small_world

import kullback as kb
from kullback.auditing.subject.source import take
from kullback.errors import InputError
from kullback.integrations import nemo_rl as ours

SOURCE = checkout("nemo-rl")
TOKENS, SEQUENCES = 40, 16

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not SOURCE.is_dir(), reason="SOURCES names no folder with a checkout named nemo-rl"),
]


def stock(**changed: Any) -> Any:
    """NeMo-RL's loss with its default options, as the configuration of its examples has them."""
    options: dict[str, Any] = {
        "disable_ppo_ratio": False,
        "ratio_clip_min": 0.2,
        "ratio_clip_max": 0.2,
        "ratio_clip_c": None,
        "reference_policy_kl_penalty": 0.5,
        "reference_policy_kl_type": "k3",
        "kl_input_clamp_value": 20.0,
        "kl_output_clamp_value": 10.0,
        "use_kl_in_reward": False,
        "use_importance_sampling_correction": False,
        "truncated_importance_sampling_type": None,
        "truncated_importance_sampling_ratio": None,
        "truncated_importance_sampling_ratio_min": None,
        "use_on_policy_kl_approximation": False,
        "force_on_policy_ratio": False,
        "sequence_level_importance_ratios": False,
        "positive_example_nll_weight": 0.0,
        "token_level_loss": True,
        "use_cispo": False,
    }
    made = take(SOURCE / "nemo_rl/algorithms/loss/loss_functions.py", "ClippedPGLossFn").fn
    return made(SimpleNamespace(**{**options, **changed}))


def loss_of(function: Any) -> Any:
    """The loss as the oracle calls it: rows after a prompt of one token, and one that is left out."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        def column(values: Any) -> Any:
            # NeMo-RL pads with 0; its own term multiplies whatever stands there.
            padded = torch.nn.functional.pad(values.detach().where(mask, 0.0), (1, 0))
            return torch.cat([padded, torch.full_like(padded[:1], -3.0)])

        rows = len(logprobs)
        data = {
            "token_mask": torch.nn.functional.pad(torch.cat([mask, torch.ones_like(mask[:1])]), (1, 0)).double(),
            "sample_mask": torch.tensor([1.0] * rows + [0.0]).double(),
            "advantages": torch.zeros(rows + 1, mask.shape[1] + 1).double(),
            "prev_logprobs": column(behavior_logprobs),
            "generation_logprobs": column(behavior_logprobs),
            "reference_policy_logprobs": column(ref_logprobs),
        }
        live = torch.cat([logprobs, torch.full_like(logprobs[:1], -1.0).detach()])
        return function(live, data, torch.tensor(SEQUENCES), torch.tensor(TOKENS))[0]

    return loss


def wrapped(unit: str = "token", objective: kb.Target = kb.REVERSE_KL, **changed: Any) -> ours.KLLoss:
    return ours.with_kl(stock(**changed), kl_objective=objective, kl_beta_unit=unit)


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize("correction", [False, True])
def test_the_gradient_is_that_of_the_sequence_kl(staleness: float, correction: bool) -> None:
    loss = loss_of(wrapped(use_importance_sampling_correction=correction))
    assert relative_error(small_world(staleness=staleness), loss, kb.REVERSE_KL, scale=0.5 / TOKENS) < 1e-6


@pytest.mark.parametrize("objective", [kb.REVERSE_KL, kb.FORWARD_KL])
def test_two_rows_and_nats_a_sequence(objective: kb.Target) -> None:
    loss = loss_of(wrapped("sequence", objective, token_level_loss=False))
    assert relative_error(small_world(), loss, objective, scale=0.5 * 2 / SEQUENCES, rows=2) < 1e-6


def test_it_reaches_the_workers_pickled_and_shows_what_they_read() -> None:
    made = wrapped()
    kept = made.stock
    made.stock = None  # a class taken out of its file has no module to be found in
    sent = pickle.loads(pickle.dumps(made))
    sent.stock = kept
    assert relative_error(small_world(), loss_of(sent), kb.REVERSE_KL, scale=0.5 / TOKENS) < 1e-6
    assert sent.loss_type is kept.loss_type
    assert sent.metric_normalizations == kept.metric_normalizations
    assert sent.reference_policy_kl_penalty == 0.5
    assert not hasattr(sent, "zero_outside_topk")


def test_nemo_rls_own_term_follows_another_gradient() -> None:
    assert relative_error(small_world(), loss_of(stock()), kb.REVERSE_KL, scale=0.5 / TOKENS) > 0.2


def test_the_log_and_what_is_left_alone() -> None:
    q, p = torch.tensor([[-0.5, -1.0]], dtype=torch.float64), torch.tensor([[-0.7, -1.5]], dtype=torch.float64)
    zero = torch.zeros(1, 3).double()
    data = {
        "token_mask": torch.tensor([[0.0, 1.0, 1.0]]).double(),
        "sample_mask": torch.ones(1).double(),
        "advantages": zero + 1.0,
        "prev_logprobs": torch.nn.functional.pad(q, (1, 0)),
        "generation_logprobs": torch.nn.functional.pad(q, (1, 0)),
        "reference_policy_logprobs": torch.nn.functional.pad(p, (1, 0)),
    }
    counts = torch.tensor(SEQUENCES), torch.tensor(TOKENS)
    plain, before = stock(reference_policy_kl_penalty=0)(q, data, *counts)
    loss, after = wrapped()(q, data, *counts)
    assert set(after) == set(before)
    assert after["kl_penalty"] == pytest.approx(0.7 / TOKENS)
    assert float(loss) == pytest.approx(float(plain) + 0.5 * 0.7 / TOKENS) == after["loss"]
    assert {k: after[k] for k in after if k not in ("loss", "kl_penalty")} == {
        k: before[k] for k in before if k not in ("loss", "kl_penalty")
    }


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="kl_beta_unit='sequence' came with token_level_loss=True"):
        wrapped("sequence")
    with pytest.raises(InputError, match="reference_policy_kl_penalty=0 in the loss"):
        wrapped(reference_policy_kl_penalty=0)


def test_the_audit_finds_nothing_after_and_something_before() -> None:
    assert audited(loss_of(stock()))[2] >= {"KB203", "KB304"}
    assert audited(loss_of(wrapped())) == (kb.REVERSE_KL, kb.REVERSE_KL, set())
