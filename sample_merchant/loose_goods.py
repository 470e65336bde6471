"""The shop's own table of goods without a barcode."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass

from carepos.errors import Malformed
from carepos.product import parse_product_key


@dataclass(frozen=True)
class LooseGoods:
    """What this shop calls goods without a barcode, and under which item code its scales know them.

    The export knows neither: it is the shop's own small table, data/loose-goods.csv.
    """

    name: str
    key: str
    scale_item: str | None


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


def by_scale_item(loose_goods: Iterable[LooseGoods]) -> dict[str, LooseGoods]:
    return {goods.scale_item: goods for goods in loose_goods if goods.scale_item is not None}
