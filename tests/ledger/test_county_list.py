"""A county office's list: what is taken, what is refused and why, and what never leaves."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import traceback
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.errors import Malformed
from carepos_ledger import list_records
from carepos_ledger.column_mapping import ColumnMapping, parse_mapping, read_mapping
from carepos_ledger.county_list import CountyList, ListUnreadable, read_list
from carepos_ledger.import_key import ImportKey
from carepos_ledger.list_reasons import refusal_sentences
from carepos_ledger.listed_values import RowRefusal, check_digit_right

DATA = Path(__file__).parents[2] / "sample_merchant" / "data"
SAMPLE = (DATA / "households_gb18030.csv").read_bytes()
SAMPLE_MAPPING = read_mapping(DATA / "households.mapping.toml")
KEY = ImportKey(bytes(range(32)))

MAPPING = """
checks = ["amount = 60 * people"]
[columns]
id_number = "身份证号码"
amount = "金额（元）"
people = "人口"
note = "备注"
"""
UNCHECKED = MAPPING.replace('"amount = 60 * people"', "")
HEADER = "户主,身份证号码,人口,金额（元）,备注"
# Wrong check digits throughout: nobody's numbers.
ID_A, ID_B, ID_C = "522632195312013526", "522632194506139628", "52263219770305041X"
STANDARD_ID = "11010519491231002X"  # the example of GB 11643-1999 itself


def read(text: str, mapping: str = MAPPING, currency: str = "CNY") -> CountyList:
    return read_list(text.encode("gb18030"), parse_mapping(mapping), KEY, currency)


def read_rows(*rows: str, mapping: str = MAPPING, currency: str = "CNY") -> CountyList:
    return read("\r\n".join((HEADER, *rows, "")), mapping, currency)


def verdicts(county_list: CountyList) -> dict[int, str | int]:
    """Line → amount of a good row, code of a refused one."""
    found: dict[int, str | int] = {row.line_no: row.amount_minor for row in county_list.rows}
    found |= {row.line_no: row.code for row in county_list.refused}
    return found


def verdict_on(*, id_number: str = ID_A, people: str = "1", amount: str = "60") -> str | int:
    """The verdict on one row with no row check in the way, the cells quoted."""
    cells = ",".join(f'"{cell}"' for cell in ("户", id_number, people, amount, ""))
    return verdicts(read_rows(cells, mapping=UNCHECKED))[2]


def unreadable(data: bytes, mapping: ColumnMapping = SAMPLE_MAPPING) -> ListUnreadable:
    with pytest.raises(ListUnreadable) as caught:
        read_list(data, mapping, KEY, "CNY")
    return caught.value


# The sample list


def test_sample_figures() -> None:
    """The sample list: 659 rows, 636 good for CNY 142,740 and 2,379 people, 23 refused."""
    county_list = read_list(SAMPLE, SAMPLE_MAPPING, KEY, "CNY")
    assert county_list.all_rows.rows == 659
    assert len(county_list.rows) == county_list.good_rows.rows == 636
    assert county_list.good_rows.amount_minor == 14_274_000
    assert county_list.good_rows.people == 2_379
    assert len(county_list.refused) == 23
    assert county_list.title == "榕江县“7·28”洪灾奶制品发放名册（定稿2）"
    assert county_list.key_id == KEY.key_id


def test_sample_refusals() -> None:
    """Every refused row of the sample is refused on its physical line for its own reason."""
    county_list = read_list(SAMPLE, SAMPLE_MAPPING, KEY, "CNY")
    assert {row.line_no: row.code for row in county_list.refused} == {
        49: "check_failed",
        76: "id_wrong_form",
        136: "amount_in_words",
        157: "check_failed",
        165: "duplicate",
        210: "duplicate",
        257: "formula",
        262: "id_missing",
        292: "amount_in_words",
        330: "amount_negative",
        371: "id_damaged",
        417: "other_kind",
        462: "duplicate",
        502: "check_failed",
        506: "id_wrong_form",
        516: "duplicate",
        529: "check_failed",
        561: "id_damaged",
        563: "amount_negative",
        566: "duplicate",
        572: "id_wrong_form",
        587: "id_missing",
        651: "duplicate",
    }
    assert [row.line_no for row in county_list.refused] == sorted(
        row.line_no for row in county_list.refused
    )


def test_sample_total_line() -> None:
    """The printed total on line 55 is no row; it agrees with the good rows, not with all."""
    county_list = read_list(SAMPLE, SAMPLE_MAPPING, KEY, "CNY")
    (total,) = county_list.totals
    assert (total.line_no, total.printed.scope) == (55, "list")
    assert (total.printed.people, total.printed.amount_minor) == (2_379, 14_274_000)
    assert total.agrees_with == "good"
    assert total.against_good.amount_minor == 0
    assert (total.against_all.people, total.against_all.amount_minor) == (-85, -468_000)


def test_sample_without_row_check_refuses_both_of_a_household() -> None:
    """Without the row check the four wrong amounts are good rows too: both lines are refused."""
    mapping = dataclasses.replace(SAMPLE_MAPPING, checks=())
    county_list = read_list(SAMPLE, mapping, KEY, "CNY")
    codes = Counter(row.code for row in county_list.refused)
    assert codes["conflicting_amounts"] == 8
    assert codes["check_failed"] == 0
    assert {8, 157} <= {row.line_no for row in county_list.refused}


@pytest.mark.parametrize(("setting", "good", "warned"), [("off", 636, 0), ("warn", 636, 636)])
def test_check_digit_setting(setting: str, good: int, warned: int) -> None:
    """A wrong check digit is ignored or counted in one warning, as the mapping says."""
    mapping = dataclasses.replace(SAMPLE_MAPPING, id_check_digit=setting)  # type: ignore[arg-type]
    county_list = read_list(SAMPLE, mapping, KEY, "CNY")
    assert len(county_list.rows) == good
    assert sum(w.count for w in county_list.warnings if w.code == "id_check_digit") == warned
    assert all(len(warning.first_lines) <= 10 for warning in county_list.warnings)


def test_check_digit_refuse() -> None:
    """With `refuse` only numbers with the right check digit pass."""
    mapping = MAPPING.replace("checks", 'id_check_digit = "refuse"\nchecks')
    county_list = read_rows(f"户,{ID_A},1,60,", f"户,{STANDARD_ID},1,60,", mapping=mapping)
    assert verdicts(county_list) == {2: "id_check_digit", 3: 6000}


# Nothing personal leaves


def personal_values() -> set[str]:
    rows = list(csv.reader(io.StringIO(SAMPLE.decode("gb18030"), newline="")))[2:]
    values = {row[column].strip() for row in rows if len(row) == 10 for column in (3, 4, 5)}
    return {value for value in values if len(value) > 1}


def shown(county_list: CountyList) -> str:
    as_json = json.dumps(dataclasses.asdict(county_list), ensure_ascii=False)
    return "\n".join((repr(county_list), str(county_list), as_json))


@pytest.mark.parametrize("setting", ["off", "warn", "refuse"])
def test_nothing_personal_in_the_result(setting: str) -> None:
    """No name, ID or phone number of the sample is in what the reader returns, however shown."""
    mapping = dataclasses.replace(SAMPLE_MAPPING, id_check_digit=setting)  # type: ignore[arg-type]
    values = personal_values()
    assert len(values) > 1_500
    text = shown(read_list(SAMPLE, mapping, KEY, "CNY"))
    assert [value for value in values if value in text] == []
    assert re.search(r"[0-9]{15}", text) is None


def test_nothing_personal_in_exceptions() -> None:
    """An unreadable file leaves no byte of itself in the exception, its chain or its traceback."""
    torn = SAMPLE[:30_000] + b"\xff" + SAMPLE[30_000:]
    for data in (torn, SAMPLE.replace("身份证号码".encode("gb18030"), b"?"), SAMPLE + b"\0"):
        error = unreadable(data)
        text = "".join(traceback.format_exception(error)) + repr(vars(error)) + error.reason_zh
        assert [value for value in personal_values() if value in text] == []
        assert error.__context__ is None
        assert error.__cause__ is None


def test_title_lines_that_name_somebody_are_dropped() -> None:
    """The title keeps the list's name, not who typed it nor a number to call."""
    county_list = read(
        "发放名册,,,,\n制表人：王某某,,,,\n单位,王某某,,,\n咨询 13800000000,,,,\n"
        f"{HEADER}\n户,{ID_A},1,60,\n"
    )
    assert county_list.title == "发放名册"
    assert verdicts(county_list) == {6: 6000}


