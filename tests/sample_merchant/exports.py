"""Product exports of a row or two, written as a shop's PC writes them."""

from __future__ import annotations

from carepos.product import WeighedScheme
from sample_merchant.catalogue import Catalogue
from sample_merchant.loose_goods import LooseGoods
from sample_merchant.product_export import load_products

HEADER = "条码,品名,规格,单位,售价,类别"
MILK = "6913046198782,纯牛奶,250ml*24,箱,64.9,奶制品"
LOOSE = (
    LooseGoods("散装大米", "cat:rice-loose", None),
    LooseGoods("猪肉", "cat:pork", "00123"),
    LooseGoods("鸡蛋散", "cat:eggs-loose", "00200"),
)
PORK = ",猪肉,,斤,15.8,肉"


def load(*rows: str, header: str = HEADER, scheme: WeighedScheme | None = None) -> Catalogue:
    text = "\r\n".join((header, *rows)) + "\r\n"
    return load_products(text.encode("gb18030"), LOOSE, scheme=scheme)


def reasons(catalogue: Catalogue) -> list[tuple[int, str]]:
    return [(row.line_no, row.reason) for row in catalogue.damaged]
