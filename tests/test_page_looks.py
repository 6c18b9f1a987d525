"""What a page shows beside the numbers: likely words, what moves the answer, tails, and rows evenly spread."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from test_page import read

import kullback as kb
from kullback.documents import Chart, Document, Link, Note, Passages, Table, Verdict
from kullback.jobs.files.outcome import FilesEstimate
from kullback.jobs.gate import Gated, gate
from kullback.jobs.outcomes import Comparison
from kullback.jobs.shown import shown_of
from kullback.jobs.spread import tail_of
from kullback.report import html
from kullback.report.cards import card


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return kb.compare(samples=3, max_new_tokens=10, likely=4, temperature=0.8, top_k=40)


def test_likely_words_are_those_of_the_laws_that_were_scored(comparison: Comparison) -> None:
    tuned = kb.models.load("builtin:tuned")
    for rollout in comparison.rollouts[:6]:
        look = comparison.looks[rollout.prompt_id, rollout.sample]
        tokens = list(rollout.tokens or ())
        logits = tuned.next_logits([list(rollout.prompt_tokens or ())], [tokens])[0 : len(tokens)].double() / 0.8
        kept = logits.masked_fill(logits < logits.topk(40).values[:, -1:], -np.inf)
        chances = kept.softmax(-1).numpy()
        entropy = -np.sum(chances * np.log(np.where(chances > 0, chances, 1.0)), axis=-1)
        np.testing.assert_allclose(look.entropy, entropy, atol=1e-4)
        np.testing.assert_allclose(np.exp(look.logprobs), -np.sort(-chances, axis=-1)[:, :4], atol=1e-5)
        drawn = look.words == np.array(tokens)[:, None]
        where = np.broadcast_to(np.arange(len(tokens))[:, None], drawn.shape)[drawn]
        np.testing.assert_allclose(look.logprobs[drawn], rollout.column("logprobs")[where], atol=1e-5)
        np.testing.assert_allclose(
            look.ref_logprobs[look.ref_words == np.array(tokens)[:, None]],
            rollout.column("ref_logprobs")[(look.ref_words == np.array(tokens)[:, None]).any(axis=1)],
            atol=1e-5,
        )


def test_a_page_holds_likely_words_to_five_thousandths(comparison: Comparison) -> None:
    data = read(html.render(comparison.page()))
    own = [rollout for group in shown_of(comparison.rollouts) for rollout in group.shown]
    assert [channel["name"] for channel in data["channels"]][-1] == "entropy, policy"
    for passage, rollout in zip(data["passages"], own, strict=True):
        look = comparison.looks[rollout.prompt_id, rollout.sample]
        for side, words, logs in zip(
            passage["likely"], (look.words, look.ref_words), (look.logprobs, look.ref_logprobs), strict=True
        ):
            raw = np.frombuffer(base64.b64decode(side["bytes"]), np.uint8).reshape(rollout.length, side["count"], 5)
            places = raw[..., 0] + 256 * raw[..., 1].astype(int) + 65536 * raw[..., 2].astype(int)
            assert [[data["texts"][i] for i in row] for row in places.tolist()] == [
                [comparison.words[word] for word in row] for row in words.tolist()
            ]
            steps = raw[..., 3] + 256 * raw[..., 4].astype(int)
            np.testing.assert_allclose(np.exp(-steps / data["fine"]), np.exp(logs), rtol=3e-4, atol=1e-13)


def test_what_moves_it_most_is_named_and_leads_to_where_it_is_read(comparison: Comparison) -> None:
    page = comparison.page()
    [table] = [block for block in page.blocks if isinstance(block, Table) and block.title.startswith("Sequences that")]
    [passages] = [block for block in page.blocks if isinstance(block, Passages)]
    row = next(row for row in comparison.rows if row.per_sequence.estimator == "rao_blackwell_controlled")
    own = [rollout for rollout in comparison.rollouts if rollout.sampled_from == "policy"]
    for cells, moved in zip(table.rows, row.per_sequence.influential, strict=True):
        link = cells[1]
        assert isinstance(link, Link)
        passage, token = map(int, re.findall(r"\d+", link.place))
        rollout, shown = own[moved.row], passages.passages[passage]
        assert token == moved.token
        np.testing.assert_allclose(shown.values[0], rollout.column("token_kl"))
        assert shown.name == f"sample {rollout.sample}"


def test_the_estimator_to_quote_is_marked_once_and_the_gate_stands_before(comparison: Comparison) -> None:
    said = html.render(comparison.page())
    assert said.count("◂ quote this") == 1
    assert re.search(r"rao_blackwell_controlled[^<]*◂ quote this", said)
    row = next(row for row in comparison.rows if row.per_sequence.estimator == "rao_blackwell_controlled")
    gated = Gated(comparison, gate(row.per_sequence, 100.0)).page()
    assert isinstance(gated.blocks[0], Verdict)
    assert gated.blocks[0].text.startswith("below")
    assert any(isinstance(block, Passages) for block in gated.blocks)


def test_a_card_has_the_answer_its_table_and_its_doubts() -> None:
    blocks = (Verdict("KL is 1."), Table("t", "", ("a",), (("1",),)), Table("u", "", ("a",), ()), Note("x", "warning"))
    made = card(Document("Title", (*blocks, Note("more")), subtitle="how"))
    kinds = [type(block).__name__ for block in made.blocks]
    assert kinds == ["Heading", "Verdict", "Table", "Note", "Fold"]


@pytest.mark.parametrize(("shape", "heavy"), [(0.2, False), (1.5, True)])
def test_a_tail_is_judged_by_its_shape(shape: float, heavy: bool) -> None:
    rng = np.random.default_rng(0)
    ratios = rng.pareto(1 / shape, size=5000) + 1  # shape k: P(r > x) = x^(−1/k)
    [chart] = tail_of(-np.log(ratios))
    assert isinstance(chart, Chart)
    points, line = chart.panels[0].series
    assert ("so heavy that no mean" in chart.text) == heavy
    for x, y in list(zip(points.x, points.y, strict=True))[::7]:
        assert y == pytest.approx(np.mean(ratios >= x), rel=1e-9)
    falls = np.interp(np.log(points.x[0]), np.log(line.x), np.log(line.y)) > np.log(points.y[0])
    assert bool(falls) != heavy


def test_a_tail_of_few_ratios_is_not_drawn() -> None:
    assert list(tail_of(np.linspace(-1, 1, 50))) == []
    assert list(tail_of(np.zeros(500))) == []


def dumped(path: Path, rows: int) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 4, size=rows)
    numbers = [-rng.exponential(size=(3, n)) for n in lengths]
    kb.write_rollouts(
        path,
        [
            kb.Rollout(
                logprobs=q, ref_logprobs=p, behavior_logprobs=m, step=row // 100, tokens=[row] * len(q), prompt_id=row
            )
            for row, (q, p, m) in enumerate(numbers)
        ],
    )


def test_rows_of_a_large_dump_are_evenly_spread_and_the_page_says_so(tmp_path: Path) -> None:
    dumped(tmp_path / "d.parquet", 2300)
    found = kb.estimate_files(tmp_path / "d.parquet", sample=True)
    assert isinstance(found, FilesEstimate)
    numbers = np.array([row.number for row in found.sampled])
    assert len(numbers) == 500
    assert (numbers[0], 2300 - numbers[-1] <= 8) == (0, True)
    assert np.diff(numbers).max() <= 2 * np.diff(numbers).min()
    page = found.page()
    [passages] = [block for block in page.blocks if isinstance(block, Passages)]
    assert "Of 2,300 rows 500 are here, evenly spread" in passages.note
    assert passages.passages[3].tokens[0] == f"[{numbers[3]}]"
    names = [channel.name for channel in passages.channels]
    assert names[-1] == "log-ratio to the sampler"
    kept = found.sampled[3]
    np.testing.assert_allclose(
        passages.passages[3].values[names.index("log-ratio")],
        kept.columns["logprobs"].astype(float) - kept.columns["ref_logprobs"],
    )
    assert not kb.estimate_files(tmp_path / "d.parquet").sampled  # type: ignore[union-attr]
