"""A report's page in Chromium: it draws, sorts, searches, switches, and is led by the keyboard alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kullback.documents import (
    Bars,
    Channel,
    Chart,
    Code,
    Document,
    Likely,
    Link,
    Number,
    Panel,
    Passage,
    PassageGroup,
    Passages,
    Series,
    Table,
    Verdict,
)
from kullback.report import html

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>"
CHANNELS = (Channel("token KL", "nats"), Channel("log-ratio", "nats", signed=True))
WORDS = ("Sam", " went", HOSTILE, " 好", "x")


def likely(rng: np.random.Generator, tokens: int) -> tuple[Likely, ...]:
    """Of two models: the words in turn, with ½, ¼, … of all probability."""
    first = np.arange(tokens)[:, None] + np.arange(5)
    logs = np.broadcast_to(np.log(0.5) * np.arange(1, 6), (tokens, 5))
    return tuple(Likely(who, (first + turn) % 5, logs) for turn, who in enumerate(("policy", HOSTILE)))


def document(sequences: int = 6, tokens: int = 40, *, with_likely: bool = True) -> Document:
    rng = np.random.default_rng(0)
    texts = ("Sam", " went", " to the", "\n", HOSTILE, " 好", "")
    passages = tuple(
        Passage(
            group=number // 3,
            name=f"sample {number % 3}",
            tokens=tuple(texts[t % len(texts)] for t in range(tokens)),
            values=np.vstack([rng.exponential(size=tokens), rng.normal(size=tokens)]),
            likely=likely(rng, tokens) if with_likely else (),
        )
        for number in range(sequences)
    )
    names = ("alpha", HOSTILE, *(f"prompt {n}" for n in range(2, -(-sequences // 3))))
    groups = tuple(PassageGroup(name, float(n + 1), 3) for n, name in enumerate(names))
    moved = tuple((Link(f"sample {n}", f"passage={n}&token=3"), "long" * 20, Number(n / 10, "+.2g")) for n in (4, 2))
    steps = [(step, 0.1 * step) for step in range(9)]
    chart = Chart(
        "steps",
        HOSTILE,
        (Panel(HOSTILE, "step", "nats", (Series.of(HOSTILE, steps), Series.of("95%", steps, "dashed"))),) * 3,
    )
    rows = tuple((name, Number(value, ".3g")) for name, value in (("b", 9.0), ("a", 10.0), ("c", 2.0)))
    return Document(
        title=HOSTILE,
        subtitle=HOSTILE,
        blocks=(
            Verdict("KL is 1 nat.", tone="plain"),
            Table(HOSTILE, "", ("name", "nats"), rows, right=("nats",)),
            Table("Moved", "", ("sequence", "a head with many letters " * 3, "change"), moved, right=("change",)),
            chart,
            Code("kullback compare " + "./a-model " * 30, "sh"),
            Bars("By position", "Means.", "new token", "nats", ("1", "2", "3"), np.array([1.0, np.nan, 2.0])),
            Passages("Token by token", "All.", CHANNELS, groups, "nats a sequence", passages, WORDS),
        ),
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
        yield started
        started.close()


class Looked:
    """A page, and what it said and asked for while it was looked at."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(html.render(document()), encoding="utf-8")
    return path


