"""Scoring files of token ids: the numbers of compare, sums by hand, what stays, what is refused, what a kill leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_scorers import Letters

import kullback as kb
from kullback.errors import FileError, InputError, ModelError, StoppedError

COLUMNS = ("logprobs", "ref_logprobs", "token_kl", "ref_mass")
TOY = Letters()
OTHER = Letters("other", 0.2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    kb.compare(samples=1, max_new_tokens=10, output=folder, both=True)
    return folder / "rollouts.parquet"


def sampler_only(rollout: kb.Rollout) -> kb.Rollout:
    drew = rollout.logprobs if rollout.sampled_from == "policy" else rollout.ref_logprobs
    return replace(rollout, behavior_logprobs=drew, logprobs=None, ref_logprobs=None, token_kl=None, ref_mass=None)


def table(path: Path, *rows: kb.Rollout, **said: object) -> Path:
    kb.write_rollouts(path, rows, kb.rollouts.Metadata(**said))  # type: ignore[arg-type]
    return path


def row(**columns: object) -> kb.Rollout:
    return kb.Rollout(**{"prompt_tokens": [1, 2], "tokens": [3, 5], "behavior_logprobs": [-0.5, -0.7], **columns})  # type: ignore[arg-type]


def test_stripped_columns_come_back(compared: Path, tmp_path: Path) -> None:
    rows = list(kb.read_rollouts(compared))
    bare = table(tmp_path / "bare.parquet", *map(sampler_only, rows))
    found = kb.score_files(bare, tmp_path / "o.parquet", policy="builtin:tuned", reference="builtin:base")
    again = kb.read_rollouts(found.output)
    assert (found.written, found.rows, len(again)) == (COLUMNS, len(rows), len(rows))
    for before, after in zip(rows, again, strict=True):
        for name in COLUMNS:
            # Written from the states that drew, and read again in one piece: float32 rounds the two apart.
            np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-5)
        assert (after.prompt_id, after.finish, after.sampled_from) == (
            before.prompt_id,
            before.finish,
            before.sampled_from,
        )
    assert again.token_hash == kb.read_rollouts(compared).token_hash
    assert again.law["logprobs"] == again.law["ref_logprobs"] == "raw"
    assert again.metadata.policy is not None
    assert again.metadata.policy.name == "builtin:tuned"
    mismatch = next(one for one in found.agreements if one.column == "behavior_logprobs")
    assert mismatch.tokens == sum(r.length for r in rows)


def test_numbers_are_sums_over_the_vocabulary(tmp_path: Path) -> None:
    models = [kb.models.load(f"builtin:{name}") for name in ("tuned", "base")]
    prompt, tokens = models[0].encode("The dog"), models[0].encode(" was happy")
    path = table(
        tmp_path / "a.parquet", row(prompt_tokens=prompt, tokens=tokens, behavior_logprobs=[-1.0] * len(tokens))
    )
    kb.score_files(path, tmp_path / "o.parquet", policy=models[0], reference=models[1], temperature=0.5)
    found = kb.read_rollouts(tmp_path / "o.parquet")
    with torch.inference_mode():
        logits = [m.model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0].double() / 0.5 for m in models]
    q, p = (x.log_softmax(-1)[len(prompt) - 1 : -1].numpy() for x in logits)
    at = np.arange(len(tokens))
    np.testing.assert_allclose(found[0].logprobs, q[at, tokens], atol=1e-5)
    np.testing.assert_allclose(found[0].ref_logprobs, p[at, tokens], atol=1e-5)
    np.testing.assert_allclose(found[0].token_kl, (np.exp(q) * (q - p)).sum(-1), atol=1e-5)
    assert found.law["logprobs"] == "temperature"


def test_by_hand(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", row(), row(tokens=[4], behavior_logprobs=[-0.6], prompt_tokens=[1]))
    found = kb.score_files(path, tmp_path / "o.parquet", policy=TOY)
    first, second = kb.read_rollouts(found.output)
    np.testing.assert_allclose(first.logprobs, [-0.1 * (3 + 2), -0.1 * (5 + 3)], atol=1e-6)
    np.testing.assert_allclose(second.logprobs, [-0.5], atol=1e-6)
    np.testing.assert_allclose(first.behavior_logprobs, [-0.5, -0.7], atol=1e-6)
    (mismatch,) = found.agreements
    assert (mismatch.column, mismatch.tokens) == ("behavior_logprobs", 3)
    np.testing.assert_allclose([mismatch.mean, mismatch.bias, mismatch.largest], [0.2 / 3, 0.0, 0.1], atol=1e-6)
    answers = kb.estimate_files(found.output).answers
    assert [answer.question.title for answer in answers] == ["KL(sampler‖policy)", "KL(policy‖sampler)"]


def test_a_reference_alone_leaves_the_policy(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.parquet", row(logprobs=[-0.4, -0.6]), law={"logprobs": "temperature"}, quantum={"logprobs": 0.1}
    )
    found = kb.score_files(path, tmp_path / "o.parquet", reference=OTHER)
    again = kb.read_rollouts(found.output)
    np.testing.assert_allclose(again[0].logprobs, [-0.4, -0.6], atol=1e-6)
    np.testing.assert_allclose(again[0].ref_logprobs, [-1.0, -1.6], atol=1e-6)
    assert again.metadata.law == {"logprobs": "temperature", "ref_logprobs": "raw"}
    assert again.metadata.quantum == {"logprobs": 0.1}
    assert (found.written, found.kept, found.agreements) == (("ref_logprobs",), (), ())


def test_columns_that_are_there_are_compared_and_stay(compared: Path, tmp_path: Path) -> None:
    found = kb.score_files(compared, tmp_path / "o.parquet", policy="builtin:base", reference="builtin:base")
    assert (found.written, found.kept) == ((), ("logprobs", "ref_logprobs"))
    for before, after in zip(kb.read_rollouts(compared), kb.read_rollouts(found.output), strict=True):
        assert before == after
    policy, reference = found.agreements
    assert policy.mean > 0.05 > 1e-5 > reference.mean


def test_overwritten_columns_leave_what_drew_the_tokens(tmp_path: Path) -> None:
    held = {"logprobs": [-0.4, -0.6], "ref_logprobs": [-0.1, -0.2], "behavior_logprobs": None, "token_kl": [0.1, 0.1]}
    path = table(tmp_path / "a.parquet", row(**held), law={"logprobs": "raw"}, quantum={"logprobs": 0.1})
    found = kb.score_files(path, tmp_path / "o.parquet", policy=TOY, overwrite_columns=True)
    again = kb.read_rollouts(found.output)
    np.testing.assert_allclose(again[0].logprobs, [-0.5, -0.8], atol=1e-6)
    np.testing.assert_allclose(again[0].behavior_logprobs, [-0.4, -0.6], atol=1e-6)
    np.testing.assert_allclose(again[0].ref_logprobs, [-0.1, -0.2], atol=1e-6)
    assert again[0].token_kl is None  # of log-probs that are gone
    assert again.metadata.law == {"logprobs": "raw", "behavior_logprobs": "raw"}
    assert again.metadata.quantum == {"behavior_logprobs": 0.1}
    assert any("token_kl" in note for note in found.notes)


def test_exact_token_kls_answer_for_the_policy_alone(tmp_path: Path) -> None:
    rows = [
        row(logprobs=[-0.4, -0.6], ref_logprobs=[-0.1 * i, -0.2], token_kl=[0.3, 0.3], ref_mass=[1.0, 1.0], prompt_id=i)
        for i in range(1, 4)
    ]
    answers = {one.question.name: one for one in kb.estimate_files(table(tmp_path / "a.parquet", *rows)).answers}
    assert answers["policy_reference"].estimates["token"].estimator == "rao_blackwell"
    assert answers["sampler_reference"].estimates["token"].estimator == "k3"


def test_what_does_not_count_at_the_beginning_is_the_prompt(tmp_path: Path) -> None:
    whole = row(prompt_tokens=None, tokens=[1, 2, 3, 5], behavior_logprobs=[0.0, 0.0, -0.5, -0.7], mask=[0, 0, 1, 1])
    found = kb.score_files(table(tmp_path / "a.parquet", whole), tmp_path / "o.parquet", policy=TOY)
    again = kb.read_rollouts(found.output)[0]
    np.testing.assert_allclose(again.column("logprobs")[again.counted], [-0.5, -0.8], atol=1e-6)
    assert np.isnan(again.column("logprobs")[:2]).all()
    assert found.tokens == 2
    assert kb.estimate_files(found.output, unit="token").estimates[0].n == 1


def test_windows_and_batches_keep_order_and_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(150):
        tokens = rng.integers(1, 27, rng.integers(0 if number else 1, 9)).tolist()
        rows.append(row(tokens=tokens, behavior_logprobs=[-1.0] * len(tokens), prompt_id=number, step=number))
    path = table(tmp_path / "a.parquet", *rows)
    told: list[int] = []
    found = kb.score_files(
        path, tmp_path / "o.parquet", policy=TOY, batch_size=7, on_progress=lambda done: told.append(done.sequences)
    )
    again = list(kb.read_rollouts(found.output))
    assert [r.step for r in again] == list(range(150))
    for before, after in zip(rows, again, strict=True):
        expected = [-0.1 * (t + 2 + i) for i, t in enumerate(before.tokens or ())]
        np.testing.assert_allclose(after.logprobs, expected, atol=1e-5)
    assert told == sorted(told)
    assert (told[-1], found.rows) == (150, 150)


def test_a_folder_of_a_trainer(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    for step in (10, 2):
        record = {
            "prompt_tokens": [1, 2],
            "response_tokens": [3, step],
            "logprobs": [-0.5, -0.7],
            "prompt_idx": 0,
            "sample_idx": 0,
        }
        (tmp_path / "dump" / f"run_rollouts_{step}.jsonl").write_text(
            json.dumps({**record, "finish_reason": "stop", "reward": 1.0, "step": step}) + "\n"
        )
    found = kb.score_files(tmp_path / "dump", tmp_path / "o.parquet", reference=TOY)
    np.testing.assert_allclose(kb.read_rollouts(found.output)[0].ref_logprobs, [-0.5, -0.5], atol=1e-6)
    assert (found.format, found.rows) == ("open-instruct", 2)


BAD: tuple[tuple[dict[str, object], str], ...] = (
    ({"prompt_tokens": None}, "row 1: it has no prompt_tokens"),
    ({"prompt_tokens": []}, "row 1: it has no prompt_tokens"),
    ({"tokens": None}, "row 1: it has no token ids"),
    ({"tokens": [3] * 60, "behavior_logprobs": [-0.5] * 60}, "row 1: it has 62 tokens .* the models read 50"),
    ({"tokens": [3, -5]}, "row 1: it has the token -5"),
    ({"logprobs": [-0.5, -0.5]}, "row 1: this row has logprobs and the first lacks it"),
)


@pytest.mark.parametrize(("columns", "words"), BAD, ids=[words for _, words in BAD])
def test_a_row_that_cannot_be_scored_is_named(columns: dict[str, object], words: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", row(), row(**columns), row())
    with pytest.raises(InputError, match=words):
        kb.score_files(path, tmp_path / "o.parquet", policy=TOY)
    found = kb.score_files(path, tmp_path / "o.parquet", policy=TOY, skip_bad=True)
    assert found.rows == 2
    assert any(note.startswith("1 rows that cannot be scored were left out") for note in found.notes)


def test_tokens_beyond_the_vocabulary(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", row(), row(tokens=[3, 10**6]))
    with pytest.raises(InputError, match="row 1: it has the token 1000000, but the vocabulary of builtin:base ends at"):
        kb.score_files(path, tmp_path / "o.parquet", reference="builtin:base")


def test_nan_of_a_model_is_no_log_prob(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", *[row()] * 70, row(tokens=[3, 9]))
    with pytest.raises(ModelError, match="row 70: a model gave nan") as error:
        kb.score_files(path, tmp_path / "o.parquet", policy=Letters(spoilt=9))
    assert (error.value.result.rows, error.value.result.complete) == (64, False)
    assert len(kb.read_rollouts(tmp_path / "o.parquet")) == 64


def test_an_interrupt_keeps_what_is_written(tmp_path: Path) -> None:
    def stop(done: object) -> None:
        raise KeyboardInterrupt

    path = table(tmp_path / "a.parquet", row())
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        kb.score_files(path, tmp_path / "o.parquet", policy=TOY, on_progress=stop)
    assert not (tmp_path / "o.parquet").exists()


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import kullback as kb
from toy_scorers import Letters
def kill(done):
    if done.sequences > 64:
        os.kill(os.getpid(), 9)
kb.score_files(sys.argv[2], sys.argv[3], policy=Letters(), on_progress=kill)
"""


def test_a_kill_leaves_a_part_that_is_read(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", *[row(step=i) for i in range(150)])
    line = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path), str(tmp_path / "o.parquet")]
    assert subprocess.run(line, capture_output=True).returncode == -9
    part = tmp_path / "o.parquet.part"
    assert [one.step for one in kb.read_rollouts(part)] == list(range(64))
    with pytest.raises(FileError, match="of a run that was killed"):
        kb.score_files(path, tmp_path / "o.parquet", policy=TOY)
    assert kb.score_files(path, tmp_path / "o.parquet", policy=TOY, overwrite=True).rows == 150
    assert not part.exists()
