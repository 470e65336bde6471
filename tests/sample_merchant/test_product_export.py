"""The sample shop's product export: what is sold and what is reported."""

from __future__ import annotations

import ast
import csv
import inspect
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.errors import Malformed
from carepos.product import ProductList, gtin_check_digit
from sample_merchant import catalogue, loose_goods, product_export, register
from sample_merchant.damaged_rows import REASONS
from sample_merchant.product_export import DATA, load_products, price_to_minor, sample_catalogue
from tests.sample_merchant.exports import HEADER, LOOSE, MILK, PORK, load, reasons

# The sample


def test_the_samples_figures() -> None:
    """64 rows: 58 goods with a barcode, 5 loose goods, and line 65 damaged by a comma."""
    catalogue = sample_catalogue()
    assert len(catalogue.products) == 63
    assert sum(product.key.startswith("cat:") for product in catalogue.products) == 5
    assert reasons(catalogue) == [(65, "column_count")]
    assert catalogue.damaged[0].code == "2100123000005"
    assert catalogue.scale_lines == ()


def test_the_samples_categories() -> None:
    """Every category of the export, counted."""
    assert Counter(product.category_text for product in sample_catalogue().products) == {
        "奶制品": 12,
        "粮油": 9,
        "个护": 7,
        "烟酒": 7,
        "婴儿奶粉": 4,
        "调味": 4,
        "蛋": 3,
        "速食": 3,
        "清洁": 3,
        "被服": 2,
        "应急": 2,
        "学习用品": 2,
        "蔬菜": 2,
        "饮用水": 1,
        "母婴": 1,
        "肉": 1,
    }


def test_every_row_of_the_sample_is_accounted_for() -> None:
    """Each row of the file is a product, a scale's row or a damaged row, and only one of them."""
    catalogue = sample_catalogue()
    lines = [
        *(product.line_no for product in catalogue.products),
        *catalogue.scale_lines,
        *(row.line_no for row in catalogue.damaged),
    ]
    assert sorted(lines) == list(range(2, 66))


def test_the_programmes_list_is_the_exports_dairy() -> None:
    """product-list.csv is the export's dairy and infant formula, and nothing else."""
    categories = {"奶制品": "dairy", "婴儿奶粉": "infant-formula"}
    expected = {
        product.key: categories[product.category_text]
        for product in sample_catalogue().products
        if product.category_text in categories
    }
    rows = list(csv.reader((DATA / "product-list.csv").read_text("utf-8").splitlines()))
    assert rows[0] == ["key", "category"]
    listed = ProductList("dairy-2026", 1, {row[0]: row[1] for row in rows[1:]})
    assert listed.entries == expected
    assert len(rows) == 17
    assert Counter(listed.entries.values()) == {"dairy": 12, "infant-formula": 4}


def test_the_samples_last_row_is_good_once_quoted() -> None:
    """Quoting the name, as the report advises, mends the row: it names a scale's item."""
    row = '2100123000005,"秤码猪肉(前缀21,后5位金额分)",,份,,肉'
    catalogue = load(PORK, row)
    assert reasons(catalogue) == []
    assert catalogue.scale_lines == (3,)


def test_the_made_rows_show_what_spreadsheets_do_to_barcodes() -> None:
    """The demo's own rows say that they are made, are reported one by one, and none is sold."""
    data = (DATA / "made-damaged-products_gb18030.csv").read_bytes()
    made = load_products(data, LOOSE)
    assert reasons(made) == [
        (2, "scientific_notation"),
        (3, "scientific_notation"),
        (4, "cut_short"),
        (5, "check_digit"),
        (6, "digits_lost"),
        (7, "check_digit"),
        (8, "not_a_barcode"),
    ]
    assert made.products == ()
    rows = list(csv.reader(data.decode("gb18030").splitlines()))[1:]
    assert {row[5] for row in rows} == {"虚构示例"}
    readme = (DATA / "README.md").read_text("utf-8")
    for line_no, row in enumerate(rows, 2):
        assert f"| {line_no} | `{row[0]}` |" in readme


