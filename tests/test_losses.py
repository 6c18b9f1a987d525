"""kl_loss and kl_reward: expected value and gradient by enumeration, for every objective and estimator."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from worlds import generic

import kullback as kb
from kullback import weights
from kullback.errors import InputError, KullbackError, NameUnknownError, ShapeError
from kullback.losses import OBJECTIVES
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments

ESTIMATORS = (kb.K1, kb.K3, kb.ControlVariate(0.5), kb.RAO_BLACKWELL)
BEHAVIORS = {"on-policy": None, "off-policy": 7}


@functools.cache
def at(behavior: int | None = None, vocab: int = 3, horizon: int = 2) -> World:
    q, p, _ = generic(vocab=vocab, horizon=horizon)
    lms = [TreeLM(torch.tensor(x, requires_grad=i == 0), 0, horizon) for i, x in enumerate((q, p))]
    mu = (
        None
        if behavior is None
        else TreeLM(torch.tensor(generic(behavior, vocab=vocab, horizon=horizon)[0]), 0, horizon)
    )
    return World(*lms, behavior=mu)


def loss_of(objective: kb.Target, estimator: kb.Estimator, off_policy: bool, **options: Any) -> Any:
    """kl_loss as a function of the world's columns."""
    forward = objective in (kb.FORWARD_KL, kb.STATEWISE_FORWARD_KL)

    def loss(q: Any, p: Any, mask: Any, behavior_logprobs: Any, token_kl: Any, reverse_token_kl: Any) -> Any:
        exact = {"token_kl": reverse_token_kl if forward else token_kl} if estimator is kb.RAO_BLACKWELL else {}
        mu = {"behavior_logprobs": behavior_logprobs} if off_policy else {}
        return kb.kl_loss(q, p, mask, objective=objective, estimator=estimator, **exact, **mu, **options)

    return loss


def assert_exact(world: World, loss: Any, objective: kb.Target, rows: int = 1) -> None:
    got = loss_moments(world, loss, rows=rows)
    assert got.value == pytest.approx(float(objective.exact(world).detach()), rel=1e-10)
    want = exact_gradient(world, objective)
    assert np.linalg.norm(got.gradient - want) <= 1e-10 * np.linalg.norm(want)


@pytest.mark.parametrize("behavior", BEHAVIORS.values(), ids=BEHAVIORS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)
@pytest.mark.parametrize("objective", [o.target for o in OBJECTIVES], ids=lambda t: t.name)
def test_value_and_gradient_are_the_objectives(objective: kb.Target, estimator: kb.Estimator, behavior: Any) -> None:
    world = at(behavior, horizon=3)
    assert_exact(world, loss_of(objective, estimator, behavior is not None), objective)


@pytest.mark.parametrize("behavior", BEHAVIORS.values(), ids=BEHAVIORS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)
@pytest.mark.parametrize("objective", [o.target for o in OBJECTIVES], ids=lambda t: t.name)
@pytest.mark.parametrize("baseline", ["leave_one_out", "own"])
def test_baselines_change_nothing_but_the_variance(
    objective: kb.Target, estimator: kb.Estimator, behavior: Any, baseline: str
) -> None:
    world = at(behavior)
    rows = 2 if baseline == "leave_one_out" else 1
    chosen = baseline if rows == 2 else torch.tensor([0.7], dtype=torch.float64)
    assert_exact(world, loss_of(objective, estimator, behavior is not None, baseline=chosen), objective, rows)


def test_a_leave_one_out_baseline_lowers_the_variance() -> None:
    # ℓ is nearly the same for every drawn token: the reference's mass is where the policy never goes.
    q, p = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.49, 0.01], [0.05, 0.05, 0.9]))
    world = World(TreeLM(q.requires_grad_(), 0, 1), TreeLM(p, 0, 1))
    plain, with_baseline = (
        loss_moments(world, loss_of(kb.REVERSE_KL, kb.K1, False, baseline=b), rows=2).variance
        for b in (None, "leave_one_out")
    )
    assert with_baseline < 0.5 * plain