@pytest.fixture
def looked(browser: Any, path: Path) -> Iterator[Looked]:
    found = Looked(browser, path)
    yield found
    assert found.said == []
    assert found.asked == [path.as_uri()]
    assert found.page.evaluate("window.hurt") is None
    found.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_serious_is_found_by_axe(browser: Any, path: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    looked = Looked(browser, path, width, scheme)
    looked.page.hover("#tokens span:nth-child(2)")
    found = axe.run(looked.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    assert looked.page.evaluate("document.documentElement.scrollWidth") <= width
    assert looked.said == []


def test_texts_of_data_stay_texts(looked: Looked) -> None:
    assert looked.page.inner_text("h1") == HOSTILE
    assert looked.page.inner_text("#tokens span:nth-child(5)") == HOSTILE
    assert looked.page.title() == HOSTILE


def test_tables_are_sorted_by_numbers_and_by_words(looked: Looked) -> None:
    def first() -> list[str]:
        return looked.page.locator("main > .wide table").first.locator("tbody td:first-child").all_inner_texts()

    looked.page.click("main > .wide table th.right button")
    assert first() == ["a", "b", "c"]
    looked.page.click("main > .wide table th.right button")
    assert first() == ["c", "b", "a"]
    looked.page.click("main > .wide table th:not(.right) button")
    assert first() == ["a", "b", "c"]


def test_prompts_are_searched_sorted_and_opened(looked: Looked) -> None:
    page = looked.page
    assert page.locator("#groups tbody tr").count() == 2
    assert "2" in page.inner_text("#groups tbody tr:first-child")  # the largest first
    page.fill("#group-search", "ALPHA")
    assert page.locator("#groups tbody tr").all_inner_texts() == ["alpha\t1\t3"]
    page.click("#groups tbody button")
    assert page.inner_text("#group-text") == "alpha"
    assert page.inner_text("#which") == "sample 0, 1 of 3 of this prompt"
    page.fill("#group-search", "")
    page.click("#groups th button[data-sort=value]")
    assert page.inner_text("#groups tbody tr:first-child td") == "alpha"


def test_a_channel_colours_and_a_token_says_its_numbers(looked: Looked) -> None:
    page = looked.page
    first = page.locator("#tokens span").first

    def colours() -> list[str]:
        return page.locator("#tokens span").evaluate_all("all => all.map(one => one.style.background)")

    before = colours()
    page.select_option("#channel", label="log-ratio")
    assert colours() != before
    assert "orange is below 0" in page.inner_text("#scale")
    first.hover()
    said = dict(
        zip(page.locator("#token dt").all_inner_texts(), page.locator("#token dd").all_inner_texts(), strict=True)
    )
    assert said["token"] == '1: "Sam"'
    assert re.fullmatch(r"-?[\d.]+ nats", said["token KL"])


def test_the_keyboard_is_enough_and_the_address_keeps_what_is_seen(looked: Looked) -> None:
    page = looked.page
    page.focus("#groups th button")
    page.keyboard.press("n")
    assert page.inner_text("#which").startswith("sample 1, 2 of 3")
    page.focus("#tokens")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.inner_text("#token dd:first-of-type") == '2: " went"'
    page.select_option("#channel", "1")
    address, which = page.url, page.inner_text("#which")
    page.goto("about:blank")
    page.goto(address)
    assert page.inner_text("#which") == which
    assert page.input_value("#channel") == "1"
    looked.asked[:] = looked.asked[:1]  # it was opened twice, by the test


@pytest.mark.parametrize(("tokens", "with_likely"), [(120, False), (54, True)])
def test_five_hundred_sequences_are_small_and_quick(
    browser: Any, tmp_path: Path, tokens: int, with_likely: bool
) -> None:
    path = tmp_path / "large.html"
    path.write_text(html.render(document(500, tokens, with_likely=with_likely)), encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    looked = Looked(browser, path)
    seconds = looked.page.evaluate("performance.getEntriesByType('navigation')[0].domComplete") / 1000
    print(f"{path.stat().st_size / 1e6:.2f} MB, complete after {seconds:.2f} s")
    assert looked.page.locator("#groups tbody tr").count() == 167


def test_the_likely_words_of_both_models_are_shown_where_a_token_is_pointed_at(looked: Looked) -> None:
    page = looked.page
    page.hover("#tokens span:nth-child(2)")
    assert page.locator("#likely caption").all_inner_texts() == ["likeliest, policy", f"likeliest, {HOSTILE}"]
    rows = page.locator("#likely table").first.locator("tr").all_inner_texts()
    assert [row.split("\t")[1] for row in rows] == ["0.5", "0.25", "0.125", "0.0625", "0.0313"]
    assert rows[0].startswith('" went" (drawn)')
    assert rows[1].startswith('"</script>')
    assert page.locator("#likely table").nth(1).locator("td").first.inner_text().startswith('"</script>')
    widths = (
        page.locator("#likely table").first.locator(".share span").evaluate_all("all => all.map(x => x.style.width)")
    )
    assert widths[:2] == ["50%", "25%"]


def test_a_link_leads_to_the_sequence_that_it_names_and_the_focus_with_it(looked: Looked) -> None:
    page = looked.page
    page.click("text=sample 4")
    assert page.inner_text("#which") == "sample 1, 2 of 3 of this prompt"
    assert page.inner_text("#token dd:first-of-type").startswith("4: ")
    assert page.evaluate("document.activeElement.id") == "tokens"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#token dd:first-of-type").startswith("5: ")
    assert "token=4" in page.url
    page.go_back()
    assert page.locator("#likely table").count() in (0, 2)


def test_everything_is_reached_by_the_tab_key(looked: Looked) -> None:
    page = looked.page
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    wanted = {"group-search", "channel", "next", "tokens", "sample 4", "name", "nats a sequence"}
    assert wanted <= {one.strip() for one in reached}
    page.focus("#groups tbody tr:nth-child(2) button")
    page.keyboard.press("Enter")
    assert page.inner_text("#group-text") == "alpha"


@pytest.mark.parametrize("width", [400, 1280])
def test_charts_are_drawn_within_the_page_in_both_schemes(browser: Any, path: Path, width: int) -> None:
    inks = set()
    for scheme in ("light", "dark"):
        looked = Looked(browser, path, width, scheme)
        boxes = looked.page.locator("svg.curves[role=img]").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert len(boxes) == 3
        assert all(0 <= left < right <= width for left, right in boxes)
        text = looked.page.locator("svg.curves text").first
        inks.add(text.evaluate("one => getComputedStyle(one).fill"))
        assert looked.page.inner_text(".legend").count(HOSTILE) == 1
    assert len(inks) == 2


def test_it_is_printed_with_its_tables_and_without_what_is_clicked(browser: Any, path: Path, tmp_path: Path) -> None:
    looked = Looked(browser, path)
    looked.page.pdf(path=tmp_path / "page.pdf", format="A4")
    pages = (tmp_path / "page.pdf").read_bytes()
    assert pages[:5] == b"%PDF-"
    assert pages.count(b"/Type /Page\n") >= 1
    looked.page.emulate_media(media="print")
    seen = {name: looked.page.locator(name).first.is_visible() for name in (".groups", ".bar", "#tokens", "h1")}
    assert seen == {".groups": False, ".bar": False, "#tokens": True, "h1": True}
