"""open-instruct's own functions, out of a checkout, with `kullback.integrations.open_instruct`: ``SOURCES=…``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_worlds import checkout, relative_error, small_world

import kullback as kb
from kullback.auditing.subject.source import take
from kullback.errors import InputError
from kullback.integrations import open_instruct as ours

FILE = checkout("open-instruct") / "open_instruct/grpo_utils.py"
TOKENS = 40

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not FILE.is_file(), reason="SOURCES names no folder with a checkout named open-instruct"),
]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_instruct.grpo_utils, as much as the loss is."""
    package, module = ModuleType("open_instruct"), ModuleType("open_instruct.grpo_utils")
    package.__dict__["grpo_utils"] = module
    module.__dict__.update({name: take(FILE, name).fn for name in ours.KNOWN})
    module.__dict__["GRPOLossType"] = take(FILE, "GRPOLossType").fn
    for one in (package, module):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return module


def config(own: Any, **changed: Any) -> SimpleNamespace:
    options = {"loss_fn": own.GRPOLossType.dapo, "clip_lower": 0.2, "clip_higher": 0.2, "kl_estimator": 2, "beta": 0.5}
    return SimpleNamespace(**{**options, "loss_denominator": "token", "sequence_parallel_size": 1, **changed})


def loss_of(own: Any, **changed: Any) -> Any:
    """The lines of the trainer's step as the oracle calls them: a packed row, the sample behind another one."""

    def loss(
        logprobs: Any, ref_logprobs: Any, mask: Any, behavior_logprobs: Any, tokens: Any, log_distributions: Any
    ) -> Any:
        count = int(mask.sum())
        # Another prompt and its response of two tokens, this prompt of one token, and this response.
        words = torch.cat([torch.zeros(4, dtype=torch.long), tokens[0, :count].long()])[None]
        positions = torch.tensor([0, 1, 2, *range(count + 1)])[None]
        response = torch.tensor([False, True, True, False, *[True] * count])[None, 1:]
        laws = log_distributions[:, :count].double()
        logits = torch.cat([torch.zeros(1, 3, laws.shape[-1]).double(), laws, laws[:, :1].detach() * 0], 1)

        def beside(values: Any) -> Any:
            """Of the other response, whose reference is the policy: its KL is 0."""
            other = torch.full((3,), -float(torch.log(torch.tensor(laws.shape[-1])))).double()
            return torch.cat([other, values[0, :count].detach().double()])[None]

        new, _ = own.forward_for_logprobs(lambda **_: logits, words, None, positions, -1, 1.0)
        new = own.mask_logprobs(new, response)
        old, ref = (own.mask_logprobs(beside(x), response) for x in (behavior_logprobs, ref_logprobs))
        settings = config(own, **changed)
        pg, _, kl = own.compute_grpo_loss(
            new_logprobs=new,
            ratio=torch.exp(new - old),
            advantages=torch.zeros_like(old),
            ref_logprobs=ref,
            config=settings,
            rho_weights=torch.ones_like(old),
        )
        return ((pg + settings.beta * kl) * response).sum() / TOKENS

    return loss


def installed(objective: kb.Target = kb.REVERSE_KL, **options: Any) -> ours.Three:
    return ours.install(kl_objective=objective, kl_beta_unit="token", **options)


@pytest.mark.parametrize("objective", [kb.REVERSE_KL, kb.FORWARD_KL])
@pytest.mark.parametrize("staleness", [0.0, 0.4])
def test_the_gradient_is_the_objectives(own: Any, staleness: float, objective: kb.Target) -> None:
    with installed(objective):
        error = relative_error(small_world(staleness=staleness), loss_of(own), objective, scale=0.5 / TOKENS)
    assert error < 1e-6


def test_open_instructs_own_term_follows_another_gradient(own: Any) -> None:
    assert relative_error(small_world(), loss_of(own), kb.REVERSE_KL, scale=0.5 / TOKENS) > 0.2


def test_it_is_put_back_and_what_does_not_fit_is_refused(own: Any) -> None:
    before = dict(own.__dict__)
    with installed():
        with pytest.raises(InputError, match="was replaced already"):
            installed()
        for changed, said in (
            ({"loss_denominator": 100.0}, "loss_denominator=100.0 came"),
            ({"sequence_parallel_size": 2}, "sequence_parallel_size=2 came"),
        ):
            with pytest.raises(InputError, match=said):
                relative_error(small_world(), loss_of(own, **changed), kb.REVERSE_KL, scale=1.0)
        one = torch.zeros(1, 2)
        with pytest.raises(InputError, match="nothing says where their sequences begin"):
            own.compute_grpo_loss(one, one + 1, one, one, config=config(own), rho_weights=one)
    assert {name: own.__dict__[name] for name in ours.KNOWN} == {name: before[name] for name in ours.KNOWN}
    with pytest.raises(InputError, match="kl_beta_unit='sequence' came with open-instruct"):
        ours.install(kl_objective=kb.REVERSE_KL, kl_beta_unit="sequence")
