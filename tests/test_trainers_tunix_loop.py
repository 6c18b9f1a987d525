"""tunix's own GRPO loop, its sampler, its reference and its optimizer, with the KL in it: ``make test-trainers``.

A policy of four words that looks at the last one: every sequence can be written out, and the mean of the gradients
that reach the optimizer must be the exact one. The optimizer keeps them and leaves the policy where it is, or lets it
go to and fro between two.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from trl_worlds import Gradients

import kullback as kb
from kullback.errors import InputError
from kullback.integrations import tunix as ours
from kullback.oracle import TreeLM, World

jax, nnx, optax = pytest.importorskip("jax"), pytest.importorskip("flax.nnx"), pytest.importorskip("optax")
rl_cluster = pytest.importorskip("tunix.rl.rl_cluster")
grpo_learner = pytest.importorskip("tunix.rl.grpo.grpo_learner")
base_rollout = pytest.importorskip("tunix.rl.rollout.base_rollout")

jnp = jax.numpy

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

WORDS = ["<pad>", "<eos>", "a", "b"]
HORIZON, STEPS, PROMPTS, ANSWERS = 3, 100, 16, 4
NEVER = -30.0
"""The logit of padding, which a policy that drew it could not be told from."""


class Words:
    """A tokenizer as tunix asks for one."""

    def encode(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(WORDS[i] for i in ids)

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return 1

    def pad_id(self) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class Config:
    num_layers: int = 1
    num_kv_heads: int = 1
    head_dim: int = 1


class NextWord(nnx.Module):  # type: ignore[misc, name-defined]
    """Logits by the last word, as tunix calls its models."""

    def __init__(self, table: np.ndarray) -> None:
        self.config = Config()
        self.table = nnx.Param(jnp.asarray(table, jnp.float32))

    def __call__(self, tokens: Any, positions: Any, cache: Any = None, attention_mask: Any = None) -> Any:
        return self.table[...][tokens].at[..., 0].set(NEVER), cache


def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the policy, of the one that a step makes of it, and of the reference."""
    rng = np.random.default_rng(0)
    policy, step, reference = (rng.normal(size=(4, 4)) for _ in range(3))
    return policy, policy + 0.15 * step, reference


def exact(policy: np.ndarray, reference: np.ndarray, target: kb.Target = kb.REVERSE_KL) -> torch.Tensor:
    """∇ of a target in the policy's table, by enumeration."""
    live = torch.tensor(policy, requires_grad=True)
    value: Any = World(tree(live), tree(torch.tensor(reference))).exact(target)
    return torch.autograd.grad(value, live)[0].reshape(-1)


def tree(table: torch.Tensor) -> TreeLM:
    places = TreeLM(np.zeros((13, 4)), 1, HORIZON).prefixes
    rows = table[[prefix[-1] if len(prefix) else WORDS.index("a") for prefix in places]]
    return TreeLM(torch.cat([torch.full_like(rows[:, :1], NEVER), rows[:, 1:]], dim=1), 1, HORIZON)


def keeping(moves: np.ndarray) -> Any:
    """An optimizer that keeps its gradients, and adds and takes away `moves` in turn."""

    def start(params: Any) -> Any:
        return {"count": jnp.zeros((), int), "rows": jax.tree.map(lambda x: jnp.zeros((2 * STEPS, *x.shape)), params)}

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        count = state["count"]
        rows = jax.tree.map(lambda kept, g: kept.at[count].set(g), state["rows"], gradients)
        along = jnp.where(count % 2 == 0, 1.0, -1.0)
        return jax.tree.map(lambda g: along * jnp.asarray(moves, g.dtype), gradients), {
            "count": count + 1,
            "rows": rows,
        }

    return optax.GradientTransformation(start, update)


