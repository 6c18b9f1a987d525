"""tunix's own GRPO loss with `kullback.integrations.tunix`, of the release and of a checkout: ``make test-trainers``.

Of tunix's package the loss and what it stands on are loaded, without its `__init__`, which loads everything.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from trainer_worlds import audited, checkout, relative_error, small_world, through_jax

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import tunix as ours

jax, nnx = pytest.importorskip("jax"), pytest.importorskip("flax.nnx")
jnp = jax.numpy

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", params=["installed", "checkout"])
def own(request: pytest.FixtureRequest) -> Iterator[Any]:
    """tunix.rl.algo_core, of the release and of the newest source."""
    if request.param == "checkout":
        root = checkout("tunix")
        if not root.is_dir():
            pytest.skip("SOURCES names no folder with a checkout named tunix")
    else:
        found = importlib.util.find_spec("tunix")
        if found is None or not found.submodule_search_locations:
            pytest.skip("tunix is not installed")
        root = Path(found.submodule_search_locations[0]).parent
    # Another test file may hold the whole package: it finds it again as it was.
    loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "tunix"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tunix", "tunix.rl", "tunix.sft", "tunix.oss"):
            package = ModuleType(name)
            package.__path__ = [str(root / name.replace(".", "/"))]
            patch.setitem(sys.modules, name, package)
        files = ModuleType("tunix.oss.utils")  # from Google's storage and the hub
        patch.setitem(sys.modules, files.__name__, files)
        sys.modules["tunix.oss"].utils = files  # type: ignore[attr-defined]
        yield importlib.import_module("tunix.rl.algo_core")
        for name in [name for name in sys.modules if name.partition(".")[0] == "tunix"]:
            del sys.modules[name]
    sys.modules.update(loaded)


def config(**changed: Any) -> SimpleNamespace:
    options = {
        "beta": 0.5,
        "epsilon": 0.2,
        "loss_algo": "grpo",
        "loss_agg_mode": "sequence-mean-token-mean",
        "temperature": 1.0,
        "kl_loss_mode": "kl",
        "kl_clamp_value": None,
    }
    return SimpleNamespace(**{**options, **changed})


def value_of(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found.primary_loss.compute()


def log_of(found: Any, name: str) -> float:
    entry = found[1][name] if isinstance(found, tuple) else found.aux_metrics[name]
    return float(entry.compute() if hasattr(entry, "compute") else entry)


def loss_of(own: Any, name: str = "kullback", **changed: Any) -> Any:
    """tunix's loss of given log-probs, as the oracle and the audit call it."""
    model = NextToken()

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        def given(*_: Any, return_logits: bool = False, return_entropy: bool = False, **__: Any) -> Any:
            if return_logits:
                return logprobs, jnp.zeros((*logprobs.shape, 2))
            return (logprobs, jnp.zeros_like(logprobs)) if return_entropy else logprobs

        example = SimpleNamespace(
            prompt_ids=jnp.zeros((len(logprobs), 1), dtype=int),
            completion_ids=jnp.zeros(logprobs.shape, dtype=int),
            completion_mask=mask.astype(jnp.int32),
            advantages=jnp.zeros(len(logprobs)),
            ref_per_token_logps=ref_logprobs,
            old_per_token_logps=jnp.where(mask, behavior_logprobs, 0.0),  # tunix pads with 0
            segment_ids=None,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(own.common, "compute_per_token_logps", given)
            function = own.function_registry.get_policy_loss_fn(name)
            return value_of(function(model, example, config(**changed), pad_id=0, eos_id=1))

    return loss


def registered(unit: str = "sequence", objective: kb.Target = kb.REVERSE_KL) -> Any:
    return ours.register(kl_objective=objective, kl_beta_unit=unit)


def error(loss: Any, target: kb.Target, *, scale: float, rows: int = 1, staleness: float = 0.0) -> float:
    return relative_error(small_world(staleness=staleness), through_jax(loss), target, scale=scale, rows=rows)


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize("mode", ["sequence-mean-token-mean", "seq-mean-token-sum"])
def test_the_gradient_is_that_of_the_sequence_kl(own: Any, staleness: float, mode: str) -> None:
    registered()
    assert error(loss_of(own, loss_agg_mode=mode), kb.REVERSE_KL, scale=0.5, staleness=staleness) < 1e-6


def test_two_rows_and_another_objective(own: Any) -> None:
    registered(objective=kb.FORWARD_KL)
    assert error(loss_of(own), kb.FORWARD_KL, scale=0.5, rows=2) < 1e-6


def test_tunixs_own_term_follows_another_gradient(own: Any) -> None:
    assert error(loss_of(own, "grpo"), kb.REVERSE_KL, scale=0.5) > 0.2


def test_the_audit_finds_nothing_after_and_something_before(own: Any) -> None:
    assert audited(loss_of(own, "grpo"), arrays="jax")[2]
    registered()
    gradient, value, codes = audited(loss_of(own), arrays="jax")
    assert (gradient, value) == (kb.REVERSE_KL, kb.REVERSE_KL)
    assert codes <= {"KB508"}  # which the audit finds of kullback.kl_loss alone in JAX, too


class NextToken(nnx.Module):  # type: ignore[misc, name-defined]
    """A model of five words that looks at the last one."""

    def __init__(self) -> None:
        self.table = nnx.Param(jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)), jnp.float32))

    def __call__(self, tokens: Any, positions: Any, cache: Any, attention_mask: Any) -> Any:
        return self.table[...][tokens], None


