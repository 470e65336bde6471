"""The shop's goods, read from the product export of its PC.

Such a file has been through a spreadsheet: GB18030 or UTF-8, barcodes shown as 6.91305E+12, leading
zeros gone. A row that can't be read with certainty is not loaded and not dropped: it is listed with
its line, the reason and what to do, and the other rows are sold meanwhile.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from carepos.errors import Malformed
from carepos.money import minor_unit_digits
from carepos.product import (
    GRAMS_PER_UNIT,
    Unit,
    WeighedScheme,
    is_restricted_circulation,
    normalise_gtin,
    parse_weighed_code,
)
from sample_merchant.catalogue import Catalogue, Product
from sample_merchant.damaged_rows import DamagedRow
from sample_merchant.loose_goods import LooseGoods, by_scale_item, load_loose_goods

DATA = Path(__file__).parent / "data"

MAX_FILE_BYTES = 16 * 1024 * 1024
COLUMNS = ("条码", "品名", "规格", "单位", "售价", "类别")

# Words for one countable thing. A word that stands in neither table is not guessed at.
PIECE_UNITS = frozenset("箱罐袋桶把瓶板包支块床个套盒份件双条台本听筒片卷张只根捆提串杯碗组副")


def load_products(
    data: bytes,
    loose_goods: Sequence[LooseGoods],
    *,
    scheme: WeighedScheme | None = None,
    currency: str = "CNY",
) -> Catalogue:
    """The catalogue of an export's bytes: CSV, GB18030 or UTF-8, one row a line, a header first.

    Raises Malformed only if the file as a whole can't be read (not such a file, no header, larger
    than 16 MiB). Blank rows hold nothing and are passed over; every other row is accounted for.
    """
    scheme = scheme or WeighedScheme()
    lines = _numbered_lines(data)
    header, rows = _after_header(lines)
    reader = _RowReader(header, loose_goods, scheme, minor_unit_digits(currency))
    products: list[Product] = []
    scale_products: list[Product] = []
    scale_lines: list[int] = []
    damaged: list[DamagedRow] = []
    codes: dict[int, str] = {}
    for line_no, line in rows:
        try:
            fields = _split_line(line)
            if not any(part.strip() for part in fields):
                continue
            codes[line_no] = _shown(fields[reader.code_place : reader.code_place + 1])
            product, is_scale_row = reader.read(line_no, fields)
        except _Damage as damage:
            damaged.append(DamagedRow(line_no, codes.get(line_no, ""), damage.reason))
            continue
        if product is None:
            scale_lines.append(line_no)
        elif is_scale_row:
            scale_products.append(product)
        else:
            products.append(product)
    # A scale's row may repeat, under its own name, the price of the loose goods it weighs.
    prices = {(p.key, p.price_minor, p.price_quantity) for p in products}
    for product in scale_products:
        if (product.key, product.price_minor, product.price_quantity) in prices:
            scale_lines.append(product.line_no)
        else:
            products.append(product)
    kept, repeated = _without_duplicates(products)
    damaged += [DamagedRow(line_no, codes[line_no], reason) for line_no, reason in repeated]
    return Catalogue(
        products=tuple(sorted(kept, key=lambda product: product.line_no)),
        scale_lines=tuple(sorted(scale_lines)),
        damaged=tuple(sorted(damaged, key=lambda row: row.line_no)),
        loose_goods=tuple(loose_goods),
        scheme=scheme,
        currency=currency,
    )


def sample_catalogue() -> Catalogue:
    """The sample shop's catalogue, from the files beside this module."""
    return load_products(
        (DATA / "products_gb18030.csv").read_bytes(),
        load_loose_goods((DATA / "loose-goods.csv").read_bytes()),
    )


def price_to_minor(text: str, minor_digits: int) -> int:
    """A price as a shop's PC writes it, in minor units: "64.9" is 6490. Exact; may be 0.

    A ¥ before, a 元 after and thousands commas are understood. Raises Malformed for anything else,
    and for decimals beyond the currency's minor unit.
    """
    plain = _ascii_digits(text).strip().removeprefix("¥").removeprefix("￥").removesuffix("元")
    if not re.fullmatch(r"(?:[0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,2})(?:\.[0-9]{1,6})?", plain):
        raise Malformed("not a plain amount", field="price")
    minor = Decimal(plain.replace(",", "")).scaleb(minor_digits)
    if minor != int(minor):
        raise Malformed("decimals beyond the minor unit", field="price")
    return int(minor)


