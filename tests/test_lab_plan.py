"""Plans from pilots: components, the promised error and the cheapest samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import kullback as kb
from kullback import lab
from kullback.errors import InputError
from kullback.lab.sample_plan import PlanRow
from kullback.oracle import World, reference_world, relative_variance


def pilot_of(distances: np.ndarray, samples: int, seed: int) -> list[kb.Rollout]:
    """Prompts of different difficulty: worlds at different distances."""
    rng = np.random.default_rng(seed)
    rollouts = []
    for prompt, distance in enumerate(distances):
        at = reference_world(float(distance))
        batch = at.sample(rng, samples)
        for row in range(samples):
            kept = batch["mask"][row]
            tokens = int(kept.sum())
            columns = {name: batch[name][row][kept] for name in ("logprobs", "ref_logprobs", "token_kl")}
            rollouts.append(
                kb.Rollout(
                    prompt_id=prompt,
                    prompt_tokens=[1] * 10,
                    tokens=[0] * tokens,
                    mask=kept[kept],
                    **columns,
                    ref_mass=np.ones(tokens),
                )
            )
    return rollouts


DISTANCES = (0.3, 0.6, 0.9, 1.2)


def test_a_plan_finds_the_components_that_enumeration_knows() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 150), 6, 0), stderr=0.05)
    worlds = [reference_world(d) for d in DISTANCES]
    kls = [float(at.exact(kb.REVERSE_KL)) for at in worlds]
    for row in found.rows:
        if row.estimator not in ("k1", "k3", "rao_blackwell") or row.level != "token":
            continue
        estimator = kb.ESTIMATORS[row.estimator]
        within = np.mean(
            [relative_variance(at, estimator, "token") * kl**2 for at, kl in zip(worlds, kls, strict=True)]
        )
        assert row.components.between == pytest.approx(np.std(kls), rel=0.1)
        assert row.components.within == pytest.approx(np.sqrt(within), rel=0.1)


def test_the_plan_reaches_the_error_it_promises() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 25), 4, 1), stderr=0.1, most_prompts=12)
    row = found.rows[0]
    assert row.prompts is not None
    assert row.prompts <= 12
    assert row.samples is not None
    assert row.samples > 1
    rng = np.random.default_rng(2)
    worlds = [reference_world(d) for d in DISTANCES]
    means = [
        np.mean([(b["logprobs"] - b["ref_logprobs"]).sum(axis=1).mean() for b in _batches(worlds, row, rng)])
        for _ in range(600)
    ]
    assert row.expected is not None
    assert row.expected <= 0.1
    assert np.std(means) == pytest.approx(row.expected, rel=0.15)


def _batches(worlds: list[World], row: object, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    for number in rng.integers(len(worlds), size=row.prompts):  # type: ignore[attr-defined]
        yield worlds[number].sample(rng, row.samples)  # type: ignore[attr-defined]


def test_the_planned_samples_are_the_cheapest() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 10), 5, 3), relative=0.05, read_cost=0.5)
    for row in found.rows:
        assert row.prompts is not None

        def cost(m: int, row: PlanRow = row) -> float:
            variance = row.components.between**2 + row.components.within**2 / m
            prompts = max(2, np.ceil(variance / found.wished**2))
            return float(prompts * (0.5 * found.prompt_tokens + m * found.completion_tokens))

        assert row.samples is not None
        assert cost(row.samples) == min(cost(m) for m in range(1, 200))
        assert row.low <= row.high


def test_these_prompts_need_samples_for_the_spread_within_them_alone() -> None:
    """The planned samples of the pilot's own prompts have the wished error given these prompts, by `kb.estimate`."""
    distances = np.repeat(DISTANCES, 10)
    found = lab.plan(pilot_of(distances, 5, 3), stderr=0.02)
    row = found.rows[0]
    again = lab.plan(pilot_of(distances, row.samples_given_prompts, 4), stderr=0.02).rows[0].pilot
    assert again.given_prompts is not None
    assert again.given_prompts.stderr == pytest.approx(0.02, rel=0.15)
    assert again.stderr > 0.03  # of prompts drawn anew
    assert "stderr_given_prompts" in found.tables()[0].note


def test_too_few_prompts_are_said_to_be_too_few() -> None:
    found = lab.plan(pilot_of(np.repeat(DISTANCES, 10), 5, 3), stderr=0.02, most_prompts=20)
    assert found.cheapest is None
    (table,) = found.tables()
    assert "have at least" in table.note
    assert all(row.prompts is None and row.least_prompts > 20 for row in found.rows)


def test_plan_refuses_pilots_that_cannot_tell() -> None:
    pilot = pilot_of(np.array(DISTANCES), 3, 0)
    for rollouts, options, words in (
        (pilot, {}, "give one positive error"),
        (pilot, {"stderr": 0.1, "relative": 0.1}, "give one positive error"),
        (pilot[:3], {"stderr": 0.1}, "at least two prompts"),
        (pilot[::3], {"stderr": 0.1}, "at least two prompts"),
        ([], {"stderr": 0.1}, "no sequence"),
        (pilot, {"stderr": 0.1, "estimators": [(kb.Renyi(2.0), "sequence")]}, "not a mean"),
    ):
        with pytest.raises(InputError, match=words):
            lab.plan(rollouts, **options)  # type: ignore[arg-type]
