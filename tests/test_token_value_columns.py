"""State and deviation: what models say, what files hold, and what compare makes of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kullback as kb

pytest.importorskip("torch")
import torch

from kullback.models import LanguageModel, Sampling
from kullback.models.bases import STATES, WORDS, Basis, basis_of
from kullback.models.opening import opened_pair
from kullback.models.pairs import score

LOGS = ("logprobs", "ref_logprobs", "token_kl")
BOTH = ((kb.RAO_BLACKWELL, "token"), (kb.RAO_BLACKWELL_CONTROLLED, "token"))


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, LanguageModel]:
    return opened_pair("builtin:tuned", "builtin:base", device="cpu", dtype="auto")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def basis(pair: tuple[LanguageModel, LanguageModel]) -> Basis:
    found = basis_of(pair[0], [pair[0].encode("One day"), pair[0].encode("The little dog was")], pair[0].vocab)
    assert found is not None
    return found


def _every_next(pair: tuple[LanguageModel, LanguageModel], basis: Basis, sampling: Sampling) -> np.ndarray:
    """The deviation of every token after one prompt, (vocab, numbers), and q of it."""
    q, p = pair
    prompt = q.encode("One day")
    found = score(q, p, [prompt] * 64, [[token] for token in range(64)], sampling=sampling, basis=basis, drawn=False)
    assert found[0].deviation is not None
    rows = np.concatenate([np.asarray(one.deviation) for one in found]).astype(np.float64)
    return np.asarray(rows)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7), Sampling(top_p=0.9), Sampling(top_k=5)])
def test_a_deviation_is_a_token_less_its_mean_under_what_is_drawn(
    pair: tuple[LanguageModel, LanguageModel], basis: Basis, sampling: Sampling
) -> None:
    q, _ = pair
    rows = _every_next(pair, basis, sampling)
    logits = q.next_logits([q.encode("One day")], [[0]])[slice(0, 1)]
    law = sampling.logprobs(logits).double().exp()
    mean = (law @ basis.words.double()).numpy()
    assert np.allclose(rows, basis.words[:64].double().numpy() - mean, atol=2e-6)
    assert basis.words.shape == (q.vocab, 1 + WORDS)
    assert np.flatnonzero(basis.words[:, 0]).tolist() == sorted(q.end_tokens)


def test_directions_are_those_of_the_prompts_and_not_of_what_is_drawn(
    pair: tuple[LanguageModel, LanguageModel], basis: Basis
) -> None:
    q, p = pair
    assert basis.directions is not None
    assert basis.directions.shape[1] == STATES
    states = [score(q, p, [q.encode("One day")], [drawn], basis=basis)[0].state for drawn in ([5, 6, 7], [5, 9, 11])]
    assert np.allclose(states[0][:2], states[1][:2], atol=1e-5)  # type: ignore[index]
    assert not np.allclose(states[0][2], states[1][2], atol=1e-3)  # type: ignore[index]


def test_a_model_that_shows_no_states_has_its_end_token(pair: tuple[LanguageModel, LanguageModel]) -> None:
    class Bare:
        end_tokens = (3,)
        device = torch.device("cpu")

    found = basis_of(Bare(), [[1]], 6)  # type: ignore[arg-type]
    assert found is not None
    assert found.directions is None
    assert found.words.tolist() == [[0.0]] * 3 + [[1.0]] + [[0.0]] * 2
    Bare.end_tokens = ()
    assert basis_of(Bare(), [[1]], 6) is None  # type: ignore[arg-type]


def test_a_file_says_the_same_again_and_without_its_columns_rao_blackwell(tmp_path: Path) -> None:
    run = kb.compare(
        prompts=["One day", "The cat", "She"], samples=12, max_new_tokens=8, estimators=BOTH, both=True, output=tmp_path
    )
    valued = [row for row in run.rows if row.per_sequence.estimator == "rao_blackwell_controlled"]
    assert [row.direction for row in valued] == ["reverse", "forward"]
    rows = kb.read_rollouts(tmp_path / "rollouts.parquet")
    assert {"state", "deviation"} <= set(rows.columns)
    assert rows[0].deviation is not None
    assert rows[0].deviation.shape == (rows[0].length, 1 + WORDS)
    assert np.array_equal(rows[3].state, run.rollouts[3].state)  # type: ignore[arg-type]
    found = kb.estimate_files([tmp_path / "rollouts.parquet"], estimator="rao_blackwell_controlled")
    again = [answer.estimates["sequence"] for answer in found.answers]
    assert again[0].coefficients["token_values"] == pytest.approx(
        valued[0].per_sequence.coefficients["token_values"], abs=1e-4
    )
    assert again[0].value == pytest.approx(valued[0].per_sequence.value, abs=1e-5)
    kb.write_rollouts(tmp_path / "again.parquet", rows)
    assert list(kb.read_rollouts(tmp_path / "again.parquet")) == list(rows)


def test_rows_with_and_without_the_columns_are_written_side_by_side(tmp_path: Path) -> None:
    known = {"logprobs": [-1.0, -2.0], "ref_logprobs": [-1.5, -1.0], "token_kl": [0.25, 0.5], "prompt_id": 0}
    rows = [
        kb.Rollout(**known),
        kb.Rollout(**known, state=np.ones((2, 3)), deviation=[[0.5], [-0.25]]),
        kb.Rollout(**known, deviation=np.zeros((2, 2))),
    ]
    kb.write_rollouts(tmp_path / "rows.parquet", rows)
    for held, row in zip(kb.read_rollouts(tmp_path / "rows.parquet"), rows, strict=True):
        assert held == replace(row, **{name: np.float32(getattr(row, name)) for name in LOGS})
    with pytest.raises(kb.errors.ShapeError, match="deviation has shape"):
        kb.Rollout(**known, deviation=[0.5, 0.25])
    with pytest.raises(kb.errors.ShapeError, match="every column of a sequence"):
        kb.Rollout(**known, deviation=np.zeros((3, 1)))


@pytest.mark.slow
def test_the_built_in_pair_has_a_third_of_the_variance() -> None:
    errors, off = [], []
    for seed in range(10):
        run = kb.compare(seed=seed, estimators=BOTH)
        given = [row.per_sequence.given_prompts for row in run.rows]
        errors.append([one.stderr for one in given if one is not None])
        off.append((run.rows[1].per_sequence.value - run.rows[0].per_sequence.value) / errors[-1][0])
    plain, valued = (np.array(errors) ** 2).mean(axis=0)
    assert plain / valued > 2.5
    assert abs(np.mean(off)) < 3 / len(off) ** 0.5


def test_a_state_has_the_digits_of_bfloat16_and_both_columns_are_stored_by_bytes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = kb.compare(prompts=["One day", "The small dog"], samples=2, max_new_tokens=4, output=tmp_path)
    for rollout in found.rollouts:
        state = torch.as_tensor(np.array(rollout.state))
        assert torch.equal(state, state.to(torch.bfloat16).to(state.dtype))
    group = pq.ParquetFile(tmp_path / "rollouts.parquet").metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    several = [one for one in columns if one.path_in_schema.split(".")[0] in ("state", "deviation")]
    assert len(several) == 2
    assert all("BYTE_STREAM_SPLIT" in one.encodings for one in several)
