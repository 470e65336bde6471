"""Differences between tills and settlement files: what each is called, and which time explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Cause = Literal[
    "not_settled_yet",
    "paid_but_reversed",
    "open_at_till",
    "in_review",
    "ticked_off",
    "missing_in_settlement",
    "amount_differs",
    "reversed_in_settlement",
    "reversal_not_in_file",
    "reversal_without_sale",
    "refund_not_in_file",
    "refunded_in_settlement",
    "paid_but_refused",
    "not_in_journal",
    "duplicate_line",
    "other_terminal",
]

LABEL: Final[dict[Cause, str]] = {
    "not_settled_yet": "not settled yet 尚未结算",
    "paid_but_reversed": "taken back in the next file 撤销待下期冲减",
    "open_at_till": "still open at the till 收银端未完结",
    "in_review": "in review at the office 项目办公室处理中",
    "ticked_off": "ticked off at the shop 商户已了结",
    "missing_in_settlement": "missing in the files 结算文件缺少",
    "amount_differs": "amount differs 金额不符",
    "reversed_in_settlement": "taken back in the files 结算已冲减",
    "reversal_not_in_file": "undo missing in the files 结算缺少撤销",
    "reversal_without_sale": "undo without its sale 有撤销无核销",
    "refund_not_in_file": "refund missing in the files 结算缺少退货",
    "refunded_in_settlement": "refunded in the files 结算多出退货",
    "paid_but_refused": "paid though refused 已拒绝却结算",
    "not_in_journal": "not in the till's journal 收银端无此笔",
    "duplicate_line": "paid twice 重复结算",
    "other_terminal": "another till 其他收银端",
}
"""What a clerk reads for each cause."""

EXPLAINED: Final[frozenset[Cause]] = frozenset(
    {"not_settled_yet", "paid_but_reversed", "open_at_till", "ticked_off"}
)
"""Causes that the order of events explains, which go away without anybody correcting anything; and
what a person looked at and said to be dealt with."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference with its cause. `effect_minor` is its part of (till − files).

    `receipt_no` and `checkout` are None where only one side is there and doesn't know them.
    """

    cause: Cause
    terminal: str
    incarnation: str
    sequence: int
    receipt_no: str | None
    checkout: str | None
    programme: str
    currency: str
    effect_minor: int
    sentence: str

    @property
    def explained(self) -> bool:
        return self.cause in EXPLAINED

    def to_json(self) -> dict[str, object]:
        return {
            "cause": self.cause,
            "explained": self.explained,
            "terminal": self.terminal,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "receipt_no": self.receipt_no,
            "checkout": self.checkout,
            "programme": self.programme,
            "currency": self.currency,
            "effect_minor": self.effect_minor,
            "sentence": self.sentence,
        }
