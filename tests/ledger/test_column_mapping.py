"""The mapping file and its row checks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos_ledger.column_mapping import MappingUnreadable, parse_mapping, read_mapping
from carepos_ledger.row_checks import CheckUnreadable, parse_check

COLUMNS = '[columns]\nid_number = "号"\namount = "额"\npeople = "人口"\n'


def test_defaults() -> None:
    """Two columns are enough; the rest has defaults: any encoding, comma, check digit warns."""
    mapping = parse_mapping('[columns]\nid_number = "号"\namount = ["额", "金额"]\n')
    assert mapping.amount.headers == ("额", "金额")
    assert (mapping.people, mapping.currency, mapping.note) == (None, None, None)
    assert (mapping.encoding, mapping.delimiter, mapping.id_check_digit) == ("auto", ",", "warn")
    assert (mapping.checks, mapping.only, mapping.numbers) == ((), (), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "columns = 3",
        '[columns]\nid_number = "号"\n',
        '[columns]\nid_number = "号"\namount = ""\n',
        '[columns]\nid_number = "号"\namount = []\n',
        '[columns]\nid_number = "号"\namount = 3\n',
        '[columns]\nid_number = "号"\namount = "号"\n',
        COLUMNS + 'Bad-Alias = "x"\n',
        COLUMNS + 'curency = "币种"\n',
        COLUMNS + '[only]\n"券" = 3\n',
        COLUMNS + '[only]\n"人 口" = "x"\n',
        COLUMNS + '[only]\n"" = "x"\n',
        "only = 3\n" + COLUMNS,
        'checks = "amount = 1"\n' + COLUMNS,
        'checks = ["amount = 1 +"]\n' + COLUMNS,
        'checks = ["amount = 1 * nobody"]\n' + COLUMNS,
        'checks = ["id_number = 1"]\n' + COLUMNS,
        'encoding = "latin-1"\n' + COLUMNS,
        "id_check_digit = true\n" + COLUMNS,
        'delimiter = "|"\n' + COLUMNS,
        "unknown = 1\n" + COLUMNS,
    ],
)
def test_wrong_mappings(text: str) -> None:
    """A mapping that can't be meant is refused by code, misspelt names included."""
    with pytest.raises(MappingUnreadable) as caught:
        parse_mapping(text)
    assert caught.value.code == "mapping_wrong"


def test_mapping_files(tmp_path: Path) -> None:
    """A missing file, one that isn't TOML or isn't UTF-8, and a huge one are coded refusals."""
    path = tmp_path / "mapping.toml"
    codes: list[str] = []
    for data in (None, b"[columns", "编码".encode("gb18030"), b"#" * 70_000, b"a=" + b"[" * 9_000):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(MappingUnreadable) as caught:
            read_mapping(path)
        codes.append(caught.value.code)
    toml = "mapping_not_toml"
    assert codes == ["mapping_missing", toml, toml, "mapping_wrong", toml]


def test_mapping_with_a_byte_order_mark(tmp_path: Path) -> None:
    """A mapping saved by a Windows editor, with a mark before UTF-8, is read."""
    path = tmp_path / "mapping.toml"
    path.write_text(COLUMNS, encoding="utf-8-sig")
    assert read_mapping(path) == parse_mapping(COLUMNS)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("amount = 60 * people", True),
        ("amount＝６０×people", True),
        ("amount == 61 * people", False),
        ("amount ≤ 180", True),
        ("amount <= 179", False),
        ("180 >= amount", True),
        ("amount = 30 + 50 * people", True),
        ("amount = (30 + 50) * people - 60", True),
        ("amount = 200 - 10 - 10", True),
        ("2 * amount = 361", False),
    ],
)
def test_checks(text: str, holds: bool) -> None:
    """Checks follow the school's rules: × before + and -, from left to right, exact."""
    assert parse_check(text).holds({"amount": 180, "people": 3}) is holds


def test_checks_are_exact_below_one() -> None:
    """An amount of 60.50 is sixty and a half, not nearly so."""
    assert parse_check("2 * amount = 121").holds({"amount": Fraction(121, 2)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "amount",
        "amount =",
        "= amount",
        "amount = 1 = 1",
        "amount < 3",
        "amount = 60 people",
        "amount = 1.5",
        "amount = 3x",
        "amount = (3",
        "amount = 3)",
        "amount = -3",
        "amount = 2 ** 3",
        "amount = __import__('os')",
        "amount = 9999999999999",
        "amount = " + "(" * 200,
        "金额 = 3",
    ],
)
def test_checks_that_are_none(text: str) -> None:
    """What isn't one comparison of two sums is refused."""
    with pytest.raises(CheckUnreadable):
        parse_check(text)


@given(st.text(alphabet="amount people0123+-*=<>() ×≤", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_check_or_refused(text: str) -> None:
    """No text makes the parser do anything but parse or refuse; nothing is evaluated."""
    try:
        check = parse_check(text)
    except CheckUnreadable:
        return
    check.holds(dict.fromkeys(check.aliases, 1))
