"""Product keys, weighed-goods codes, grams and product lists."""

from __future__ import annotations

import ast
import inspect
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import product
from carepos.errors import Malformed
from carepos.product import (
    GRAMS_PER_UNIT,
    MAX_ENTRIES,
    ProductList,
    WeighedGoods,
    WeighedScheme,
    gtin_check_digit,
    is_product_key,
    is_restricted_circulation,
    normalise_gtin,
    parse_category,
    parse_product_key,
    parse_weighed_code,
    to_grams,
    weighed_code,
)

DIGITS = "0123456789"


def digits(length: int) -> st.SearchStrategy[str]:
    return st.text(DIGITS, min_size=length, max_size=length)


def with_check_digit(body: str) -> str:
    return f"{body}{gtin_check_digit(body)}"


GTINS = st.sampled_from([7, 11, 12, 13]).flatmap(digits).map(with_check_digit)
NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,39}\Z")
KEYS = st.one_of(GTINS.map(lambda gtin: gtin.zfill(14)), NAMES.map("cat:{}".format))


# GTINs


@pytest.mark.parametrize(
    ("body", "check_digit"),
    [
        ("629104150021", 3),  # GS1's own worked example
        ("400638133393", 1),
        ("03600029145", 2),
        ("7351353", 7),
        ("1061414100041", 5),
    ],
)
def test_known_check_digits(body: str, check_digit: int) -> None:
    """The check digit is that of numbers printed by others."""
    assert gtin_check_digit(body) == check_digit


@given(GTINS)
def test_a_good_gtin_becomes_fourteen_digits(gtin: str) -> None:
    """A good GTIN is padded on the left and is a product key; doing it twice changes nothing."""
    key = normalise_gtin(gtin)
    assert key == "0" * (14 - len(gtin)) + gtin
    assert normalise_gtin(key) == key
    assert parse_product_key(key) == key


@given(st.data(), GTINS)
def test_every_single_wrong_digit_is_caught(data: st.DataObject, gtin: str) -> None:
    """A GTIN with any one digit replaced by any other is refused."""
    place = data.draw(st.integers(0, len(gtin) - 1))
    wrong = data.draw(st.sampled_from([d for d in DIGITS if d != gtin[place]]))
    with pytest.raises(Malformed):
        normalise_gtin(gtin[:place] + wrong + gtin[place + 1 :])


@given(digits(11))
def test_one_product_has_one_key(body: str) -> None:
    """GTIN-12, GTIN-13 and GTIN-14 of one product normalise to the same key."""
    upc = with_check_digit(body)
    assert normalise_gtin(upc) == normalise_gtin("0" + upc) == normalise_gtin("00" + upc)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6.91305E+12",
        "91304619878",
        "6913046198783",
        "69130461987820000",
        " 6913046198782",
        "6913046198782\n",
        "６９１３０４６１９８７８２",
        "７３５１３５３７",
        "٦٩١٣٠٤٦١٩٨٧٨٢",
        "6913046198782.0",
        "-6913046198782",
    ],
)
def test_what_is_no_gtin_is_refused(text: str) -> None:
    """Other lengths, other characters and other scripts' digits are refused; no value is echoed."""
    with pytest.raises(Malformed) as caught:
        normalise_gtin(text)
    assert caught.value.field == "gtin"
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("value", [None, 6913046198782, b"6913046198782", True, ["6913046198782"]])
def test_other_types_are_malformed(value: object) -> None:
    """What is not a string is refused as malformed, never with a foreign exception."""
    with pytest.raises(Malformed):
        normalise_gtin(value)
    with pytest.raises(Malformed):
        is_restricted_circulation(value)
    with pytest.raises(Malformed):
        parse_weighed_code(value, WeighedScheme())
    with pytest.raises(Malformed):
        to_grams(value, "斤")
    with pytest.raises(Malformed):
        to_grams("1", value)
    assert not is_product_key(value)


@pytest.mark.parametrize("body", ["", "1" * 18, "12a", "１２"])
def test_a_check_digit_needs_digits(body: str) -> None:
    """A check digit is computed for 1 to 17 ASCII digits only."""
    with pytest.raises(Malformed):
        gtin_check_digit(body)


@pytest.mark.parametrize(
    ("body", "restricted"),
    [
        ("210012300000", True),
        ("299999999999", True),
        ("021234567890", True),
        ("041234567890", True),
        ("691304619878", False),
        ("978020137962", False),
        ("001234567890", False),
        ("050000000000", False),
        ("2012345", True),
        ("0123456", True),
        ("7351353", False),
        ("1210012300000", True),
    ],
)
def test_numbers_that_shops_give_out_themselves_are_known(body: str, restricted: bool) -> None:
    """GS1 prefixes 02, 04, 20-29 and GTIN-8s with 0 or 2 in front are each shop's own."""
    assert is_restricted_circulation(normalise_gtin(with_check_digit(body))) is restricted


# Keys


