"""OpenRLHF's own functions with `kullback.integrations.openrlhf`: ``make test-trainers``.

DeepSpeed, which they import and do not call, is stood in for; so are the lines of the actor's step that call them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from trainer_worlds import audited, relative_error, small_world

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import openrlhf as ours

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
TOKENS, SEQUENCES, RANKS = 40, 16, 2


@pytest.fixture(scope="module")
def own() -> Iterator[Any]:
    """The names that OpenRLHF's actor imports, in a module as it is."""
    found = importlib.util.find_spec("openrlhf")
    if found is None or not found.submodule_search_locations:
        pytest.skip("OpenRLHF is not installed")
    with pytest.MonkeyPatch.context() as patch:
        root = Path(found.submodule_search_locations[0])
        for name, folder in (("openrlhf", root), ("openrlhf.models", root / "models")):
            package = ModuleType(name)
            package.__path__ = [str(folder)]
            patch.setitem(sys.modules, name, package)
        deepspeed = ModuleType("deepspeed")
        deepspeed.__spec__ = ModuleSpec("deepspeed", None)
        patch.setitem(sys.modules, "deepspeed", deepspeed)
        actor = ModuleType("openrlhf.trainer.ray.ppo_actor")
        utils, loss = (importlib.import_module(f"openrlhf.models.{name}") for name in ("utils", "loss"))
        actor.__dict__.update(compute_approx_kl=utils.compute_approx_kl, aggregate_loss=loss.aggregate_loss)
        actor.__dict__["PolicyLoss"] = loss.PolicyLoss
        patch.setitem(sys.modules, actor.__name__, actor)
        yield actor
        for name in [name for name in sys.modules if name.partition(".")[0] == "openrlhf"]:
            del sys.modules[name]


def loss_of(own: Any, **options: Any) -> Any:
    """The lines of the actor's `training_step` after the model's, with β = 0.5, as the oracle calls them."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        counts = {"dp_size": RANKS, "batch_num_tokens": TOKENS, "global_batch_size": SEQUENCES}
        old = behavior_logprobs.detach().where(mask, 0.0)  # OpenRLHF pads with 0
        policy = own.PolicyLoss()(logprobs, old, torch.zeros_like(old), action_mask=mask, **counts)[0]
        settings = {"kl_estimator": "k3", "unbiased_gradient": False, **options}
        kl = own.compute_approx_kl(logprobs, ref_logprobs, log_probs_old=old, **settings)
        return policy + 0.5 * own.aggregate_loss(kl, mask, **counts)

    return loss


def installed(unit: str = "token", objective: kb.Target = kb.REVERSE_KL) -> ours.Both:
    return ours.install(kl_objective=objective, kl_beta_unit=unit)


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize(("unit", "count"), [("token", TOKENS), ("sequence", SEQUENCES)])
def test_the_gradient_is_that_of_the_sequence_kl(own: Any, staleness: float, unit: str, count: int) -> None:
    with installed(unit):
        error = relative_error(small_world(staleness=staleness), loss_of(own), kb.REVERSE_KL, scale=0.5 * RANKS / count)
    assert error < 1e-6


def test_two_rows_and_another_objective(own: Any) -> None:
    with installed("sequence", kb.FORWARD_KL):
        scale = 0.5 * RANKS * 2 / SEQUENCES
        assert relative_error(small_world(), loss_of(own), kb.FORWARD_KL, scale=scale, rows=2) < 1e-6


@pytest.mark.parametrize("unbiased", [False, True])
def test_openrlhfs_own_term_follows_another_gradient(own: Any, unbiased: bool) -> None:
    loss = loss_of(own, unbiased_gradient=unbiased)
    assert relative_error(small_world(), loss, kb.REVERSE_KL, scale=0.5 * RANKS / TOKENS) > 0.2


def test_the_audit_finds_nothing_after_and_something_before(own: Any) -> None:
    assert audited(loss_of(own))[2]
    with installed():
        assert audited(loss_of(own)) == (kb.REVERSE_KL, kb.REVERSE_KL, set())


def test_the_log_and_what_is_left_alone(own: Any) -> None:
    q, p = torch.tensor([[-0.5, -1.0]], requires_grad=True), torch.tensor([[-0.7, -1.5]])
    mask, stock = torch.ones(1, 2), own.compute_approx_kl
    other = own.aggregate_loss(q.detach(), mask)
    of_reward = stock(q.detach(), p, kl_estimator="k1")
    with installed():
        assert own.compute_approx_kl is not stock
        term = own.aggregate_loss(own.compute_approx_kl(q, p, log_probs_old=q.detach()), mask)  # info["kl"]
        assert term.item() == pytest.approx(0.7 / 2)
        assert own.aggregate_loss(q.detach(), mask) == other
        assert torch.equal(own.compute_approx_kl(q.detach(), p, kl_estimator="k1"), of_reward)
        with pytest.raises(InputError, match="was replaced already"):
            installed()
    assert own.compute_approx_kl is stock


def test_another_release_is_refused(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute_approx_kl() -> None:
        """Another one."""

    monkeypatch.setattr(sys.modules["openrlhf.models.utils"], "compute_approx_kl", compute_approx_kl)
    with pytest.raises(InputError, match=r"is not as this was written for .* those of OpenRLHF 0\.11\.2"):
        installed()
