"""What comparisons and the catalogue say: the numbers of the results, each as a number."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

import kullback as kb
from kullback.documents import HeatMap, Interval, Note, Number, Table, text_of
from kullback.jobs.catalogue import catalogued
from kullback.jobs.hotspots import Hotspots
from kullback.jobs.outcomes import Comparison, TextComparison
from kullback.jobs.text import compare_text
from kullback.report import terminal


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return kb.compare(samples=4, max_new_tokens=20, both=True)


@pytest.fixture(scope="module")
def text() -> TextComparison:
    return compare_text("builtin:tuned", "builtin:base", ["The dog went to the lake. " * 40], context_length=64)


def titled(found: Comparison, title: str) -> Table:
    [table] = [table for table in found.document().tables if table.title == title]
    return table


def heat_map(found: Comparison) -> HeatMap:
    [block] = [block for block in found.document().blocks if isinstance(block, HeatMap)]
    return block


def test_a_comparison_says_every_row_as_numbers(comparison: Comparison) -> None:
    tables = (
        titled(comparison, "KL(policy‖reference), sampled from the policy"),
        titled(comparison, "KL(reference‖policy), sampled from the reference"),
    )
    rows = [row for table in tables for row in table.rows]
    assert len(rows) == len(comparison.rows)
    for (name, value, interval, here, per_token, variance, wanted, prompts), row in zip(
        rows, comparison.rows, strict=True
    ):
        level = " (sequence)" if row.per_sequence.level == "sequence" else ""
        assert text_of(name).split(" [")[0] == row.per_sequence.estimator + level
        assert here == Number(row.per_sequence.given_prompts.stderr, ".2g")
        assert prompts == Number(row.prompts_for_one_percent, ",.0f")
        assert (value, per_token) == (row.per_sequence.rounded, row.per_token.rounded)
        assert interval == Interval(*row.per_sequence.interval())
        assert variance == Number(row.relative_variance, ".3g")
        assert wanted == Number(row.sequences_for_one_percent, ",.0f")


def test_every_warning_stands_once_below_its_table_with_its_mark(comparison: Comparison) -> None:
    first = comparison.rows[0]
    estimates = [replace(first.per_sequence, warnings=w) for w in (("heavy tail",), ("few samples", "heavy tail"))]
    rows = tuple(replace(first, per_sequence=estimate) for estimate in estimates)
    found = replace(comparison, rows=rows, notes=("no exact token KLs",))
    blocks = found.document().blocks
    assert [row[0] for row in found.document().tables[0].rows] == ["k1 [1]", "k1 [1] [2]"]
    assert [block.text for block in blocks[1:4] if isinstance(block, Note)] == [
        "[1] heavy tail",
        "[2] few samples",
        "no exact token KLs",
    ]


def test_the_heat_map_holds_means_of_token_kls(comparison: Comparison) -> None:
    heat = heat_map(comparison)
    assert heat.columns == ("1–3", "4–6", "7–9", "10–12", "13–15", "16–18", "19–20")
    prompts = comparison.hotspots.top_prompts()
    assert heat.values.shape == (len(prompts), len(heat.columns))
    for row, prompt in zip(heat.values, prompts, strict=True):
        for column, value in enumerate(row):
            kls = [
                kl
                for rollout in comparison.rollouts
                if rollout.prompt_id == prompt.prompt_id and rollout.sampled_from == "policy"
                for position, kl in enumerate(rollout.column("token_kl"))
                if position // 3 == column
            ]
            assert value == pytest.approx(np.mean(kls)) if kls else np.isnan(value)


def test_without_token_kls_nothing_is_said_of_where(comparison: Comparison) -> None:
    known = replace(
        comparison,
        hotspots=Hotspots(),
        rollouts=tuple(replace(rollout, token_kl=None) for rollout in comparison.rollouts),
    )
    assert len(known.document().tables) == 2
    assert not any(isinstance(block, HeatMap) for block in known.document().blocks)


def test_what_the_models_say_is_clipped_and_quoted(comparison: Comparison) -> None:
    sites = titled(comparison, "Tokens where they differ most")
    assert len(sites.rows) == 8
    for row, site in zip(sites.rows, comparison.hotspots.top_sites(8), strict=True):
        assert len(text_of(row[0])) <= 40
        assert row[1:4] == (repr(site.token), repr(site.top), repr(site.ref_top))
        assert row[-1] == Number(site.token_kl, ".3g")


def test_the_share_of_equal_top_tokens_is_a_percentage(text: TextComparison) -> None:
    [table] = text.document().tables
    rows = {str(name): (text_of(value), text_of(interval)) for name, value, interval in table.rows}
    low, high = text.same_top.interval()
    assert rows["same most likely token"][0] == f"{100 * text.same_top.value:.2f}%"
    assert rows["same most likely token"][1].startswith(f"[{100 * low:.1f}"[:4])
    assert rows["same most likely token"][1].count("%") == 2
    assert 0 <= low <= high <= 1
    assert rows["mean KL(reference‖policy), nats a token"][0] == str(text.forward.rounded)
    assert rows["largest of KL(reference‖policy)"] == (f"{text.quantiles[1.0]:.4g}", "")


def test_the_catalogues_json_is_its_tables() -> None:
    found = catalogued()
    record = found.to_dict()
    assert list(record) == ["estimators", "surrogates", "targets"]
    assert found.document().tables == found.tables
    for table, rows in zip(found.tables, record.values(), strict=True):
        assert [list(row.values()) for row in rows] == [[text_of(cell) for cell in row] for row in table.rows]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_page_fits_its_terminal(comparison: Comparison, width: int) -> None:
    found = compare_text("builtin:tuned", "builtin:base", ["The small dog went to the lake."] * 3)
    for document in (comparison.document(), found.document(), catalogued().document()):
        written = StringIO()
        terminal.show(document, Console(file=written, width=width))
        assert max(map(cell_len, written.getvalue().splitlines())) <= width


def test_a_narrow_terminal_has_the_same_numbers_below_each_other(comparison: Comparison) -> None:
    [table] = [t for t in comparison.document().tables if t.title.startswith("KL(policy")]
    written = StringIO()
    terminal.show(comparison.document(), Console(file=written, width=60))
    shown = written.getvalue()
    assert shown.split("Prompts where")[0].count("rao_blackwell_controlled") >= 6  # pieces in both directions
    for row in table.rows:
        assert all(text_of(cell) in shown for cell in row)