# Damaged rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("6.91305E+12,纯牛奶,,箱,64.9,奶制品", "scientific_notation"),
        ("6.91305e12,纯牛奶,,箱,64.9,奶制品", "scientific_notation"),
        ("6913046198782.0,纯牛奶,,箱,64.9,奶制品", "not_a_barcode"),
        ("69130461987B2,纯牛奶,,箱,64.9,奶制品", "not_a_barcode"),
        ("#N/A,纯牛奶,,箱,64.9,奶制品", "not_a_barcode"),
        ("913046198782,纯牛奶,,箱,64.9,奶制品", "check_digit"),
        ("13046198782,纯牛奶,,箱,64.9,奶制品", "digits_lost"),
        ("6913050000000,纯牛奶,,箱,64.9,奶制品", "scientific_notation"),
        ("6913010000000,纯牛奶,,箱,64.9,奶制品", "scientific_notation"),
        ("691304619878,纯牛奶,,箱,64.9,奶制品", "cut_short"),
        ("6913046198780,纯牛奶,,箱,64.9,奶制品", "check_digit"),
        ("2212345000004,自编码,,个,1,奶制品", "check_digit"),
        ("2212345000005,自编码,,个,1,奶制品", "in_store_code"),
        ("2199999000004,秤码,,份,,肉", "scale_item_unknown"),
        (",散装小米,,斤,3,粮油", "no_code"),
        (",,,斤,3,粮油", "name_missing"),
        ("6913046198782,,,箱,64.9,奶制品", "name_missing"),
        ("6913046198782,纯牛奶,,,64.9,奶制品", "unit_unknown"),
        ("6913046198782,纯牛奶,,车,64.9,奶制品", "unit_unknown"),
        ("6913046198782,纯牛奶,,斤,64.9,奶制品", "unit_needs_scale"),
        ("6913046198782,纯牛奶,,箱,,奶制品", "price_missing"),
        (",猪肉,,斤,,肉", "price_missing"),
        ("6913046198782,纯牛奶,,箱,面议,奶制品", "price"),
        ("6913046198782,纯牛奶,,箱,-64.9,奶制品", "price"),
        ("6913046198782,纯牛奶,,箱,6.49E+1,奶制品", "price"),
        ("6913046198782,纯牛奶,,箱,64.905,奶制品", "price"),
        ("6913046198782,纯牛奶,,箱,0.00,奶制品", "price_zero"),
        ("6913046198782,纯牛奶,,箱,64.9", "column_count"),
        ("6913046198782,纯牛奶,,箱,1,260,奶制品", "column_count"),
        ('6913046198782,"纯牛奶,,箱,64.9,奶制品', "quoting"),
        ("6913046198782,纯牛奶\x1bp0,,箱,64.9,奶制品", "control_characters"),
        (f"6913046198782,{'奶' * 101},,箱,64.9,奶制品", "text_too_long"),
    ],
)
def test_a_damaged_row_is_reported_alone(row: str, reason: str) -> None:
    """A damaged row is listed with line and reason, is not sold, and takes no other row with it."""
    good = "6949688688282,纯牛奶,250ml*24,箱,65.5,奶制品"
    catalogue = load(row, good)
    assert reasons(catalogue) == [(2, reason)]
    assert [product.key for product in catalogue.products] == ["06949688688282"]
    assert catalogue.find_by_key("06913046198782") is None


def test_a_real_code_of_twelve_digits_has_a_way_in() -> None:
    """A UPC-A that looks like a cut Chinese code is loaded once written with its zero in front."""
    catalogue = load("0691304619878,纸巾,,包,9,个护")
    assert reasons(catalogue) == []
    found = catalogue.find_by_scan("691304619878")
    assert found is not None
    assert found.line_amount_minor == 900


@given(st.integers(1, 7), st.from_regex(r"\A69[0-9]{10}\Z"))
def test_a_code_whose_end_was_rounded_or_cut_is_never_loaded(lost: int, body: str) -> None:
    """A Chinese EAN-13 cut by 1 to 7 digits, or rounded as 6.91305E+12 is, is always reported."""
    code = f"{body}{gtin_check_digit(body)}"
    cut = load(f"{code[:-lost]},纯牛奶,,箱,64.9,奶制品")
    rounded = load(f"{code[:6]}0000000,纯牛奶,,箱,64.9,奶制品")
    assert reasons(rounded) == [(2, "scientific_notation")]
    if lost != 5:
        assert [line_no for line_no, _ in reasons(cut)] == [2]


def test_every_reason_says_what_to_do_in_both_languages() -> None:
    """Each reason has an English sentence and a Chinese one, and each can be read off a row."""
    for reason, (english, chinese) in REASONS.items():
        assert re.fullmatch(r"[A-Z][ -~]+[.;] [A-Z][ -~]+\.", english), reason
        assert re.fullmatch(r"[^ ]+[，。][^ ]+。", chinese), reason
    row = load("6.91305E+12,纯牛奶,,箱,64.9,奶制品").damaged[0]
    assert (row.code, row.line_no) == ("6.91305E+12", 2)
    assert "scientific notation" in row.sentence_en
    assert "科学计数法" in row.sentence_zh


def test_bytes_that_are_no_text_damage_their_line_only() -> None:
    """A line that is no GB18030 is reported; the lines around it are sold."""
    data = f"{HEADER}\r\n".encode("gb18030") + b"69,\xff\xff\r\n" + MILK.encode("gb18030")
    catalogue = load_products(data, LOOSE)
    assert reasons(catalogue) == [(2, "encoding")]
    assert len(catalogue.products) == 1


