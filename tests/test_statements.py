"""Every statement of the five documents is decided, attributed to whoever makes it, and quoted as it stands."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from quotations import RUN, is_quoted, words

from kullback import CLAIMS
from kullback.claims import Claim
from kullback.claims.record import decisive
from kullback.claims.statements import STATEMENTS, Statement, statements_of

every_statement = pytest.mark.parametrize("statement", STATEMENTS, ids=STATEMENTS.names)
DOCUMENTS = {"000": 18, "001": 21, "002": 51, "003": 51, "004": 14}


def test_there_are_105_and_the_numbers_left_out_are_known() -> None:
    assert len(set(STATEMENTS.names)) == len(STATEMENTS) == 105
    last = {"Z": 18, "D": 22, "R": 54, "X": 15}
    every = {f"{letter}{i}" for letter, count in last.items() for i in range(1, count + 1)}
    assert every - set(STATEMENTS.names) == {"D2", "R5", "R32", "R33", "R35", "X5"}
    assert set(STATEMENTS.names) - every == {"R32a", "R32b"}


@pytest.mark.parametrize(("document", "count"), DOCUMENTS.items())
def test_each_document_has_its_statements(document: str, count: int) -> None:
    assert sum(document in statement.documents for statement in STATEMENTS) == count


@every_statement
def test_a_statement_is_decided_or_says_why_not(statement: Statement) -> None:
    assert bool(statement.claims) != bool(statement.reason)
    for name in statement.claims:
        claim = CLAIMS[name]
        assert claim.verdict
        assert decisive(claim.evidence())
        assert statement in statements_of(claim)


@every_statement
def test_it_is_attributed_to_each_document_that_makes_it(statement: Statement) -> None:
    sources = [set(CLAIMS[name].sources) for name in statement.claims]
    assert set(statement.documents) <= set(chain(*sources))
    assert all(source & set(statement.documents) for source in sources)


@pytest.mark.parametrize(
    "claim", [claim for claim in CLAIMS if set(claim.sources) & set(DOCUMENTS)], ids=lambda c: c.id
)
def test_a_claim_attributes_to_a_document_only_what_it_states(claim: Claim) -> None:
    stated = set(chain(*(statement.documents for statement in statements_of(claim))))
    assert set(claim.sources) & set(DOCUMENTS) <= stated


@every_statement
def test_a_statement_is_quoted_as_it_stands(statement: Statement) -> None:
    wrong = [(document, statement.quote(document)) for document in statement.documents]
    assert not [(document, text) for document, text in wrong if not is_quoted(document, text)]


def quotations() -> list[tuple[str, str]]:
    """Document and text of every quotation that a claim's place gives in quotation marks."""
    places = chain(*((claim.source, *claim.also) for claim in CLAIMS))
    found = ((place.source.key, re.search("“(.*)”", place.where)) for place in places)
    return sorted({(key, match.group(1)) for key, match in found if match and key in DOCUMENTS})


@pytest.mark.parametrize(("document", "text"), quotations())
def test_a_place_in_quotation_marks_is_one_in_the_document(document: str, text: str) -> None:
    assert is_quoted(document, text)


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.sources[0] in DOCUMENTS], ids=lambda c: c.id)
def test_what_a_text_quotes_is_of_one_of_the_documents(claim: Claim) -> None:
    texts = (claim.statement, claim.why, claim.condition, claim.meant)
    pieces = [piece for text in texts for piece in re.findall("“(.*?)”", text) if len(words(piece)) >= RUN]
    assert not [piece for piece in pieces if not any(is_quoted(document, piece) for document in DOCUMENTS)]


def test_a_quotation_is_refused_where_a_word_differs() -> None:
    assert is_quoted("000", "there is no way to write it as a sum over steps")
    assert not is_quoted("000", "there is no way to write them as a sum over steps")
    assert not is_quoted("001", "there is no way to write it as a sum over steps")
    assert not is_quoted("000", "no way")