def test_a_same_batch_mean_would_shrink_the_gradient() -> None:
    """By 1 − 1/n, which is why it is not offered."""
    world = at()

    def centred(q: Any, p: Any, mask: Any) -> Any:
        ret = ((q - p).detach() * mask).sum(-1)
        return (ret - ret.mean()) * (q * mask).sum(-1)

    got = loss_moments(world, centred, rows=2).gradient
    np.testing.assert_allclose(got, 0.5 * exact_gradient(world, kb.REVERSE_KL), rtol=1e-9, atol=1e-12)


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    q = torch.tensor([[-0.5, -1.0], [-0.7, -0.2], [-0.1, -2.0]], requires_grad=True)
    p = torch.tensor([[-0.9, -0.4], [-0.3, -0.6], [-1.5, -1.0]])
    log_ratio = (q - p).detach()
    to_go = torch.stack([log_ratio.sum(1), log_ratio[:, 1]], dim=1)
    others = (to_go.sum(0) - to_go) / 2
    by_name, by_hand = (
        torch.autograd.grad(kb.kl_loss(q, p, objective=kb.REVERSE_KL, baseline=b), q)[0]
        for b in ("leave_one_out", others)
    )
    torch.testing.assert_close(by_name, by_hand)
    torch.testing.assert_close(by_hand, (to_go - others) / 3)


def test_groups_keep_prompts_apart() -> None:
    q = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs().neg()
    p = q.roll(1, 0).detach()
    leaf = q.clone().requires_grad_()
    options: Any = {"objective": kb.REVERSE_KL, "baseline": "leave_one_out"}
    kb.kl_loss(leaf, p, groups=["a", "a", "b", "b"], **options).backward()
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        half = q[part].clone().requires_grad_()
        kb.kl_loss(half, p[part], **options).backward()
        halves.append(half.grad / 2)
    torch.testing.assert_close(leaf.grad, torch.cat(halves))


@pytest.mark.parametrize("truncate", [1.5, weights.Masked(1.5), weights.SELF_NORMALISED])
def test_tamed_weights_have_tamed_values(truncate: Any) -> None:
    world = at(7)
    loose = loss_moments(world, loss_of(kb.REVERSE_KL, kb.K1, True), rows=2)
    tamed = loss_moments(world, loss_of(kb.REVERSE_KL, kb.K1, True, truncate=truncate), rows=2)
    assert tamed.variance < loose.variance
    assert abs(tamed.value - loose.value) > 1e-3  # the declared bias is there
    wide = loss_moments(world, loss_of(kb.REVERSE_KL, kb.K1, True, truncate=1e9), rows=1)
    np.testing.assert_allclose(wide.gradient, exact_gradient(world, kb.REVERSE_KL), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS[:3], ids=lambda e: e.name)
