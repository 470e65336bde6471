"""The sentences for refused rows and warnings, English and Chinese. None holds a cell's value."""

from __future__ import annotations

from collections.abc import Mapping

from carepos_ledger.listed_values import RowRefusal

_REFUSALS: Mapping[RowRefusal, tuple[str, str]] = {
    RowRefusal.ROW_BROKEN: (
        "a quotation mark on this line has no partner",
        "本行引号不成对",
    ),
    RowRefusal.WRONG_COLUMNS: (
        "{found} columns where the header has {wanted}",
        "本行有 {found} 列，表头有 {wanted} 列",
    ),
    RowRefusal.FORMULA: (
        "a cell holds a formula instead of a value",
        "单元格里是公式，不是数值或文字",
    ),
    RowRefusal.OTHER_KIND: (
        "the column {header} names another kind than this list is imported for",
        "“{header}”一栏不是本次导入的类别",
    ),
    RowRefusal.ID_MISSING: (
        "the ID number is missing",
        "缺少身份证号码",
    ),
    RowRefusal.ID_DAMAGED: (
        "the ID number was damaged by a spreadsheet: format the column as text, enter it again",
        "身份证号码被表格软件损坏，请将该列设为文本格式后重新录入",
    ),
    RowRefusal.ID_WRONG_FORM: (
        "the ID number does not have the form of an 18-digit resident ID number",
        "身份证号码格式不对（应为 18 位）",
    ),
    RowRefusal.ID_CHECK_DIGIT: (
        "the ID number's check digit is wrong",
        "身份证号码校验位不对",
    ),
    RowRefusal.AMOUNT_MISSING: (
        "the amount is missing",
        "缺少金额",
    ),
    RowRefusal.AMOUNT_DAMAGED: (
        "the amount was damaged by a spreadsheet: enter it again",
        "金额被表格软件损坏，请重新录入",
    ),
    RowRefusal.AMOUNT_IN_WORDS: (
        "the amount is written in words: use digits",
        "金额用汉字书写，请改用数字",
    ),
    RowRefusal.AMOUNT_UNREADABLE: (
        "the amount is not a plain number in {currency}",
        "金额无法识别（币种 {currency}）",
    ),
    RowRefusal.AMOUNT_FRACTION: (
        "the amount has more decimal places than {currency} has",
        "金额的小数位数超过币种 {currency} 的最小单位",
    ),
    RowRefusal.AMOUNT_TOO_LARGE: (
        "the amount is larger than any voucher may be",
        "金额超过单张券的上限",
    ),
    RowRefusal.AMOUNT_ZERO: (
        "the amount is zero",
        "金额为零",
    ),
    RowRefusal.AMOUNT_NEGATIVE: (
        "the amount is negative",
        "金额为负数",
    ),
    RowRefusal.PEOPLE_MISSING: (
        "the number of people is missing",
        "缺少人口数",
    ),
    RowRefusal.PEOPLE_UNREADABLE: (
        "the number of people is not a whole number from 1 to 999",
        "人口数不是 1 至 999 的整数",
    ),
    RowRefusal.CURRENCY_DIFFERS: (
        "the currency is not {currency}",
        "币种不是 {currency}",
    ),
    RowRefusal.NUMBER_UNREADABLE: (
        "the column {alias}, which a check needs, is not a whole number",
        "校验所需的“{alias}”一栏不是整数",
    ),
    RowRefusal.CHECK_FAILED: (
        "the row check does not hold: {check}",
        "不符合校验规则：{check}",
    ),
    RowRefusal.DUPLICATE: (
        "the same household with the same amount is already on line {other_line}",
        "与第 {other_line} 行为同一户且金额相同，重复",
    ),
    RowRefusal.CONFLICTING_AMOUNTS: (
        "the same household with another amount is on line {other_line}: none is taken",
        "与第 {other_line} 行为同一户但金额不同，均不采用",
    ),
}

_WARNINGS: Mapping[str, tuple[str, str]] = {
    "id_check_digit": (
        "{count} good rows carry an ID number with a wrong check digit",
        "{count} 行的身份证号码校验位不对（仍予导入）",
    ),
    "repeated_header": (
        "the header is repeated on {count} lines, which are left out",
        "表头重复出现 {count} 次，已跳过",
    ),
    "total_unreadable": (
        "{count} total lines hold no total that can be read",
        "{count} 个合计行无法识别",
    ),
    "total_differs": (
        "{count} total lines agree neither with all rows nor with the good ones",
        "{count} 个合计行与全部行、有效行的合计均不符",
    ),
}


def refusal_sentences(code: RowRefusal, details: Mapping[str, object]) -> tuple[str, str]:
    """The reason for `code` in English and in Chinese."""
    english, chinese = _REFUSALS[code]
    return english.format_map(details), chinese.format_map(details)


def warning_sentences(code: str, count: int) -> tuple[str, str]:
    """The warning `code` in English and in Chinese."""
    english, chinese = _WARNINGS[code]
    return english.format(count=count), chinese.format(count=count)
