"""Every kind of block on every face: what is shown, what cannot get through, and that no face knows a job."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

import kullback as kb
from kullback.documents import (
    Bars,
    Block,
    Cell,
    Channel,
    Chart,
    Code,
    Document,
    Facts,
    Fold,
    Heading,
    HeatMap,
    Interval,
    Item,
    Note,
    Number,
    Panel,
    Passage,
    PassageGroup,
    Passages,
    Series,
    Table,
    Uncertain,
    Verdict,
    text_of,
)
from kullback.report import html, markdown, terminal

FACES = Path(kb.__file__).parent / "report"
NAN = float("nan")


def on_terminal(document: Document, width: int = 124, *, colour: bool = False) -> str:
    written = StringIO()
    system = "truecolor" if colour else None
    terminal.show(document, Console(file=written, width=width, force_terminal=colour, color_system=system))
    return written.getvalue()


SHOWN: dict[str, Callable[[Document], str]] = {
    "terminal": on_terminal,
    "markdown": markdown.render,
    "html": html.render,
}
every_face = pytest.mark.parametrize("face", SHOWN)


class Page(HTMLParser):
    """A page's tags and its text as a reader sees it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(face: str, shown: str) -> Page:
    """What a reader of a face sees, as a page."""
    if face == "terminal":
        return Page(shown.replace("&", "&amp;").replace("<", "&lt;"))
    return Page(shown if face == "html" else MarkdownIt("commonmark").enable("table").render(shown))