def test_a_repeated_row_is_sold_once() -> None:
    """Equal rows: the first is sold, the others reported."""
    catalogue = load(MILK, MILK, MILK)
    assert [product.line_no for product in catalogue.products] == [2]
    assert reasons(catalogue) == [(3, "duplicate"), (4, "duplicate")]


def test_rows_that_contradict_each_other_are_not_sold() -> None:
    """One code at two prices: nobody guesses which is right, both rows are reported."""
    catalogue = load(MILK, MILK.replace("64.9", "6.49"), PORK, PORK.replace("15.8", "18.5"))
    assert catalogue.products == ()
    assert {reason for _, reason in reasons(catalogue)} == {"duplicate_differs"}
    assert len(catalogue.damaged) == 4


def test_one_product_under_two_spellings_is_one_product() -> None:
    """A UPC-A and its EAN-13 are the same goods, so a second row of it is a repeat."""
    catalogue = load("036000291452,纸巾,,包,9,个护", "0036000291452,纸巾,,包,9,个护")
    assert [product.key for product in catalogue.products] == ["00036000291452"]
    assert reasons(catalogue) == [(3, "duplicate")]


# What still counts as undamaged


def test_harmless_ways_of_writing_are_understood() -> None:
    """Full-width digits, spaces, a text apostrophe, other column order and UTF-8 lose nothing."""
    header = "类别,售价,单位,规格,品名,条码,库存"
    rows = (
        "奶制品,￥６４．９,箱,250ml*24,纯牛奶,６９１３０４６１９８７８２,5",
        '奶制品,"1,065.50元", 箱 ,,纯牛奶　整托, \'6949688688282 ,',
        "肉,31.6,KG,,猪肉,,",
        "",
        ",,,,,,",
    )
    text = "\n".join((header, *rows))
    for data in (text.encode(), text.encode("utf-8-sig"), text.encode("gb18030")):
        catalogue = load_products(data, LOOSE)
        assert reasons(catalogue) == []
        assert [(p.key, p.price_minor) for p in catalogue.products] == [
            ("06913046198782", 6490),
            ("06949688688282", 106550),
            ("cat:pork", 3160),
        ]
        assert catalogue.products[1].description == "纯牛奶 整托"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"a,b,c\r\n1,2,3",
        "条码,品名\r\n".encode("gb18030"),
        f'"{HEADER}'.encode(),
        HEADER.encode("utf-16"),
        b"PK\x03\x04\x00\x00",
        b"\xff\xff\xff",
        b"," * (16 * 1024 * 1024 + 1),
    ],
)
def test_what_is_no_export_is_refused_whole(data: bytes) -> None:
    """No header, a workbook or another encoding: one refusal, never a foreign exception."""
    with pytest.raises(Malformed) as caught:
        load_products(data, LOOSE)
    assert caught.value.field == "products"


@given(st.binary(max_size=300))
def test_any_bytes_after_the_header_are_accounted_for(data: bytes) -> None:
    """Whatever stands below the header, loading ends without a foreign exception."""
    try:
        catalogue = load_products(f"{HEADER}\n".encode("gb18030") + data, LOOSE)
    except Malformed:
        return
    lines = {row.line_no for row in catalogue.damaged} | {p.line_no for p in catalogue.products}
    assert lines <= set(range(2, data.count(b"\n") + 3))


@given(st.data())
def test_a_wrong_digit_in_the_export_never_sells_other_goods(data: st.DataObject) -> None:
    """Any one digit of a barcode changed: the row is reported, none is sold under another key."""
    place = data.draw(st.integers(0, 12))
    wrong = data.draw(st.sampled_from([d for d in "0123456789" if d != MILK[place]]))
    catalogue = load(MILK[:place] + wrong + MILK[place + 1 :])
    assert reasons(catalogue) == [(2, "check_digit")]
    assert catalogue.products == ()


@given(st.integers(0, 10**11 - 1))
def test_prices_are_exact(minor: int) -> None:
    """Every price with two decimals becomes exactly its fen."""
    assert price_to_minor(f"{minor // 100}.{minor % 100:02d}", 2) == minor


def test_prices_follow_the_currency() -> None:
    """Yen have no decimals, dinars three; a decimal too many is refused, a zero too many isn't."""
    assert price_to_minor("100", 0) == 100
    assert price_to_minor("1.250", 3) == 1250
    assert price_to_minor("64.900", 2) == 6490
    with pytest.raises(Malformed):
        price_to_minor("100.5", 0)


def test_no_float_anywhere() -> None:
    """No module of the shop that counts holds a float: no literal, no name, no true division."""
    for module in (catalogue, loose_goods, product_export, register):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
            assert not (isinstance(node, ast.Name) and node.id == "float")
            # DATA is a path joined with "/"; no number is divided that way.
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                assert isinstance(node.right, ast.Constant)
                assert isinstance(node.right.value, str)
