"""The receipt as data, rows and text."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.errors import Malformed
from carepos.paper_text import cell_width, scrub, text_width, wrap
from carepos.receipt import (
    Language,
    Receipt,
    ReceiptKind,
    ReceiptLine,
    VoucherBalance,
    from_json_object,
    mask,
    to_json_object,
)
from carepos.receipt_layout import COLUMNS, lay_out, render_text
from tests.receipt_samples import QR_TEXT, sample_receipt

_ANY_CHAR = st.characters(exclude_categories=())
_ANY_TEXT = st.one_of(
    st.text(_ANY_CHAR, max_size=80),
    st.text("ab 0,。（纯牛奶𬭊㛃\x1b\x1d\u202e\u200b\u0301é…·", max_size=80),
)
_AMOUNTS = st.one_of(st.integers(0, 20_000), st.integers(0, 2**50))


@st.composite
def _lines(draw: st.DrawFn) -> ReceiptLine:
    amount_minor = draw(_AMOUNTS)
    programme_minor = draw(st.integers(0, amount_minor))
    return ReceiptLine(
        draw(_ANY_TEXT),
        draw(st.integers(0, 10**9)),
        draw(st.sampled_from(("piece", "g", "ml"))),
        amount_minor,
        programme_minor,
        draw(st.integers(0, amount_minor - programme_minor)),
        draw(_ANY_TEXT),
    )


_BALANCES = st.builds(
    VoucherBalance,
    _ANY_TEXT,
    _AMOUNTS,
    _AMOUNTS,
    st.sampled_from((None, "piece", "g", "ml")),
)


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (Hypothesis adds the zone itself)
_UPPER_TEXTS = ("merchant_name", "store_name", "programme_name", "receipt_no")
_LOWER_TEXTS = ("terminal_no", "zone_name", "cashier", "beneficiary_ref")


@st.composite
def _receipts(draw: st.DrawFn) -> Receipt:
    lines = tuple(draw(st.lists(_lines(), max_size=4)))
    total_minor = sum(line.line_amount_minor for line in lines)
    programme_minor = sum(line.programme_minor for line in lines)
    beneficiary_minor = sum(line.beneficiary_minor for line in lines)
    kinds: tuple[ReceiptKind, ...] = get_args(ReceiptKind)
    texts = draw(st.lists(_ANY_TEXT, min_size=2, max_size=2))
    fields: dict[str, Any] = dict.fromkeys(_UPPER_TEXTS, texts[0]) | dict.fromkeys(
        _LOWER_TEXTS, texts[1]
    )
    return Receipt(
        kind=draw(st.sampled_from(kinds)),
        language=draw(st.sampled_from(("zh", "en", "zh+en"))),
        occurred_at=draw(st.datetimes(_EPOCH, timezones=st.just(UTC))),
        utc_offset_minutes=draw(st.integers(-18 * 60, 18 * 60)),
        currency=draw(st.sampled_from(("CNY", "JPY", "KWD", "USD"))),
        lines=lines,
        programme_minor=programme_minor,
        beneficiary_minor=beneficiary_minor,
        other_tender_minor=total_minor - programme_minor - beneficiary_minor,
        total_minor=total_minor,
        balances=tuple(draw(st.lists(_BALANCES, max_size=2))),
        liability=draw(st.sampled_from(("programme", "merchant"))),
        qr_text=draw(st.sampled_from(("", QR_TEXT))),
        acting=draw(st.sampled_from((None, "proxy", "witness"))),
        sale_no="0001-000007-2",
        approved_by=draw(st.sampled_from(("", "c02"))),
        is_copy=draw(st.booleans()),
        **fields,
    )


@given(_receipts(), st.sampled_from(COLUMNS))
def test_no_row_is_wider_than_the_paper(receipt: Receipt, columns: int) -> None:
    """Whatever the texts and amounts are, every row fits the paper, on screen and enlarged.

    T-9: and no text brings a control, format, private or unassigned character onto it.
    """
    for row in lay_out(receipt, columns):
        assert row.cells <= columns
        assert all(cell_width(char) for char in row.text)
        assert all(unicodedata.category(char)[0] in "LNPSZ" for char in row.text)
    assert max(text_width(line) for line in render_text(receipt, columns).split("\n")) <= columns


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("char", ["a", "券", "a ", "券a"])
def test_a_name_of_any_length_leaves_room_for_its_amount(char: str, columns: int) -> None:
    """However long a name is, its amount stands whole at the right edge of one row."""
    for length in range(1, 97):
        line = ReceiptLine((char * 96)[:length], 1, "piece", 5850, 5850)
        rows = lay_out(
            sample_receipt(
                lines=(line,),
                programme_minor=5850,
                beneficiary_minor=0,
                other_tender_minor=0,
                total_minor=5850,
            ),
            columns,
        )
        assert max(row.cells for row in rows) <= columns
        amounts = [row.text for row in rows if row.text.endswith(" 58.50")]
        assert [text_width(amount) for amount in amounts] == [columns]


@given(_receipts())
def test_a_receipt_survives_the_journal(receipt: Receipt) -> None:
    """A print job read back from JSON is the same receipt, and is spelled the same again."""
    spelled = json.dumps(to_json_object(receipt))
    read = from_json_object(json.loads(spelled))
    assert read == receipt
    assert json.dumps(to_json_object(read)) == spelled


@given(_ANY_TEXT, st.integers(0, 60))
def test_scrubbing_bounds_and_settles(text: str, max_width: int) -> None:
    """A scrubbed text fits, is NFC and one line, and scrubbing it again changes nothing."""
    once = scrub(text, max_width)
    assert text_width(once) <= max_width
    assert unicodedata.is_normalized("NFC", once)
    assert "\n" not in once
    assert scrub(once, max_width) == once


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("milk\x1bp\x00\x19\xfa", "milkpú"),
        ("a\tb\r\nc\u2028d\u3000e", "a b c d e"),
        ("价\u202e00.1\u202c", "价00.1"),
        ("x\u200b\u200d\ufeff\u2060y", "xy"),
        ("\ue000\U000f0000\ud800\ufffe\x9b\x7f", ""),
        ("e\u0301a\u0301\u0301\u0301", "éá"),
        ("\u3164\u115f\u2800ok", "ok"),
        ("\u05e9\u0644 12", "12"),
        ("陈𬭊㛃", "陈𬭊㛃"),
    ],
)
def test_scrub_keeps_what_may_be_printed(dirty: str, clean: str) -> None:
    """No controls, bidi, zero width, private use, surrogates, stacked accents get through."""
    assert scrub(dirty, 40) == clean


def test_scrub_cuts_by_cells() -> None:
    """A text that is too long ends in an ellipsis, counted in cells and not in characters."""
    assert scrub("纯牛奶纯牛奶", 9) == "纯牛奶…"
    assert scrub("纯牛奶", 6) == "纯牛奶"
    assert scrub("a" * 10**6, 5) == "aaa…"


@given(_ANY_TEXT, st.integers(2, 48))
def test_wrapping_loses_nothing(text: str, columns: int) -> None:
    """Wrapped lines fit and hold every character but the spaces they were broken at."""
    clean = scrub(text, 300)
    lines = wrap(clean, columns)
    assert all(0 < text_width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == clean.replace(" ", "")


def test_wrapping_breaks_where_a_reader_would() -> None:
    """Between words and Chinese characters; a closing mark never begins a line."""
    assert wrap("Milk powder for seniors", 12) == ["Milk powder", "for seniors"]
    assert wrap("中老年奶粉，高钙", 10) == ["中老年奶", "粉，高钙"]
    assert wrap("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_only_a_confirmed_redemption_says_redeemed() -> None:
    """INV-4: REDEEMED stands on a confirmed slip and on no other."""
    words: dict[Language, str] = {
        "zh": "已核销",
        "en": "REDEEMED",
        "zh+en": "已核销 REDEEMED",
    }
    others = set(get_args(ReceiptKind)) - {"REDEEMED"}
    for language, word in words.items():
        assert word in render_text(sample_receipt(language))
        for kind in others:
            text = render_text(sample_receipt(language, kind, sale_no="0001-000003-0"))
            assert "已核销" not in text
            assert "REDEEMED" not in text


def test_a_provisional_slip_says_who_bears_the_loss() -> None:
    """INV-4: offline says PROVISIONAL and names who is liable; other slips don't."""
    text = render_text(sample_receipt("zh+en", "PROVISIONAL"))
    assert "待确认" in text
    assert "PROVISIONAL" in text
    assert "损失由救助项目承担" in text
    text = render_text(sample_receipt("en", "PROVISIONAL", liability="merchant"), 48)
    assert "If refused, this shop bears the loss." in text
    assert "loss" not in render_text(sample_receipt("en", liability="merchant"))