CHART = Chart(
    name="spread",
    text="k3 is less noisy than k1.",
    panels=(Panel("near", "KL, nats", "stdev", (Series.of("k1", [(0.1, 1.0), (0.2, 2.0)]),), log="x"),),
)
HEAT = HeatMap(
    title="Token KL",
    note="nats",
    rows=("one", "two"),
    columns=("1–4", "5–8"),
    values=np.array([[0.0, 0.5], [1.0, NAN]]),
)
TABLE = Table(
    title="Estimates",
    note="clustered by prompt",
    columns=("estimator", "nats", "interval", "how"),
    rows=(("k1", Uncertain(2.81, 0.2), Interval(2.4, 3.2), "a mean"), ("k3", Number(NAN), Interval(NAN, NAN), "too")),
    wide=("how",),
    right=("nats", "interval"),
)
BLOCKS: dict[str, tuple[Block, dict[str, list[str]]]] = {
    "heading": (
        Heading("Where", 3, anchor="where"),
        {
            "terminal": ["Where\n"],
            "markdown": ['<a id="where"></a>\n\n### Where\n'],
            "html": ['<h3 id="where">Where</h3>'],
        },
    ),
    "verdict": (
        Verdict("It holds.", "good"),
        {"terminal": ["It holds."], "markdown": ["It holds.\n"], "html": ['<p class="verdict good">It holds.</p>']},
    ),
    "note": (
        Note("Heavy tail.", "warning"),
        {"terminal": ["Heavy tail."], "markdown": ["Heavy tail.\n"], "html": ['<p class="warning">Heavy tail.</p>']},
    ),
    "facts": (
        Facts((("credit", "own token"), ("error", Number(0.125, ".1%")))),
        {
            "terminal": ["credit  own token", "error   12.5%"],
            "markdown": ["- credit: own token\n- error: 12.5%\n"],
            "html": ["<dt>error</dt><dd>12.5%</dd>"],
        },
    ),
    "item": (
        Item("KB101 biased-value", "The value is off.", (Note("Why."), Note("Instead: k1", "hint"))),
        {
            "terminal": ["KB101 biased-value\n", "      The value is off.", "      Instead: k1"],
            "markdown": ["- **KB101 biased-value**: The value is off. Why. Instead: k1\n"],
            "html": ['<p class="label bad">KB101 biased-value</p>', '<p class="hint">Instead: k1</p>'],
        },
    ),
    "code": (
        Code("import kullback\n" + "x" * 200),
        {
            "terminal": ["import kullback\n" + "x" * 200 + "\n"],
            "markdown": ["```python\nimport kullback\n" + "x" * 200 + "\n```\n"],
            "html": ['<pre tabindex="0"><code>import kullback\n' + "x" * 200 + "</code></pre>"],
        },
    ),
    "table": (
        TABLE,
        {
            "terminal": [
                "Estimates\n",
                "k1          2.81 ± 0.20   [2.40, 3.20]",
                "k3                    –              –",
            ],
            "markdown": [
                "## Estimates\n\nclustered by prompt\n\n",
                "| estimator | nats | interval | how |\n| --- | ---: | ---: | --- |\n",
                "| k1 | 2.81 ± 0.20 | [2.40, 3.20] | a mean |\n| k3 | – | – | too |\n",
            ],
            "html": [
                "<caption>Estimates</caption>",
                '<td>k1</td><td class="right">2.81 ± 0.20</td><td class="right">[2.40, 3.20]</td><td>a mean</td></tr>',
                '<p class="quiet">clustered by prompt</p>',
            ],
        },
    ),
    "chart": (
        CHART,
        {
            "terminal": [CHART.text],
            "markdown": [f"{CHART.text}\n"],
            "html": ['<figure>\n<div class="panels">\n<svg ', f"<figcaption>{CHART.text}</figcaption>"],
        },
    ),
    "fold": (
        Fold("more <b>", (Note("inside"), Code("x = 1"))),
        {
            "terminal": ["more <b>", "inside", "x = 1"],
            "markdown": [
                "<details>\n<summary>more &lt;b></summary>\n\ninside\n\n```python\nx = 1\n```\n\n</details>\n"
            ],
            "html": ["<details>\n<summary>more &lt;b&gt;</summary>\n", "inside", "x = 1", "</details>"],
        },
    ),
    "heat-map": (
        HEAT,
        {
            "terminal": ["Token KL\n", "one     0   0.5", "two     1     –", "nats\n"],
            "markdown": ["|  | 1–4 | 5–8 |\n| --- | ---: | ---: |\n| one | 0 | 0.5 |\n| two | 1 | – |\n"],
            "html": [
                '<td>one</td><td class="right" style="background:#f7fbff;color:#000000">0</td>',
                '<td class="right" style="background:#08306b;color:#ffffff">1</td><td class="right">–</td></tr>',
            ],
        },
    ),
    # Of a page that is looked through: the other faces leave them out.
    "bars": (
        Bars("By position", "Means.", "new token", "nats", ("1", "2"), np.array([1.0, 2.0])),
        {
            "terminal": ["Title"],
            "markdown": ["# Title"],
            "html": ["<h2>By position</h2>", "<title>2: 2</title>", "<figcaption>Means.</figcaption>"],
        },
    ),
    "passages": (
        Passages(
            title="Token by token",
            note="All.",
            channels=(Channel("token KL", "nats"),),
            groups=(PassageGroup("One day", 1.5, 1),),
            unit="nats a sequence",
            passages=(Passage(0, "sample 0", ("a", "b"), np.array([[0.5, 1.0]])),),
        ),
        {
            "terminal": ["Title"],
            "markdown": ["# Title"],
            "html": ['"groups":[{"text":"One day","value":1.5,"count":1}]', '"values":[[0.5,1.0]]', "<noscript>"],
        },
    ),
}


def test_the_table_of_blocks_is_complete() -> None:
    assert {type(block) for block, _ in BLOCKS.values()} == set(Block.__args__)


@every_face
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_shown(name: str, face: str) -> None:
    block, expected = BLOCKS[name]
    shown = SHOWN[face](Document("Title", (block,), subtitle="how"))
    assert expected[face]
    for words in expected[face]:
        assert words in shown


@every_face
def test_a_document_begins_with_its_title_and_keeps_the_order(face: str) -> None:
    blocks = tuple(block for block, _ in BLOCKS.values())
    shown = SHOWN[face](Document("Title", blocks, subtitle="of all kinds"))
    shown = re.sub(r"<head>.*</head>|<svg.*?</svg>", "", shown, flags=re.DOTALL)
    words = ["Title", "of all kinds", "Where", "It holds.", "Heavy tail.", "own token", "KB101", "import kullback"]
    words += ["Estimates", CHART.text, "Token KL"]
    places = [shown.index(word) for word in words]
    assert places == sorted(places)


def test_a_document_without_a_title_is_its_blocks() -> None:
    bare = Document("", (Note("only"),))
    assert (on_terminal(bare), markdown.render(bare)) == ("only\n", "only\n")
    assert "<h1>" not in html.render(bare)


