"""What a beneficiary brings to the counter, and which voucher is to pay which part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from carepos import ids, money, strict_json
from carepos.errors import Malformed
from carepos.product import Unit, is_product_key

UNITS = frozenset({"piece", "g", "ml"})
MAX_LINES = 40
MAX_ENTRIES = 80
MAX_VOUCHERS = 20
MAX_QUANTITY = 10**9

_KEY_TEXT = re.compile(r"[a-z0-9:-]{1,44}")


def unit(value: object, field: str = "unit") -> Unit:
    if not isinstance(value, str) or value not in UNITS:
        raise Malformed("must be piece, g or ml", field=field)
    return cast(Unit, value)


def product_key(value: object, field: str = "key") -> str:
    """`value` if it is a GTIN-14 with a good check digit or a `cat:` key. Raises Malformed."""
    if not isinstance(value, str) or not _KEY_TEXT.fullmatch(value) or not is_product_key(value):
        raise Malformed("must be a GTIN-14 or a cat: key", field=field)
    return value


@dataclass(frozen=True, slots=True)
class Line:
    """One line as the register priced it; `line_amount_minor` is authoritative, never recomputed.

    `description` is for screen and receipt; it never enters a record.
    """

    key: str
    quantity: int
    unit: Unit
    line_amount_minor: int
    description: str = ""

    def to_json(self) -> dict[str, object]:
        """As it stands in a record: without the description."""
        return {
            "key": self.key,
            "quantity": self.quantity,
            "unit": self.unit,
            "line_amount_minor": self.line_amount_minor,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "line") -> Line:
        names = strict_json.names_within(
            value,
            required={"key", "quantity", "unit", "line_amount_minor"},
            optional={"description"},
            where=where,
        )
        return cls(
            product_key(names["key"], f"{where}.key"),
            strict_json.integer(names["quantity"], f"{where}.quantity", low=1, high=MAX_QUANTITY),
            unit(names["unit"], f"{where}.unit"),
            strict_json.integer(
                names["line_amount_minor"],
                f"{where}.line_amount_minor",
                high=money.MAX_AMOUNT_MINOR,
            ),
            strict_json.text(names.get("description", ""), f"{where}.description", low=0),
        )


def lines_from_json(value: object, where: str = "basket") -> tuple[Line, ...]:
    """1 to 40 lines. Raises Malformed; its code is basket_too_large for more."""
    if isinstance(value, list) and len(value) > MAX_LINES:
        raise Malformed(f"at most {MAX_LINES} lines", field=where, code="basket_too_large")
    lines = strict_json.array(value, where, low=1, high=MAX_LINES)
    return tuple(Line.from_json(line, f"{where}[{n}]") for n, line in enumerate(lines, 1))


def spread_discount(lines: Sequence[Line], discount_minor: int) -> tuple[Line, ...]:
    """The lines less a discount on the whole basket, by largest remainder over their amounts.

    Raises Malformed when the discount is negative or more than the basket.
    """
    amounts = [line.line_amount_minor for line in lines]
    strict_json.integer(discount_minor, "discount_minor", high=sum(amounts))
    if discount_minor == 0:
        return tuple(lines)
    parts = money.split(discount_minor, amounts)
    return tuple(
        Line(
            line.key,
            line.quantity,
            line.unit,
            line.line_amount_minor - part,
            line.description,
        )
        for line, part in zip(lines, parts, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One voucher's part in one line (numbered from 1).

    `quantity` is what an item or fixed-price voucher covers, in the line's unit; 0 for a value
    voucher, which covers money and not pieces.
    """

    line: int
    voucher: str
    quantity: int
    programme_minor: int
    beneficiary_minor: int

    @property
    def covered_minor(self) -> int:
        return self.programme_minor + self.beneficiary_minor

    def to_json(self) -> dict[str, Any]:
        return {
            "line": self.line,
            "voucher": self.voucher,
            "quantity": self.quantity,
            "programme_minor": self.programme_minor,
            "beneficiary_minor": self.beneficiary_minor,
        }


def allocation_from_json(
    value: object, line_count: int, where: str = "allocation"
) -> tuple[Entry, ...]:
    """1 to 80 entries sorted by line, of at most 20 vouchers, no (line, voucher) twice."""
    return entries_from_json(value, line_count, where)


def entries_from_json(
    value: object, line_count: int, where: str, *, empty_money: bool = False
) -> tuple[Entry, ...]:
    """Entries in the form of an allocation; with `empty_money` one may move a quantity alone.

    Raises Malformed.
    """
    entries = tuple(
        _entry_from_json(entry, line_count, f"{where}[{n}]")
        for n, entry in enumerate(strict_json.array(value, where, low=1, high=MAX_ENTRIES), 1)
    )
    for n, entry in enumerate(entries, 1):
        if entry.covered_minor == 0 and not (empty_money and entry.quantity):
            raise Malformed("covers nothing", field=f"{where}[{n}]")
    if any(a.line > b.line for a, b in pairwise(entries)):
        raise Malformed("must be sorted by line", field=where)
    if len({(entry.line, entry.voucher) for entry in entries}) < len(entries):
        raise Malformed("a voucher stands twice on one line", field=where)
    if len({entry.voucher for entry in entries}) > MAX_VOUCHERS:
        raise Malformed(f"more than {MAX_VOUCHERS} vouchers", field=where)
    return entries


def _entry_from_json(value: object, line_count: int, where: str) -> Entry:
    names = strict_json.exact_names(
        value,
        {"line", "voucher", "quantity", "programme_minor", "beneficiary_minor"},
        where=where,
    )
    top = money.MAX_AMOUNT_MINOR
    return Entry(
        strict_json.integer(names["line"], f"{where}.line", low=1, high=line_count),
        ids.reference(names["voucher"], f"{where}.voucher"),
        strict_json.integer(names["quantity"], f"{where}.quantity", high=MAX_QUANTITY),
        strict_json.integer(names["programme_minor"], f"{where}.programme_minor", high=top),
        strict_json.integer(names["beneficiary_minor"], f"{where}.beneficiary_minor", high=top),
    )