@given(KEYS)
def test_a_key_has_one_spelling(key: str) -> None:
    """Every product key parses to itself; with anything around it, it is none."""
    assert parse_product_key(key) == key
    for other in (key + "\n", " " + key, key.upper() if key.upper() != key else key + "X"):
        assert not is_product_key(other)


@pytest.mark.parametrize(
    "value",
    [
        "6913046198782",
        "cat:",
        "cat:-rice",
        "cat:Rice",
        "cat:大米",
        "cat:" + "a" * 41,
        "CAT:rice",
        "rice",
        "06913046198783",
    ],
)
def test_what_is_no_key_is_refused(value: str) -> None:
    """A short GTIN, another alphabet, a name too long or a wrong check digit is no product key."""
    assert not is_product_key(value)
    with pytest.raises(Malformed) as caught:
        parse_product_key(value)
    assert caught.value.field in ("key", "gtin")


def test_the_longest_category_key() -> None:
    """`cat:` takes a name of 1 to 40 characters, as docs/protocol.md says."""
    assert is_product_key("cat:" + "a" * 40)
    assert parse_category("a" * 40) == "a" * 40
    with pytest.raises(Malformed):
        parse_category("a" * 41)


# Weighed goods


@st.composite
def schemes(draw: st.DrawFn) -> WeighedScheme:
    first = draw(st.integers(2, 10))
    first_length = draw(st.integers(1, 11 - first))
    second = draw(st.integers(first + first_length, 11))
    second_length = draw(st.integers(1, 12 - second))
    spans = [(first, first_length), (second, second_length)]
    if draw(st.booleans()):
        spans.reverse()
    (item_start, item_length), (value_start, value_length) = spans
    return WeighedScheme(
        prefixes=tuple(draw(st.lists(st.from_regex(r"\A2[0-9]\Z"), min_size=1, max_size=3))),
        item_start=item_start,
        item_length=item_length,
        value_start=value_start,
        value_length=value_length,
        value=draw(st.sampled_from(["amount_minor", "quantity_g"])),
    )


@given(st.data(), schemes())
def test_a_label_says_what_the_scale_printed(data: st.DataObject, scheme: WeighedScheme) -> None:
    """Item code and value come back from the label, for every layout a shop can set."""
    item_code = data.draw(digits(scheme.item_length))
    value = data.draw(st.integers(0, 10**scheme.value_length - 1))
    goods = parse_weighed_code(weighed_code(item_code, value, scheme), scheme)
    assert goods.item_code == item_code
    if scheme.value == "amount_minor":
        assert (goods.amount_minor, goods.quantity_g) == (value, None)
    else:
        assert (goods.amount_minor, goods.quantity_g) == (None, value)


def test_the_sample_shops_label() -> None:
    """Prefix 21, item 00123, 23.70 yuan: the layout of the sample export's last row."""
    assert weighed_code("00123", 0, WeighedScheme()) == "2100123000005"
    label = weighed_code("00123", 2370, WeighedScheme())
    assert label.startswith("210012302370")
    assert parse_weighed_code(label, WeighedScheme()) == WeighedGoods("00123", 2370, None)


@given(st.data(), st.integers(0, 99999))
def test_a_misread_label_is_refused(data: st.DataObject, value: int) -> None:
    """One wrong digit in a label never changes what is charged."""
    label = weighed_code("00123", value, WeighedScheme())
    place = data.draw(st.integers(0, 12))
    wrong = data.draw(st.sampled_from([d for d in DIGITS if d != label[place]]))
    with pytest.raises(Malformed):
        parse_weighed_code(label[:place] + wrong + label[place + 1 :], WeighedScheme())


@pytest.mark.parametrize("text", ["6913046198782", "210012300000", "2100123000006", "", "21"])
def test_what_is_no_label_is_refused(text: str) -> None:
    """Another prefix, another length or a wrong check digit is no label of this shop."""
    with pytest.raises(Malformed):
        parse_weighed_code(text, WeighedScheme())


@pytest.mark.parametrize(
    "settings",
    [
        {"prefixes": ()},
        {"prefixes": ("69",)},
        {"prefixes": ("2",)},
        {"item_start": 1},
        {"value_start": 8},
        {"item_length": 0},
        {"item_length": 6},
        {"value": "yuan"},
    ],
)
def test_a_scheme_that_cannot_be_is_refused(settings: dict[str, object]) -> None:
    """Places outside the number, overlapping places and prefixes that are not 20-29 are refused."""
    with pytest.raises(Malformed):
        WeighedScheme(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("item_code", "value"), [("123", 1), ("0012a", 1), ("00123", -1), ("00123", 100_000)]
)
def test_a_label_that_does_not_fit_is_not_printed(item_code: str, value: int) -> None:
    """A value too large for its digits is refused, not cut."""
    with pytest.raises(Malformed):
        weighed_code(item_code, value, WeighedScheme())


# Grams


@pytest.mark.parametrize(
    ("quantity", "unit", "grams"),
    [
        ("1.5", "斤", 750),
        ("1", "公斤", 1000),
        ("0.002", "斤", 1),
        ("2.350", "千克", 2350),
        ("3", "两", 150),
        ("07", "g", 7),
        ("0", "斤", 0),
        ("1000000", "kg", 10**9),
    ],
)
def test_weights_as_people_say_them(quantity: str, unit: str, grams: int) -> None:
    """斤 is 500 g, 公斤 1000 g, 两 50 g."""
    assert to_grams(quantity, unit) == grams


