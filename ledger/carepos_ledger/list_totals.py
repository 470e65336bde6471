"""The total lines that offices print among the rows: recognised, compared, never a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from carepos_ledger.listed_values import fold_width, header_key, read_amount, read_count

Scope = Literal["list", "section"]
Agreement = Literal["both", "good", "all", "neither"]

_LABEL = re.compile(
    r"(?P<head>[^0-9]{0,12}?(?:合计|总计|小计|共计|累计|总数|grandtotal|subtotal|total|sum))"
    r"(?P<rest>$|[:(0-9].*)"
)
_SECTION = re.compile("小计|subtotal|本页|本村|本组")
_IN_TEXT = re.compile(r"([0-9][0-9,.]{0,20})(户|人|口|元)")
_ID_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Sums:
    """Rows counted, people and money summed up. A value that can't be read counts as nothing."""

    rows: int
    people: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Printed minus summed up; None where the total line prints nothing."""

    rows: int | None
    people: int | None
    amount_minor: int | None

    @property
    def none(self) -> bool:
        return not (self.rows or self.people or self.amount_minor)


@dataclass(frozen=True, slots=True)
class PrintedTotal:
    """What a total line prints; None where it prints nothing that can be read."""

    scope: Scope
    rows: int | None
    people: int | None
    amount_minor: int | None

    @property
    def readable(self) -> bool:
        return (self.rows, self.people, self.amount_minor) != (None, None, None)


@dataclass(frozen=True, slots=True)
class TotalLine:
    """A total line beside the sums of all rows and of the good ones.

    A `list` total is compared with the whole list, wherever it stands; a `section` total
    (小计) with the rows since the section total before it.
    """

    line_no: int
    printed: PrintedTotal
    all_rows: Sums
    good_rows: Sums

    @property
    def against_all(self) -> Difference:
        return _difference(self.printed, self.all_rows)

    @property
    def against_good(self) -> Difference:
        return _difference(self.printed, self.good_rows)

    @property
    def agrees_with(self) -> Agreement:
        if self.against_good.none:
            return "both" if self.against_all.none else "good"
        return "all" if self.against_all.none else "neither"


def is_total(cells: Sequence[str], id_at: int) -> bool:
    """Whether the first filled cell says 合计, 总计, 小计, total… A line with an ID number is a
    row whatever it says: no household is lost to a name."""
    if _LABEL.fullmatch(header_key(_first_filled(cells))) is None:
        return False
    id_cell = fold_width(cells[id_at]) if id_at < len(cells) else ""
    return len(re.findall("[0-9]", id_cell)) < _ID_DIGITS


def read_total(
    cells: Sequence[str],
    amount_at: int,
    people_at: int | None,
    currency: str,
    minor_digits: int,
) -> PrintedTotal:
    """The numbers of a total line, from its columns or from its text (`合计：659户 142740元`)."""
    match = _LABEL.fullmatch(header_key(_first_filled(cells)))
    head, rest = (match["head"], match["rest"]) if match else ("", "")
    in_text = {unit: number for number, unit in _IN_TEXT.findall(rest)}
    amount = read_amount(_cell(cells, amount_at) or in_text.get("元", ""), currency, minor_digits)
    people = _cell(cells, people_at) or in_text.get("人", "") or in_text.get("口", "")
    return PrintedTotal(
        scope="section" if _SECTION.search(head) else "list",
        rows=read_count(in_text.get("户", "")),
        people=read_count(people),
        amount_minor=amount if isinstance(amount, int) else None,
    )


def _difference(printed: PrintedTotal, sums: Sums) -> Difference:
    return Difference(
        rows=None if printed.rows is None else printed.rows - sums.rows,
        people=None if printed.people is None else printed.people - sums.people,
        amount_minor=(
            None if printed.amount_minor is None else printed.amount_minor - sums.amount_minor
        ),
    )


def _first_filled(cells: Sequence[str]) -> str:
    return next((cell for cell in cells if cell and not cell.isspace()), "")


def _cell(cells: Sequence[str], at: int | None) -> str:
    """The cell, unless it is the label itself: a list may begin with its amounts."""
    if at is None or at >= len(cells) or _LABEL.fullmatch(header_key(cells[at])):
        return ""
    return fold_width(cells[at])