@pytest.mark.parametrize("objective", [o.target for o in OBJECTIVES], ids=lambda t: t.name)
def test_jax_gives_torchs_value_and_gradient(objective: kb.Target, estimator: kb.Estimator) -> None:
    rng = np.random.default_rng(0)
    q, p, mu = -rng.exponential(size=(3, 4, 5))
    mask = rng.uniform(size=(4, 5)) < 0.8
    options: Any = {"objective": objective, "estimator": estimator, "baseline": "leave_one_out"}
    leaf = torch.tensor(q, requires_grad=True)
    by_torch = kb.kl_loss(leaf, torch.tensor(p), torch.tensor(mask), behavior_logprobs=torch.tensor(mu), **options)
    by_torch.backward()

    def by_jax(x: Any) -> Any:
        return kb.kl_loss(x, jnp.asarray(p), jnp.asarray(mask), behavior_logprobs=jnp.asarray(mu), **options)

    value, gradient = jax.jit(jax.value_and_grad(by_jax))(jnp.asarray(q))
    assert float(value) == pytest.approx(by_torch.item(), rel=1e-12)
    np.testing.assert_allclose(np.asarray(gradient), leaf.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_it_compiles() -> None:
    q = torch.randn(4, 6).abs().neg().requires_grad_()
    p = torch.randn(4, 6).abs().neg()

    def loss(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return kb.kl_loss(q, p, objective=kb.REVERSE_KL, estimator=kb.K3)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    plain, fast = (torch.autograd.grad(f(q, p), q)[0] for f in (loss, compiled))
    torch.testing.assert_close(plain, fast)


def test_half_precision_outputs_under_autocast() -> None:
    q = torch.randn(4, 6).abs().neg().bfloat16().requires_grad_()
    p = torch.randn(4, 6).abs().neg().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = kb.kl_loss(q, p, objective=kb.REVERSE_KL)
    assert loss.dtype == torch.float32
    want = kb.kl_loss(q.float(), p.float(), objective=kb.REVERSE_KL)
    assert torch.equal(loss, want)
    loss.backward()
    assert q.grad.dtype == torch.bfloat16


def test_masked_tokens_may_hold_anything_and_get_no_gradient() -> None:
    q = torch.tensor([[-1.0, float("nan"), -2.0], [-0.5, -0.1, float("-inf")]], requires_grad=True)
    p = torch.tensor([[-1.5, float("-inf"), -1.0], [-0.2, -0.4, float("nan")]])
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    for objective in OBJECTIVES:
        loss = kb.kl_loss(q, p, mask, objective=objective.target, estimator=kb.K3, baseline="leave_one_out")
        gradient = torch.autograd.grad(loss, q)[0]
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert (gradient[mask == 0] == 0).all()


def test_a_row_without_tokens_contributes_zero() -> None:
    q = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]], requires_grad=True)
    p = torch.tensor([[-1.5, -1.0], [-0.2, -0.4]])
    loss = kb.kl_loss(q, p, torch.tensor([[1, 1], [0, 0]]), objective=kb.REVERSE_KL)
    assert loss.item() == pytest.approx(((q - p)[0].sum() / 2).item())
    assert torch.autograd.grad(loss, q)[0][1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("baseline", [None, "leave_one_out"])
@pytest.mark.parametrize("estimator", [kb.K1, kb.K3], ids=lambda e: e.name)
def test_a_support_mismatch_is_inf_with_a_finite_gradient(estimator: kb.Estimator, baseline: Any) -> None:
    q = torch.tensor([[-1.0, -2.0, -0.3], [-0.5, -0.1, -0.2]], requires_grad=True)
    p = torch.tensor([[-1.5, float("-inf"), -0.1], [-0.2, -0.4, -0.6]])
    for objective in OBJECTIVES:
        with pytest.warns(RuntimeWarning, match="row 0 at position 1") if objective.reverse else nullcontext():
            loss = kb.kl_loss(q, p, objective=objective.target, estimator=estimator, baseline=baseline)
        assert torch.isinf(loss) == objective.reverse  # a reference that excludes a token costs KL(p‖q) nothing
        assert torch.isfinite(torch.autograd.grad(loss, q)[0]).all()


def test_a_policy_that_excludes_what_was_drawn() -> None:
    q = torch.tensor([[-1.0, float("-inf"), -0.3]], requires_grad=True)
    p, mu = torch.tensor([[-1.5, -0.7, -0.1]]), torch.tensor([[-1.1, -0.9, -0.2]])
    for objective in OBJECTIVES:
        with nullcontext() if objective.reverse else pytest.warns(RuntimeWarning, match="row 0 at position 1"):
            loss = kb.kl_loss(q, p, objective=objective.target, behavior_logprobs=mu)
        assert torch.isinf(loss) == (not objective.reverse)
        assert torch.isfinite(torch.autograd.grad(loss, q)[0]).all()


ONE_TOKEN = {
    kb.FORWARD_KL: ([0.5, 0.3, 0.2], [0.6, 0.4, 0.0], None),
    kb.REVERSE_KL: ([0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.3, 0.3, 0.4]),
}


@pytest.mark.parametrize("truncate", [None, 1e3, weights.SELF_NORMALISED], ids=["whole", "capped", "self-normalised"])
@pytest.mark.parametrize("objective", ONE_TOKEN, ids=lambda t: t.name)
@pytest.mark.parametrize("least", [0.0, 1e-43])
def test_the_control_keeps_its_mean_where_the_measure_excludes_a_token(
    objective: Any, least: float, truncate: Any
) -> None:
    """Of k3 r − 1 has mean 0 only with the tokens that q or p excludes, or all but excludes in float32."""
    q, p, mu = (None if x is None else torch.tensor(x).clamp(min=least) for x in ONE_TOKEN[objective])
    of, other = (p, q) if objective is kb.FORWARD_KL else (q, p)
    drawn = q if mu is None else mu
    columns = [x.log()[:, None] for x in (q, p, drawn)]
    got = 0.0
    for token in range(3):
        rows = [x[[token]] for x in columns]
        norm = 1.0
        if truncate is weights.SELF_NORMALISED:  # beside a row of weight 1, so that half the sum divides
            rows = [torch.cat([x, torch.zeros(1, 1)]) for x in rows]
            norm = float(of[token] / drawn[token] + 1)
        loss = kb.kl_loss(
            rows[0], rows[1], objective=objective, estimator="k3", behavior_logprobs=rows[2], truncate=truncate
        )
        got += float(drawn[token]) * float(loss) * norm
    assert got == pytest.approx(
        float(sum(a * (a / b).log() for a, b in zip(of, other, strict=True) if a > 0)), rel=1e-5
    )


def test_a_far_token_is_worth_in_float32_what_it_is_in_float64() -> None:
    mask = torch.ones(1, 3)
    for gap in (50.0, 63.0, 65.0, 88.0, 95.0, 110.0, 700.0):
        q, p = torch.tensor([[-0.5, -0.1, -1.0]]), torch.tensor([[-0.7, -0.1 - gap, -0.4]])
        for objective in (kb.FORWARD_KL, kb.STATEWISE_FORWARD_KL):
            for estimator in (kb.K3, kb.ControlVariate(0.5)):
                options: Any = {"objective": objective, "estimator": estimator}
                single, double = (kb.kl_loss(q.to(d), p.to(d), mask, **options) for d in (torch.float32, torch.float64))
                assert float(single) == pytest.approx(float(double), rel=2e-5), gap


Q = torch.tensor([[-1.0, -2.0]], requires_grad=True)
P = torch.tensor([[-1.5, -1.0]])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: kb.kl_loss(Q, P, objective="reverse"), InputError, "one of kullback.REVERSE_KL"),
        (lambda: kb.kl_loss(Q, P), TypeError, "objective"),
        (lambda: kb.kl_loss(Q, P, objective=kb.REVERSE_KL, estimator=kb.K2), InputError, "use kullback.K1"),
        (lambda: kb.kl_loss(Q, P, objective=kb.REVERSE_KL, estimator=kb.ControlVariate("fit")), InputError, "a number"),
        (lambda: kb.kl_loss(Q, P, objective=kb.FORWARD_KL, estimator=kb.RAO_BLACKWELL), InputError, "KL(p_t‖q_t)"),
        (
            lambda: kb.kl_loss(Q, P, objective=kb.REVERSE_KL, estimator=kb.K3, token_kl=Q),
            InputError,
            "give one of the two",
        ),
        (lambda: kb.kl_loss(Q, P[0], objective=kb.REVERSE_KL), ShapeError, "(batch, time)"),
        (lambda: kb.kl_loss(Q[0], P[0], objective=kb.REVERSE_KL), ShapeError, "(batch, time)"),
        (lambda: kb.kl_loss(np.zeros((1, 2)), np.zeros((1, 2)), objective=kb.REVERSE_KL), InputError, "torch or JAX"),
        (
            lambda: kb.kl_loss(Q, P, objective=kb.REVERSE_KL, baseline="leave_one_out"),
            InputError,
            "at least two samples of every prompt",
        ),
        (lambda: kb.kl_loss(Q, P, objective=kb.REVERSE_KL, baseline="mean"), InputError, "'leave_one_out' or an array"),
        (
            lambda: kb.kl_loss(Q, P, objective=kb.REVERSE_KL, baseline="leave_one_out", groups=[1, 2]),
            ShapeError,
            "one prompt id for each of the 1 rows",
        ),
        (lambda: kb.kl_reward(Q, P, estimator=kb.K3), InputError, "follows no named quantity"),
        (lambda: kb.kl_reward(Q, P, estimator=kb.K2), InputError, "allow_biased=True"),
    ],
)
def test_wrong_calls_say_what_to_do(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert not isinstance(caught.value, KullbackError) or "\n" not in str(caught.value)


def test_reward_is_detached_masked_and_follows_the_reverse_kl() -> None:
    world = at(horizon=3)

    def in_the_reward(q: Any, p: Any, mask: Any) -> Any:
        penalty = kb.kl_reward(q, p, mask, estimator=kb.K1)
        assert not penalty.requires_grad
        to_go = penalty.flip(-1).cumsum(-1).flip(-1)
        return (to_go * q * mask).sum(-1)

    got = loss_moments(world, in_the_reward).gradient
    np.testing.assert_allclose(got, exact_gradient(world, kb.REVERSE_KL), rtol=1e-10, atol=1e-13)
    biased = kb.kl_reward(Q, P, torch.tensor([[1, 0]]), estimator=kb.K3, allow_biased=True)
    assert biased[0, 1] == 0
    assert isinstance(kb.kl_reward(np.zeros((1, 2)), np.zeros((1, 2)), estimator=kb.K1), np.ndarray)


def test_an_estimator_is_taken_by_its_name_too() -> None:
    for name, member in (("k1", kb.K1), ("k3", kb.K3)):
        by_name, by_member = (kb.kl_loss(Q, P, objective=kb.REVERSE_KL, estimator=e) for e in (name, member))
        assert by_name.item() == by_member.item()
    assert torch.equal(kb.kl_reward(Q, P, estimator="k1"), kb.kl_reward(Q, P, estimator=kb.K1))
    with pytest.raises(NameUnknownError, match="there is no 'k4'"):
        kb.kl_loss(Q, P, objective=kb.REVERSE_KL, estimator="k4")


def test_rows_without_a_batch_are_refused_with_advice() -> None:
    with pytest.raises(ShapeError, match=r"add a batch dimension, logprobs\[None, :\]"):
        kb.kl_loss(Q[0], P[0], objective=kb.REVERSE_KL)


def _worker(rank: int, port: int, results: Any) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_model())
    x, p = _data()
    part = slice(4 * rank, 4 * rank + 4)
    loss = kb.kl_loss(model(x[part]), p[part], objective=kb.REVERSE_KL, baseline="leave_one_out", groups=[0, 0, 1, 1])
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total)
    results[rank] = (total.item() / 2, next(model.parameters()).grad.tolist())
    dist.destroy_process_group()


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5).double(), torch.nn.LogSigmoid())


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, generator=generator).double(), -torch.rand(8, 5, generator=generator).double()


@pytest.mark.slow
def test_data_parallel_training_follows_the_one_process_gradient() -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        workers = [context.Process(target=_worker, args=(rank, port, results)) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        found = dict(results)
    model, (x, p) = _model(), _data()
    loss = kb.kl_loss(model(x), p, objective=kb.REVERSE_KL, baseline="leave_one_out", groups=[0, 0, 1, 1, 2, 2, 3, 3])
    loss.backward()
    for value, gradient in (found[0], found[1]):
        assert value == pytest.approx(loss.item(), rel=1e-12)
        np.testing.assert_allclose(gradient, next(model.parameters()).grad.numpy(), rtol=1e-10, atol=1e-14)
