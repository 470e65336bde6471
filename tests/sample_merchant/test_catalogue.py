"""What a scan finds in the shop's goods, and what it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.errors import Malformed
from carepos.product import WeighedScheme, normalise_gtin, weighed_code
from sample_merchant.catalogue import BasketLine
from sample_merchant.product_export import sample_catalogue
from tests.sample_merchant.exports import MILK, PORK, load, reasons


@pytest.mark.parametrize(
    "scan", ["6913046198782", "06913046198782", "]E06913046198782", " 6913046198782\r\n"]
)
def test_a_scan_finds_its_goods(scan: str) -> None:
    """An EAN-13 finds its product however the scanner sends it."""
    found = load(MILK).find_by_scan(scan)
    assert found == BasketLine("06913046198782", "纯牛奶 250ml*24", 1, "piece", 6490)


def test_short_codes_find_their_goods() -> None:
    """UPC-A and EAN-8 are found, and under the same key from the longer form."""
    catalogue = load("036000291452,纸巾,,包,9,个护", "73513537,口香糖,,条,2.5,速食")
    for scan, amount in (("036000291452", 900), ("0036000291452", 900), ("]E473513537", 250)):
        found = catalogue.find_by_scan(scan)
        assert found is not None
        assert found.line_amount_minor == amount


def test_every_good_barcode_of_the_sample_scans_to_its_price() -> None:
    """All 58 barcodes, scanned as printed, are found at their price."""
    catalogue = sample_catalogue()
    with_barcode = [p for p in catalogue.products if not p.key.startswith("cat:")]
    for product in with_barcode:
        found = catalogue.find_by_scan(product.key[1:])
        assert found is not None
        assert (found.key, found.line_amount_minor) == (product.key, product.price_minor)
    assert len(with_barcode) == 58


def test_an_unknown_code_is_told_from_a_misread_one() -> None:
    """A good code that the shop doesn't sell is None; a misread one is refused."""
    catalogue = load(MILK)
    assert catalogue.find_by_scan("4006381333931") is None
    assert catalogue.find_by_scan(weighed_code("99999", 100, WeighedScheme())) is None
    for scan in ("6913046198783", "", "hello", "1" * 65, "]Q36913046198782"):
        with pytest.raises(Malformed):
            catalogue.find_by_scan(scan)
    with pytest.raises(Malformed):
        catalogue.find_by_scan(6913046198782)


def test_the_samples_pork_label() -> None:
    """A label of 23.70 yuan, pork at 15.80 for 斤: 750 g, and the amount is the label's."""
    label = weighed_code("00123", 2370, WeighedScheme())
    assert sample_catalogue().find_by_scan(label) == BasketLine("cat:pork", "猪肉", 750, "g", 2370)


@given(st.integers(2, 30_000))
def test_grams_come_back_from_a_label(grams: int) -> None:
    """At more than a fen a gram the label's amount gives back the grams the scale weighed."""
    catalogue = load(PORK)
    pork = catalogue.find_by_key("cat:pork")
    assert pork is not None
    amount_minor = pork.amount_minor(grams)
    found = catalogue.find_by_scan(weighed_code("00123", amount_minor, WeighedScheme()))
    assert found == BasketLine("cat:pork", "猪肉", grams, "g", amount_minor)


def test_a_label_with_grams_costs_what_they_cost() -> None:
    """Scales that print grams: the amount follows from the price, rounded half up."""
    scheme = WeighedScheme(value="quantity_g")
    catalogue = load(PORK, scheme=scheme)
    found = catalogue.find_by_scan(weighed_code("00123", 333, scheme))
    assert found == BasketLine("cat:pork", "猪肉", 333, "g", 1052)  # 15.80 × 333 / 500 = 10.5228


def test_a_label_without_a_known_price_is_one_piece() -> None:
    """No price per weight: an amount label is sold as one piece, a grams label is refused."""
    found = load(MILK).find_by_scan(weighed_code("00123", 2370, WeighedScheme()))
    assert found == BasketLine("cat:pork", "猪肉", 1, "piece", 2370)
    scheme = WeighedScheme(value="quantity_g")
    with pytest.raises(Malformed):
        load(MILK, scheme=scheme).find_by_scan(weighed_code("00123", 500, scheme))


def test_a_label_without_a_value_is_refused() -> None:
    """The scale's blank label (0.00) sells nothing."""
    with pytest.raises(Malformed):
        load(PORK).find_by_scan("2100123000005")


def test_a_scales_row_with_a_price_is_the_goods_price() -> None:
    """An export may price weighed goods in the scale's row itself, once or beside the loose row."""
    scale_row = "2100123000005,鲜猪肉,,公斤,31.6,肉"
    alone = load(scale_row).find_by_scan(weighed_code("00123", 2370, WeighedScheme()))
    assert alone == BasketLine("cat:pork", "鲜猪肉", 750, "g", 2370)
    same = load(PORK, scale_row.replace("公斤,31.6", "斤,15.8"))
    assert (reasons(same), same.scale_lines, len(same.products)) == ([], (3,), 1)
    differs = load(PORK, scale_row.replace("公斤,31.6", "斤,18.5"))
    assert reasons(differs) == [(2, "duplicate_differs"), (3, "duplicate_differs")]


@given(st.integers(1, 10**6), st.integers(1, 10**5))
def test_a_weights_amount_is_within_half_a_fen(price_minor: int, grams: int) -> None:
    """Rounding a weight's price errs by at most half a minor unit, upwards at exactly a half."""
    price = f"{price_minor // 100}.{price_minor % 100:02d}"
    product = load(f",散装大米,,斤,{price},粮油").find_by_key("cat:rice-loose")
    assert product is not None
    error = 2 * (product.amount_minor(grams) * 500 - price_minor * grams)
    assert -500 < error <= 500


def test_the_key_of_a_product_is_its_normal_form() -> None:
    """Every key in the catalogue with a barcode is already a normal GTIN-14."""
    for product in sample_catalogue().products:
        if not product.key.startswith("cat:"):
            assert normalise_gtin(product.key) == product.key
