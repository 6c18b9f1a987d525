"""Claims as pages of the docs: an index by question, document and verdict, and a page a document with its claims.

A claim stands on one page, on an anchor that is its id: short first, its numbers and code folded below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from kullback.claims.family import CLAIMS
from kullback.claims.pages import claimed, computed, deciding, numbers, output, paragraphs, resting, said
from kullback.claims.questions import QUESTIONS, Question, questions_of
from kullback.claims.record import Claim, Verdict
from kullback.claims.statements import STATEMENTS, statements_of
from kullback.documents import Block, Cell, Code, Document, Facts, Fold, Heading, Note, Table, text_of

NOTATION = (
    "Samples come from the policy q, p is the reference, r = p/q, ℓ = log q − log p, J = KL(q‖p) + KL(p‖q), "
    "χ² = χ²(p‖q); s = ∇log q. A statement about all worlds is tested in ten random ones; the numbers shown are of the "
    "first. The realistic world is a pair of Markov models with 64 tokens and at most 48 steps, 1.47 nats a sequence "
    "apart."
)


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The claims of some sources, on one page.

    Attributes:
        name: of the file, without its ending.
        title: of the page.
        sources: keys of the sources whose claims stand there.
        document: whether it is one of the documents whose statements are numbered.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    document: bool = False

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Its claims, in their order."""
        return tuple(claim for claim in CLAIMS if claim.source.source.key in self.sources)


DOCUMENTS = ("000", "001", "002", "003", "004")
TRAINERS = ("trl", "trlx", "verl", "openrlhf", "nemo", "slime", "tinker", "llama", "cleanrl", "ziegler")
PRACTICE = ("folklore", "rlhf-book", "praxis", "kullback")


def _title(key: str) -> str:
    return next(source.title for statement in STATEMENTS for source, _ in statement.quotes if source.key == key)


def _papers() -> tuple[str, ...]:
    placed = {*DOCUMENTS, *TRAINERS, *PRACTICE, "schulman"}
    return tuple(dict.fromkeys(c.source.source.key for c in CLAIMS if c.source.source.key not in placed))


SHELVES = (
    *(Shelf(name=key, title=_title(key), sources=(key,), document=True) for key in DOCUMENTS),
    Shelf(name="schulman", title="Schulman's post", sources=("schulman",)),
    Shelf(name="papers", title="Papers and technical reports", sources=_papers()),
    Shelf(name="trainers", title="Trainers: documentation, code and threads", sources=TRAINERS),
    Shelf(name="practice", title="Books, posts and what everybody says", sources=PRACTICE),
)
"""Every page of claims."""

_PAGES = {claim.id: shelf.name for shelf in SHELVES for claim in shelf.claims}


def link(claim: Claim, within: str = "") -> str:
    """A link to a claim from the index, or from a page of claims."""
    page = _PAGES[claim.id]
    where = "" if page == within else f"{page}.md" if within else f"claims/{page}.md"
    return f"[{claim.id}]({where}#{claim.id.lower()})"


def page() -> Document:
    """The index."""
    counts = {verdict: sum(claim.verdict is verdict for claim in CLAIMS) for verdict in Verdict}
    totals = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    blocks: list[Block] = [
        Note(
            "Published statements about estimating a KL divergence, each with the computation that decides it. Find "
            "yours [by question](#by-question), [by document](#by-document) or [by verdict](#by-verdict); on a "
            f"terminal, `kullback claims --question`, `--document` and `--verdict`. Of {len(CLAIMS)}: {totals}."
        ),
        Note(NOTATION),
        Heading("By question"),
        *(block for question in QUESTIONS for block in _question(question)),
        Heading("By document"),
        *_documents(),
        Heading("By verdict"),
        *(_verdict(verdict) for verdict in Verdict),
        Note("Written by `make docs` from `kb.CLAIMS`."),
    ]
    return Document("Claims", tuple(blocks))


