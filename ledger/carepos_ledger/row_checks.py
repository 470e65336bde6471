"""Row checks of a column mapping: `amount = 60 * people`.

A check is one comparison (`=`, `<=`, `>=`) between two sums over whole numbers and column
aliases, with `+`, `-`, `*` and parentheses. `×`, `≤`, `≥` and full-width signs are understood.
The parser is its own; nothing is ever given to Python to evaluate.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from carepos.errors import CareposError
from carepos_ledger.listed_values import fold_width

Number = int | Fraction
Values = Mapping[str, Number]

MAX_LENGTH = 200
"""Characters in one check. Bounds the parser's recursion as well."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,12}(?![0-9A-Za-z_.]))|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign><=|>=|==|[-+*=()]))"
)
_SPELLINGS = str.maketrans({"×": "*", "≤": "<=", "≥": ">=", "−": "-"})
_COMPARISONS: Mapping[str, Callable[[Number, Number], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
}

_Term = Callable[[Values], Number]


class CheckUnreadable(CareposError):
    """A row check that isn't one. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """One parsed check: `text` as written, `aliases` the columns it reads."""

    text: str
    aliases: frozenset[str]
    _compare: Callable[[Number, Number], bool] = field(repr=False, compare=False)
    _left: _Term = field(repr=False, compare=False)
    _right: _Term = field(repr=False, compare=False)

    def holds(self, values: Values) -> bool:
        """Whether the row's `values` (alias → exact number) keep the check."""
        return self._compare(self._left(values), self._right(values))


def parse_check(text: str) -> RowCheck:
    """The check written in `text`. Raises CheckUnreadable."""
    if len(text) > MAX_LENGTH:
        raise CheckUnreadable(f"longer than {MAX_LENGTH} characters")
    parser = _Parser(_tokens(fold_width(text).translate(_SPELLINGS)))
    left = parser.sum()
    sign = parser.take()
    if sign not in _COMPARISONS:
        raise CheckUnreadable("needs exactly one of =, <=, >= between its two sides")
    right = parser.sum()
    if parser.peek():
        raise CheckUnreadable(f"unexpected {parser.peek()!r}")
    return RowCheck(text.strip(), frozenset(parser.names), _COMPARISONS[sign], left, right)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CheckUnreadable(f"cannot read {text[at:].strip()[:20]!r}")
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent: sum → product → atom."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self.names: set[str] = set()

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._at += 1
        return token

    def sum(self) -> _Term:
        total = self.product()
        while self.peek() in ("+", "-"):
            step = operator.add if self.take() == "+" else operator.sub
            total = _both(step, total, self.product())
        return total

    def product(self) -> _Term:
        result = self.atom()
        while self.peek() == "*":
            self.take()
            result = _both(operator.mul, result, self.atom())
        return result

    def atom(self) -> _Term:
        found = self.take()
        if found == "(":
            inner = self.sum()
            if self.take() != ")":
                raise CheckUnreadable("a parenthesis is not closed")
            return inner
        if found.isdecimal():
            number = int(found)
            return lambda _values: number
        if found.isidentifier():
            self.names.add(found)
            return lambda values: values[found]
        raise CheckUnreadable(f"a number or a column was expected, not {found or 'the end'!r}")


def _both(step: Callable[[Number, Number], Number], left: _Term, right: _Term) -> _Term:
    return lambda values: step(left(values), right(values))
