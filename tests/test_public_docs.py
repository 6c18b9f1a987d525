"""Everything public says what it is, with an example; pytest runs the examples, since they are doctests."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from api_pages import NAMESPACES, names, public

from kullback.report import markdown

OBJECTS = [(f"{room.__name__}.{name}", value) for room in NAMESPACES for name, value in public(room)]


@pytest.mark.parametrize(("name", "value"), OBJECTS, ids=[name for name, _ in OBJECTS])
def test_every_public_object_has_an_example_that_runs(name: str, value: object) -> None:
    said = inspect.getdoc(value) or ""
    assert ">>> " in said, f"{name} has no example"


def test_the_objects_are_those_that_the_namespaces_name() -> None:
    import kullback as kb

    named = {name for name in kb.__all__ if not isinstance(getattr(kb, name), ModuleType)}
    assert named == {name.removeprefix("kullback.") for name, _ in OBJECTS if name.count(".") == 1}
    assert len(OBJECTS) > 100


def test_the_page_of_names_has_each_with_its_example() -> None:
    page = markdown.render(names())
    assert page.count("\n### `kb") == len(OBJECTS)
    assert page.count("```pycon") >= len({id(value) for _, value in OBJECTS if inspect.isfunction(value)})
    assert " at 0x" not in page
