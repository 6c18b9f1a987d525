"""Which rows count: comparisons of columns, joined by and, or, not and parentheses. Nothing of them is executed."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kullback.errors import InputError, shown
from kullback.jobs.files.columns import POSITION, Value

Lookup = Callable[[str], Value | None]
"""What the row at hand holds in a column."""

TOKENS = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<text>'[^']*'|"[^"]*")
    |(?P<quoted>`[^`]+`)
    |(?P<word>[^\W\d][\w.]*)
    |(?P<sign><=|>=|==|!=|<|>|=|\(|\)))""",
    re.VERBOSE,
)

SIGNS: dict[str, Callable[[Value, Value], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}

LONGEST, DEEPEST = 1000, 20
"""Characters, and parentheses or nots within each other: what has more is no condition that a person wrote."""

EXAMPLE = "a condition compares columns, as in 'step > 100 and finish = end'"


@dataclass(frozen=True)
class Column:
    """The value that a row has in a column."""

    name: str


Operand = Column | int | float | str | bool


@dataclass(frozen=True)
class Comparison:
    """left sign right; false where the row does not have the column."""

    left: Operand
    sign: str
    right: Operand

    def holds(self, of: Lookup) -> bool:
        """Whether it holds for a row."""
        left, right = _value(self.left, of), _value(self.right, of)
        if left is None or right is None:
            return False
        if isinstance(left, str) != isinstance(right, str):
            if self.sign in ("=", "==", "!="):
                return _alike(left, right) == (self.sign != "!=")
            name = self.left if isinstance(self.left, Column) else self.right
            raise InputError(
                f"--where compares {_words(self.left)} with {_words(self.right)}, but {_words(name)} holds "
                f"{shown(left if name is self.left else right)}: compare texts with = and !=, and numbers with numbers"
            )
        return SIGNS[self.sign](left, right)

    def columns(self) -> Iterator[str]:
        """The columns that are named."""
        yield from (side.name for side in (self.left, self.right) if isinstance(side, Column))


@dataclass(frozen=True)
class Joined:
    """All of the parts, any of them, or not the one of them."""

    how: str
    parts: tuple[Condition, ...]

    def holds(self, of: Lookup) -> bool:
        """Whether it holds for a row."""
        if self.how == "not":
            return not self.parts[0].holds(of)
        return (all if self.how == "and" else any)(part.holds(of) for part in self.parts)

    def columns(self) -> Iterator[str]:
        """The columns that are named."""
        for part in self.parts:
            yield from part.columns()


Condition = Comparison | Joined


def condition(text: str) -> Condition:
    """What a text says.

    Raises:
        InputError: it is no condition, with the place where it stops being one.

    Example:
        >>> found = condition("step > 100 and finish = end")
        >>> found.holds({"step": 101, "finish": "end"}.get), found.holds({"step": 7, "finish": "end"}.get)
        (True, False)
        >>> sorted(found.columns())
        ['finish', 'step']
    """
    if len(text) > LONGEST:
        raise InputError(f"--where has {len(text):,} characters, but a condition has at most {LONGEST:,}")
    parser = _Parser(text)
    found = parser.any_of()
    if parser.left:
        parser.refuse("and, or, or its end")
    for name in found.columns():
        if name == POSITION:
            raise InputError("--where position came, but it tells tokens apart and not rows: use --by position")
    return found


class _Parser:
    """Reads a text from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.left = list(_tokens(text))
        self.depth = 0

    def any_of(self) -> Condition:
        return self._joined("or", lambda: self._joined("and", self._one))

    def _joined(self, word: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self._takes(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _one(self) -> Condition:
        if self._takes("not"):
            return Joined("not", (self._within(self._one),))
        if self._takes("("):
            found = self._within(self.any_of)
            if not self._takes(")"):
                self.refuse("a closing parenthesis")
            return found
        return self._comparison()

    def _within(self, part: Callable[[], Condition]) -> Condition:
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"--where nests more than {DEEPEST} parentheses or nots: {EXAMPLE}")
        found = part()
        self.depth -= 1
        return found

    def _comparison(self) -> Condition:
        sides, signs = [self._operand(named=False)], list[str]()
        while self.left and self.left[0][0] == "sign" and self.left[0][1] in SIGNS:
            signs.append(self.left.pop(0)[1])
            sides.append(self._operand(named=any(isinstance(side, Column) for side in sides)))
        if not signs:
            self.refuse("a comparison (=, !=, <, <=, >, >=)")
        found = tuple(Comparison(sides[i], sign, sides[i + 1]) for i, sign in enumerate(signs))
        if not any(True for one in found for _ in one.columns()):
            raise InputError(f"--where {shown(self.text)} names no column: {EXAMPLE}")
        return found[0] if len(found) == 1 else Joined("and", found)

    def _operand(self, *, named: bool) -> Operand:
        kind, word = self.left[0] if self.left else ("end", "")
        if kind not in ("number", "text", "quoted", "word") or word in ("and", "or", "not"):
            self.refuse("a column, a number or a text")
        self.left.pop(0)
        if kind == "number":
            return float(word) if re.search(r"[.eE]", word) else int(word)
        if kind == "text":
            return word[1:-1]
        if kind == "quoted":
            return Column(word[1:-1])
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        # Beside a column a bare word is a text, as people write it: finish = end. A second column has backticks.
        return word if named else Column(word)

    def _takes(self, word: str) -> bool:
        if self.left and self.left[0][0] in ("word", "sign") and self.left[0][1] == word:
            self.left.pop(0)
            return True
        return False

    def refuse(self, wanted: str) -> None:
        came = repr(self.left[0][1]) if self.left else "its end"
        raise InputError(f"--where {shown(self.text)} has {came} where {wanted} is expected: {EXAMPLE}")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while text[place:].strip():
        found = TOKENS.match(text, place)
        if found is None:
            raise InputError(f"--where {text!r} cannot be read from {text[place:].strip()[:20]!r} on: {EXAMPLE}")
        yield str(found.lastgroup), found[str(found.lastgroup)]
        place = found.end()


def _value(side: Operand, of: Lookup) -> Value | None:
    return of(side.name) if isinstance(side, Column) else side


def _alike(left: Value, right: Value) -> bool:
    """Whether a text and a number are the same: an id of 7 is written '7' by some."""
    return str(left) == str(right)


def _words(side: Operand) -> str:
    return side.name if isinstance(side, Column) else repr(side)