def test_title_cannot_drive_a_terminal() -> None:
    """Control characters in a title are dropped: it is shown on a screen."""
    title = read(f"发放\x1b[2J名册\u202e,,,,\n{HEADER}\n").title
    assert title == "发放[2J名册"


def test_ref_is_the_keyed_hash() -> None:
    """The ref is base64url(HMAC-SHA256(import key, number)); another key, other refs."""
    (row,) = read_rows(f"户,{ID_C.lower()},1,60,").rows
    assert row.ref == "FKrFTdVueZli8tNvhOHuuwia9HXAEI9qsnaflp4yl6I"
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", row.ref)
    text = f"{HEADER}\n户,{ID_C},1,60,\n".encode()
    other = read_list(text, parse_mapping(MAPPING), ImportKey(bytes(32)), "CNY")
    assert other.rows[0].ref != row.ref


# Values


@pytest.mark.parametrize(
    ("amount", "verdict"),
    [
        ("60", 6000),
        ("６０", 6000),
        (" 60　", 6000),
        ("60元", 6000),
        ("60 元整", 6000),
        ("￥60", 6000),
        ("¥ 60.00", 6000),
        ("人民币60元", 6000),
        ("CNY 60", 6000),
        ("60.5", 6050),
        ("60.00", 6000),
        ("1,260", 126000),
        ("１，２６０．５０元", 126050),
        ("'60", 6000),
        ("\u202d60\u202c", 6000),
        ("", "amount_missing"),
        ("　", "amount_missing"),
        ("0", "amount_zero"),
        ("0.00", "amount_zero"),
        ("-60", "amount_negative"),
        ("－60", "amount_negative"),
        ("−60元", "amount_negative"),
        ("￥-60", "amount_negative"),
        ("(60)", "amount_negative"),
        ("60-", "amount_negative"),
        ("陆拾元", "amount_in_words"),
        ("六十", "amount_in_words"),
        ("1.2万", "amount_in_words"),
        ("60.005", "amount_fraction"),
        ("1.260", "amount_fraction"),
        ("60.000", "amount_fraction"),
        ("6E+01", "amount_damaged"),
        ("########", "amount_damaged"),
        ("#VALUE!", "amount_damaged"),
        ("12,60", "amount_unreadable"),
        ("1 260", "amount_unreadable"),
        ("60²", "amount_unreadable"),
        ("①", "amount_unreadable"),
        ("٦٠", "amount_unreadable"),
        ("$60", "amount_unreadable"),
        ("60/人", "amount_unreadable"),
        ("NaN", "amount_unreadable"),
        ("9999999999999", "amount_unreadable"),
        ("10,000,000,000", 1_000_000_000_000),
        ("10,000,000,000.01", "amount_too_large"),
        ("999999999999", "amount_too_large"),
        ("=60", "formula"),
        ("＝60", "formula"),
        ("+SUM(A1)", "formula"),
        ("@SUM(A1)", "formula"),
    ],
)
def test_amounts(amount: str, verdict: str | int) -> None:
    """Amounts as offices write them are read exactly; what would have to be guessed is refused."""
    assert verdict_on(amount=amount) == verdict


