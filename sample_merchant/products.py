"""The shop's goods, read from the product export of its PC.

Such a file has been through a spreadsheet: GB18030 or UTF-8, barcodes shown as 6.91305E+12, leading
zeros gone. A row that can't be read with certainty is not loaded and not dropped: it is listed with
its line, the reason and what to do, and the other rows are sold meanwhile.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

from carepos.errors import Malformed
from carepos.money import minor_unit_digits
from carepos.product import (
    GRAMS_PER_UNIT,
    Unit,
    WeighedScheme,
    is_restricted_circulation,
    normalise_gtin,
    parse_product_key,
    parse_weighed_code,
)

DATA = Path(__file__).parent / "data"

MAX_FILE_BYTES = 16 * 1024 * 1024
COLUMNS = ("条码", "品名", "规格", "单位", "售价", "类别")

# Words for one countable thing. A word that stands in neither table is not guessed at.
PIECE_UNITS = frozenset("箱罐袋桶把瓶板包支块床个套盒份件双条台本听筒片卷张只根捆提串杯碗组副")

# reason: (what is wrong and what to do in English, the same in Chinese)
REASONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "encoding": (
            "This line is not valid text. Export the file again.",
            "这一行不是有效文字，请重新导出文件。",
        ),
        "quoting": (
            "A quotation mark in this line is not closed. Correct the name in the shop system.",
            "这一行的引号没有成对，请在收银系统里改正品名。",
        ),
        "column_count": (
            (
                "This line has more or fewer columns than the header, often from a comma inside the"
                " name. Put the name in double quotes, or use a Chinese comma."
            ),
            "这一行的列数与表头不同，多半是品名里有英文逗号。请给品名加上英文双引号，或改用中文逗号。",
        ),
        "control_characters": (
            (
                "A text in this line holds characters that can't be shown, or that a printer would"
                " take as commands. Type the text again."
            ),
            "这一行的文字里有无法显示的字符，或打印机会当作命令的字符。请重新输入文字。",
        ),
        "text_too_long": (
            "The name or the specification is too long (100 and 80 characters). Shorten it.",
            "品名或规格太长（分别最多100字和80字），请缩短。",
        ),
        "scientific_notation": (
            (
                "A spreadsheet turned the barcode into scientific notation and its last digits are"
                " gone. Scan the barcode again into a text column."
            ),
            "条码被电子表格改成了科学计数法，末尾数字已丢失。请把该列设为文本后重新扫描条码。",
        ),
        "not_a_barcode": (
            "The barcode holds something other than digits. Scan it again into a text column.",
            "条码里有数字以外的字符。请把该列设为文本后重新扫描条码。",
        ),
        "digits_lost": (
            (
                "The barcode does not have 8, 12, 13 or 14 digits; a spreadsheet may have dropped"
                " some. Scan it again."
            ),
            "条码不是8、12、13或14位，可能被电子表格丢掉了数字。请重新扫描条码。",
        ),
        "cut_short": (
            (
                "The barcode has 12 digits and begins like a Chinese one of 13: its last digit may"
                " be gone. Scan it again; if it really has 12, write it with a 0 in front."
            ),
            "条码只有12位，却像13位的国内条码，末位可能丢失。请重新扫描；确实是12位的，请在前面补0。",
        ),
        "check_digit": (
            "The barcode's check digit is wrong, so at least one digit is. Scan it again.",
            "条码校验位不对，至少有一位数字错了。请重新扫描条码。",
        ),
        "in_store_code": (
            (
                "This number is one that each shop gives out itself, and it is not in the form of"
                " this shop's scales. Use the maker's barcode or a category key."
            ),
            "这是店内自编码，又不是本店秤码的格式。请用厂家条码，或按散装商品登记。",
        ),
        "scale_item_unknown": (
            "This scale's item code is not in the list of loose goods. Add it there.",
            "散装商品表里没有这个秤码品号，请补上。",
        ),
        "no_code": (
            (
                "There is no barcode, and the name is not in the list of loose goods."
                " Scan the barcode, or add the name to that list."
            ),
            "没有条码，散装商品表里也没有这个品名。请扫描条码，或把品名加到散装商品表。",
        ),
        "name_missing": (
            "The name is missing. Enter it.",
            "没有品名，请补上。",
        ),
        "unit_unknown": (
            "The unit is missing or not known here, so the price can't be understood. Correct it.",
            "单位缺失或无法识别，无法确定售价按什么计算，请改正。",
        ),
        "unit_needs_scale": (
            (
                "Goods with a maker's barcode are priced by weight, but the barcode does not say"
                " the weight. Price them by piece, or sell them as loose goods."
            ),
            "有厂家条码的商品按重量计价，但条码里没有重量。请改为按件计价，或按散装商品销售。",
        ),
        "price_missing": (
            "The price is missing. Enter it.",
            "没有售价，请补上。",
        ),
        "price": (
            "The price is not a plain amount such as 12.50. Correct it.",
            "售价不是像12.50这样的金额，请改正。",
        ),
        "price_zero": (
            "The price is zero. Enter the real price.",
            "售价为零，请填写实际售价。",
        ),
        "duplicate": (
            "This row repeats an earlier one. Delete one of them; the earlier one is sold.",
            "这一行与前面的一行重复，请删去一行；目前按前面那行销售。",
        ),
        "duplicate_differs": (
            "Several rows have this code but differ, so none of them is sold. Keep the right one.",
            "有几行同一条码但内容不同，目前都不销售。请只保留正确的一行。",
        ),
    }
)


@dataclass(frozen=True)
class Product:
    """One good row. `price_minor` buys `price_quantity` of `unit`: 290 for 500 g, 6490 for 1 piece.

    `key` is a product key: a GTIN-14, or a category key for loose goods.
    """

    line_no: int
    key: str
    description: str
    spec: str
    unit: Unit
    price_minor: int
    price_quantity: int
    category_text: str

    @property
    def full_description(self) -> str:
        return f"{self.description} {self.spec}".rstrip()

    def amount_minor(self, quantity: int) -> int:
        """What `quantity` (in `unit`) costs, half a minor unit rounded up as scales do."""
        return _round_half_up(self.price_minor * quantity, self.price_quantity)


@dataclass(frozen=True)
class DamagedRow:
    """A row that is not sold. `code` is the barcode column as it stands, made printable."""

    line_no: int
    code: str
    reason: str

    @property
    def sentence_en(self) -> str:
        return REASONS[self.reason][0]

    @property
    def sentence_zh(self) -> str:
        return REASONS[self.reason][1]


@dataclass(frozen=True)
class LooseGoods:
    """What this shop calls goods without a barcode, and under which item code its scales know them.

    The export knows neither: it is the shop's own small table, data/loose-goods.csv.
    """

    name: str
    key: str
    scale_item: str | None


@dataclass(frozen=True)
class BasketLine:
    """One line of a register's basket. `line_amount_minor` is what the register charges for it."""

    key: str
    description: str
    quantity: int
    unit: Unit
    line_amount_minor: int