def cluster_of(moves: np.ndarray, steps: int = 1) -> Any:
    """One of the actor, the reference and tunix's own sampler."""
    policy, _, reference = tables()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    roles = rl_cluster.Role
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=keeping(moves), eval_every_n_steps=10 * STEPS, max_steps=steps
    )
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=HORIZON, max_prompt_length=2, kv_cache_size=8, temperature=1.0
    )
    return rl_cluster.RLCluster(
        actor=NextWord(policy),
        reference=NextWord(reference),
        tokenizer=Words(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys((roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh),
            rollout_engine="vanilla",
            offload_to_cpu=False,
            training_config=training,
            rollout_config=rollout,
        ),
    )


def draw_anew(rollout: Any) -> None:
    """Another key at each step: by itself tunix's sampler has the same one at all of them, and so the same draws."""
    stock, keys = rollout.generate, itertools.count()

    def generate(prompts: Any, rollout_config: Any, **options: Any) -> Any:
        return stock(prompts, dataclasses.replace(rollout_config, seed=next(keys)), **options)

    rollout.generate = generate


def trained(loss: str, *, epochs: int = 1, ends: bool = True) -> Gradients:
    """The gradients of a run of tunix's learner, whose reward is constant."""
    policy, moved, _ = tables()
    cluster = cluster_of(moved - policy if epochs > 1 else np.zeros((4, 4)), STEPS * epochs)
    draw_anew(cluster.rollout)
    if ends:
        ours.keep_ends(cluster.rollout)
    config = grpo_learner.GRPOConfig(
        num_generations=ANSWERS, num_iterations=epochs, beta=1.0, policy_loss_fn=loss, epsilon=10.0
    )
    learner = grpo_learner.GRPOLearner(cluster, config, reward_fns=lambda completions, **_: [0.0] * len(completions))
    learner.train([{"prompts": np.array(["a"] * PROMPTS)} for _ in range(STEPS)])
    rows = jax.tree.leaves(nnx.state(cluster.actor_trainer.optimizer, nnx.optimizer.OptState))
    [kept] = [np.array(x) for x in rows if x.ndim == 3]
    return Gradients([torch.tensor(row, dtype=torch.float64).reshape(-1) for row in kept[: STEPS * epochs]])


@pytest.fixture(scope="module")
def registered() -> str:
    torch.set_num_threads(1)
    ours.register("kullback", kl_objective=kb.REVERSE_KL, kl_beta_unit="sequence")
    return "kullback"


def test_the_loops_mean_gradient_is_the_sequence_kls(registered: str) -> None:
    policy, _, reference = tables()
    kept = trained(registered)
    found = kept.against(exact(policy, reference))
    print("tunix's loop", found)
    assert found.worst < 4.5
    assert abs(found.share - 1) < 4 * found.share_error < 0.25


def test_off_policy_it_is_the_newer_policys(registered: str) -> None:
    """Two passes over what the first policy drew; the second one's gradient is at the policy that it has become."""
    policy, moved, reference = tables()
    kept = trained(registered, epochs=2)
    for first, at in enumerate((policy, moved)):
        found = kept.against(exact(at, reference), slice(first, None, 2))
        print("tunix's loop, pass", first, found)
        assert found.worst < 4.5
        assert abs(found.share - 1) < 4 * found.share_error < 0.3


def test_tunixs_own_term_follows_another_gradient() -> None:
    policy, _, reference = tables()
    kept = trained("grpo")
    found = kept.against(exact(policy, reference))
    print("tunix's own", found)
    assert found.worst > 6


def test_without_the_end_token_it_is_not_the_kl_of_sequences(registered: str) -> None:
    """As tunix's sampler returns rows."""
    policy, _, reference = tables()
    kept = trained(registered, ends=False)
    found = kept.against(exact(policy, reference))
    print("without the end", found)
    assert found.worst > 6
    cluster = cluster_of(np.zeros((4, 4)))
    rows = cluster.rollout.generate(["a"] * 64, cluster.cluster_config.rollout_config).tokens
    assert min(len(row) for row in rows) == 0
    assert not any(1 in row for row in rows)


def test_what_keeps_no_end_is_refused() -> None:
    rollout = cluster_of(np.zeros((4, 4))).rollout
    rollout.eos_id = lambda: 0
    with pytest.raises(InputError, match="token 0 came as both padding and end"):
        ours.keep_ends(rollout)
    del rollout.eos_id
    ours.keep_ends(rollout)
    for options, words in (
        ({"eos_tokens": [1, 3]}, r"eos_tokens=\[1, 3\]"),
        ({"return_logprobs": True}, "gives none of"),
    ):
        config = base_rollout.RolloutConfig(max_tokens_to_generate=3, max_prompt_length=2, kv_cache_size=8, **options)
        with pytest.raises(InputError, match=words):
            rollout.generate(["a"], config)
