"""Claims are found: by question, by document in its order, by verdict; on pages and on a terminal."""

from __future__ import annotations

import json
import re

import pytest
from make_docs import DOCS
from typer.testing import CliRunner

from kullback import CLAIMS
from kullback.claims.index import DOCUMENTS, SHELVES
from kullback.claims.pages import StatementList, deciding, resting
from kullback.claims.questions import QUESTIONS, questions_of
from kullback.claims.statements import STATEMENTS
from kullback.cli.app import app


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_claim_answers_a_question() -> None:
    assert [claim.id for claim in CLAIMS if not questions_of(claim)] == []
    for question in QUESTIONS:
        assert len(set(question.ids)) == len(question.ids)
        assert set(question.ids) <= set(CLAIMS.names), question.name


def test_every_claim_stands_once_on_an_anchor_with_its_numbers_folded() -> None:
    written = {shelf.name: page(f"claims/{shelf.name}.md") for shelf in SHELVES}
    for claim in CLAIMS:
        [entry] = [
            found[1]
            for text in written.values()
            if (found := re.search(rf'<a id="{claim.id.lower()}"></a>\n(.*?)</details>', text, re.DOTALL))
        ]
        short, _, folded = entry.partition("<details>")
        assert f"**{claim.verdict.value}**" in short
        assert "```" not in short
        assert claim.code in folded


def test_the_index_leads_to_every_claim_three_times() -> None:
    index = page("claims.md")
    questions, _, rest = index.partition("## By document")
    documents, _, verdicts = rest.partition("## By verdict")
    for claim in CLAIMS:
        link = f"#{claim.id.lower()})"
        assert link in questions, claim.id
        assert verdicts.count(link) == 1, claim.id
    assert all(f"claims/{shelf.name}.md" in documents for shelf in SHELVES)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_statement_is_found_on_its_documents_page_with_verdict_and_number(document: str) -> None:
    text = page(f"claims/{document}.md")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    for statement in (s for s in STATEMENTS if document in s.documents):
        row = rows[statement.number]
        found = deciding(statement)
        assert found or statement.reason, statement.number
        if found:
            assert f"| {found[0].verdict.value} |" in row
            assert re.search(r"\d|inf|∞", resting(found[0]))


def test_the_five_documents_make_105_statements() -> None:
    assert len(STATEMENTS) == 105
    assert {key for statement in STATEMENTS for key in statement.documents} == set(DOCUMENTS)


def said(*arguments: str) -> dict[str, object]:
    found = CliRunner().invoke(app, ["claims", *arguments, "--json"])
    assert found.exit_code == 0, found.output
    record: dict[str, object] = json.loads(found.stdout)
    return record


def test_a_terminal_shows_a_question_with_its_answer() -> None:
    record = said("--question", "mismatch")
    assert [claim["id"] for claim in record["claims"]] == [c.id for c in QUESTIONS["mismatch"].claims]  # type: ignore[attr-defined]
    assert record["question"]["answer"] == QUESTIONS["mismatch"].answer  # type: ignore[index]
    fewer = said("--question", "mismatch", "--verdict", "fails")["claims"]
    assert {claim["verdict"] for claim in fewer} == {"fails"}  # type: ignore[attr-defined]


def test_a_terminal_shows_a_document_in_its_own_order() -> None:
    record = said("--document", "004")
    statements = [s for s in STATEMENTS if "004" in s.documents]
    assert [row["number"] for row in record["statements"]] == [s.number for s in statements]  # type: ignore[attr-defined]
    assert record == StatementList("004", str(record["title"])).to_dict()


@pytest.mark.parametrize(
    "arguments", [["004-fN-worst", "--question", "noise"], ["--document", "004", "--verdict", "fails"]]
)
def test_what_does_not_go_together_is_refused(arguments: list[str]) -> None:
    found = CliRunner().invoke(app, ["claims", *arguments])
    assert found.exit_code == 2
    assert "stand alone" in found.output
