"""The sample register: what a cashier presses becomes the basket that the plugin takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.errors import Malformed
from carepos.product import WeighedScheme, weighed_code
from sample_merchant.loose_goods import LooseGoods
from sample_merchant.product_export import load_products, sample_catalogue
from sample_merchant.register import Register

CATALOGUE = sample_catalogue()
MILK = "6913046198782"
FORMULA = "6936687862270"
BEER = "6972422438676"


def pork_label(amount_minor: int) -> str:
    return weighed_code("00123", amount_minor, WeighedScheme())


def test_a_mixed_basket_in_the_form_of_the_api() -> None:
    """Scans, the quantity key, loose goods and a discount become the plugin's plain JSON."""
    register = Register(CATALOGUE)
    register.press_quantity(2)
    register.scan(MILK)
    register.scan(pork_label(2370))
    register.add_weighed("cat:rice-loose", "1.5", "斤")
    register.give_discount(500)
    basket = register.to_basket()
    assert basket == {
        "lines": [
            {
                "key": "06913046198782",
                "description": "纯牛奶 250ml*24",
                "quantity": 2,
                "unit": "piece",
                "line_amount_minor": 12980,
            },
            {
                "key": "cat:pork",
                "description": "猪肉",
                "quantity": 750,
                "unit": "g",
                "line_amount_minor": 2370,
            },
            {
                "key": "cat:rice-loose",
                "description": "散装大米",
                "quantity": 750,
                "unit": "g",
                "line_amount_minor": 435,
            },
        ],
        "discount_minor": 500,
    }
    assert json.loads(json.dumps(basket)) == basket
    assert (register.subtotal_minor, register.total_minor) == (15785, 15285)
    assert register.discount_minor == 500


@given(st.lists(st.tuples(st.sampled_from([MILK, FORMULA, BEER]), st.integers(1, 9)), min_size=1))
def test_the_order_of_scans_does_not_change_what_is_owed(scans: list[tuple[str, int]]) -> None:
    """One line per product, its pieces summed, whatever the order; amounts are whole fen."""
    register = Register(CATALOGUE)
    for code, quantity in scans:
        register.press_quantity(quantity)
        register.scan(code)
    prices = {product.key: product.price_minor for product in CATALOGUE.products}
    assert len(register.lines) == len({code for code, _ in scans})
    assert sum(line.quantity for line in register.lines) == sum(q for _, q in scans)
    for line in register.lines:
        assert line.line_amount_minor == prices[line.key] * line.quantity
        assert type(line.line_amount_minor) is int


def test_the_quantity_key_counts_for_one_scan() -> None:
    """After a scan the quantity is one again; a scan that added nothing leaves it waiting."""
    register = Register(CATALOGUE)
    register.press_quantity(3)
    with pytest.raises(Malformed):
        register.scan("6913046198783")
    assert register.scan("4006381333931") is None
    register.scan(MILK)
    register.scan(FORMULA)
    assert [line.quantity for line in register.lines] == [3, 1]


def test_each_weighed_bag_is_a_line_of_its_own() -> None:
    """Two equal labels are two bags; the quantity key doesn't multiply a label."""
    register = Register(CATALOGUE)
    register.scan(pork_label(1000))
    register.scan(pork_label(1000))
    assert len(register.lines) == 2
    register.press_quantity(2)
    with pytest.raises(Malformed):
        register.scan(pork_label(1000))
    assert len(register.lines) == 2


def test_undo_takes_back_the_last_entry_only() -> None:
    """Undo returns to the state before the last entry, as often as there were entries."""
    register = Register(CATALOGUE)
    register.scan(MILK)
    register.scan(FORMULA)
    register.scan(MILK)
    register.undo()
    assert [line.quantity for line in register.lines] == [1, 1]
    register.undo()
    register.undo()
    register.undo()
    assert register.lines == ()


def test_a_refused_entry_changes_nothing() -> None:
    """Whatever is refused, the basket is as it was."""
    register = Register(CATALOGUE)
    register.scan(MILK)
    before = register.to_basket()
    for quantity in (0, -1, 1000, True, 1.0, "2"):
        with pytest.raises(Malformed):
            register.press_quantity(quantity)  # type: ignore[arg-type]
        with pytest.raises(Malformed):
            register.add_pieces("06913046198782", quantity)  # type: ignore[arg-type]
    for key, text, unit in (
        ("cat:rice-loose", "0", "斤"),
        ("cat:rice-loose", "0.001", "斤"),
        ("cat:rice-loose", "1", "箱"),
        ("cat:unknown", "1", "斤"),
        ("06913046198782", "1", "斤"),
    ):
        with pytest.raises(Malformed):
            register.add_weighed(key, text, unit)
    with pytest.raises(Malformed):
        register.add_pieces("cat:rice-loose", 1)
    with pytest.raises(Malformed):
        register.scan("2100123000005")
    assert register.to_basket() == before


def test_a_discount_is_within_the_basket() -> None:
    """A discount is whole fen between nothing and everything, also after lines were taken back."""
    register = Register(CATALOGUE)
    register.scan(MILK)
    for discount in (-1, 6491, True, 1.0):
        with pytest.raises(Malformed):
            register.give_discount(discount)  # type: ignore[arg-type]
    register.scan(FORMULA)
    register.give_discount(10_000)
    register.undo()
    with pytest.raises(Malformed):
        register.to_basket()
    register.give_discount(6490)
    assert register.to_basket()["discount_minor"] == 6490


def test_an_empty_basket_is_not_sent() -> None:
    """Nothing scanned, nothing to propose; clear() leaves nothing of the last customer."""
    register = Register(CATALOGUE)
    with pytest.raises(Malformed):
        register.to_basket()
    register.scan(MILK)
    register.give_discount(100)
    register.press_quantity(5)
    register.clear()
    with pytest.raises(Malformed):
        register.to_basket()
    register.scan(MILK)
    assert register.lines[0].quantity == 1
    assert register.to_basket()["discount_minor"] == 0


def test_a_labels_amount_is_never_overwritten_by_a_piece() -> None:
    """Goods sold by the piece and by label: pressing the key adds a line, the label's stays."""
    data = "条码,品名,规格,单位,售价,类别\n,散装鸡蛋,,个,0.8,蛋\n".encode("gb18030")
    loose = (LooseGoods("散装鸡蛋", "cat:eggs-loose", "00123"),)
    register = Register(load_products(data, loose))
    register.scan(pork_label(1234))
    register.add_pieces("cat:eggs-loose", 10)
    register.add_pieces("cat:eggs-loose", 2)
    assert [line.line_amount_minor for line in register.lines] == [1234, 960]
