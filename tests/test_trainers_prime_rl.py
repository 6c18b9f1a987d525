"""prime-rl's own losses, from a checkout, with `kullback.integrations.prime_rl`: ``make test-trainers SOURCES=…``.

Its configuration and its utilities are stood in for: they need its whole stack.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import audited, checkout, relative_error, small_world

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import prime_rl as ours

SOURCE = checkout("prime-rl")
TOKENS = 40

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not SOURCE.is_dir(), reason="SOURCES names no folder with a checkout named prime-rl"),
]


class DefaultLossConfig(SimpleNamespace):
    def __init__(self, **changed: Any) -> None:
        super().__init__(**{"dppo_mask_low": 0.2, "dppo_mask_high": 0.2, "adv_tau": 1.0, "kl_tau": 1e-3, **changed})


class IPOLossConfig(SimpleNamespace):
    def __init__(self, **changed: Any) -> None:
        super().__init__(**{"ipo_threshold": 0.1, "adv_tau": 1.0, "kl_tau": 1e-3, **changed})


@pytest.fixture(scope="module")
def own() -> Iterator[Any]:
    """prime_rl.trainer.rl.loss."""
    pytest.importorskip("jaxtyping")
    pytest.importorskip("beartype")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("prime_rl", "prime_rl.trainer", "prime_rl.trainer.rl"):
            package = ModuleType(name)
            package.__path__ = [str(SOURCE / "src" / name.replace(".", "/"))]
            patch.setitem(sys.modules, name, package)
        configs = ModuleType("prime_rl.configs.trainer")
        named = {"DefaultLossConfig": DefaultLossConfig, "IPOLossConfig": IPOLossConfig}
        configs.__dict__.update({**named, "CustomLossConfig": SimpleNamespace, "LossConfig": SimpleNamespace})
        utils = ModuleType("prime_rl.utils.utils")
        utils.__dict__["import_object"] = lambda path: path
        for module in (configs, utils):
            patch.setitem(sys.modules, module.__name__.rpartition(".")[0], ModuleType(module.__name__))
            patch.setitem(sys.modules, module.__name__, module)
        yield importlib.import_module("prime_rl.trainer.rl.loss")


def loss_of(own: Any, function: Any, *, component: str = "rl", **kwargs: Any) -> Any:
    """prime-rl's loss of packed samples as the oracle calls it; the first token of each is a prompt."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        def samples(values: Any) -> list[Any]:
            return [torch.nn.functional.pad(row[keep], (1, 0)) for row, keep in zip(values, mask, strict=True)]

        counted = samples(mask)
        ones, none = [keep.double() for keep in counted], [torch.zeros(len(keep)).double() for keep in counted]
        return own.compute_loss(
            trainer_logprobs=samples(logprobs),
            inference_logprobs=samples(behavior_logprobs.detach()),
            ref_logprobs=samples(ref_logprobs),
            advantages=none,
            loss_mask=counted,
            rl_weights=ones if component == "rl" else none,
            ce_weights=None,
            ref_kl_weights=ones if component == "ref_kl" else None,
            rl_loss_fn=lambda inputs: function(inputs, **kwargs),
            rl_scale=TOKENS,
            ce_scale=1,
            ref_kl_scale=TOKENS,
        )[0]

    return loss


def custom(kl_to: ours.KlTo, objective: kb.Target = kb.REVERSE_KL) -> Any:
    return ours.rl_loss(0.5, kl_to=kl_to, kl_objective=objective, kl_beta_unit="token")


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize("kwargs", [{}, {"ipo_threshold": 0.1}])
def test_the_gradient_is_that_of_the_sequence_kl(own: Any, staleness: float, kwargs: dict[str, float]) -> None:
    loss = loss_of(own, custom("reference"), **kwargs)
    assert relative_error(small_world(staleness=staleness), loss, kb.REVERSE_KL, scale=0.5 / TOKENS) < 1e-6


def test_to_the_engines_policy(own: Any) -> None:
    world = small_world(staleness=0.4)
    to_engine = type(world)(world.policy, world.sampler, world.sampler)
    loss = loss_of(own, custom("inference"))
    assert relative_error(to_engine, loss, kb.REVERSE_KL, scale=0.5 / TOKENS) < 1e-6


def test_prime_rls_own_terms_follow_other_gradients(own: Any) -> None:
    world = small_world(staleness=0.4)
    to_engine = type(world)(world.policy, world.sampler, world.sampler)
    stock = loss_of(own, lambda inputs: own.default_loss_fn(inputs, DefaultLossConfig(kl_tau=0.5)))
    assert relative_error(to_engine, stock, kb.REVERSE_KL, scale=0.5 / TOKENS) > 0.2
    distilled = loss_of(own, None, component="ref_kl")
    assert relative_error(small_world(), distilled, kb.REVERSE_KL, scale=1 / TOKENS) > 0.2


@pytest.mark.parametrize("staleness", [0.0, 0.4])
def test_distillation(own: Any, staleness: float) -> None:
    loss, stock = loss_of(own, None, component="ref_kl"), own.ref_kl_loss_fn
    with ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token"):
        assert own.ref_kl_loss_fn is not stock
        assert relative_error(small_world(staleness=staleness), loss, kb.REVERSE_KL, scale=1 / TOKENS) < 1e-6
    assert own.ref_kl_loss_fn is stock


def test_the_audit_finds_nothing_after_and_something_before(own: Any) -> None:
    loss = loss_of(own, None, component="ref_kl")
    assert audited(loss)[2]
    with ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token"):
        assert audited(loss) == (kb.REVERSE_KL, kb.REVERSE_KL, set())
    assert audited(loss_of(own, custom("reference"))) == (kb.REVERSE_KL, kb.REVERSE_KL, set())


def inputs(own: Any, **changed: Any) -> Any:
    q = torch.tensor([0.0, -0.5, -1.0])
    given = {
        "trainer_logprobs": q,
        "inference_logprobs": q,
        "ref_logprobs": torch.tensor([0.0, -0.7, -1.5]),
        "advantages": torch.ones(3),
        "loss_mask": torch.tensor([False, True, True]),
    }
    return own.LossInputs(**{**given, **changed})


def test_the_log_and_what_is_left_alone(own: Any) -> None:
    before = own.default_loss_fn(inputs(own), DefaultLossConfig(kl_tau=0.0))
    after = custom("reference")(inputs(own))
    assert set(after.metrics) == set(before.metrics) | {"kl_to_reference"}
    assert float(after.metrics["kl_to_reference"]) == pytest.approx(0.7)
    assert float(after.loss) == pytest.approx(float(before.loss) + 0.5 * 0.7)
    weighted = custom("reference")(inputs(own, loss_weights=torch.tensor([0.0, 3.0, 3.0])))
    assert float(weighted.loss) == pytest.approx(3 * float(after.loss))


def test_what_does_not_fit_is_refused(own: Any) -> None:
    with pytest.raises(InputError, match="kl_to='engine' came"):
        custom("engine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kl_beta_unit='sequence' came with prime-rl, whatever its options"):
        ours.rl_loss(0.5, kl_to="inference", kl_objective=kb.REVERSE_KL, kl_beta_unit="sequence")
    with pytest.raises(InputError, match="a sample came without ref_logprobs"):
        custom("reference")(inputs(own, ref_logprobs=None))
    with pytest.raises(InputError, match="loss_weights from 1 to 3 came for one sample"):
        custom("reference")(inputs(own, loss_weights=torch.tensor([0.0, 1.0, 3.0])))