def test_a_reprint_says_copy() -> None:
    """INV-4: a reprint says COPY under the same number; the first slip does not."""
    copy = render_text(sample_receipt("zh+en", is_copy=True))
    assert "副本 COPY" in copy
    assert "0001-000007-2" in copy
    assert "COPY" not in render_text(sample_receipt("zh+en"))


def test_a_reversal_says_reversed() -> None:
    """The slip of an undone sale says REVERSED and that the voucher was not used."""
    text = render_text(sample_receipt("zh+en", "REVERSED"))
    assert "已撤销" in text
    assert "REVERSED" in text
    assert "爱心券未被使用" in text


def test_a_void_says_voided() -> None:
    """Under the sale's number: what goes back to voucher and customer, and that it did."""
    text = render_text(sample_receipt("zh+en", "VOIDED", approved_by="07"), 48)
    for row in (
        "已撤销 VOIDED",
        "退回爱心券 Voucher back",
        "退还自付 You get back",
        "复核 Approved 07",
        "退券 to voucher 80.00",
        "现有 Now 90.75",
        "券额已退回券中",
    ):
        assert row in text
    assert "券付" not in text.replace("券付部分", "") and "还剩" not in text


def test_a_refund_says_which_sale_it_is_of() -> None:
    """A number of its own, and the sale's; without that it is no refund."""
    text = render_text(sample_receipt("zh+en", "REFUND", sale_no="0001-000003-0"), 48)
    assert "退货 REFUND" in text and "原单号 Sale 0001-000003-0" in text
    assert "单号 Receipt 0001-000007-2" in text and "券付部分已退回券中" in text
    with pytest.raises(Malformed) as refused:
        sample_receipt("zh", "REFUND")
    assert refused.value.field == "sale_no"


