"""`TokenCritic`: what it learns from batches that are over takes variance off, and no mean is moved by it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from test_token_value_baseline import critic_of, world_of

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.oracle import TreeLM, World, exact_gradient


class Rows:
    """Every sequence of a world with logits of its own, so that one backward pass gives the gradient of each."""

    def __init__(self, world: World) -> None:
        lm = self.lm = world.policy
        count = len(lm.tokens)
        self.world, self.chance = world, torch.as_tensor(world.probability).detach()
        self.tokens, self.mask, self.places = (torch.tensor(x.copy()) for x in (lm.tokens, lm.mask, lm.places))
        self.logits = torch.as_tensor(lm.logits).detach().expand(count, -1, -1).clone().requires_grad_()
        table = self.logits.log_softmax(-1)
        self.q = table[torch.arange(count)[:, None], self.places]
        reference = torch.as_tensor(world.reference.log_distributions).detach()
        self.p = torch.where(self.mask, reference[self.places, self.tokens], 0.0)
        kl = (table.exp() * (table - reference)).sum(-1)
        self.kl = kl[torch.arange(count)[:, None], self.places]
        self.prefix = self._prefix()

    def _prefix(self) -> torch.Tensor:
        """The position, and the chances of the next tokens."""
        time = torch.arange(self.tokens.shape[1], dtype=torch.float64).expand(self.tokens.shape)
        return torch.cat([time[..., None], self.q.detach()], dim=-1)

    def moments(self, baseline: Any, *, exact: bool = True) -> tuple[np.ndarray, float]:
        """The mean of the gradient of a row, and the trace of its covariance."""
        drawn = self.q.gather(-1, self.tokens[..., None])[..., 0]
        behavior = None if self.world.on_policy else torch.as_tensor(self.world.sampler.logprobs).detach()
        loss = kb.kl_loss(
            drawn,
            self.p,
            self.mask,
            objective=kb.REVERSE_KL,
            token_kl=self.kl if exact else None,
            behavior_logprobs=behavior,
            baseline=baseline,
        )
        (found,) = torch.autograd.grad(loss * len(self.tokens), self.logits, retain_graph=True)
        rows, chance = found.flatten(1).numpy(), self.chance.numpy()
        mean = chance @ rows
        return mean, float(chance @ ((rows - mean) ** 2).sum(axis=1))

    def value(self, critic: kb.TokenCritic) -> kb.TokenValue[Any]:
        return critic.value(self.prefix, torch.eye(self.lm.vocab), logprobs=self.q, tokens=self.tokens)

    def teach(self, critic: kb.TokenCritic, at: np.ndarray) -> kb.TokenCritic:
        return critic.update(
            self.prefix[at],
            torch.eye(self.lm.vocab),
            tokens=self.tokens[at],
            token_kl=self.kl.detach()[at],
            mask=self.mask[at],
        )

    def taught(self, batches: int, seed: int = 0, size: int = 16) -> kb.TokenCritic:
        critic, rng = kb.TokenCritic(), np.random.default_rng(seed)
        for _ in range(batches):
            self.teach(critic, self.lm.sample(rng, size))
        return critic


def crossed(q: tuple[float, float, float], p: tuple[float, float, float]) -> World:
    """Two tokens a sequence: chances of the second word at first, after the first word, and after the second."""

    def tree(chances: tuple[float, float, float]) -> TreeLM:
        rows = torch.tensor([[1e-300, 1.0 - c, c] for c in chances], dtype=torch.float64)
        return TreeLM(rows.log().requires_grad_(), eos=0, horizon=2)

    return World(tree(q), tree(p))


CROSSED = (
    crossed((0.993, 0.0006, 0.0001), (0.02, 0.99, 0.03)),
    crossed((0.99, 0.01, 0.5), (0.01, 0.99, 0.5)),
)
"""Where Rao-Blackwell has 64 times the variance of the plain score, and 19 times that of the score to go."""


def test_the_mean_over_all_that_was_learned_and_all_that_is_drawn_is_the_exact_gradient() -> None:
    world = world_of(1, vocab=2, horizon=2)
    rows, mean, moved = Rows(world), 0.0, 0.0
    plain, _ = rows.moments(None)
    count = len(rows.tokens)
    for batch in product(range(count), repeat=3):
        critic = rows.teach(rows.teach(kb.TokenCritic(), np.array(batch[:2])), np.array(batch[2:]))
        value = rows.value(critic)
        mean = mean + float(rows.chance[list(batch)].prod()) * rows.moments(value)[0]
        moved = max(moved, float(value.expected.detach().abs().max()))
    wanted = exact_gradient(world, kb.REVERSE_KL).ravel()
    assert np.linalg.norm(mean - wanted) <= 1e-10 * np.linalg.norm(wanted)
    assert np.linalg.norm(plain - wanted) <= 1e-10 * np.linalg.norm(wanted)
    assert moved > 1e-3  # what leaves the mean where it is is not 0


def test_off_policy_the_mean_is_the_exact_gradient() -> None:
    world = world_of(2, behavior=True)
    rows = Rows(world)
    wanted = exact_gradient(world, kb.REVERSE_KL).ravel()
    got = rows.moments(rows.value(rows.taught(3)))[0]
    assert np.linalg.norm(got - wanted) <= 1e-10 * np.linalg.norm(wanted)


def gains(world: World, batches: int) -> tuple[float, float, float]:
    """Variance over the plain score's, and Rao-Blackwell's over it; and Rao-Blackwell's over the best critic's."""
    rows = Rows(world)
    total = torch.where(rows.mask, (rows.q.detach().gather(-1, rows.tokens[..., None])[..., 0] - rows.p), 0.0)
    before = total.cumsum(-1) - total
    score = rows.moments(-before, exact=False)[1]  # every token credited with the whole log-ratio
    bare = rows.moments(None)[1]
    valued = rows.moments(rows.value(rows.taught(batches)))[1]
    best = critic_of(world)
    places = rows.places
    known = rows.moments(kb.TokenValue.of(best[places], rows.q, rows.tokens))[1]
    return valued / score, bare / valued, bare / known


def test_what_was_learned_takes_variance_off() -> None:
    found = np.array([gains(world_of(seed), batches=16) for seed in range(8)])
    assert np.exp(np.log(found[:, 1]).mean()) >= 1.5
    assert np.exp(np.log(found[:, 1] / found[:, 2]).mean()) >= 0.95  # next to all that there is
    assert found[:, 1].min() >= 1.0
    assert found[:, 0].max() <= 2.0


@pytest.mark.slow
def test_in_200_worlds_it_is_1_5_times_below_rao_blackwell_and_never_above_twice_the_plain_score() -> None:
    found = np.array([gains(world_of(seed), batches=8) for seed in range(200)])
    assert np.exp(np.log(found[:, 1]).mean()) >= 1.5
    assert found[:, 0].max() <= 2.0


@pytest.mark.parametrize("world", CROSSED, ids=["whole score", "score to go"])
def test_the_crossed_worlds_are_learned(world: World) -> None:
    valued, bare, _ = gains(world, batches=128)
    assert valued <= 2.0
    assert bare >= 50.0


def test_nothing_learned_is_rao_blackwell() -> None:
    rows = Rows(world_of(3))
    value = rows.value(kb.TokenCritic())
    assert not value.expected.detach().any()
    assert rows.moments(value)[1] == pytest.approx(rows.moments(None)[1], rel=1e-12)


def test_what_it_explains_is_what_the_best_critic_does() -> None:
    rows = Rows(world_of(4))
    assert np.isnan(rows.taught(1).explained)
    critic = rows.taught(200, size=64)
    best = critic_of(rows.world)[rows.places, rows.tokens]
    to_come = torch.where(rows.mask, rows.kl.detach(), 0.0)
    to_come = to_come.flip(-1).cumsum(-1).flip(-1) - to_come
    weight = (rows.mask * rows.chance[:, None]).flatten()
    weight = weight / weight.sum()
    left = (weight * (to_come - best).flatten() ** 2).sum()
    spread = (weight * to_come.flatten() ** 2).sum() - (weight * to_come.flatten()).sum() ** 2
    assert critic.explained == pytest.approx(1.0 - float(left / spread), abs=0.05)


def test_a_column_of_another_unit_changes_nothing() -> None:
    rows = Rows(world_of(5))
    other = Rows(world_of(5))
    other.prefix = other.prefix * torch.tensor([1e3, 1.0, 1e-3, 1.0], dtype=torch.float64)
    first, second = (one.value(one.taught(4)).drawn for one in (rows, other))
    assert np.allclose(np.asarray(first), np.asarray(second), rtol=0, atol=1e-9)


def test_older_batches_count_less() -> None:
    rows, new = Rows(world_of(6)), Rows(world_of(7))
    at = rows.lm.sample(np.random.default_rng(0), 64)
    short, long = kb.TokenCritic(memory=0.5), kb.TokenCritic(memory=1.0)
    for critic in (short, long):
        for one in [rows] * 4 + [new] * 8:
            one.teach(critic, at)
    fresh = kb.TokenCritic(memory=0.5)
    for _ in range(8):
        new.teach(fresh, at)
    wanted = np.asarray(new.value(fresh).drawn)
    off = [float(np.square(np.asarray(new.value(critic).drawn) - wanted).mean()) for critic in (short, long)]
    assert off[0] < 0.1 * off[1]


def test_it_goes_on_from_its_state() -> None:
    rows = Rows(world_of(8))
    whole, half = rows.taught(6), rows.taught(3)
    rng = np.random.default_rng(0)
    batches = [rows.lm.sample(rng, 16) for _ in range(6)]
    other = kb.TokenCritic().restore(half.state())
    for at in batches[3:]:
        rows.teach(other, at)
    assert other.batches == 6
    assert np.array_equal(np.asarray(rows.value(other).drawn), np.asarray(rows.value(whole).drawn))
    assert half.batches == 3  # the state is a copy
    for state, words in [
        ({"schema": 0}, "no state of a TokenCritic"),
        (half.state() | {"memory": 0.5}, "use the same"),
    ]:
        with pytest.raises(InputError, match=words):
            kb.TokenCritic().restore(state)


def test_masked_tokens_and_rows_with_an_infinite_kl_are_not_learned() -> None:
    words = torch.eye(2)
    prefix, kl = torch.tensor([[[0.0], [torch.nan]]]), torch.tensor([[0.5, torch.nan]])
    critic = kb.TokenCritic().update(prefix, words, tokens=[[0, 1]], token_kl=kl, mask=torch.tensor([[True, False]]))
    assert critic.batches == 1
    two = kb.TokenCritic()
    for one, values in ((critic, [[0.2, 0.4]]), (two, [[0.2, 0.4], [np.inf, 1.0]])):
        rows = len(values)
        one.update(np.zeros((rows, 2, 1)), words, tokens=np.zeros((rows, 2), dtype=int), token_kl=np.array(values))
    alone = kb.TokenCritic().update(
        np.zeros((1, 2, 1)), words, tokens=np.zeros((1, 2), dtype=int), token_kl=np.array([[0.2, 0.4]])
    )
    assert all(np.array_equal(x, two.state()["sums"][name]) for name, x in alone.state()["sums"].items())


def test_a_masked_prefix_of_any_number_has_no_gradient() -> None:
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    q = logits.log_softmax(-1)
    critic = kb.TokenCritic().update(
        torch.ones(1, 2, 1), torch.eye(2), tokens=[[0, 1]], token_kl=torch.tensor([[0.1, 0.9]])
    )
    prefix = torch.tensor([[[1.0], [torch.nan]]])
    value = critic.value(prefix, torch.eye(2), logprobs=q, tokens=[[0, 1]])
    mask = torch.tensor([[True, False]])
    loss = kb.kl_loss(q[..., 0], torch.full((1, 2), -1.0), mask, objective=kb.REVERSE_KL, baseline=value)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"words": np.zeros((3, 2, 1))}, ShapeError, "prefix has shape"),
        ({"prefix": np.zeros((2, 3))}, ShapeError, "prefix has shape"),
        ({"tokens": np.zeros((2, 4), dtype=int)}, ShapeError, "prefix has shape"),
        ({"mask": np.ones((2, 1))}, ShapeError, "mask has shape"),
        ({"mask": np.full((2, 3), 0.5)}, InputError, "mask"),
        ({"prefix": np.full((2, 3, 1), np.nan)}, InputError, "not finite"),
        ({"prefix": np.zeros((2, 3, 2))}, ShapeError, "the critic learned"),
    ],
)
def test_what_is_wrong_is_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    right: dict[str, Any] = {
        "prefix": np.zeros((2, 3, 1)),
        "words": np.eye(4),
        "tokens": np.zeros((2, 3), dtype=int),
        "token_kl": np.ones((2, 3)),
        "mask": np.ones((2, 3), dtype=bool),
    }
    critic = kb.TokenCritic()
    critic.update(**right)
    with pytest.raises(error, match=words):
        critic.update(**(right | changed))


def test_a_memory_that_is_none_is_refused() -> None:
    for memory in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="memory="):
            kb.TokenCritic(memory=memory)


@pytest.mark.slow
def test_the_same_in_jax() -> None:
    import jax.numpy as jnp

    rows = Rows(world_of(9))
    critic = rows.taught(4)
    value = rows.value(critic)
    other = critic.value(
        jnp.asarray(rows.prefix.numpy()),
        jnp.eye(rows.lm.vocab),
        logprobs=jnp.asarray(rows.q.detach().numpy()),
        tokens=jnp.asarray(rows.tokens.numpy()),
    )
    for name in ("drawn", "expected"):
        wanted = torch.as_tensor(getattr(value, name)).detach().numpy()
        assert np.allclose(np.asarray(getattr(other, name)), wanted, rtol=0, atol=1e-5)
