"""Unsloth's own loss, out of the installed unsloth-zoo, with `kullback.integrations.unsloth`: ``make test-trainers``.

unsloth-zoo imports on a GPU alone, so the function is taken out of its file, and the text that Unsloth would write into
its trainer is run here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from trainer_worlds import audited, relative_error, small_world

import kullback as kb
from kullback.auditing.subject.source import take
from kullback.errors import InputError
from kullback.integrations import unsloth as ours

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
TOKENS = 40


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Unsloth's table of replacements."""
    found = importlib.util.find_spec("unsloth_zoo")
    if found is None or not found.submodule_search_locations:
        pytest.skip("unsloth-zoo is not installed")
    stock = take(Path(found.submodule_search_locations[0]) / "rl_replacements.py", "grpo_compute_loss").fn
    table = {"grpo_compute_loss": stock, "grpo_compute_loss_slow": "its text"}
    package, module = ModuleType("unsloth_zoo"), ModuleType("unsloth_zoo.rl_replacements")
    package.__dict__["rl_replacements"] = module
    module.__dict__["RL_REPLACEMENTS"] = table
    monkeypatch.setenv("UNSLOTH_COMPILE_DISABLE", "1")
    monkeypatch.setitem(sys.modules, "unsloth_zoo", package)
    monkeypatch.setitem(sys.modules, "unsloth_zoo.rl_replacements", module)
    return table


def written(table: dict[str, Any]) -> Any:
    """The function of the text that Unsloth writes into its trainer."""
    names: dict[str, Any] = {}
    exec(table["grpo_compute_loss_slow"], names)
    return names["grpo_compute_loss_slow"]


def loss_of(function: Any, **options: Any) -> Any:
    """The loss as the oracle calls it, with β = 0.5."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any) -> Any:
        rows = (ref_logprobs, logprobs, behavior_logprobs, None, torch.zeros(mask.shape).long(), mask.double())
        return function(*rows, 0.5, torch.zeros(len(logprobs)).double(), **options)[0]

    return loss


def installed(unit: str, objective: kb.Target = kb.REVERSE_KL) -> Any:
    return ours.install(kl_objective=objective, kl_beta_unit=unit)


KINDS = [
    ("dapo", "token", 1 / TOKENS),
    ("cispo", "token", 1 / TOKENS),
    ("grpo", "sequence", 1 / 4),
    ("luspo", "sequence", 1 / 4),
]


@pytest.mark.parametrize("staleness", [0.0, 0.4])
@pytest.mark.parametrize(("kind", "unit", "scale"), KINDS)
def test_the_gradient_is_that_of_the_sequence_kl(
    places: dict[str, Any], kind: str, unit: str, scale: float, staleness: float
) -> None:
    with installed(unit):
        options = {"loss_type": kind, "num_items_in_batch": TOKENS, "current_gradient_accumulation_steps": 4}
        loss, world = loss_of(written(places), **options), small_world(staleness=staleness)
        assert relative_error(world, loss, kb.REVERSE_KL, scale=0.5 * scale) < 1e-6


@pytest.mark.parametrize("kind", ["dapo", "cispo", "bnpo", "grpo", "luspo"])
def test_the_sum_is_divided_as_unsloths_own(places: dict[str, Any], kind: str) -> None:
    """By Unsloth itself: of the same log-ratio at every token its k3 and our k3 have the same value."""
    q, mask = torch.full((2, 3), -1.0), torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    rows = (q - 0.5, q, q, None, torch.zeros(2, 3).long(), mask)
    options: dict[str, Any] = {"loss_type": kind, "num_items_in_batch": torch.tensor(9), "num_processes": 2}
    options |= {"current_gradient_accumulation_steps": 3, "steps_per_generation": 4}
    stock = places["grpo_compute_loss"](*rows, 0.5, torch.zeros(2), **options)[0]
    unit = "token" if kind in ours.PER_TOKEN else "sequence"
    with ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit=unit, kl_estimator=kb.K3):
        found = written(places)(*rows, 0.5, torch.zeros(2), **options)[0]
    assert float(found) == pytest.approx(float(stock) * (3 if kind == "grpo" else 1))  # grpo: means over 3 tokens


def test_as_unsloth_differentiates(places: dict[str, Any]) -> None:
    """By torch.func, in its own autograd function."""
    q, mask = torch.tensor([[-0.5, -1.0]]), torch.ones(1, 2)
    with installed("sequence"):
        function = written(places)

        def loss(new: Any) -> Any:
            rows = (q - 0.3, new, q + 0.1, None, torch.zeros(1, 2).long(), mask)
            found = function(*rows, 0.5, torch.zeros(1), loss_type="grpo")
            return found[0], found[2]

        gradient, (_, logged) = torch.func.grad_and_value(loss, has_aux=True)(q)
    live = q.clone().requires_grad_()
    term = kb.kl_loss(live, q - 0.3, objective=kb.REVERSE_KL, behavior_logprobs=q + 0.1)
    term.backward()
    torch.testing.assert_close(gradient, 0.5 * live.grad)
    torch.testing.assert_close(logged, term.detach())


def test_two_rows_and_another_objective(places: dict[str, Any]) -> None:
    with installed("sequence", kb.FORWARD_KL):
        loss = loss_of(written(places), loss_type="grpo")
        assert relative_error(small_world(), loss, kb.FORWARD_KL, scale=0.5, rows=2) < 1e-6


def test_the_audit_finds_nothing_after_and_something_before(places: dict[str, Any]) -> None:
    options = {"loss_type": "dapo", "num_items_in_batch": TOKENS}
    stock = loss_of(places["grpo_compute_loss"], **options)
    assert audited(stock)[2]
    assert relative_error(small_world(), stock, kb.REVERSE_KL, scale=0.5 / TOKENS) > 0.2
    with installed("token"):
        assert audited(loss_of(written(places), **options)) == (kb.REVERSE_KL, kb.REVERSE_KL, set())


def test_it_is_put_back_and_what_does_not_fit_is_refused(
    places: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(places)
    with installed("token"):
        assert places["grpo_compute_loss"] is ours.grpo_compute_loss
        with pytest.raises(InputError, match="was replaced already"):
            installed("token")
        loss = loss_of(written(places), loss_type="grpo")
        with pytest.raises(InputError, match="kl_beta_unit='token' came with loss_type='grpo'"):
            relative_error(small_world(), loss, kb.REVERSE_KL, scale=1.0)
        loss = loss_of(written(places), loss_type="dr_grpo")
        with pytest.raises(InputError, match="divides by neither tokens nor sequences"):
            relative_error(small_world(), loss, kb.REVERSE_KL, scale=1.0)
        text = written(places)
    assert places == before
    with pytest.raises(InputError, match="was written for kullback's KL"):
        relative_error(small_world(), loss_of(text), kb.REVERSE_KL, scale=1.0)
    monkeypatch.delenv("UNSLOTH_COMPILE_DISABLE")
    with pytest.raises(InputError, match="compiles its loss as one graph"):
        installed("token")
    monkeypatch.setitem(sys.modules, "unsloth", ModuleType("unsloth"))
    with pytest.raises(InputError, match="call install before `import unsloth`"):
        installed("token")
