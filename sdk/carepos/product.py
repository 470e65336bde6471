"""What a basket line names: GTINs, category keys, in-store weighed codes, grams, product lists.

Rules of numbers: GS1 General Specifications, section 2 (GTIN, restricted circulation numbers)
and section 7.9 (check digit). Product keys and names: docs/protocol.md §1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from carepos import strict_json
from carepos.errors import Malformed

Unit = Literal["piece", "g", "ml"]

MAX_ENTRIES = 20_000
MAX_QUANTITY = 10**9

# [0-9], never \d or isdigit(): those accept the digits of every script.
_GTIN = re.compile(r"[0-9]{8}|[0-9]{12,14}")
_GTIN_14 = re.compile(r"[0-9]{14}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_CATEGORY_KEY_PREFIX = "cat:"


def gtin_check_digit(digits: str) -> int:
    """The check digit (0-9) that follows `digits`: a GTIN without its last digit.

    Weights 3 and 1 alternate from the right, so every single wrong digit is noticed, and a swap
    of two neighbours unless they differ by 5. Raises Malformed for anything but 1 to 17 ASCII
    digits (17 is the longest GS1 number, the SSCC).
    """
    if not re.fullmatch(r"[0-9]{1,17}", digits):
        raise Malformed("must be 1 to 17 digits", field="gtin")
    weighted = sum(
        int(digit) * (1 if place % 2 else 3) for place, digit in enumerate(reversed(digits))
    )
    return -weighted % 10


def normalise_gtin(text: object) -> str:
    """The GTIN-14 of a GTIN-8, -12, -13 or -14 as printed: zeros on the left, check digit verified.

    Raises Malformed for another length, another character or a wrong check digit. White space and
    scanner prefixes are the caller's to remove. A UPC-E code (8 digits, compressed) is read as a
    GTIN-8: scanners must be set to expand it.
    """
    if not isinstance(text, str) or not _GTIN.fullmatch(text):
        raise Malformed("a GTIN has 8, 12, 13 or 14 digits", field="gtin")
    if gtin_check_digit(text[:-1]) != int(text[-1]):
        raise Malformed("the check digit is wrong", field="gtin")
    return text.zfill(14)


def is_restricted_circulation(gtin: object) -> bool:
    """Whether a GTIN-14 is one that each shop or company gives out for itself.

    Such a number (GS1 prefixes 02, 04 and 20-29; GTIN-8 beginning with 0 or 2) means milk in one
    shop and liquor in the next: it is a key inside one shop, never an entry of a product list that
    several shops share. Raises Malformed if `gtin` is not a good GTIN-14.
    """
    if not isinstance(gtin, str) or not _GTIN_14.fullmatch(gtin):
        raise Malformed("must be 14 digits", field="gtin")
    normalise_gtin(gtin)
    if gtin.startswith("000000"):
        return gtin[6] in "02"
    return gtin[1:3] in {"02", "04"} or gtin[1] == "2"


def is_product_key(value: object) -> bool:
    """Whether `value` is a product key: a good GTIN-14, or `cat:` and a name (`cat:rice-loose`)."""
    try:
        parse_product_key(value)
    except Malformed:
        return False
    return True


def parse_product_key(value: object) -> str:
    """`value` if it is a product key in its one spelling (a GTIN has exactly 14 digits here).

    Raises Malformed otherwise.
    """
    if isinstance(value, str):
        if _GTIN_14.fullmatch(value):
            return normalise_gtin(value)
        if value.startswith(_CATEGORY_KEY_PREFIX) and _NAME.fullmatch(
            value, len(_CATEGORY_KEY_PREFIX)
        ):
            return value
    raise Malformed("must be a GTIN-14 or cat: and a name", field="key")


def parse_category(value: object) -> str:
    """`value` if it is a category's name: `[a-z0-9][a-z0-9-]{0,39}`. Raises Malformed otherwise."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Malformed("must be a name of a-z, 0-9 and -", field="category")
    return value


@dataclass(frozen=True)
class WeighedScheme:
    """Where a shop's scales put what into a 13-digit code of GS1 prefixes 20-29.

    GS1 leaves the inside of these numbers to each country or shop. Positions count from 0;
    the last digit is always the check digit. The defaults are the common Chinese layout: prefix
    21, five digits of item code, five of the amount in fen.
    """

    prefixes: tuple[str, ...] = ("21",)
    item_start: int = 2
    item_length: int = 5
    value_start: int = 7
    value_length: int = 5
    value: Literal["amount_minor", "quantity_g"] = "amount_minor"

    def __post_init__(self) -> None:
        if not self.prefixes or not all(re.fullmatch("2[0-9]", p) for p in self.prefixes):
            raise Malformed("prefixes must be of 20 to 29", field="weighed_scheme")
        item = range(self.item_start, self.item_start + self.item_length)
        value = range(self.value_start, self.value_start + self.value_length)
        for part in (item, value):
            if not part or part.start < 2 or part.stop > 12:
                raise Malformed("positions must lie within 2 to 11", field="weighed_scheme")
        if set(item) & set(value):
            raise Malformed("item code and value overlap", field="weighed_scheme")
        if self.value not in ("amount_minor", "quantity_g"):
            raise Malformed("value must be amount_minor or quantity_g", field="weighed_scheme")

    def covers(self, text: str) -> bool:
        """Whether `text` looks like a code of this scheme (its check digit isn't looked at)."""
        return re.fullmatch("[0-9]{13}", text) is not None and text[:2] in self.prefixes