HOSTILE = "[bold]a[/bold] <script>b()</script> <img src=x onerror=b()> c|d \x1b[31me\x9b2J \u202ef"
SEEN = "[bold]a[/bold] <script>b()</script> <img src=x onerror=b()> c|d \\x1b[31me\\x9b2J \\u202ef"

HOSTILE_BLOCKS = (
    Heading(HOSTILE),
    Verdict(HOSTILE),
    Note(HOSTILE),
    Facts(((HOSTILE, HOSTILE),)),
    Item(HOSTILE, HOSTILE, (Note(HOSTILE),)),
    Code(HOSTILE),
    Table(HOSTILE, HOSTILE, (HOSTILE, "n"), ((HOSTILE, Number(1.0, unit=HOSTILE)),)),
    # What is mathematics to matplotlib, and wrong at that, is text too.
    Chart("c", HOSTILE, (Panel("$\\frac", HOSTILE, HOSTILE, (Series.of(HOSTILE, [(0.0, 1.0)]),)),)),
    HeatMap(HOSTILE, HOSTILE, (HOSTILE,), (HOSTILE,), np.ones((1, 1))),
)
"""Few rows: what sorts tables is left out of a page that has none to sort."""


@every_face
@pytest.mark.parametrize("block", HOSTILE_BLOCKS, ids=lambda block: type(block).__name__)
def test_hostile_text_is_shown_as_text(block: Block, face: str) -> None:
    document = Document(HOSTILE, (block,), subtitle=HOSTILE)
    shown = on_terminal(document, 2000) if face == "terminal" else SHOWN[face](document)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    page = read(face, re.sub("<svg.*</svg>", "", shown, flags=re.DOTALL))
    assert not {"script", "img", "bold"} & set(page.tags)
    said = 1 + repr(block).count(repr(HOSTILE)) - (3 if isinstance(block, Chart) else 0)  # those within the picture
    assert page.text.count(SEEN) == 1 + said + (face == "html")  # HTML has its title twice


def test_a_picture_holds_hostile_labels_as_text() -> None:
    found = re.search("<svg.*</svg>", html.render(Document("", (HOSTILE_BLOCKS[7],))), flags=re.DOTALL)
    assert found is not None
    assert not {"script", "img"} & set(Page(found[0]).tags)


def test_a_bar_ends_no_cell_whatever_stands_before_it() -> None:
    rows = (("a|b", "c\\|d"), ("e\\\\|f", "g\nh"))
    rendered = MarkdownIt("commonmark").enable("table").render(markdown.grid(Table("", "", ("x", "y"), rows)))
    assert re.findall("<td>(.*?)</td>", rendered) == ["a|b", "c\\|d", "e\\\\|f", "g h"]


def test_code_with_a_fence_stays_within_its_own() -> None:
    fenced = "```\n# not a heading\n```"
    rendered = MarkdownIt("commonmark").render(markdown.render(Document("", (Code(fenced),))))
    assert "<h1>" not in rendered
    assert fenced in rendered


def test_colour_comes_from_the_document_and_not_from_the_text() -> None:
    told = on_terminal(Document("", (Note("\x1b[31mred", "good"),)), colour=True)
    assert told == "\x1b[32m\\x1b[31mred\x1b[0m\n"
    assert "48;2;8;48;107" in on_terminal(Document("", (HEAT,)), colour=True)


def test_eighty_columns_hold_everything_but_code() -> None:
    long = Table(
        "Long",
        "n" * 100,
        ("estimator", "level", *("nats/sequence", "95% interval", "nats/token", "var/k1", "n for ±1%")),
        (("rao_blackwell_controlled [1]", "sequence", *(Uncertain(0.81234, 0.0123),) * 5),),
        right=("nats/sequence", "95% interval", "nats/token", "var/k1", "n for ±1%"),
    )
    words = Table("Words", "", ("claim", "statement"), (("004-gradient-of-fS", "so it is said " * 20),))
    blocks = tuple(block for block, _ in BLOCKS.values() if not isinstance(block, Code))
    shown = on_terminal(Document("t" * 100, (*blocks, long, words), subtitle="s" * 100), 80)
    assert max(map(len, shown.splitlines())) <= 80
    for row in (*long.rows, *words.rows):
        for cell in row:
            assert "".join(text_of(cell).split()) in "".join(shown.split()), cell
    assert shown.count("rao_blackwell_controlled [1]   sequence ") > 1  # numbers below each other, no word cut
    narrow = on_terminal(Document("", (long,)), 40)
    assert "rao_blackwell_controlled [1]\n" in narrow  # where not even one column of numbers fits, a paragraph a row
    assert "var/k1 0.812 ± 0.012" in " ".join(narrow.split())


