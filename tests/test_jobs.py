"""Plans, workers and runs; models that are only protocols; sampling that is not what is scored."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import POLICY, REFERENCE, Chain, Scoring, exact_kl

import kullback as kb
from kullback.errors import InputError, ModelError
from kullback.jobs.hotspots import SITES, Hotspots
from kullback.jobs.plans import Draw, Laws, Plan, batches
from kullback.jobs.run import Run
from kullback.jobs.worker import Finished, Models, finish_batch
from kullback.models import Randomness, Sampling, load
from kullback.models.pairs import shared_vocab

PROMPTS = ((1, 2), (1,), (2, 1, 1), (2,))


def planned(rows: int = 3, samples: int = 4, *, mixes: bool = True, **changes: Any) -> Plan:
    return Plan(
        prompts=PROMPTS,
        samples=samples,
        max_new_tokens=12,
        laws=changes.pop("laws", Laws(Sampling(), Sampling())),
        batches=batches(PROMPTS, samples, rows, {"policy": mixes}),
        batch_rows=rows,
        seed=changes.pop("seed", 5),
        vocab=None,
    )


CHAINS = Models(POLICY, REFERENCE, {"policy": POLICY, "reference": REFERENCE})


def by_name(found: kb.Comparison, direction: str = "reverse") -> dict[str, kb.Estimate]:
    rows = [row.per_sequence for row in found.rows if row.direction == direction]
    return {f"{e.estimator} {e.level}": e for e in rows}


def apart(one: kb.Estimate, other: kb.Estimate) -> float:
    """Their difference in standard errors."""
    return abs(one.value - other.value) / float(np.hypot(one.stderr, other.stderr))


# Plans, workers and runs ----------------------------------------------------------------------------------------


def test_a_plan_asks_for_every_draw_once_and_goes_to_another_process() -> None:
    plan = planned()
    draws = [draw for batch in plan.batches for draw in batch.draws]
    assert sorted(draws) == [Draw(prompt, sample) for prompt in range(4) for sample in range(4)]
    assert plan.total == 16
    assert all(len(batch.draws) <= 3 for batch in plan.batches)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_prompts_of_different_lengths_share_no_batch_where_they_cannot_be_padded() -> None:
    for batch in planned(mixes=False).batches:
        assert len({len(PROMPTS[draw.prompt]) for draw in batch.draws}) == 1


def test_a_worker_depends_on_its_random_numbers_alone() -> None:
    plan = planned()
    one, two, other = (
        finish_batch(plan, plan.batches[0], CHAINS, Randomness(seed), on_tokens=lambda n: None) for seed in (3, 3, 4)
    )
    assert one.rollouts == two.rollouts
    assert one.rollouts != other.rollouts


def test_runs_of_one_plan_merge_to_the_run_of_all() -> None:
    q, p = load("builtin:tuned"), load("builtin:base")
    models = Models(q, p, {"policy": q})
    prompts = tuple(tuple(q.encode(text)) for text in ("One", "The small dog", "Grace said that"))
    laws = Laws(Sampling(), Sampling())
    drawn = batches(prompts, 4, 3, {"policy": True})
    plan = Plan(prompts, 4, 12, laws=laws, batches=drawn, batch_rows=3, seed=0, vocab=shared_vocab(q, p))
    randomness = Randomness(plan.seed)
    parts = [finish_batch(plan, batch, models, randomness, on_tokens=lambda n: None) for batch in plan.batches]

    def kept(parts: list[Finished]) -> Run:
        run = Run(plan)
        for part in parts:
            run.keep(part, q.decode)
        return run

    whole, merged = kept(parts), kept(parts[:2]).merge(kept(parts[2:]))
    assert merged.rollouts == whole.rollouts
    assert merged.progress.sequences == plan.total
    assert_same(merged.hotspots, whole.hotspots)


def test_runs_of_two_plans_do_not_merge() -> None:
    with pytest.raises(InputError, match="runs of two plans"):
        Run(planned()).merge(Run(planned(seed=6)))


def assert_same(one: Hotspots, other: Hotspots) -> None:
    assert one.texts == other.texts
    assert set(one.sites) == set(other.sites)
    assert one.top_sites() == other.top_sites()
    for mine, theirs in zip(one.top_prompts(99), other.top_prompts(99), strict=True):
        assert (mine.prompt_id, mine.prompt, mine.sequences) == (theirs.prompt_id, theirs.prompt, theirs.sequences)
        assert mine.nats_per_sequence == pytest.approx(theirs.nats_per_sequence, rel=1e-12)
    for mine, theirs in zip(one.top_positions(99), other.top_positions(99), strict=True):
        assert (mine.position, mine.tokens) == (theirs.position, theirs.tokens)
        assert mine.nats_per_token == pytest.approx(theirs.nats_per_token, rel=1e-12)


def rollout(prompt: int, tokens: list[int]) -> kb.Rollout:
    """Token KLs are those of the prefix alone, as a model's are."""
    kls = [float(np.random.default_rng([prompt, *tokens[:t]]).exponential()) for t in range(len(tokens))]
    logprobs = {"logprobs": np.full(len(tokens), -1.0), "ref_logprobs": np.full(len(tokens), -2.0)}
    return kb.Rollout(prompt_id=prompt, prompt_tokens=[1], tokens=tokens, token_kl=np.array(kls), **logprobs)