@dataclass(frozen=True)
class Catalogue:
    """Everything one export said: goods to sell, rows for the shopkeeper to mend.

    `scale_lines` are the lines of good rows that only say that a scale's item exists (without a
    price, or with that of the loose goods). Each row of the file that isn't blank is in exactly one
    of the three.
    """

    products: tuple[Product, ...]
    scale_lines: tuple[int, ...]
    damaged: tuple[DamagedRow, ...]
    loose_goods: tuple[LooseGoods, ...]
    scheme: WeighedScheme
    currency: str
    _by_key: Mapping[str, Product] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_key", MappingProxyType({p.key: p for p in self.products}))

    def find_by_key(self, key: str) -> Product | None:
        """The product of a GTIN-14 or a category key; None if the shop doesn't sell it."""
        return self._by_key.get(key)

    def find_by_scan(self, text: object) -> BasketLine | None:
        """One scanned barcode as a line; None if it is a good code that the shop doesn't know.

        EAN-13, UPC-A, EAN-8 and GTIN-14 give one piece. A label of the shop's scales gives its
        amount and, if the price per weight is known, the nearest whole gram; else one piece.
        Raises Malformed for what is no barcode, a wrong check digit, or a label without a value.
        """
        code = _scanned(text)
        if self.scheme.covers(code):
            return self._weighed_line(code)
        product = self.find_by_key(normalise_gtin(code))
        if product is None:
            return None
        return BasketLine(
            product.key, product.full_description, 1, product.unit, product.amount_minor(1)
        )

    def _weighed_line(self, code: str) -> BasketLine | None:
        label = parse_weighed_code(code, self.scheme)
        goods = _by_scale_item(self.loose_goods).get(label.item_code)
        if goods is None:
            return None
        if not (label.amount_minor or label.quantity_g):
            raise Malformed("the label holds neither an amount nor a weight", field="scan")
        product = self.find_by_key(goods.key)
        if product is None or product.unit != "g":
            if label.amount_minor is None:
                raise Malformed("the price of these weighed goods is not known", field="scan")
            return BasketLine(goods.key, goods.name, 1, "piece", label.amount_minor)
        if label.amount_minor is None:
            grams = label.quantity_g or 0
            amount_minor = product.amount_minor(grams)
        else:
            amount_minor = label.amount_minor
            grams = _round_half_up(amount_minor * product.price_quantity, product.price_minor)
        return BasketLine(product.key, product.full_description, max(1, grams), "g", amount_minor)


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