class _Damage(Exception):
    """Why the row at hand is not loaded; never leaves this module."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _RowReader:
    """Reads rows of one export; knows the header's order and the shop's own table."""

    def __init__(
        self,
        header: Sequence[str],
        loose_goods: Sequence[LooseGoods],
        scheme: WeighedScheme,
        minor_digits: int,
    ) -> None:
        self.width = len(header)
        self.places = [header.index(column) for column in COLUMNS]
        self.code_place = self.places[0]
        self.by_name = {goods.name: goods for goods in loose_goods}
        self.by_scale_item = by_scale_item(loose_goods)
        self.scheme = scheme
        self.minor_digits = minor_digits

    def read(self, line_no: int, fields: Sequence[str]) -> tuple[Product | None, bool]:
        """The product of a row, and whether a scale's code names it. Raises _Damage.

        Only a scale's row may lack a price, and it has no product then.
        """
        if len(fields) != self.width:
            raise _Damage("column_count")
        # Runs of white space become one space: an ideographic space is common, and harmless.
        code, name, spec, unit, price, category = (
            " ".join(fields[place].split()) for place in self.places
        )
        if not all(part.isprintable() for part in (name, spec, unit, price, category)):
            raise _Damage("control_characters")
        if len(name) > 100 or len(spec) > 80:
            raise _Damage("text_too_long")
        key, is_scale_row = self._key(code, name)
        if not name:
            raise _Damage("name_missing")
        sold_in, price_quantity = _unit(unit.lower())
        if is_scale_row and not price:
            return None, True
        if sold_in == "g" and not key.startswith("cat:"):
            raise _Damage("unit_needs_scale")
        product = Product(
            line_no=line_no,
            key=key,
            description=name,
            spec=spec,
            unit=sold_in,
            price_minor=self._price(price),
            price_quantity=price_quantity,
            category_text=category,
        )
        return product, is_scale_row

    def _key(self, code: str, name: str) -> tuple[str, bool]:
        """The product key of a row, and whether its code is one of the shop's scales."""
        if not code:
            goods = self.by_name.get(name)
            if goods is None:
                raise _Damage("no_code" if name else "name_missing")
            return goods.key, False
        # Spreadsheets mark a text cell with an apostrophe; it is no part of the number.
        digits = _ascii_digits(code).removeprefix("'")
        if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?[eE][+-]?[0-9]+", digits):
            raise _Damage("scientific_notation")
        if not re.fullmatch("[0-9]+", digits):
            raise _Damage("not_a_barcode")
        if len(digits) not in (8, 12, 13, 14):
            raise _Damage("digits_lost")
        is_scale_row = self.scheme.covers(digits)
        # 6.91305E+12 saved and opened again; one in ten such numbers has a good check digit.
        if not is_scale_row and len(digits) > 8 and digits.endswith("000000"):
            raise _Damage("scientific_notation")
        # GS1 China's 690-699: one in ten cut by a digit is a good GTIN-12 of someone else's.
        if len(digits) == 12 and digits.startswith("69"):
            raise _Damage("cut_short")
        try:
            gtin = normalise_gtin(digits)
        except Malformed:
            raise _Damage("check_digit") from None
        if is_scale_row:
            item = self.by_scale_item.get(parse_weighed_code(digits, self.scheme).item_code)
            if item is None:
                raise _Damage("scale_item_unknown")
            return item.key, True
        if is_restricted_circulation(gtin):
            raise _Damage("in_store_code")
        return gtin, False

    def _price(self, text: str) -> int:
        if not text:
            raise _Damage("price_missing")
        try:
            minor = price_to_minor(text, self.minor_digits)
        except Malformed:
            raise _Damage("price") from None
        if minor == 0:
            raise _Damage("price_zero")
        return minor


def _unit(text: str) -> tuple[Unit, int]:
    """What a unit's word counts in, and how much of it the price is for."""
    if text in PIECE_UNITS:
        return "piece", 1
    if text in GRAMS_PER_UNIT:
        return "g", GRAMS_PER_UNIT[text]
    raise _Damage("unit_unknown")


def _without_duplicates(
    products: Iterable[Product],
) -> tuple[list[Product], list[tuple[int, str]]]:
    """Products with a key of their own, and (line, reason) of those that share one."""
    by_key: dict[str, list[Product]] = defaultdict(list)
    for product in products:
        by_key[product.key].append(product)
    kept: list[Product] = []
    repeated: list[tuple[int, str]] = []
    for rows in by_key.values():
        if len({replace(row, line_no=0) for row in rows}) == 1:
            kept.append(rows[0])
            repeated += [(row.line_no, "duplicate") for row in rows[1:]]
        else:
            repeated += [(row.line_no, "duplicate_differs") for row in rows]
    return kept, repeated


def _numbered_lines(data: bytes) -> list[tuple[int, str | None]]:
    """Lines with their numbers from 1; None for a line whose bytes are no text.

    A line ends at LF or CR LF in both encodings: no byte of a GB18030 character is a line feed.
    """
    if len(data) > MAX_FILE_BYTES:
        raise Malformed("larger than 16 MiB", field="products")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise Malformed("not a CSV file; save it as CSV, not as Unicode text", field="products")
    try:
        data.decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "gb18030"
    lines: list[tuple[int, str | None]] = []
    for line_no, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            lines.append((line_no, raw.removesuffix(b"\r").decode(encoding)))
        except UnicodeDecodeError:
            lines.append((line_no, None))
    return lines


def _after_header(
    lines: Sequence[tuple[int, str | None]],
) -> tuple[list[str], Sequence[tuple[int, str | None]]]:
    """The header's columns and the lines after it. Its columns may stand in any order."""
    for place, (_, line) in enumerate(lines):
        if line is not None and not line.strip():
            continue
        try:
            header = [column.strip() for column in _split_line(line)]
        except _Damage:
            break
        if all(header.count(column) == 1 for column in COLUMNS):
            return header, lines[place + 1 :]
        break
    raise Malformed("the first line must name the columns " + "、".join(COLUMNS), field="products")


def _split_line(line: str | None) -> list[str]:
    # One line at a time: an unclosed quotation mark must not swallow the rows below it.
    if line is None:
        raise _Damage("encoding")
    if not line.strip():
        return []
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration):
        raise _Damage("quoting") from None


_FULL_WIDTH = str.maketrans("０１２３４５６７８９．，", "0123456789.,")


def _ascii_digits(text: str) -> str:
    """Full-width digits, as Chinese input methods type them, in ASCII; no other script's."""
    return text.translate(_FULL_WIDTH)


def _shown(code: Sequence[str]) -> str:
    return "".join(char for char in "".join(code).strip() if char.isprintable())[:40]
