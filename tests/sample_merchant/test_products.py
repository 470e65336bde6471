"""The sample shop's product export: what is sold, what is reported, what a scan finds."""

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
from carepos.product import (
    ProductList,
    WeighedScheme,
    gtin_check_digit,
    normalise_gtin,
    weighed_code,
)
from sample_merchant import products, register
from sample_merchant.products import (
    DATA,
    REASONS,
    BasketLine,
    Catalogue,
    LooseGoods,
    load_loose_goods,
    load_products,
    price_to_minor,
    sample_catalogue,
)

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
    """Neither module of the shop holds a float: no literal, no name, no true division."""
    for module in (products, register):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
            assert not (isinstance(node, ast.Name) and node.id == "float")
            # DATA is a path joined with "/"; no number is divided that way.
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                assert isinstance(node.right, ast.Constant)
                assert isinstance(node.right.value, str)


# The shop's own table


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


# Scans


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