@pytest.mark.parametrize(
    ("currency", "amount", "verdict"),
    [
        ("JPY", "1,260円", 1260),
        ("JPY", "60.00", 60),
        ("JPY", "60.5", "amount_fraction"),
        ("USD", "$60.25", 6025),
        ("USD", "60元", "amount_unreadable"),
    ],
)
def test_minor_units(currency: str, amount: str, verdict: str | int) -> None:
    """Minor units are the currency's own, and another currency's mark is not read over."""
    county_list = read_rows(
        f'户,{ID_A},1,"{amount}",',
        mapping=UNCHECKED,
        currency=currency,
    )
    assert verdicts(county_list) == {2: verdict}


@pytest.mark.parametrize(
    ("id_number", "verdict"),
    [
        (ID_C, 6000),
        (ID_C.lower(), 6000),
        ("５２２６３２１９７７０３０５０４１Ｘ", 6000),
        (" 522632 19770305 041X\t", 6000),
        ("'" + ID_C, 6000),
        ("\ufeff" + ID_C + "\u200b", 6000),
        ("", "id_missing"),
        ("　 ", "id_missing"),
        ("5.22632E+17", "id_damaged"),
        ("5.22632e17", "id_damaged"),
        ("522632197703050410.0", "id_damaged"),
        ("########", "id_damaged"),
        ("522632195312013000", "id_damaged"),
        ("522632770305041", "id_wrong_form"),
        ("5226321977030504", "id_wrong_form"),
        ("522632197713050413", "id_wrong_form"),
        ("522632197702300413", "id_wrong_form"),
        ("52263219770305041Y", "id_wrong_form"),
        ("022632197703050413", "id_wrong_form"),
        ("无", "id_wrong_form"),
        (f'=""{ID_A}""', "formula"),
    ],
)
def test_id_numbers(id_number: str, verdict: str | int) -> None:
    """ID numbers are normalised in width, blanks and case; damaged or odd ones are refused."""
    assert verdict_on(id_number=id_number) == verdict


