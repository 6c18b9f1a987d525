"""What stands for a character that a screen's encoding does not have."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from kullback.documents import Document, Interval, Number, Uncertain, text_of

ERRORS = "kullback"
"""The name of these substitutes among Python's ways to handle what cannot be encoded."""

RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉ₐᵢₙₜₖ", "0123456789aintk", strict=True))

SUBSTITUTES = {
    **dict.fromkeys("‐‑‒–—−─━╌", "-"),
    **dict.fromkeys("│┃╎", "|"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”«»", '"'),
    **dict.fromkeys("·∙•⋅", "*"),
    **dict.fromkeys("\u00a0\u2009\u202f", " "),
    "‖": "||",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "≈": "~",
    "…": "...",
    "→": "->",
    "×": "x",
    "∞": "inf",
    "½": "1/2",
    "√": "sqrt",
    "∇": "grad ",
    "∂": "d",
    "Σ": "sum ",
    "∑": "sum ",
    "∏": "prod ",
    "∈": "in",
    "ℓ": "l",
    "Δ": "d",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "eps",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "φ": "phi",
}
"""What reads like it in ASCII; whatever is not here is written by its number."""


def substitute(error: UnicodeError) -> tuple[str, int]:
    """The substitutes of the characters that could not be encoded, and where to go on: a handler for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, start, end = error.object, error.start, error.end
    return "".join(_one(text, place) for place in range(start, end)), end


codecs.register_error(ERRORS, substitute)


def _one(text: str, place: int) -> str:
    character, before = text[place], text[place - 1 : place]
    for row, mark in ((RAISED, "^"), (LOWERED, "_")):
        if character in row:
            return row[character] if before and before in row else mark + row[character]
    return SUBSTITUTES.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


def on_screen(document: Document, encoding: str) -> Document:
    """The document with only characters that the encoding has, so that columns are laid out as they will be seen."""
    if "utf" in encoding.lower():
        return document
    shown: Document = _changed(document, lambda text: text.encode(encoding, ERRORS).decode(encoding))
    return shown


def _changed(thing: Any, words: Callable[[str], str]) -> Any:
    """A block, a cell or a tuple of them with every text changed."""
    match thing:
        case str():
            return words(thing)
        case Number() | Uncertain() | Interval():
            return words(text_of(thing))
        case tuple():
            return tuple(_changed(part, words) for part in thing)
    if not is_dataclass(thing) or isinstance(thing, type):
        return thing
    return replace(thing, **{f.name: _changed(getattr(thing, f.name), words) for f in fields(thing)})