def load_loose_goods(data: bytes) -> tuple[LooseGoods, ...]:
    """The shop's table of loose goods: CSV in UTF-8 with columns name, key, scale_item.

    Raises Malformed if it isn't that, or if a name, key or scale item stands twice.
    """
    try:
        rows = list(csv.reader(data.decode("utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise Malformed("not a CSV file in UTF-8", field="loose_goods") from None
    if not rows or rows[0] != ["name", "key", "scale_item"]:
        raise Malformed("must begin with name,key,scale_item", field="loose_goods")
    made: list[LooseGoods] = []
    for row in filter(None, rows[1:]):
        if len(row) != 3 or not row[0] or not re.fullmatch("[0-9]*", row[2]):
            raise Malformed("a row is not name, key, digits or nothing", field="loose_goods")
        made.append(LooseGoods(row[0], parse_product_key(row[1]), row[2] or None))
    for column in (
        [goods.name for goods in made],
        [goods.key for goods in made],
        [goods.scale_item for goods in made if goods.scale_item],
    ):
        if len(set(column)) != len(column):
            raise Malformed("a name, key or scale item stands twice", field="loose_goods")
    return tuple(made)


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
        self.by_scale_item = _by_scale_item(loose_goods)
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


def _by_scale_item(loose_goods: Iterable[LooseGoods]) -> dict[str, LooseGoods]:
    return {goods.scale_item: goods for goods in loose_goods if goods.scale_item is not None}


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


def _scanned(text: object) -> str:
    """The digits of a scan: without white space and the scanner's AIM symbology identifier."""
    if not isinstance(text, str) or len(text) > 64:
        raise Malformed("not a barcode of goods", field="scan")
    return re.sub(r"\A\]E[0-9]", "", text.strip())


_FULL_WIDTH = str.maketrans("０１２３４５６７８９．，", "0123456789.,")


def _ascii_digits(text: str) -> str:
    """Full-width digits, as Chinese input methods type them, in ASCII; no other script's."""
    return text.translate(_FULL_WIDTH)


def _shown(code: Sequence[str]) -> str:
    return "".join(char for char in "".join(code).strip() if char.isprintable())[:40]


def _round_half_up(amount: int, divisor: int) -> int:
    return (2 * amount + divisor) // (2 * divisor)
