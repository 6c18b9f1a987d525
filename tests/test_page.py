"""A comparison's page: the answer first, and sequences token by token as far as a page has room."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kullback as kb
from kullback.documents import Bars, Channel, Passage, PassageGroup, Passages, Verdict
from kullback.jobs.outcomes import Comparison
from kullback.jobs.pages import MOST_SEQUENCES, comparison_page
from kullback.report import bars, html, markdown, passages


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return kb.compare(samples=3, max_new_tokens=12, both=True)


def read(section: str) -> Any:
    found = re.search(r'<script type="application/json" id="passages-data">(.*?)</script>', section, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_answer_stands_first(comparison: Comparison) -> None:
    first = comparison_page(comparison).blocks[0]
    assert isinstance(first, Verdict)
    row = next(row for row in comparison.rows if row.per_sequence.estimator == "rao_blackwell_controlled")
    assert f"{row.per_sequence.value:.4g} nats a sequence" in first.text
    assert f"± {row.per_sequence.stderr:.2g}" in first.text


def test_every_token_has_the_numbers_that_were_computed(comparison: Comparison) -> None:
    data = read(html.render(comparison.page()))
    own = [rollout for rollout in comparison.rollouts if rollout.sampled_from == "policy"]
    assert len(data["passages"]) == len(own) == 60
    by_name = {(one["group"], one["name"]): one for one in data["passages"]}
    prompts = list(dict.fromkeys(rollout.prompt_id for rollout in own))
    for rollout in own:
        one = by_name[prompts.index(rollout.prompt_id), f"sample {rollout.sample}"]
        assert [data["texts"][i] for i in one["tokens"]] == [comparison.words[t] for t in rollout.tokens or ()]
        q, p = rollout.column("logprobs"), rollout.column("ref_logprobs")
        wanted = [rollout.column("token_kl"), q - p, np.exp(q), np.exp(p)]
        for got, want in zip(one["values"], wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=5.1e-3)
    means = [np.mean([r.column("token_kl").sum() for r in own if r.prompt_id == prompt]) for prompt in prompts]
    np.testing.assert_allclose([group["value"] for group in data["groups"]], means, rtol=5.1e-3)


def test_of_many_sequences_some_of_every_prompt_are_kept(comparison: Comparison) -> None:
    own = [rollout for rollout in comparison.rollouts if rollout.sampled_from == "policy"]
    many = tuple(replace(rollout, sample=turn) for turn in range(40) for rollout in own[::3])
    found = comparison_page(replace(comparison, rollouts=many))
    block = next(block for block in found.blocks if isinstance(block, Passages))
    kept = [sum(one.group == group for one in block.passages) for group in range(20)]
    assert kept == [MOST_SEQUENCES // 20] * 20
    assert "Of 800 sequences 500" in block.note


def test_nothing_in_the_data_ends_its_element() -> None:
    text = "</script><!--\u2028]]>&amp;\x1b"
    found = passages.written(
        Passages(
            title=text,
            note="",
            channels=(Channel(text, text),),
            groups=(PassageGroup(text, float("nan"), 1),),
            unit=text,
            passages=(Passage(0, text, (text, text), np.array([[1 / 3, np.inf]])),),
        )
    )
    assert found.count("</script>") == 1
    assert "<!--" not in found
    data = read(found)
    assert data["groups"] == [{"text": "</script><!--\\u2028]]>&amp;\\x1b", "value": None, "count": 1}]
    assert data["passages"][0]["values"] == [[0.333, None]]
    assert data["passages"][0]["tokens"] == [0, 0]


def test_bars_are_as_high_as_their_numbers() -> None:
    drawn = bars.svg(Bars("<t>", "", "x", "y", ("1", "<2>", "3"), np.array([1.0, 4.0, np.nan])))
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert heights[0] == pytest.approx(heights[1] / 4, abs=0.1)
    assert heights[2] == 0
    assert "<2>" not in drawn
    assert "&lt;2&gt;: 4" in drawn


def test_markdown_and_a_page_without_scripts_are_whole(comparison: Comparison) -> None:
    page = comparison.page()
    card = markdown.render(page)
    assert "KL(policy‖reference) is" in "".join(card.splitlines()[:8])
    assert "Token by token" not in card
    assert "<noscript>" in html.render(page)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html.render(page))