def test_spellings_of_an_id_number_are_one_household() -> None:
    """The same number in another spelling is the same household."""
    county_list = read_rows(f"甲,{ID_C},1,60,", f"乙,' {ID_C.lower()} ,1,60元,")
    assert verdicts(county_list) == {2: 6000, 3: "duplicate"}


def test_three_zeros_with_the_right_check_digit_are_no_damage() -> None:
    """A number that ends in 000 by right is taken."""
    candidates = (f"1101052099{month:02d}{day:02d}{place}000" for month in range(1, 13)
                  for day in range(1, 29) for place in "123456789")  # fmt: skip
    right = next(number for number in candidates if check_digit_right(number[:18]))
    assert verdict_on(id_number=right) == 6000


def test_check_digit_of_the_standard() -> None:
    """The check digit is that of GB 11643-1999."""
    assert check_digit_right(STANDARD_ID)
    assert not check_digit_right(STANDARD_ID[:17] + "0")


@pytest.mark.parametrize(
    ("people", "verdict"),
    [
        ("３", 6000),
        ("3人", 6000),
        ("3 口", 6000),
        ("3.0", 6000),
        ("", "people_missing"),
        ("0", "people_unreadable"),
        ("-3", "people_unreadable"),
        ("2.5", "people_unreadable"),
        ("三", "people_unreadable"),
        ("1000", "people_unreadable"),
    ],
)
def test_people(people: str, verdict: str | int) -> None:
    """The number of people is a whole number of at least one."""
    assert verdict_on(people=people) == verdict


def test_formula_in_a_column_nobody_reads() -> None:
    """A formula refuses its row in whatever column it stands; a dash or a phone number doesn't."""
    county_list = read_rows(
        f'"=HYPERLINK(""http://x"",""点我"")",{ID_A},1,60,',
        f"-,{ID_B},1,60,+86 138-0000-0000",
        f"户,{ID_C},1,60,@SUM(1)",
    )
    assert verdicts(county_list) == {2: "formula", 3: 6000, 4: "formula"}


def test_currency_column() -> None:
    """A currency column may name the currency in its usual spellings; another refuses the row."""
    mapping = MAPPING.replace('note = "备注"', 'currency = "币种"')
    header = HEADER.replace("备注", "币种")
    rows = [f"户,{ID_A},1,60,人民币", f"户,{ID_B},1,60,cny", f"户,{ID_C},1,60,USD"]
    county_list = read("\n".join((header, *rows)), mapping)
    assert verdicts(county_list) == {2: 6000, 3: 6000, 4: "currency_differs"}


def test_list_without_people() -> None:
    """A list that counts no people is read without."""
    mapping = '[columns]\nid_number = "id"\namount = "amount"\n'
    county_list = read(f"ID,Amount\n{ID_A},60\nTotal,60\n", mapping)
    assert [(row.amount_minor, row.people) for row in county_list.rows] == [(6000, None)]
    assert county_list.totals[0].agrees_with == "both"


def test_unknown_currency() -> None:
    """A currency that isn't one is the caller's mistake and said so."""
    with pytest.raises(Malformed):
        read_rows(currency="XXL")