@pytest.mark.parametrize("split", [0, 1, 7, 20])
def test_hotspots_add_up_to_those_of_one_pass(split: int) -> None:
    rng = np.random.default_rng(0)
    rows = [rollout(int(rng.integers(0, 4)), rng.integers(0, 3, size=rng.integers(1, 9)).tolist()) for _ in range(20)]

    def added(rows: list[kb.Rollout]) -> Hotspots:
        found = Hotspots()
        for row in rows:
            found.add(row, np.zeros(row.length, dtype=int), np.ones(row.length, dtype=int), POLICY.decode)
        return found

    whole = added(rows)
    assert len(whole.sites) == SITES
    assert_same(added(rows[:split]) + added(rows[split:]), whole)


# Models that are only protocols ---------------------------------------------------------------------------------


def test_compare_runs_on_models_that_give_log_probs_only() -> None:
    found = kb.compare(POLICY, REFERENCE, ["a"], samples=800, max_new_tokens=10, both=True)
    for direction, (q, p) in {"reverse": (POLICY, REFERENCE), "forward": (REFERENCE, POLICY)}.items():
        estimates = by_name(found, direction)
        assert set(estimates) == {"k1 token", "k3 token", "k3 sequence", "control_variate token"}
        for estimate in estimates.values():
            assert abs(estimate.value - exact_kl(q, p, 1, 10)) < 4 * estimate.stderr
            assert estimate.stderr < 0.1
    assert "policy and reference gave log-probs only" in found.notes[0]
    assert found.hotspots.top_sites() == []
    assert found.rollouts[0].token_kl is None
    assert {rollout.finish for rollout in found.rollouts} == {"end", "length"}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["notes"] == list(found.notes)
    assert "device" not in found.settings


def test_compare_needs_no_torch_for_models_that_need_none() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import kullback as kb, kullback.models as models\n"
        "from chains import POLICY, REFERENCE\n"
        "assert models.BUILTIN_PROMPTS.exists() and models.Sampling(0.5).temperature == 0.5\n"
        "print(len(kb.compare(POLICY, REFERENCE, ['a'], samples=3, max_new_tokens=4).rollouts))\n"
        "for name in ('load', 'LanguageModel', 'sample'):\n"
        "    try:\n        getattr(models, name)\n"
        "    except kb.errors.MissingPackageError as error:\n        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    drawn, *told = done.stdout.splitlines()
    assert (drawn, len(told)) == ("3", 3), done.stderr
    for words in told:
        assert words.startswith("torch is needed for this and is not installed: pip install '")
        assert words.endswith("[hf]'")


