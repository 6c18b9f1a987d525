"""A report's page in Chromium: it draws, sorts, searches, switches, and is led by the keyboard alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kullback.documents import Bars, Channel, Document, Number, Passage, PassageGroup, Passages, Table, Verdict
from kullback.report import html

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>"
CHANNELS = (Channel("token KL", "nats"), Channel("log-ratio", "nats", signed=True))


def document(sequences: int = 6, tokens: int = 40) -> Document:
    rng = np.random.default_rng(0)
    texts = ("Sam", " went", " to the", "\n", HOSTILE, " 好", "")
    passages = tuple(
        Passage(
            group=number // 3,
            name=f"sample {number % 3}",
            tokens=tuple(texts[t % len(texts)] for t in range(tokens)),
            values=np.vstack([rng.exponential(size=tokens), rng.normal(size=tokens)]),
        )
        for number in range(sequences)
    )
    names = ("alpha", HOSTILE, *(f"prompt {n}" for n in range(2, -(-sequences // 3))))
    groups = tuple(PassageGroup(name, float(n + 1), 3) for n, name in enumerate(names))
    rows = tuple((name, Number(value, ".3g")) for name, value in (("b", 9.0), ("a", 10.0), ("c", 2.0)))
    return Document(
        title=HOSTILE,
        subtitle=HOSTILE,
        blocks=(
            Verdict("KL is 1 nat.", tone="plain"),
            Table(HOSTILE, "", ("name", "nats"), rows, right=("nats",)),
            Bars("By position", "Means.", "new token", "nats", ("1", "2", "3"), np.array([1.0, np.nan, 2.0])),
            Passages("Token by token", "All.", CHANNELS, groups, "nats a sequence", passages),
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
        return looked.page.locator("table:not(#groups) tbody td:first-child").all_inner_texts()

    looked.page.click("table:not(#groups) th.right button")
    assert first() == ["a", "b", "c"]
    looked.page.click("table:not(#groups) th.right button")
    assert first() == ["c", "b", "a"]
    looked.page.click("table:not(#groups) th:not(.right) button")
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


def test_five_hundred_sequences_are_small_and_quick(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_text(html.render(document(500, 120)), encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    looked = Looked(browser, path)
    seconds = looked.page.evaluate("performance.getEntriesByType('navigation')[0].domComplete") / 1000
    print(f"{path.stat().st_size / 1e6:.2f} MB, complete after {seconds:.2f} s")
    assert looked.page.locator("#groups tbody tr").count() == 167
