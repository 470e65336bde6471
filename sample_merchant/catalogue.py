"""The goods a shop sells, found by what is scanned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from carepos.errors import Malformed
from carepos.product import Unit, WeighedScheme, normalise_gtin, parse_weighed_code
from sample_merchant.damaged_rows import DamagedRow
from sample_merchant.loose_goods import LooseGoods, by_scale_item


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
        goods = by_scale_item(self.loose_goods).get(label.item_code)
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


def _scanned(text: object) -> str:
    """The digits of a scan: without white space and the scanner's AIM symbology identifier."""
    if not isinstance(text, str) or len(text) > 64:
        raise Malformed("not a barcode of goods", field="scan")
    return re.sub(r"\A\]E[0-9]", "", text.strip())


def _round_half_up(amount: int, divisor: int) -> int:
    return (2 * amount + divisor) // (2 * divisor)