# Row checks, kinds, households


def test_row_check_counts_in_the_lists_own_unit() -> None:
    """Checks see yuan, exactly, also where an amount is no whole number of them."""
    rows = (f"户,{ID_A},2,60.50,", f"户,{ID_B},2,120,", f"户,{ID_C},2,120.01,")
    half = MAPPING.replace("amount = 60 * people", "2×amount = 121")
    assert verdicts(read_rows(*rows, mapping=half)) == {
        2: 6050,
        3: "check_failed",
        4: "check_failed",
    }
    exact = verdicts(read_rows(*rows))
    assert exact == {2: "check_failed", 3: 12000, 4: "check_failed"}


def test_row_check_over_a_further_column() -> None:
    """A check may read a column of its own; a row where that is no number is refused."""
    mapping = MAPPING.replace('note = "备注"', 'babies = "备注"').replace(
        "60 * people", "60 * people + 30 * babies"
    )
    rows = (f"户,{ID_A},1,90,1", f"户,{ID_B},1,60,0", f"户,{ID_C},1,60,一")
    county_list = read_rows(*rows, mapping=mapping)
    assert verdicts(county_list) == {2: 9000, 3: 6000, 4: "number_unreadable"}
    assert "babies" in county_list.refused[0].reason


def test_row_check_without_people() -> None:
    """A check may do without the people column, and a row may fail the second of two checks."""
    mapping = UNCHECKED.replace("checks = []", 'checks = ["amount >= 60", "amount <= 420"]')
    mapping = mapping.replace('people = "人口"\n', "")
    rows = (f"户,{ID_A},,60,", f"户,{ID_B},,480,", f"户,{ID_C},,59.99,")
    county_list = read_rows(*rows, mapping=mapping)
    assert verdicts(county_list) == {2: 6000, 3: "check_failed", 4: "check_failed"}
    assert "amount <= 420" in county_list.refused[0].reason


def test_only_rows_of_the_kind() -> None:
    """Rows of another kind than the mapping asks for are refused, whatever else is wrong."""
    mapping = MAPPING.replace('note = "备注"', "") + '[only]\n"备注" = ["奶制品卡", "奶粉卡"]\n'
    rows = (f"户,{ID_A},1,60,奶制品卡 ", f"户,{ID_B},1,60,奶粉卡", "户,,1,60,大米券")
    assert verdicts(read_rows(*rows, mapping=mapping)) == {2: 6000, 3: 6000, 4: "other_kind"}


def test_duplicate_names_the_first_line() -> None:
    """The same household with the same amount: the first stays, the reason names its line."""
    county_list = read_rows(f"户,{ID_A},1,60,", f"户,{ID_B},1,60,", f"户,{ID_A},1,60.00,")
    assert verdicts(county_list) == {2: 6000, 3: 6000, 4: "duplicate"}
    assert "line 2" in county_list.refused[0].reason
    assert "第 2 行" in county_list.refused[0].reason_zh


def test_two_good_rows_with_different_amounts_refuse_both() -> None:
    """Two good rows of one household with different amounts: none is taken, three rows the same."""
    rows = (f"户,{ID_A},1,60,", f"户,{ID_A},2,120,", f"户,{ID_B},1,60,", f"户,{ID_A},1,60,")
    county_list = read_rows(*rows)
    conflict = "conflicting_amounts"
    assert verdicts(county_list) == {2: conflict, 3: conflict, 4: 6000, 5: conflict}
    named = [re.findall("line ([0-9]+)", row.reason) for row in county_list.refused]
    assert named == [["3"], ["2"], ["3"]]


def test_a_refused_row_does_not_spoil_the_good_one() -> None:
    """A household whose second row is refused for another reason keeps its good row."""
    assert verdicts(read_rows(f"户,{ID_A},3,180,", f"户,{ID_A},3,240,")) == {
        2: 18000,
        3: "check_failed",
    }


def test_reasons_hold_no_values() -> None:
    """Each refusal has a sentence in English and in Chinese, and none has room for a cell."""
    details = dict.fromkeys(
        ("found", "wanted", "header", "currency", "alias", "check", "other_line"), "§"
    )
    for code in RowRefusal:
        english, chinese = refusal_sentences(code, details)
        assert english.isascii() or "§" in english
        assert re.search(r"[\u4e00-\u9fff]", chinese)