def test_rollouts_without_exact_kls_are_written_and_read(tmp_path: Path) -> None:
    found = kb.compare(POLICY, REFERENCE, ["a"], samples=4, max_new_tokens=6, sampler_law=Sampling(2), output=tmp_path)
    back = kb.read_rollouts(tmp_path / "rollouts.parquet")
    assert "token_kl" not in back.columns
    assert back.law == {"logprobs": "raw", "ref_logprobs": "raw", "behavior_logprobs": "temperature"}
    behavior = back.metadata.behavior
    assert behavior is not None
    assert (behavior.name, behavior.sampling["temperature"]) == ("policy", 2)
    assert [row.sample for row in back] == [row.sample for row in found.rollouts] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: kb.compare(Scoring("s", POLICY.chances), REFERENCE, ["a"], samples=1),
            InputError,
            "s scores tokens but draws none, and it was to be sampled: pass sampler=…",
        ),
        (
            lambda: kb.compare(POLICY, Scoring("s", POLICY.chances), ["a"], samples=1, both=True),
            InputError,
            "leave out both=True",
        ),
        (
            lambda: kb.compare(POLICY, REFERENCE, ["a"], estimators=[(kb.RAO_BLACKWELL, "token")]),
            InputError,
            "only estimators of exact token KLs were asked for",
        ),
        (lambda: kb.compare_text(POLICY, REFERENCE, ["ab"]), InputError, "policy gives log-probs only"),
        (
            lambda: kb.compare(POLICY, Chain("c", POLICY.chances, vocabulary={"a": 2}), ["a"]),
            ModelError,
            "policy and c have different vocabularies",
        ),
        (
            lambda: kb.compare(POLICY, REFERENCE, ["a"], sampler=Chain("c", POLICY.chances, vocabulary={"a": 2})),
            ModelError,
            "policy and c have different vocabularies",
        ),
    ],
)
def test_what_a_model_cannot_do_is_said_before_anything_is_drawn(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


# What sampled need not be what scored ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_policy() -> kb.Estimate:
    found = kb.compare(samples=32, max_new_tokens=6, seed=1)
    return by_name(found)["rao_blackwell token"]


@pytest.mark.parametrize(
    "other", [{"sampler": "builtin:base"}, {"sampler_law": Sampling(1.6)}], ids=["another model", "another law"]
)
def test_draws_of_something_else_estimate_the_same_kl(other: dict[str, Any], on_policy: kb.Estimate) -> None:
    found = kb.compare(samples=64, max_new_tokens=6, seed=2, **other)
    for name, estimate in by_name(found).items():
        assert estimate.ess < 0.99 * estimate.n, name
        assert apart(estimate, on_policy) < 4, name
    batch = [row for row in found.rollouts if row.behavior_logprobs is not None]
    assert len(batch) == len(found.rollouts)
    assert found.settings["sampler"]["temperature"] == other.get("sampler_law", Sampling()).temperature
    # Taken as the policy's own draws, they would give another number.
    stacked = {
        name: [np.pad(getattr(row, name), (0, 6 - row.length)) for row in batch]
        for name in ("logprobs", "ref_logprobs")
    }
    mask = [np.arange(6) < row.length for row in batch]
    naive = kb.estimate(*map(np.stack, stacked.values()), np.stack(mask), estimator=kb.K1)
    assert apart(naive, on_policy) > 4


def test_the_policy_as_its_own_sampler_gives_the_same_rollouts_and_weights_of_one() -> None:
    settings: dict[str, Any] = {"samples": 2, "max_new_tokens": 8, "batch_size": 16}
    plain, other = kb.compare(**settings), kb.compare(sampler="builtin:tuned", **settings)
    assert [row.tokens for row in plain.rollouts] == [row.tokens for row in other.rollouts]
    for mine, theirs in zip(plain.rollouts, other.rollouts, strict=True):
        # The policy is scored from the states that it drew from, and where something else draws from a reading.
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, atol=1e-5)
        np.testing.assert_allclose(theirs.behavior_logprobs, theirs.logprobs, atol=1e-4)
    for name, estimate in by_name(plain).items():
        # Token values are on-policy alone: off-policy only the log-ratio martingale is subtracted.
        near = 0.2 * estimate.stderr if name == "rao_blackwell_controlled token" else 1e-3
        assert by_name(other)[name].value == pytest.approx(estimate.value, rel=1e-3, abs=near)


def test_tokens_that_the_policy_excludes_weigh_nothing() -> None:
    found = kb.compare(samples=16, max_new_tokens=4, top_k=5, sampler_law=Sampling(), seed=3)
    assert any(np.isneginf(row.logprobs).any() for row in found.rollouts)
    same = kb.compare(samples=64, max_new_tokens=4, top_k=5, seed=4)
    assert apart(by_name(found)["k1 token"], by_name(same)["k1 token"]) < 4
    assert found.notes == ()
    cut = kb.compare(samples=1, max_new_tokens=2, sampler_law=Sampling(top_k=5))
    assert "may cut off tokens that the policy draws" in cut.notes[0]