def test_the_split_the_balances_and_the_reasons_are_there() -> None:
    """A villager sees what the voucher paid, what is to pay, what is left, and why not all."""
    text = render_text(sample_receipt())
    for row in (
        "爱心券支付              ￥284.24",
        "自付                     ￥62.91",
        "  券付 80.00          自付 17.90",
        "  超过单罐限价 80.00",
        "  不在救助商品清单内  自付 45.00",
        "东北大米(散装) 2.5kg       14.75",
        "奶制品卡 **4821      用前 360.00",
        "                      还剩 90.75",
        "2026-11-22 21:31:05 UTC+8",
    ):
        assert f"{row}\n" in text


def test_amounts_follow_the_currency() -> None:
    """ISO 4217: yen have no decimals, Kuwaiti dinars three."""
    assert "JPY 34715" in render_text(sample_receipt("en", currency="JPY"))
    assert "KWD 34.715" in render_text(sample_receipt("en", currency="KWD"))


def test_a_pseudonym_is_masked() -> None:
    """Only the last characters of a pseudonym reach the paper or the print job."""
    assert mask("a81b7f3k") == mask("**7f3k") == "**7f3k"
    receipt = sample_receipt(beneficiary_ref="b-6k2m9q4x7w3e5r8t1a81b7f3k")
    assert receipt.beneficiary_ref == "**7f3k"
    assert "81b7f3k" not in json.dumps(to_json_object(receipt)) + render_text(receipt)


def test_the_time_stays_on_one_row() -> None:
    """A zone's name is shown where there is room for it, else the offset."""
    receipt = sample_receipt(zone_name="Asia/Shanghai")
    assert "2026-11-22 21:31:05 UTC+8\n" in render_text(receipt, 32)
    assert "2026-11-22 21:31:05 Asia/Shanghai\n" in render_text(receipt, 42)
    receipt = sample_receipt(zone_name="", utc_offset_minutes=-210)
    assert "2026-11-22 10:01:05 UTC-3:30\n" in render_text(receipt, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "PAID"},
        {"kind": "PROVISIONAL", "liability": None},
        {"language": "fr"},
        {"currency": "XXQ"},
        {"total_minor": 34714},
        {"programme_minor": 28423, "other_tender_minor": 6291},
        {"programme_minor": True},
        {"programme_minor": 284.24},
        {"occurred_at": datetime(2026, 11, 22)},  # noqa: DTZ001
        {"utc_offset_minutes": 2000},
        {"merchant_name": None},
        {"qr_text": "a\x1bb"},
        {"qr_text": "券"},
        {"qr_text": "a" * 301},
        {"lines": [1]},
        {"liability": "nobody"},
    ],
)
def test_a_receipt_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    """Wrong words, types, sums and QR contents are refused when the receipt is made."""
    with pytest.raises(Malformed):
        sample_receipt(**changes)


def test_a_line_can_not_pay_more_than_it_costs() -> None:
    """The two parts of a line never exceed its amount."""
    with pytest.raises(Malformed):
        ReceiptLine("milk", 1, "piece", 100, 80, 21)


@pytest.mark.parametrize("name", sorted(to_json_object(sample_receipt())))
def test_a_print_job_is_read_strictly(name: str) -> None:
    """A missing, unknown or wrongly typed name refuses the whole print job."""
    good = to_json_object(sample_receipt())
    for bad in (
        {key: value for key, value in good.items() if key != name},
        good | {f"{name}2": good[name]},
        good | {name: 1.5},
        good | {name: [{}]},
    ):
        with pytest.raises(Malformed):
            from_json_object(bad)
    others: tuple[object, ...] = (None, [], "receipt", {})
    for other in others:
        with pytest.raises(Malformed):
            from_json_object(other)


@pytest.mark.parametrize(
    ("way", "zh", "en"),
    [("proxy", "代领", "Collected by another"), ("witness", "见证", "Witnessed")],
)
def test_who_acts_is_one_line_and_no_name(way: Any, zh: str, en: str) -> None:
    """A slip says that somebody came for the holder or vouched; one that nobody acted for is
    spelled and laid out as it always was."""
    plain = sample_receipt()
    acted = replace(plain, acting=way)
    words: dict[Language, str] = {"zh": zh, "en": en, "zh+en": f"{zh} {en}"}
    for language, word in words.items():
        before = render_text(replace(plain, language=language)).splitlines()
        after = render_text(replace(acted, language=language)).splitlines()
        assert [row for row in after if row not in before] == [word]
        assert len(after) == len(before) + 1
    assert to_json_object(acted) == {**to_json_object(plain), "acting": way}
    with pytest.raises(Malformed):
        from_json_object({**to_json_object(plain), "acting": "uncle"})