# The shape of the file


def test_column_count_is_exact() -> None:
    """One cell too many or too few refuses the row, empty ones too: `1,260,` must not be 1 yuan."""
    mapping = UNCHECKED
    county_list = read_rows(f"户,{ID_A},1,1,260,", f"户,{ID_B},1,60", mapping=mapping)
    assert verdicts(county_list) == {2: "wrong_columns", 3: "wrong_columns"}
    assert "6 columns" in county_list.refused[0].reason


def test_line_numbers_are_physical() -> None:
    """Lines are counted as an editor counts them: blank ones, and cells over several lines."""
    text = f'\n名册,,,,\n\n{HEADER}\n,,,,\n户,{ID_A},1,60,"一\n二"\n　,,,,\n户,{ID_B},1,-60,\n'
    assert verdicts(read(text)) == {6: 6000, 9: "amount_negative"}


@pytest.mark.parametrize("line_end", ["\r\n", "\n", "\r"])
def test_line_ends(line_end: str) -> None:
    """Any line end will do, and only a line end ends a line."""
    text = line_end.join((HEADER, f"户\u2028\x0b\x85,{ID_A},1,60,", f"户,{ID_B},1,0,", ""))
    assert verdicts(read(text)) == {2: 6000, 3: "amount_zero"}


def test_an_open_quote_swallows_no_household() -> None:
    """A quotation mark without partner costs its own row only, even if another one follows."""
    county_list = read_rows(
        f'"户,{ID_A},1,60,',
        f"户,{ID_B},1,60,",
        f'户",{ID_C},1,60,',
        f'"户"主,{ID_A},1,60,',
    )
    assert verdicts(county_list) == {2: "row_broken", 3: 6000, 4: 6000, 5: "row_broken"}


def test_header_in_its_own_spelling() -> None:
    """Header names are found in any width, with blanks and line breaks in them, on any line."""
    header = '户主,"身份证\n号码", 人 口 ,金额(元),备注'
    assert verdicts(read(f"名册,,,,\n{header}\n户,{ID_A},1,60,\n")) == {4: 6000}


def test_repeated_header_is_no_row() -> None:
    """A header printed again on each page is left out and counted."""
    county_list = read_rows(f"户,{ID_A},1,60,", HEADER, f"户,{ID_B},1,60,")
    assert verdicts(county_list) == {2: 6000, 4: 6000}
    assert [(w.code, w.first_lines) for w in county_list.warnings][1:] == [
        ("repeated_header", (3,))
    ]


@pytest.mark.parametrize(
    ("line", "amount_minor", "people", "rows"),
    [
        ("合计,,2,120,", 12000, 2, None),
        ("合　计：,,２人,￥120.00,", 12000, 2, None),
        (",总计,2,120", 12000, 2, None),
        ("Grand Total,,2,120,,", 12000, 2, None),
        ("合计：2户2人120元", 12000, 2, 2),
        ("共计（户）,,,120,", 12000, None, None),
        ("合计,2户,2,120,", 12000, 2, None),
        ('合计,,,"1,260",', 126000, None, None),
    ],
)
def test_total_lines(line: str, amount_minor: int, people: int | None, rows: int | None) -> None:
    """A total line is recognised in its usual spellings, wherever it stands, and is no row."""
    county_list = read_rows(f"户,{ID_A},1,60,", line, f"户,{ID_B},1,60,")
    assert verdicts(county_list) == {2: 6000, 4: 6000}
    (total,) = county_list.totals
    printed = total.printed
    assert (printed.amount_minor, printed.people, printed.rows) == (amount_minor, people, rows)
    assert total.agrees_with == ("both" if amount_minor == 12000 else "neither")


def test_total_that_agrees_with_nothing_is_warned_about() -> None:
    """A wrong total shows its differences; an unreadable one is said to be so."""
    county_list = read_rows(f"户,{ID_A},1,60,", "合计,,3,100,", "合计,,,=SUM(D2),")
    codes = {warning.code: warning.first_lines for warning in county_list.warnings}
    assert codes["total_differs"] == (3,)
    assert codes["total_unreadable"] == (4,)
    against = county_list.totals[0].against_good
    assert (against.people, against.amount_minor, against.rows) == (2, 4000, None)


