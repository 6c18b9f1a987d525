"""SkyRL's own registry and losses with `kullback.integrations.skyrl`: ``make test-trainers``.

Its configuration, which needs Python 3.12, is stood in for; so are the lines of its worker that call both losses.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import audited, checkout, relative_error, small_world

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import skyrl as ours

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
PACKAGE = "skyrl.backends.skyrl_train.utils"


def stood_in(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []
    module.__dict__.update(members)
    return module


@pytest.fixture(params=["installed", "checkout"])
def own(request: pytest.FixtureRequest) -> Iterator[Any]:
    """skyrl.backends.skyrl_train.utils.ppo_utils, of the release and of the newest source."""
    if request.param == "checkout":
        root = checkout("skyrl")
        if not root.is_dir():
            pytest.skip("SOURCES names no folder with a checkout named skyrl")
    else:
        found = importlib.util.find_spec("skyrl")
        if found is None or not found.submodule_search_locations:
            pytest.skip("SkyRL is not installed")
        root = Path(found.submodule_search_locations[0]).parent
    pytest.importorskip("loguru")
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "skyrl"}
    with pytest.MonkeyPatch.context() as patch:
        for name in kept:
            patch.delitem(sys.modules, name)
        for name in ("skyrl", "skyrl.backends", "skyrl.backends.skyrl_train", PACKAGE):
            package = stood_in(name)
            package.__path__ = [f"{root}/{name.replace('.', '/')}"]
            patch.setitem(sys.modules, name, package)
        config = stood_in("skyrl.train.config", AlgorithmConfig=object, OffPolicyCorrectionConfig=object)
        patch.setitem(sys.modules, "skyrl.train", stood_in("skyrl.train"))
        patch.setitem(sys.modules, "skyrl.train.config", config)
        module = importlib.import_module(f"{PACKAGE}.ppo_utils")
        module.PolicyLossRegistry.repopulate_registry()
        yield module
        for name in [name for name in sys.modules if name.partition(".")[0] == "skyrl"]:
            del sys.modules[name]


def algorithm(**changed: Any) -> SimpleNamespace:
    correction = SimpleNamespace(
        tis_ratio_type=None,
        sequence_mask_metric=None,
        token_mask_is_threshold_low=None,
        token_mask_is_threshold_high=None,
        outlier_token_is_threshold_low=None,
        outlier_token_is_threshold_high=None,
    )
    options = {
        "policy_loss_type": "kullback",
        "eps_clip_low": 0.2,
        "eps_clip_high": 0.2,
        "off_policy_correction": correction,
        "kl_estimator_type": "k3",
    }
    return SimpleNamespace(**{**options, **changed})


def loss_of(own: Any, name: str = "kullback") -> Any:
    """What a worker of SkyRL does with a micro-batch, `kl_loss_coef` of 0.5, as the oracle calls it."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        config = algorithm(policy_loss_type=name)
        counted = mask.double()
        old = behavior_logprobs.detach().where(mask, 0.0)  # SkyRL pads with 0
        policy_loss, _ = own.PolicyLossRegistry.get(name)(
            logprobs, old, torch.zeros_like(old), config=config, loss_mask=counted, rollout_logprobs=old
        )
        kl = own.compute_approx_kl(logprobs, ref_logprobs, loss_mask=counted, kl_estimator_type="k3")
        return policy_loss + 0.5 * own.masked_mean(kl, counted, dim=-1).mean()

    return loss


def registered(objective: kb.Target = kb.REVERSE_KL) -> ours.PolicyLoss:
    return ours.register(kl_objective=objective, kl_beta_unit="sequence")


@pytest.mark.parametrize("staleness", [0.0, 0.4])
def test_the_gradient_is_that_of_the_sequence_kl(own: Any, staleness: float) -> None:
    registered()
    assert relative_error(small_world(staleness=staleness), loss_of(own), kb.REVERSE_KL, scale=0.5) < 1e-6


def test_two_rows_and_another_objective(own: Any) -> None:
    registered(kb.FORWARD_KL)
    assert relative_error(small_world(), loss_of(own), kb.FORWARD_KL, scale=0.5, rows=2) < 1e-6


def test_it_reaches_a_worker_pickled(own: Any) -> None:
    own.PolicyLossRegistry.register("sent", pickle.loads(pickle.dumps(registered())))
    assert relative_error(small_world(), loss_of(own, "sent"), kb.REVERSE_KL, scale=0.5) < 1e-6


def test_the_audit_finds_nothing_after_and_something_before(own: Any) -> None:
    assert audited(loss_of(own, "regular"))[2]
    registered()
    assert audited(loss_of(own)) == (kb.REVERSE_KL, kb.REVERSE_KL, set())


def test_skyrls_own_term_follows_another_gradient(own: Any) -> None:
    assert relative_error(small_world(), loss_of(own, "regular"), kb.REVERSE_KL, scale=0.5) > 0.2


def test_the_log_and_what_is_left_alone(own: Any) -> None:
    q, p = torch.tensor([[-0.5, -1.0]]), torch.tensor([[-0.7, -1.5]])
    ones = torch.ones(1, 2)
    stock = own.compute_approx_kl
    before = own.PolicyLossRegistry.get("regular")(q.clone(), q, ones, algorithm(policy_loss_type="regular"), ones, q)
    after = registered()(q, q, ones, config=algorithm(), loss_mask=ones, rollout_logprobs=q)
    assert (float(after[0]), after[1]) == (float(before[0]), before[1])
    assert own.masked_mean(own.compute_approx_kl(q, p, ones), ones, dim=-1).mean() == pytest.approx(0.7)
    of_reward = own.compute_approx_kl(q.clone(), p, ones, kl_estimator_type="k1")  # no policy loss saw these
    assert torch.equal(of_reward, stock(q.clone(), p, ones, kl_estimator_type="k1"))


def test_what_does_not_fit_is_refused(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="kl_beta_unit='token' came with SkyRL's KL loss"):
        ours.register(kl_objective=kb.REVERSE_KL, kl_beta_unit="token")

    def compute_approx_kl() -> None:
        """Another one."""

    monkeypatch.setattr(own, "compute_approx_kl", compute_approx_kl)
    with pytest.raises(InputError, match=r"is not as this was written for .* those of SkyRL 0\.3\.0"):
        registered()
