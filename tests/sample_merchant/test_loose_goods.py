"""The shop's own table of goods without a barcode."""

from __future__ import annotations

import pytest

from carepos.errors import Malformed
from sample_merchant.loose_goods import load_loose_goods
from sample_merchant.product_export import DATA, sample_catalogue


def test_the_shops_table_covers_every_loose_row() -> None:
    """Each of the sample's goods without a barcode has a category key."""
    table = load_loose_goods((DATA / "loose-goods.csv").read_bytes())
    sold = {p.key: p.description for p in sample_catalogue().products if p.key.startswith("cat:")}
    assert {goods.key: goods.name for goods in table} == sold


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key,name,scale_item\n",
        "name,key,scale_item\n散装大米,rice,\n",
        "name,key,scale_item\n散装大米,cat:rice\n",
        "name,key,scale_item\n,cat:rice,\n",
        "name,key,scale_item\n猪肉,cat:pork,A1\n",
        "name,key,scale_item\n猪肉,cat:pork,\n猪肉,cat:pork-2,\n",
        "name,key,scale_item\n猪肉,cat:pork,\n肉,cat:pork,\n",
        "name,key,scale_item\n猪肉,cat:pork,1\n肉,cat:meat,1\n",
        'name,key,scale_item\n"猪肉,cat:pork,1\n',
    ],
)
def test_a_wrong_table_of_loose_goods_is_refused(text: str) -> None:
    """A table in which a name, key or scale item is wrong or stands twice is refused whole."""
    with pytest.raises(Malformed):
        load_loose_goods(text.encode())


def test_a_table_in_another_encoding_is_refused() -> None:
    """The table is UTF-8; GB18030 is refused instead of misread."""
    with pytest.raises(Malformed):
        load_loose_goods("name,key,scale_item\n猪肉,cat:pork,\n".encode("gb18030"))