def _question(question: Question) -> Iterator[Block]:
    yield Heading(question.title, level=3, anchor=question.name)
    yield Note(f"{question.answer} (`kullback claims --question {question.name}`)")
    rows = tuple((claim.verdict.value, claim.statement, link(claim)) for claim in question.claims)
    table = Table("", "", ("verdict", "statement", "claim"), rows)
    yield Fold(f"{len(rows)} statements", (table,))


def _documents() -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    for shelf in SHELVES:
        count = sum(shelf.name in statement.documents for statement in STATEMENTS)
        in_order = f"{count} statements in its own order" if shelf.document else ""
        rows.append((f"[{shelf.title}](claims/{shelf.name}.md)", in_order, str(len(shelf.claims))))
    yield Table("", "", ("page", "statements", "claims"), tuple(rows), right=("claims",))


def _verdict(verdict: Verdict) -> Fold:
    found = [claim for claim in CLAIMS if claim.verdict is verdict]
    rows = tuple((claim.statement, link(claim)) for claim in found)
    return Fold(f"{verdict.value}: {len(found)}", (Table("", "", ("statement", "claim"), rows),))


def shelf_page(shelf: Shelf) -> Document:
    """The claims of some sources, below the statements of the document in its own order if it is one."""
    blocks: list[Block] = [Note(f"[All claims](../claims.md). {NOTATION}")]
    if shelf.document:
        blocks += [Heading("What it says, in its order", anchor="in-order"), _in_order(shelf.name)]
        blocks.append(Heading("Claims that begin here"))
    for source in dict.fromkeys(claim.source.source for claim in shelf.claims):
        if not shelf.document:
            blocks.append(Heading(source.title, anchor=source.key))
        blocks.append(Note(f"Read in {source.read}."))
        blocks += [block for claim in shelf.claims if claim.source.source is source for block in _entry(claim)]
    return Document(shelf.title, tuple(blocks))


def _in_order(document: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for statement in STATEMENTS:
        if document not in statement.documents:
            continue
        quote = f"“{statement.quote(document)}”"
        found = deciding(statement)
        for i, claim in enumerate(found):
            head = (statement.number, statement.says, quote) if i == 0 else ("", "", "")
            rows.append((*head, claim.verdict.value, resting(claim), link(claim, document)))
        if not found:
            rows.append((statement.number, statement.says, quote, "no claim", statement.reason, ""))
    return Table("", "", ("no.", "says", "as printed", "verdict", "by the number", "claim"), tuple(rows))


def _entry(claim: Claim) -> Iterator[Block]:
    yield Heading(claim.id, level=3, anchor=claim.id.lower())
    yield Note(f"**{claim.verdict.value}**: {claim.statement}")
    yield Facts(tuple((name, text) for name, text in paragraphs(claim) if name not in ("Source", "Says")))
    numbers_said = Facts(
        tuple(
            (f.role.value, f"{f.what} is {text_of(computed(f))}; said to be {claimed(f)}: {said(f)}")
            for f in numbers(claim.id)
        )
    )
    where = Facts((("Made in", _where(claim)), ("Answers", _answers(claim))))
    yield Fold(
        "numbers, code, places",
        (numbers_said, Code(claim.code), Note("prints"), Code(output(claim), language=""), where),
    )


def _where(claim: Claim) -> str:
    places = [claim.source.where, *(f"{place.source.title}: {place.where}" for place in claim.also)]
    known = [f"{statement.number} ({', '.join(statement.documents)})" for statement in statements_of(claim)]
    return "; ".join([*places, *known])


def _answers(claim: Claim) -> str:
    return ", ".join(f"[{question.title}](../claims.md#{question.name})" for question in questions_of(claim))


PAGES: dict[str, Callable[[], Document]] = {
    "claims.md": page,
    **{f"claims/{shelf.name}.md": partial(shelf_page, shelf) for shelf in SHELVES},
}
"""What writes each page."""
