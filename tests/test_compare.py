"""The main job on the built-in pair, and everything that can stop it half-way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.errors import FileError, InputError, ModelError, StoppedError
from kullback.jobs import local
from kullback.jobs.worker import Finished, Models, finish_batch
from kullback.models import LanguageModel, load
from kullback.rollouts import to_sequences

SMALL: dict[str, Any] = {"samples": 2, "max_new_tokens": 8, "batch_size": 16}


@pytest.fixture(scope="module")
def found() -> kb.Comparison:
    return kb.compare(samples=8, both=True)


def by_name(found: kb.Comparison, direction: str = "reverse") -> dict[tuple[str, str], Any]:
    rows = [row for row in found.rows if row.direction == direction]
    return {(row.per_sequence.estimator, row.per_sequence.level): row for row in rows}


def test_all_estimators_agree_within_their_errors(found: kb.Comparison) -> None:
    for direction in ("reverse", "forward"):
        rows = by_name(found, direction)
        best = rows["rao_blackwell", "token"].per_sequence
        for name in ("k1", "control_variate", "rao_blackwell_controlled"):
            other = rows[name, "token"].per_sequence
            assert abs(other.value - best.value) < 4 * np.hypot(other.stderr, best.stderr)
        assert best.value > 0.1
    assert by_name(found)["k1", "token"].relative_variance == 1.0


def test_the_numbers_are_those_of_estimate_on_the_rollouts(found: kb.Comparison) -> None:
    rows = [r for r in found.rollouts if r.sampled_from == "policy"]
    batch = to_sequences(rows)
    want = kb.estimate(batch.logprobs, batch.ref_logprobs, batch.mask, estimator=kb.K3, groups=batch.groups)
    got = by_name(found)["k3", "token"].per_sequence
    assert (got.value, got.stderr) == (want.value, want.stderr)
    assert got.clusters == found.settings["prompts"]
    assert sum(len(r.tokens) for r in found.rollouts) == found.tokens


def test_a_model_against_itself_is_at_distance_zero() -> None:
    same = kb.compare("builtin:base", "builtin:base", ["One day"], **SMALL)
    assert all(abs(e.value) < 1e-6 for e in same.estimates)


def test_the_result_depends_on_the_seed_alone() -> None:
    one, two, other = (kb.compare(seed=seed, **SMALL).to_dict() for seed in (3, 3, 4))
    for record in (one, two, other):
        del record["seconds"]
    assert one == two
    assert one["estimates"] != other["estimates"]


def test_hotspots_are_the_largest_token_kls(found: kb.Comparison) -> None:
    sites = found.hotspots.top_sites()
    largest = max(float(r.token_kl.max()) for r in found.rollouts if r.sampled_from == "policy")
    assert sites[0].token_kl == pytest.approx(largest)
    assert [s.token_kl for s in sites] == sorted((s.token_kl for s in sites), reverse=True)
    prompts = found.hotspots.top_prompts()
    assert prompts[0][2] >= prompts[-1][2]


def test_output_holds_rollouts_and_estimates(tmp_path: Path) -> None:
    found = kb.compare(output=tmp_path / "out", temperature=0.8, top_p=0.9, **SMALL)
    back = kb.read_rollouts(tmp_path / "out" / "rollouts.parquet")
    assert len(back) == len(found.rollouts)
    for mine, theirs in zip(found.rollouts, back, strict=True):
        assert (mine.prompt_id, list(mine.tokens)) == (theirs.prompt_id, list(theirs.tokens))
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, rtol=1e-6)
    drawn = back.metadata.policy
    assert drawn is not None
    assert drawn.sampling == {"temperature": 0.8, "top_p": 0.9, "top_k": 0}
    assert back.law == {"logprobs": "processed", "ref_logprobs": "raw"}
    record = json.loads((tmp_path / "out" / "estimate.json").read_text())
    assert record["complete"]
    assert {"estimator", "level", "unit", "value", "stderr", "low", "high", "n"} <= set(record["estimates"][0])


def test_truncated_sampling_warns_where_k3_is_biased_and_corrects_the_control() -> None:
    found = kb.compare(samples=16, top_p=0.8, max_new_tokens=24)
    rows = by_name(found)
    assert any("biased low" in w for w in rows["k3", "token"].per_sequence.warnings)
    for name in ("k1", "control_variate", "rao_blackwell"):
        assert not any("biased low" in w for w in rows[name, "token"].per_sequence.warnings)
    fitted, exact = rows["control_variate", "token"].per_sequence, rows["rao_blackwell", "token"].per_sequence
    assert abs(fitted.value - exact.value) < 4 * np.hypot(fitted.stderr, exact.stderr)
    assert exact.value - rows["k3", "token"].per_sequence.value > 0.1


def test_an_infinite_kl_is_said_and_stays_json() -> None:
    found = kb.compare(samples=4, top_k=3, process_reference=True, max_new_tokens=16)
    assert np.isinf(by_name(found)["k1", "token"].per_sequence.value)
    assert "support mismatch" in by_name(found)["k1", "token"].per_sequence.warnings[0]
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["estimates"][0]["value"] is None


def test_models_that_take_no_position_ids_are_never_padded_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("builtin:base")
    plain = LanguageModel("plain", model.model, model.tokenizer)
    plain.__dict__["accepts"] = frozenset({"logits_to_keep"})
    lengths: list[set[int]] = []
    sample = LanguageModel.sample

    def spy(model: Any, prompts: Any, *args: Any, **options: Any) -> Any:
        lengths.append({len(prompt) for prompt in prompts})
        return sample(model, prompts, *args, **options)

    monkeypatch.setattr(LanguageModel, "sample", spy)
    kb.compare(plain, plain, ["One", "One small dog went out", "One"], **SMALL)
    assert all(len(group) == 1 for group in lengths)
    assert len(lengths) == 2


# Half-way -----------------------------------------------------------------------------------------------------


class StopAfter:
    """Raises after some batches, as Ctrl-C, a broken model or a full disk would."""

    def __init__(self, batches: int, error: BaseException) -> None:
        self.left, self.error = batches, error

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return ORIGINAL(*args, **options)


ORIGINAL = finish_batch


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (KeyboardInterrupt(), StoppedError, "stopped after 16 of 40 sequences, kept in"),
        (FileError("the disk is full"), FileError, "the disk is full"),
        (torch.OutOfMemoryError(), ModelError, "pass a smaller --batch-size"),
    ],
)
def test_what_was_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type, words: str
) -> None:
    stop = StopAfter(1, error)
    monkeypatch.setattr(local, "finish_batch", stop)
    with pytest.raises(raised) as caught:
        kb.compare(output=tmp_path, **SMALL)
    assert words in str(caught.value)
    assert len(caught.value.result.rollouts) == 16
    assert not caught.value.result.complete
    assert len(kb.read_rollouts(tmp_path / "rollouts.parquet")) == 16
    assert json.loads((tmp_path / "estimate.json").read_text())["sequences"] == 16


class Broken(LanguageModel):
    """A model whose logits are nan."""

    def next_logits(self, *args: Any) -> Any:
        logits = super().next_logits(*args)
        return replace(logits, logits=torch.full_like(logits.logits, torch.nan))


def test_a_model_that_breaks_half_way_is_named_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def breaking(plan: Any, batch: Any, models: Models, *args: Any, **options: Any) -> Finished:
        if kept:
            broken = Broken("broken", models.reference.model, models.reference.tokenizer)
            models = replace(models, reference=broken)
        kept.append(len(batch.draws))
        return ORIGINAL(plan, batch, models, *args, **options)

    monkeypatch.setattr(local, "finish_batch", breaking)
    with pytest.raises(InputError, match=r"ref_logprobs\[0, 0\] is nan") as caught:
        kb.compare(output=tmp_path, **SMALL)
    assert len(caught.value.result.rollouts) == 16


def test_stopping_before_the_first_batch_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "finish_batch", StopAfter(0, KeyboardInterrupt()))
    with pytest.raises(StoppedError, match="nothing was finished"):
        kb.compare(output=tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_a_library_would_swallow_still_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised in a destructor, KeyboardInterrupt is printed and forgotten; the job notices it at its next step."""
    import os
    import signal

    class Noisy:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupting(*args: Any, **options: Any) -> Finished:
        finished = ORIGINAL(*args, **options)
        noisy = Noisy()
        del noisy
        return finished

    monkeypatch.setattr(local, "finish_batch", interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(StoppedError, match="stopped after 16 of 40"):
            kb.compare(**SMALL)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert kb.compare(**SMALL).complete
    finally:
        signal.signal(signal.SIGINT, before)


def test_stopped_is_a_keyboard_interrupt() -> None:
    assert issubclass(StoppedError, KeyboardInterrupt)


# Text ---------------------------------------------------------------------------------------------------------

TEXT = "The small dog went to the lake. It was a sunny day and everyone was happy. " * 30


def test_text_is_scored_once_token_by_token(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    found = kb.compare_text("builtin:tuned", "builtin:base", file, context_length=64)
    q, p = load("builtin:tuned"), load("builtin:base")
    tokens = q.encode(TEXT)
    assert found.tokens == len(tokens) - 1
    # The first window by hand: KL(reference‖policy) of its tokens.
    ids = torch.tensor([tokens[:64]])
    with torch.inference_mode():
        a, b = (torch.log_softmax(m.model(input_ids=ids).logits[0, :-1].double(), dim=-1) for m in (q, p))
    by_hand = (b.exp() * (b - a)).sum(-1)
    assert found.quantiles[1.0] >= float(by_hand.max()) * (1 - 1e-5)
    one = kb.compare_text(q, p, [q.decode(tokens[1:64], special=False)], context_length=64)
    assert one.forward.value == pytest.approx(float(by_hand.mean()), rel=1e-3)
    assert one.perplexity == pytest.approx(float((-a.gather(-1, ids[0, 1:, None]).mean()).exp()), rel=1e-4)
    assert 0 < found.same_top.value <= 1
    assert str(found.same_top) == f"{100 * found.same_top.value:.2f} ± {100 * found.same_top.stderr:.2f}%"
    low, high = found.same_top.interval()
    assert found.to_dict()["same_top"] == {
        "value": found.same_top.value,
        "stderr": found.same_top.stderr,
        "low": low,
        "high": high,
    }
    assert low < found.same_top.value < high
    assert found.quantiles[0.5] <= found.quantiles[0.9] <= found.quantiles[0.999] <= found.quantiles[1.0]
    assert found.settings["clustered_by"] == "window"


def test_text_of_a_model_against_itself() -> None:
    same = kb.compare_text("builtin:base", "builtin:base", [TEXT])
    assert same.forward.value == 0.0
    assert same.same_top.value == 1.0
    assert same.rms_delta_p == 0.0


# Bad input ------------------------------------------------------------------------------------------------------


def file(tmp_path: Path, name: str, text: str = "") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda tmp: kb.compare(prompts=file(tmp, "a.txt")), InputError, "holds no prompt"),
        (lambda tmp: kb.compare(prompts=tmp / "none.txt"), FileError, "cannot be read"),
        (lambda tmp: kb.compare(prompts=file(tmp, "a.jsonl", "{oops")), FileError, "line 1 of"),
        (lambda tmp: kb.compare(prompts=file(tmp, "a.jsonl", '{"x": 1}')), InputError, "has the columns x"),
        (lambda tmp: kb.compare(prompts=file(tmp, "a.parquet", "no")), FileError, "not a Parquet file"),
        (lambda tmp: kb.compare(prompts=["fine", "  "]), InputError, "prompt 2 of prompts is empty"),
        (lambda tmp: kb.compare(prompts=["dog " * 400]), InputError, "the models read 256 in all"),
        (lambda tmp: kb.compare(samples=0), InputError, "samples=0"),
        (lambda tmp: kb.compare(temperature=0), InputError, "use top_k=1"),
        (lambda tmp: kb.compare(top_p=1.5), InputError, "top_p=1.5"),
        (lambda tmp: kb.compare(batch_size=0), InputError, "'auto' or at least 1"),
        (lambda tmp: kb.compare("builtin:nothing"), ModelError, "builtin:base and builtin:tuned"),
        (lambda tmp: kb.compare(output=file(tmp, "taken") / "x"), FileError, "choose another --output"),
        (
            lambda tmp: kb.compare_text("builtin:base", "builtin:base", ["a"], context_length=2),
            InputError,
            "at least 4",
        ),
        (lambda tmp: kb.compare_text("builtin:base", "builtin:base", []), InputError, "holds no prompt"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_are_not_overwritten_unasked(tmp_path: Path) -> None:
    kb.compare(output=tmp_path, **SMALL)
    with pytest.raises(FileError, match="already holds"):
        kb.compare(output=tmp_path, **SMALL)
    kb.compare(output=tmp_path, overwrite=True, **SMALL)


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("p.txt", "one\n\n two \n", ["one", "two"]),
        ("p.jsonl", '{"prompt": "one"}\n"two"\n', ["one", "two"]),
        ("p.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}\n', [[{"role": "user", "content": "hi"}]]),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, content: str, want: Any) -> None:
    from kullback.jobs.prompts import read_prompts

    assert read_prompts(file(tmp_path, name, content)) == want


def test_prompts_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kullback.jobs.prompts import read_prompts

    pq.write_table(pa.table({"prompt": ["one", "two"], "x": [1, 2]}), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == ["one", "two"]