def test_section_totals() -> None:
    """小计 is compared with the rows since the one before it, 总计 with the whole list."""
    county_list = read_rows(
        f"户,{ID_A},1,60,", "小计,,1,60,",
        f"户,{ID_B},1,60,", f"户,{ID_C},1,0,", "本页合计,,1,60,", "总计,,2,120,",
    )  # fmt: skip
    assert [total.printed.scope for total in county_list.totals] == ["section", "section", "list"]
    assert [total.agrees_with for total in county_list.totals] == ["both", "good", "good"]
    assert county_list.totals[1].all_rows.people == 2


def test_a_household_called_total_is_a_household() -> None:
    """A line with an ID number is a row, whatever name stands first."""
    assert verdicts(read_rows(f"合计,{ID_A},1,60,")) == {2: 6000}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf\r\n \r\n", "empty"),
        (b"PK\x03\x04rest", "spreadsheet_file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "spreadsheet_file"),
        ("户主".encode("utf-16"), "utf_16"),
        (SAMPLE + b"\0", "nul_bytes"),
        (SAMPLE + b"\xff", "undecodable"),
        (b"a,b\n1,2\n", "no_header"),
        (
            SAMPLE.replace("备注".encode("gb18030"), "家庭人口".encode("gb18030")),
            "header_ambiguous",
        ),
    ],
)
def test_unreadable_files(data: bytes, code: str) -> None:
    """A file of no use at all is refused with a code and what to do, in two languages."""
    error = unreadable(data)
    assert error.code == code
    assert str(error) == error.reason
    assert re.search(r"[\u4e00-\u9fff]", error.reason_zh)


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the limit is refused before anything is made of it."""
    monkeypatch.setattr(list_records, "MAX_LIST_BYTES", len(SAMPLE))
    assert len(read_list(SAMPLE, SAMPLE_MAPPING, KEY, "CNY").rows) == 636
    assert unreadable(SAMPLE + b"\n").code == "too_large"


@pytest.mark.parametrize("unit", ["元", "(", "-a", "9", "9,", "合计1", " ", "人 ", "=", '"', "#"])
def test_monstrous_cells(unit: str) -> None:
    """A cell of a hundred thousand characters takes no more than its length to refuse."""
    cell = unit * 100_000
    county_list = read_rows(f"户,{ID_A},1,{cell},", f"{cell},,,,", f"合计{cell},,,,")
    assert county_list.rows == ()


def test_header_far_below() -> None:
    """A header below fifty filled lines is not looked for: a long list without one is refused."""
    assert verdicts(read("名册\n" * 49 + f"{HEADER}\n户,{ID_A},1,60,\n")) == {51: 6000}
    with pytest.raises(ListUnreadable) as caught:
        read("名册\n" * 50 + f"{HEADER}\n户,{ID_A},1,60,\n")
    assert caught.value.code == "no_header"


def test_undecodable_names_the_line() -> None:
    """A byte that is no text is found by its line."""
    lines = SAMPLE.split(b"\r\n")
    lines[99] += b"\xff"
    assert unreadable(b"\r\n".join(lines)).line_no == 100


def test_missing_header_names_are_named() -> None:
    """Where the header is not found, the error says which names of the mapping are missing."""
    error = unreadable(SAMPLE.replace("家庭人口".encode("gb18030"), b"n"))
    assert "家庭人口" in str(error)
    assert "身份证号码" not in str(error)


def test_encoding_setting() -> None:
    """A forced encoding is kept to; auto takes UTF-8 with and without mark, and GB18030."""
    text = SAMPLE.decode("gb18030")
    wanted = read_list(SAMPLE, SAMPLE_MAPPING, KEY, "CNY")
    for codec in ("utf-8", "utf-8-sig"):
        assert read_list(text.encode(codec), SAMPLE_MAPPING, KEY, "CNY") == wanted
    forced = dataclasses.replace(SAMPLE_MAPPING, encoding="utf-8")
    assert unreadable(SAMPLE, forced).code == "undecodable"
    forced = dataclasses.replace(SAMPLE_MAPPING, encoding="gb18030")
    assert read_list(SAMPLE, forced, KEY, "CNY") == wanted


# Properties

id_numbers = st.builds(
    lambda place, born, number, check: f"{place}{born:%Y%m%d}{number:03d}{check}",
    st.integers(110000, 659000),
    st.dates(date(1900, 1, 1), date(2099, 12, 31)),
    st.integers(0, 999),
    st.sampled_from("123456789X"),
)
households = st.lists(
    st.tuples(id_numbers, st.integers(1, 30)), max_size=12, unique_by=lambda row: row[0]
)
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@st.composite
def spelled(draw: st.DrawFn, value: str, affixes: tuple[str, ...]) -> str:
    text = draw(st.sampled_from(affixes)).format(value)
    if draw(st.booleans()):
        text = text.translate(FULL_WIDTH)
    return draw(st.sampled_from(("{}", " {}", "{}　", "\t{} "))).format(text)


@st.composite
def written_lists(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, int, int]]]:
    rows: list[list[str]] = [["名册", "", "", "", ""]] * draw(st.integers(0, 2))
    rows.append(HEADER.split(","))
    wanted: list[tuple[str, int, int]] = []
    for id_number, people in draw(households):
        amount = 60 * people
        spelling = draw(st.sampled_from((f"{amount}", f"{amount:,}", f"{amount}.00")))
        rows.append(
            [
                draw(st.sampled_from(("户", 'a"b', "c,d", "e\nf"))),
                draw(spelled(id_number, ("{}",))),
                draw(spelled(str(people), ("{}", "{}人"))),
                draw(spelled(spelling, ("{}", "{}元", "¥{}", "￥{}元"))),
                draw(st.sampled_from(("", "独居", "　"))),
            ]
        )
        wanted.append((KEY.ref(id_number), amount * 100, people))
        if draw(st.integers(0, 5)) == 0:
            rows.append(draw(st.sampled_from((["合计", "", "", "1", ""], ["", "", "", "", ""]))))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=draw(st.sampled_from(("\r\n", "\n"))))
    writer.writerows(rows)
    return text.getvalue().encode(draw(st.sampled_from(("gb18030", "utf-8", "utf-8-sig")))), wanted


@given(written_lists())
def test_any_good_list_comes_back(written: tuple[bytes, list[tuple[str, int, int]]]) -> None:
    """Whatever the encoding, width, line end or spelling: the same refs, amounts and people."""
    data, wanted = written
    county_list = read_list(data, parse_mapping(MAPPING), KEY, "CNY")
    assert county_list.refused == ()
    assert [(row.ref, row.amount_minor, row.people) for row in county_list.rows] == wanted


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda t: (HEADER + "\n" + t).encode("utf-8", "replace")),
        st.builds(
            lambda at, cut, noise: SAMPLE[:400][:at] + noise + SAMPLE[:400][at + cut :],
            st.integers(0, 400),
            st.integers(0, 30),
            st.binary(max_size=20),
        ),
    )
)
def test_garbage_is_a_case(data: bytes) -> None:
    """Whatever the bytes, the answer is a list that can be shown or ListUnreadable."""
    for mapping in (SAMPLE_MAPPING, parse_mapping(MAPPING)):
        try:
            county_list = read_list(data, mapping, KEY, "CNY")
        except ListUnreadable as error:
            shown_error = f"{error}{error.reason_zh}{error!r}"
            shown_error.encode("utf-8")
        else:
            shown(county_list).encode("utf-8")


cells = st.text(alphabet='0123456789X,"-=元合计小\t ', max_size=8)
loose_rows = st.lists(st.lists(cells, min_size=4, max_size=6), max_size=8)


@given(loose_rows)
def test_every_row_is_accounted_for(rows: list[list[str]]) -> None:
    """Each filled line is a good row, a refused one, a total or a header again."""
    text = "\n".join((HEADER, *(",".join(c.replace('"', "").replace(",", "") for c in r)
                                for r in rows)))  # fmt: skip
    county_list = read(text)
    filled = {
        at
        for at, row in enumerate(rows, 2)
        if any(c.replace('"', "").replace(",", "").strip() for c in row)
    }
    seen = [row.line_no for row in county_list.rows] + [row.line_no for row in county_list.refused]
    seen += [total.line_no for total in county_list.totals]
    assert sorted(seen) == sorted(filled)