def test_a_terminal_has_no_room_for_wide_columns() -> None:
    assert "a mean" not in on_terminal(Document("", (TABLE,)))
    assert "a mean" in on_terminal(Document("", (replace(TABLE, wide=()),)))


CELLS: list[tuple[Cell, str]] = [
    ("a word", "a word"),
    ("\x1b[2J", "\\x1b[2J"),
    (Number(1234.5678), "1235"),
    (Number(1234.5678, ",.0f"), "1,235"),
    (Number(0.70729, ".2%"), "70.73%"),
    (Number(0.005, ".3g", " nats"), "0.005 nats"),
    (Number(float("inf"), ".3g", " nats"), "–"),
    (Uncertain(2.8123, 0.2), "2.81 ± 0.20"),
    (Uncertain(2.8123, 0.0021), "2.8123 ± 0.0021"),
    (Uncertain(2.8123, NAN), "2.81"),
    (Uncertain(2.3e-4, NAN), "0.00023"),
    (Uncertain(2.3e-6, NAN), "2.3 × 10⁻⁶"),
    (Uncertain(9.997e-7, NAN), "1 × 10⁻⁶"),
    (Uncertain(0.0, 0.0), "0 ± 0"),
    (Uncertain(NAN, NAN), "–"),
    (Uncertain(float("inf"), NAN), "inf"),
    (Uncertain(3.845e-7, 9.6e-9), "(3.845 ± 0.096) × 10⁻⁷"),
    (Uncertain(2.8, 0.0996), "2.80 ± 0.10"),
    (Uncertain(75.0, 25.0), "75 ± 25"),
    (Uncertain(123.4, 567.8), "123 ± 568"),
    (Uncertain(12345.0, 1234.0), "(1.23 ± 0.12) × 10⁴"),
    (Uncertain(3.0, 999.7), "(0.00 ± 1.00) × 10³"),
    (Interval(0.6891, 0.7285, 100, "%"), "[68.91%, 72.85%]"),
    (Interval(0.00012, 0.00034), "[0.00012, 0.00034]"),
    (Interval(NAN, NAN), "–"),
    (Interval(3.6e-7, 4e-7), "[3.60, 4.00] × 10⁻⁷"),
    (Interval(2.3e-4, 2.3e-4), "[0.00023, 0.00023]"),
    (Interval(12.2, 40.1), "[12, 40]"),
]


@pytest.mark.parametrize(("cell", "text"), CELLS, ids=[text for _, text in CELLS])
def test_a_cell_is_the_same_text_on_every_face(cell: Cell, text: str) -> None:
    assert text_of(cell) == text
    document = Document("", (Table("", "", ("name", "x"), (("row", cell),), right=("x",)),))
    assert all(text in read(face, shown(document)).text for face, shown in SHOWN.items())


def test_shades_run_from_the_smallest_to_the_largest() -> None:
    assert HEAT.shades.tolist()[0] == [0.0, 0.5]
    assert HEAT.shades[1, 0] == 1.0
    assert np.isnan(HEAT.shades[1, 1])
    assert replace(HEAT, values=np.full((2, 2), 3.0)).shades.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert np.isnan(replace(HEAT, values=np.full((2, 2), NAN)).shades).all()


def test_a_page_needs_nothing_else() -> None:
    page = html.render(Document("Title", tuple(block for block, _ in BLOCKS.values())))
    assert not re.search(r'(src|href)="(?!#)', page.replace("xmlns:xlink", ""))
    assert "url(http" not in page


def test_two_pictures_on_a_page_share_no_names() -> None:
    page = html.render(Document("", (CHART, CHART)))
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names)) == 4 * len(CHART.panels)  # a title and what is cut off, of each panel, twice
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(names)


def test_a_page_draws_its_charts_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = html.render(Document("", (CHART,)))
    assert page.count('<svg class="curves" role="img"') == len(CHART.panels)
    assert CHART.text in page


def test_a_face_reads_documents_and_knows_no_job() -> None:
    for path in FACES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            rooms = {name.split(".")[1] if "." in name else name for name in names if name.startswith("kullback")}
            assert rooms <= {"documents", "errors", "report"}, f"{path.name} imports {rooms}"
