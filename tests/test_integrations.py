"""What trainers' integrations share, and each mapping with as much of its trainer as it is shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import relative_error, small_world

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import replacing, slime, terms, verl
from kullback.integrations.options import options
from kullback.targets import Target

OBJECTIVES = (kb.REVERSE_KL, kb.STATEWISE_REVERSE_KL, kb.FORWARD_KL, kb.STATEWISE_FORWARD_KL)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Put a module where the import of a trainer looks."""

    def put(name: str, **members: Any) -> ModuleType:
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            path = ".".join(parts[:i])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, ModuleType(path))
                if i > 1:
                    setattr(sys.modules[".".join(parts[: i - 1])], parts[i - 1], sys.modules[path])
        vars(sys.modules[name]).update(members)
        return sys.modules[name]

    return put


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("staleness", [0.0, 0.4])
def test_nats_follow_the_objective(objective: Target, staleness: float) -> None:
    wanted = options(1.0, objective=objective, unit="token")

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        total = terms.nats(wanted, logprobs, ref_logprobs, mask, behavior_logprobs=behavior_logprobs)
        return terms.Shares(tokens=40, sequences=16, scale=2.0).of(total, wanted.unit)

    assert relative_error(small_world(staleness=staleness), loss, objective, scale=2 / 40) < 1e-10


def test_micro_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = (-torch.rand(6, 3, generator=generator) for _ in range(2))
    mask = torch.rand(6, 3, generator=generator) > 0.3
    wanted = options(1.0, objective=kb.REVERSE_KL, unit="sequence")
    whole = terms.nats(wanted, q, p, mask, behavior_logprobs=p)
    parts = [terms.nats(wanted, q[s], p[s], mask[s], behavior_logprobs=p[s]) for s in (slice(0, 1), slice(1, 6))]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)
    assert float(terms.Shares(tokens=0, sequences=0).of(whole * 0, "token")) == 0.0


def one(x: int) -> int:
    """A trainer's function."""
    return x


def test_a_replacement_is_bound_everywhere_and_undone(module: Any) -> None:
    ours, first, second = (lambda x: x + 1), module("trainer_a", one=one), module("trainer_b", one=one)
    other = module("trainer_c", one=len)
    installed = replacing.replace(one, ours)
    assert first.one is ours
    assert second.one is ours
    assert other.one is len
    assert {"trainer_a", "trainer_b"} <= {*installed.places}
    installed.undo()
    first.one = len
    installed.undo()
    assert second.one is one
    assert first.one is len
    assert globals()["one"] is one


def test_what_was_not_written_for_is_refused() -> None:
    replacing.refuse_unknown(one, {replacing.fingerprint(one): "trainer 1.0"})
    with pytest.raises(InputError, match=r"one is not as this was written for \(.* those of trainer 0\.9\): install"):
        replacing.refuse_unknown(one, {"0": "trainer 0.9"})


class Batch(dict[str, Any]):
    """As much of a TensorDict as verl's loss uses."""

    def select(self, *names: str) -> Batch:
        return Batch({name: self[name] for name in names})

    def to_padded_tensor(self) -> Batch:
        return self


class Metric:
    def __init__(self, aggregation: str, value: Any) -> None:
        self.aggregation, self.value = aggregation, float(value)