@dataclass(frozen=True)
class WeighedGoods:
    """What a weighed-goods label says: an item code, and either an amount or grams, never both."""

    item_code: str
    amount_minor: int | None
    quantity_g: int | None


def parse_weighed_code(text: object, scheme: WeighedScheme) -> WeighedGoods:
    """What the 13-digit label `text` of this scheme says. The value may be 0.

    Raises Malformed for another prefix, another length or a wrong check digit.
    """
    if not isinstance(text, str) or not scheme.covers(text):
        raise Malformed("not a weighed-goods code of this shop", field="weighed_code")
    normalise_gtin(text)
    item_code = text[scheme.item_start : scheme.item_start + scheme.item_length]
    value = int(text[scheme.value_start : scheme.value_start + scheme.value_length])
    if scheme.value == "amount_minor":
        return WeighedGoods(item_code, value, None)
    return WeighedGoods(item_code, None, value)


def weighed_code(item_code: str, value: int, scheme: WeighedScheme) -> str:
    """The 13-digit label a scale prints; the inverse of `parse_weighed_code`.

    The first of the scheme's prefixes is used, positions the scheme doesn't name are 0. Raises
    Malformed when item code or value don't fit their places.
    """
    if not re.fullmatch(f"[0-9]{{{scheme.item_length}}}", item_code):
        raise Malformed(f"must have {scheme.item_length} digits", field="item_code")
    strict_json.integer(value, scheme.value, high=10**scheme.value_length - 1)
    places = list("0" * 12)
    places[:2] = scheme.prefixes[0]
    places[scheme.item_start : scheme.item_start + scheme.item_length] = item_code
    places[scheme.value_start : scheme.value_start + scheme.value_length] = str(value).zfill(
        scheme.value_length
    )
    digits = "".join(places)
    return f"{digits}{gtin_check_digit(digits)}"


# 市制 since 1959: 1 斤 = 10 两 = 500 g, 1 公斤 = 1 kg.
GRAMS_PER_UNIT: Mapping[str, int] = MappingProxyType(
    {
        "克": 1,
        "g": 1,
        "两": 50,
        "市两": 50,
        "斤": 500,
        "市斤": 500,
        "公斤": 1000,
        "千克": 1000,
        "kg": 1000,
    }
)

_DECIMAL = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")


def to_grams(quantity_text: object, unit_text: object) -> int:
    """Grams of a weight as people write it: ("1.5", "斤") is 750. Exact, integers only.

    Raises Malformed for an unknown unit, anything but plain decimal digits, more than 10^9 g, and
    a weight that is not a whole number of grams ("0.001" 斤 is half a gram).
    """
    factor = GRAMS_PER_UNIT.get(unit_text) if isinstance(unit_text, str) else None
    if factor is None:
        raise Malformed("not a unit of weight", field="unit")
    number = _DECIMAL.fullmatch(quantity_text) if isinstance(quantity_text, str) else None
    if number is None:
        raise Malformed("must be a plain decimal number", field="quantity")
    decimals = number[2] or ""
    scale: int = 10 ** len(decimals)
    grams, rest = divmod(int(number[1] + decimals) * factor, scale)
    if rest:
        raise Malformed("must be a whole number of grams", field="quantity")
    if grams > MAX_QUANTITY:
        raise Malformed(f"must be at most {MAX_QUANTITY} g", field="quantity")
    return grams


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _checked_entries(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise Malformed("must be an object", field="entries")
    if len(value) > MAX_ENTRIES:
        raise Malformed(f"must have at most {MAX_ENTRIES} names", field="entries")
    return {parse_product_key(key): parse_category(category) for key, category in value.items()}


@dataclass(frozen=True)
class ProductList:
    """Which product keys belong to which category. At most 20,000 entries, read-only.

    `version` (1 or more) only grows; a changed list is a new version.
    """

    product_list_id: str
    version: int
    # Not part of the hash (a mapping has none); equality still compares it.
    entries: Mapping[str, str] = field(hash=False)

    def __post_init__(self) -> None:
        if not _is_name(self.product_list_id):
            raise Malformed("must be a name of a-z, 0-9 and -", field="product_list")
        strict_json.integer(self.version, "version", low=1)
        # A copy, sorted: what the caller does to its own mapping later can't change this list.
        checked = _checked_entries(self.entries)
        object.__setattr__(self, "entries", MappingProxyType(dict(sorted(checked.items()))))

    def category_of(self, key: str) -> str | None:
        """The category of a product key; None if the list doesn't have it."""
        return self.entries.get(key)

    @property
    def categories(self) -> frozenset[str]:
        """Every category that at least one entry has."""
        return frozenset(self.entries.values())

    @classmethod
    def from_json_object(cls, value: object) -> ProductList:
        """Reads `{"product_list", "version", "entries": {key: category}}`, strictly.

        Raises Malformed for a missing or unknown name, a wrong type or a bad key or category.
        """
        names = frozenset({"product_list", "version", "entries"})
        given = strict_json.exact_names(value, names, where="product_list")
        entries = strict_json.mapping(given["entries"], "entries", high=MAX_ENTRIES)
        return cls(given["product_list"], given["version"], entries)

    def to_json_object(self) -> dict[str, object]:
        """The inverse of `from_json_object`; entries sorted by key."""
        return {
            "product_list": self.product_list_id,
            "version": self.version,
            "entries": dict(self.entries),
        }
