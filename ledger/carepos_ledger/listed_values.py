"""What stands in the cells of a county office's list: ID numbers, amounts, counts.

Each reader takes a cell as it came and returns the value or the `RowRefusal` it earns. Width is
folded by a table rather than by NFKC: NFKC also turns `60²` into 602 and `①` into 1, and a
guessed amount is worse than a refused row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from enum import Enum
from operator import mul

MAX_AMOUNT_DIGITS = 12
MAX_AMOUNT_LENGTH = 64
"""Characters, marks and all; bounds the work on a cell that is no amount."""

_FOLDING: dict[int, int | None] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FOLDING |= {0xFFE5: 0xA5, 0x3000: 0x20, 0xA0: 0x20, 0x2212: 0x2D}
# Marks without width that office programs leave around pasted numbers.
_FOLDING |= dict.fromkeys(
    (0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
)
_TEXT_MARKS = "'‘’`"
_BLANK = re.compile(r"\s+")

_FORMULA = re.compile(r"=.|[-+@][A-Za-z].*[(!|]", re.DOTALL)
_FORMULA_SIGN = re.compile("[-=+@＝＋－＠\u2212]")
_DAMAGED = re.compile(
    r"[-+]?[0-9]+(\.[0-9]*)?E[-+]?[0-9]+|#+|#(N/A|REF!|VALUE!|NAME\?|NUM!|DIV/0!|NULL!)"
)
_ID_FORM = re.compile(r"[1-9][0-9]{5}((?:19|20)[0-9]{2})([0-9]{2})([0-9]{2})[0-9]{3}[0-9X]")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK_DIGITS = "10X98765432"
_WORDS = re.compile("[零〇一二三四五六七八九十百千万亿两廿卅壹贰貳叁參肆伍陆陸柒捌玖拾佰仟萬億]")
_AMOUNT = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.([0-9]+))?")
_COUNT = re.compile(r"([0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,2})(?:\.0+)?")
_MARKS: Mapping[str, tuple[str, ...]] = {
    "CNY": ("人民币", "RMB", "¥", "元整", "元正", "圆整", "元", "圆"),
    "HKD": ("HK$", "港元", "港币", "元", "$"),
    "TWD": ("NT$", "元", "$"),
    "JPY": ("¥", "円"),
    "USD": ("US$", "$", "美元"),
    "EUR": ("€",),
    "GBP": ("£",),
}


class RowRefusal(Enum):
    """Why a row of a list is refused; the value is the code. First match wins, in this order."""

    ROW_BROKEN = "row_broken"
    WRONG_COLUMNS = "wrong_columns"
    FORMULA = "formula"
    OTHER_KIND = "other_kind"
    ID_MISSING = "id_missing"
    ID_DAMAGED = "id_damaged"
    ID_WRONG_FORM = "id_wrong_form"
    ID_CHECK_DIGIT = "id_check_digit"
    AMOUNT_MISSING = "amount_missing"
    AMOUNT_DAMAGED = "amount_damaged"
    AMOUNT_IN_WORDS = "amount_in_words"
    AMOUNT_UNREADABLE = "amount_unreadable"
    AMOUNT_FRACTION = "amount_fraction"
    AMOUNT_TOO_LARGE = "amount_too_large"
    AMOUNT_ZERO = "amount_zero"
    AMOUNT_NEGATIVE = "amount_negative"
    PEOPLE_MISSING = "people_missing"
    PEOPLE_UNREADABLE = "people_unreadable"
    CURRENCY_DIFFERS = "currency_differs"
    NUMBER_UNREADABLE = "number_unreadable"
    CHECK_FAILED = "check_failed"
    DUPLICATE = "duplicate"
    CONFLICTING_AMOUNTS = "conflicting_amounts"


def fold_width(cell: str) -> str:
    """`cell` with full-width ASCII, `￥` and blanks as half-width, trimmed."""
    if cell.isascii():
        return cell.strip()
    return cell.translate(_FOLDING).strip()


def header_key(name: str) -> str:
    """The form in which header names and row kinds are compared: width, blanks, case folded."""
    return _BLANK.sub("", fold_width(name)).casefold()


def holds_formula(cells: Sequence[str]) -> bool:
    """Whether a spreadsheet would run one of `cells` instead of showing it. `-60` is a number."""
    if _FORMULA_SIGN.search("".join(cells)) is None:
        return False
    return any(_FORMULA.match(fold_width(cell)) for cell in cells)


def check_digit_right(id_number: str) -> bool:
    """The 18th place of a normalised ID number by GB 11643-1999 (ISO 7064, MOD 11-2)."""
    total = sum(map(mul, map(int, id_number[:17]), _ID_WEIGHTS))
    return _ID_CHECK_DIGITS[total % 11] == id_number[17]


def read_id_number(cell: str) -> str | RowRefusal:
    """The normalised resident ID number (18 places, capital X; GB 11643-1999).

    The check digit is the caller's matter but for one case: a spreadsheet keeps 15 digits and
    writes `000` for the rest, so `…000` with a wrong check digit counts as damaged.
    """
    text = _BLANK.sub("", fold_width(cell)).strip(_TEXT_MARKS).upper()
    if not text:
        return RowRefusal.ID_MISSING
    if _DAMAGED.fullmatch(text) or re.fullmatch(r"[0-9]+\.[0-9]*", text):
        return RowRefusal.ID_DAMAGED
    form = _ID_FORM.fullmatch(text)
    if form is None:
        return RowRefusal.ID_WRONG_FORM
    try:
        date(int(form[1]), int(form[2]), int(form[3]))
    except ValueError:
        return RowRefusal.ID_WRONG_FORM
    if text.endswith("000") and not check_digit_right(text):
        return RowRefusal.ID_DAMAGED
    return text


def read_amount(cell: str, currency: str, minor_digits: int) -> int | RowRefusal:
    """An amount as offices write it (`1,260`, `60元`, `￥60`, `60.00`) in minor units, above 0.

    More decimals than the currency has are refused even when they are zeros: `1.260` may be a
    thousand and more elsewhere. `.0` and `.00` pass for every currency.
    """
    text = fold_width(cell).strip(_TEXT_MARKS).upper()
    if not text:
        return RowRefusal.AMOUNT_MISSING
    if _DAMAGED.fullmatch(text):
        return RowRefusal.AMOUNT_DAMAGED
    if len(text) > MAX_AMOUNT_LENGTH:
        return RowRefusal.AMOUNT_UNREADABLE
    bare, negative = text, False
    number = _AMOUNT.fullmatch(text)
    if number is None:
        bare, negative = _without_marks(text, currency)
        number = _AMOUNT.fullmatch(bare)
    if number is None:
        in_words = _WORDS.search(bare)
        return RowRefusal.AMOUNT_IN_WORDS if in_words else RowRefusal.AMOUNT_UNREADABLE
    whole, decimals = number[1].replace(",", ""), number[2] or ""
    if len(whole) > MAX_AMOUNT_DIGITS:
        return RowRefusal.AMOUNT_UNREADABLE
    if len(decimals) > minor_digits:
        if decimals not in ("0", "00"):
            return RowRefusal.AMOUNT_FRACTION
        decimals = decimals[:minor_digits]
    amount_minor = int(whole + decimals.ljust(minor_digits, "0"))
    if amount_minor == 0:
        return RowRefusal.AMOUNT_ZERO
    return RowRefusal.AMOUNT_NEGATIVE if negative else amount_minor


def _without_marks(text: str, currency: str) -> tuple[str, bool]:
    marks = (*_MARKS.get(currency, ()), currency)
    negative = False
    while True:
        before = text
        if len(text) > 1 and text[0] == "(" and text[-1] == ")":
            text, negative = text[1:-1], True
        if len(text) > 1 and text[0] == "-":
            text, negative = text[1:], True
        if len(text) > 1 and text[-1] == "-":
            text, negative = text[:-1], True
        for mark in marks:
            text = text.removeprefix(mark).removesuffix(mark)
        text = text.strip()
        if text == before:
            return text, negative


def read_people(cell: str) -> int | RowRefusal:
    """How many people a household has: 1 to 999, written `3`, `3人` or `3口`."""
    if not fold_width(cell):
        return RowRefusal.PEOPLE_MISSING
    people = read_count(cell)
    return people if people is not None and 1 <= people <= 999 else RowRefusal.PEOPLE_UNREADABLE


def read_count(cell: str) -> int | None:
    """A whole number from 0, with or without `人`, `口`, `户`; None if it isn't one."""
    text = fold_width(cell).strip(_TEXT_MARKS).rstrip("人口户").rstrip()
    match = _COUNT.fullmatch(text)
    return int(match[1].replace(",", "")) if match else None


def same_currency(cell: str, currency: str) -> bool:
    """Whether a currency cell is empty or names `currency` (`CNY`, `人民币`, `元`…)."""
    text = fold_width(cell).upper()
    return not text or text == currency or text in _MARKS.get(currency, ())