def stock(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
    """Stands for verl's: a loss that is not 0, and the KL that must be off."""
    assert not config.use_kl_loss
    config.global_batch_info.update(dp_size=2, batch_num_tokens=data["tokens"], global_batch_size=data["sequences"])
    return model_output["log_probs"].sum() * 0, {"actor/pg_loss": Metric("sum", 0.0)}


@pytest.mark.parametrize(("tokens", "sequences", "scale"), [(40, 16, 2 / 16), (None, None, 2.0)])
def test_verl(module: Any, tokens: int | None, sequences: int | None, scale: float) -> None:
    module("verl.workers.utils.padding", no_padding_2_padding=lambda tensor, data: tensor)
    config = SimpleNamespace(use_kl_loss=True, kl_loss_coef=0.5, global_batch_info={})
    ours = verl.with_kl(stock, options(1.0, objective=kb.REVERSE_KL, unit="sequence"))

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        columns = {"old_log_probs": behavior_logprobs, "ref_log_prob": ref_logprobs, "response_mask": mask.long()}
        data = Batch(columns, tokens=tokens, sequences=sequences)
        value, metrics = ours(config, {"log_probs": logprobs}, data)
        assert float(value.detach()) == pytest.approx(0.5 * metrics["kl_loss"].value)
        return value

    assert relative_error(small_world(staleness=0.4), loss, kb.REVERSE_KL, scale=0.5 * scale) < 1e-10
    assert config.use_kl_loss


def test_verl_installs_where_it_knows_the_source(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = module("verl.workers.utils.losses", one=one, ppo_loss=stock)
    right: dict[str, Any] = {"kl_objective": kb.REVERSE_KL, "kl_beta_unit": "token"}
    with pytest.raises(InputError, match="is not as this was written for"):
        verl.install(**right)
    monkeypatch.setattr(verl, "KNOWN", {replacing.fingerprint(stock): "this file"})
    monkeypatch.setattr(stock, "__name__", "ppo_loss")
    with verl.install(**right):
        assert losses.ppo_loss is not stock
        with pytest.raises(InputError, match="was replaced already"):
            verl.install(**right)
    assert losses.ppo_loss is stock
    with pytest.raises(InputError, match="shown log-probs and no logits"):
        verl.install(**right, kl_estimator=kb.RAO_BLACKWELL)
    with pytest.raises(InputError, match="kl_beta_unit=None"):
        verl.install(kl_objective=kb.REVERSE_KL, kl_beta_unit=None)  # type: ignore[arg-type]


def slime_stands_in(module: Any, *, parallel: int = 1) -> None:
    """As much of slime as its loss is: logits that are log-probs already, one row a sample."""

    def policy_loss_function(args: Any, batch: Any, logits: Any, sum_of_sample_mean: Any) -> Any:
        assert not args.use_kl_loss
        return logits.sum() * 0, {"loss": torch.zeros(()), "pg_loss": torch.zeros(())}

    def get_log_probs_and_entropy(logits: Any, *, args: Any, response_lengths: Any, **_: Any) -> Any:
        return torch.empty(0), {"log_probs": [row[:n] for row, n in zip(logits, response_lengths, strict=True)]}

    module(
        "slime.backends.megatron_utils.loss",
        mpu=SimpleNamespace(get_context_parallel_world_size=lambda: parallel),
        policy_loss_function=policy_loss_function,
        get_log_probs_and_entropy=get_log_probs_and_entropy,
        get_rollout_top_p_logprob_kwargs=lambda args, batch: {},
    )


def slime_args(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "use_kl_loss": True,
            "kl_loss_coef": 0.5,
            "calculate_per_token_loss": False,
            "use_rollout_logprobs": False,
            **changed,
        }
    )


@pytest.mark.parametrize("rollout", [False, True])
@pytest.mark.parametrize(("unit", "per_token"), [("sequence", False), ("token", True)])
def test_slime(module: Any, unit: str, per_token: bool, rollout: bool) -> None:
    slime_stands_in(module)
    args = slime_args(calculate_per_token_loss=per_token, use_rollout_logprobs=rollout)
    ours = slime.policy_loss(kl_objective=kb.REVERSE_KL, kl_beta_unit=unit)

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        lengths = mask.sum(-1).tolist()

        def rows(x: Any) -> list[Any]:
            return [row[:n] for row, n in zip(x, lengths, strict=True)]

        batch = {"unconcat_tokens": [], "total_lengths": lengths, "response_lengths": lengths}
        batch |= {"ref_log_probs": rows(ref_logprobs), "loss_masks": rows(mask.long())}
        batch["rollout_log_probs" if rollout else "log_probs"] = rows(behavior_logprobs)
        value, logged = ours(args, batch, logprobs, lambda x: x.sum())
        assert float(value.detach()) == pytest.approx(0.5 * float(logged["kl_loss"]))
        return value

    assert relative_error(small_world(staleness=0.4), loss, kb.REVERSE_KL, scale=0.5) < 1e-10
    assert args.use_kl_loss


@pytest.mark.parametrize(
    ("changed", "parallel", "said"),
    [
        ({"use_kl_loss": False}, 1, "pass --use-kl-loss"),
        ({}, 2, "context_parallel_size above 1"),
        ({"calculate_per_token_loss": True}, 1, "kl_beta_unit='sequence' came with calculate_per_token_loss=True"),
    ],
)
def test_slime_refuses(module: Any, changed: dict[str, Any], parallel: int, said: str) -> None:
    slime_stands_in(module, parallel=parallel)
    ours = slime.policy_loss(kl_objective=kb.REVERSE_KL, kl_beta_unit="sequence")
    with pytest.raises(InputError, match=said):
        ours(slime_args(**changed), {}, torch.zeros(1, 1), lambda x: x.sum())
    with pytest.raises(InputError, match="log-probs and not its logits"):
        slime.policy_loss(kl_objective=kb.REVERSE_KL, kl_beta_unit="token", kl_estimator="rao_blackwell")


@pytest.mark.parametrize("name", ["verl", "slime"])
def test_the_code_of_the_pages(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[1] / f"docs/{name}.md").read_text(encoding="utf-8")
    change, audit = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module("verl.workers.utils.losses", ppo_loss=stock)
    monkeypatch.setattr(verl, "KNOWN", {replacing.fingerprint(stock): "this file"})
    exec(change, {})
    space: dict[str, Any] = {}
    exec(audit, space)
    assert space["report"].gradient.target is kb.REVERSE_KL
    assert space["report"].findings == ()


def test_without_verl_installing_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "verl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "verl", None)
    with pytest.raises(InputError, match=r"verl's losses cannot be imported .*VERL_USE_EXTERNAL_MODULES"):
        verl.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="token")