@given(st.integers(0, 10**9 - 1), digits(6), st.integers(0, 6), st.sampled_from([*GRAMS_PER_UNIT]))
def test_grams_are_exact_or_refused(whole: int, rest: str, places: int, unit: str) -> None:
    """A weight converts to exactly its grams, or is refused: nothing is ever rounded."""
    text = f"{whole}.{rest[:places]}" if places else str(whole)
    exact = Fraction(text) * GRAMS_PER_UNIT[unit]
    if exact.denominator == 1 and exact <= 10**9:
        assert to_grams(text, unit) == exact
        assert type(to_grams(text, unit)) is int
    else:
        with pytest.raises(Malformed):
            to_grams(text, unit)


@pytest.mark.parametrize(
    ("quantity", "unit"),
    [
        ("0.001", "斤"),
        ("0.5", "g"),
        ("1000001", "kg"),
        ("-1", "斤"),
        ("+1", "斤"),
        ("1e3", "斤"),
        ("1.", "斤"),
        (".5", "斤"),
        ("1,5", "斤"),
        ("NaN", "斤"),
        ("", "斤"),
        ("１", "斤"),
        ("1\n", "斤"),
        ("1", "磅"),
        ("1", ""),
    ],
)
def test_what_is_no_weight_is_refused(quantity: str, unit: str) -> None:
    """Parts of a gram, signs, exponents and unknown units are refused."""
    with pytest.raises(Malformed):
        to_grams(quantity, unit)


def test_no_float_anywhere() -> None:
    """The module holds no float: no literal, no name, no true division."""
    for node in ast.walk(ast.parse(inspect.getsource(product))):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id == "float")
        assert not isinstance(node, ast.Div)


# Product lists


@given(NAMES, st.integers(1, 2**53 - 1), st.dictionaries(KEYS, NAMES, max_size=20))
def test_a_list_survives_its_json(name: str, version: int, entries: dict[str, str]) -> None:
    """Written and read again a list is equal, sorted by key, and answers as it was made."""
    made = ProductList(name, version, entries)
    written = made.to_json_object()
    assert ProductList.from_json_object(written) == made
    assert hash(ProductList.from_json_object(written)) == hash(made)
    assert list(made.entries) == sorted(entries)
    assert all(made.category_of(key) == category for key, category in entries.items())
    assert made.category_of("cat:not there") is None
    assert made.categories == set(entries.values())


def test_a_list_does_not_change_under_its_holder() -> None:
    """Neither the mapping it was made from nor the one it gives out can change a list."""
    entries = {"cat:rice-loose": "staples"}
    made = ProductList("staples", 1, entries)
    entries["cat:rice-loose"] = "dairy"
    made.to_json_object()["entries"] = {}
    assert made.category_of("cat:rice-loose") == "staples"
    with pytest.raises(TypeError):
        made.entries["cat:rice-loose"] = "dairy"  # type: ignore[index]


GOOD = {"product_list": "dairy", "version": 1, "entries": {"06913046198782": "dairy"}}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**GOOD, "extra": 1},
        {**GOOD, "product_list": "Dairy"},
        {**GOOD, "product_list": None},
        {**GOOD, "version": 0},
        {**GOOD, "version": True},
        {**GOOD, "version": 1.0},
        {**GOOD, "version": "1"},
        {**GOOD, "version": 2**53},
        {**GOOD, "entries": []},
        {**GOOD, "entries": {"6913046198782": "dairy"}},
        {**GOOD, "entries": {"06913046198783": "dairy"}},
        {**GOOD, "entries": {"06913046198782": "奶制品"}},
        {**GOOD, "entries": {"06913046198782": None}},
        {**GOOD, "entries": {1: "dairy"}},
    ],
)
def test_a_list_is_read_strictly(value: object) -> None:
    """A missing or unknown name, a wrong type, a bad key or category refuses the whole list."""
    assert ProductList.from_json_object(GOOD).category_of("06913046198782") == "dairy"
    with pytest.raises(Malformed):
        ProductList.from_json_object(value)


def test_a_list_has_at_most_twenty_thousand_entries() -> None:
    """20,000 entries are read; one more is refused."""
    entries = {f"cat:g{n}": "goods" for n in range(MAX_ENTRIES)}
    assert len(ProductList("all", 1, entries).entries) == MAX_ENTRIES
    entries["cat:one-more"] = "goods"
    with pytest.raises(Malformed):
        ProductList("all", 1, entries)
    with pytest.raises(Malformed):
        ProductList.from_json_object({**GOOD, "entries": entries})


def test_entries_must_be_a_mapping() -> None:
    """A list of pairs is no product list's entries."""
    with pytest.raises(Malformed):
        ProductList("all", 1, [("cat:rice", "staples")])  # type: ignore[arg-type]