def batch() -> SimpleNamespace:
    return SimpleNamespace(
        prompt_ids=jnp.array([[2, 3], [0, 4]]),
        completion_ids=jnp.array([[3, 2, 4], [4, 1, 0]]),
        completion_mask=jnp.array([[1, 1, 1], [1, 1, 0]]),
        advantages=jnp.array([0.5, -0.5]),
        ref_per_token_logps=jnp.array([[-1.0, -2.0, -1.5], [-0.5, -1.0, 0.0]]),
        old_per_token_logps=jnp.array([[-1.1, -1.9, -1.4], [-0.7, -1.2, 0.0]]),
        segment_ids=None,
    )


@pytest.mark.parametrize(("unit", "mode", "count"), [("token", "token-mean", 5), ("sequence", "seq-mean-token-sum", 2)])
def test_a_model_under_jit(own: Any, unit: str, mode: str, count: int) -> None:
    """Its gradient is tunix's without a KL, and kl_loss's of the same numbers."""
    made, example = registered(unit), batch()
    stock = own.function_registry.get_policy_loss_fn("grpo")

    def gradient(function: Any, beta: float) -> Any:
        options = config(beta=beta, loss_agg_mode=mode)
        step = nnx.jit(
            nnx.value_and_grad(lambda model: value_of(function(model, example, options, pad_id=0, eos_id=1)))
        )
        value, found = step(NextToken())
        return float(value), found["table"][...]

    def term(model: NextToken) -> Any:
        words = jnp.concatenate([example.prompt_ids, example.completion_ids], 1)
        laws = jax.nn.log_softmax(model.table[...][words[:, 1:-1]])
        drawn = jnp.take_along_axis(laws, example.completion_ids[..., None], -1)[..., 0]
        rows = (drawn, example.ref_per_token_logps, example.completion_mask.astype(bool))
        return kb.kl_loss(*rows, objective=kb.REVERSE_KL, behavior_logprobs=example.old_per_token_logps) * 2 / count

    (loss, found), (plain, without) = gradient(made, 0.5), gradient(stock, 0.0)
    value, expected = nnx.value_and_grad(term)(NextToken())
    np.testing.assert_allclose(loss, plain + 0.5 * float(value), rtol=1e-6)
    np.testing.assert_allclose(found, without + 0.5 * expected["table"][...], rtol=1e-5, atol=1e-6)
    assert log_of(
        made(NextToken(), example, config(loss_agg_mode=mode), pad_id=0, eos_id=1), "kl_loss"
    ) == pytest.approx(float(value))


def test_the_log_and_what_is_left_alone(own: Any) -> None:
    made, example = registered(), batch()
    stock = own.function_registry.get_policy_loss_fn("grpo")
    before, after = (f(NextToken(), example, config(), pad_id=0, eos_id=1) for f in (stock, made))
    logs = [x[1] if isinstance(x, tuple) else x.aux_metrics for x in (before, after)]
    assert set(logs[0]) == set(logs[1])
    for name in set(logs[0]) - {"kl_loss"}:
        assert log_of(before, name) == pytest.approx(log_of(after, name)), name
    off = [value_of(f(NextToken(), example, config(beta=0.0), pad_id=0, eos_id=1)) for f in (stock, made)]
    assert off[0] == off[1]


def test_what_does_not_fit_is_refused(own: Any) -> None:
    made, example = registered(), batch()
    with pytest.raises(InputError, match="kl_beta_unit='sequence' came with loss_agg_mode='token-mean'"):
        made(NextToken(), example, config(loss_agg_mode="token-mean"), pad_id=0, eos_id=1)
    example.segment_ids = jnp.ones((2, 3))
    with pytest.raises(InputError, match="segment_ids came"):
        made(NextToken(), example, config(), pad_id=0, eos_id=1)
    example = batch()
    example.ref_per_token_logps = None
    with pytest.raises(InputError, match="ref_per_token_logps=None came with beta above 0"):
        made(NextToken(), example, config(), pad_id=0, eos_id=1)
