"""Taking a sale back: void (whole, soon, at its own till) and refund (later, line by line).

What stands in the two records, and the pure rules about them that till and ledger share
(docs/offline.md §3): what goes back to which voucher, and why not. A reversal is neither: it is the
till's own undo of an attempt whose outcome it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, Literal, cast, get_args

from carepos import ids, money, strict_json
from carepos.basket import (
    MAX_LINES,
    MAX_QUANTITY,
    Entry,
    Line,
    entries_from_json,
)
from carepos.errors import Malformed
from carepos.refusals import Refusal
from carepos.voucher import Programme, Terms

VoidReason = Literal["wrong_goods", "wrong_holder", "changed_mind", "goods_kept", "other"]
RefundReason = Literal["returned", "faulty", "overcharged", "other"]

VOID_REASONS: Final[tuple[str, ...]] = get_args(VoidReason)
REFUND_REASONS: Final[tuple[str, ...]] = get_args(RefundReason)


@dataclass(frozen=True, slots=True)
class Original:
    """Which attempt is undone: whose, its id, and the digest of its `redeem` record."""

    terminal: str
    id: str
    record_sha256: str

    def to_json(self) -> dict[str, object]:
        return {"terminal": self.terminal, "id": self.id}


@dataclass(frozen=True, slots=True)
class Void:
    """Content of a `void`: the whole sale is taken back. `cashier` and `approved_by` are labels."""

    original: Original
    cashier: str
    approved_by: str | None
    reason: VoidReason

    def to_json(self) -> dict[str, object]:
        return {
            "original": self.original.to_json(),
            "record_sha256": self.original.record_sha256,
            "cashier": self.cashier,
            "approved_by": self.approved_by,
            "reason": self.reason,
        }

    def meaning(self) -> dict[str, object]:
        """What a content digest is taken of, beside kind and terminal (INV-1)."""
        return {"original": self.original.to_json()}

    @classmethod
    def from_json(cls, value: object) -> Void:
        names = _known(value, {"original", "record_sha256", "cashier", "approved_by", "reason"})
        return cls(*_who(names), cast(VoidReason, _reason(names, VOID_REASONS)))


@dataclass(frozen=True, slots=True)
class ReturnedLine:
    """How much of one line of the sale (numbered from 1) comes back, in that line's unit."""

    line: int
    quantity: int

    def to_json(self) -> dict[str, object]:
        return {"line": self.line, "quantity": self.quantity}


@dataclass(frozen=True, slots=True)
class Refund:
    """Content of a `refund`: what comes back of which lines, and what goes to which voucher."""

    original: Original
    cashier: str
    approved_by: str | None
    reason: RefundReason
    currency: str
    lines: tuple[ReturnedLine, ...]
    parts: tuple[Entry, ...]

    @property
    def programme_minor(self) -> int:
        return sum(part.programme_minor for part in self.parts)

    @property
    def beneficiary_minor(self) -> int:
        """What the shop gives back itself, as it was paid."""
        return sum(part.beneficiary_minor for part in self.parts)

    def to_json(self) -> dict[str, object]:
        return {
            "original": self.original.to_json(),
            "record_sha256": self.original.record_sha256,
            "cashier": self.cashier,
            "approved_by": self.approved_by,
            "reason": self.reason,
            "currency": self.currency,
            "lines": [line.to_json() for line in self.lines],
            "parts": [part.to_json() for part in self.parts],
        }

    def meaning(self) -> dict[str, object]:
        """What a content digest is taken of, beside kind and terminal (INV-1)."""
        return {
            "original": self.original.to_json(),
            "currency": self.currency,
            "lines": [line.to_json() for line in self.lines],
            "parts": [part.to_json() for part in self.parts],
        }

    @classmethod
    def from_json(cls, value: object) -> Refund:
        names = _known(
            value,
            {
                "original", "record_sha256", "cashier", "approved_by", "reason",
                "currency", "lines", "parts",
            },
        )  # fmt: skip
        lines = returned_lines(names["lines"], "content.lines")
        parts = entries_from_json(names["parts"], MAX_LINES, "content.parts", empty_money=True)
        if {part.line for part in parts} - {line.line for line in lines}:
            raise Malformed("of a line that does not come back", field="content.parts")
        refund = cls(
            *_who(names),
            cast(RefundReason, _reason(names, REFUND_REASONS)),
            money.currency(names["currency"], "content.currency"),
            lines,
            parts,
        )
        if refund.programme_minor > money.MAX_AMOUNT_MINOR:
            raise Malformed("comes to more than one redemption may", field="content.parts")
        return refund


def returned_lines(value: object, where: str = "lines") -> tuple[ReturnedLine, ...]:
    """1 to 40 lines, sorted, none twice. Raises Malformed."""
    lines = []
    for n, each in enumerate(strict_json.array(value, where, low=1, high=MAX_LINES), 1):
        names = strict_json.exact_names(each, {"line", "quantity"}, where=f"{where}[{n}]")
        lines.append(
            ReturnedLine(
                strict_json.integer(names["line"], f"{where}[{n}].line", low=1, high=MAX_LINES),
                strict_json.integer(
                    names["quantity"], f"{where}[{n}].quantity", low=1, high=MAX_QUANTITY
                ),
            )
        )
    if any(a.line >= b.line for a, b in pairwise(lines)):
        raise Malformed("must be sorted, no line twice", field=where)
    return tuple(lines)


def _known(value: object, expected: set[str]) -> Mapping[str, object]:
    if isinstance(value, dict) and value.keys() != expected:
        # What a later version may have instead; the frozen vectors hold one with fewer.
        raise Malformed("not of a version known here", field="content", code="unsupported_kind")
    return strict_json.exact_names(value, expected, where="content")


def _who(names: Mapping[str, object]) -> tuple[Original, str, str | None]:
    original = strict_json.exact_names(
        names["original"], {"terminal", "id"}, where="content.original"
    )
    approved_by = names["approved_by"]
    return (
        Original(
            ids.name(original["terminal"], "content.original.terminal"),
            ids.attempt_id(original["id"]),
            ids.digest_text(names["record_sha256"], "content.record_sha256"),
        ),
        ids.label(names["cashier"], "content.cashier"),
        None if approved_by is None else ids.label(approved_by, "content.approved_by"),
    )


def _reason(names: Mapping[str, object], known: Sequence[str]) -> str:
    reason = names["reason"]
    if not isinstance(reason, str) or reason not in known:
        raise Malformed(f"must be one of {', '.join(known)}", field="content.reason")
    return reason


# ── the rules ──────────────────────────────────────────────────────────────────────────────────


PART_REFUNDED: Final = (
    "A part of this sale was refunded already: refund the rest.",
    "本单已部分退货：请将其余部分办理退货。",
)
CAME_BACK: Final = (
    "This came back before: that much is not left. What is: carepos till refund RECEIPT.",
    "该商品此前已退货，剩余不足；查看可退数量：carepos till refund 单号。",
)
NO_SUCH_LINE: Final = (
    "The sale has no line of this number. Its lines: carepos till refund RECEIPT.",
    "原单没有此行；查看各行：carepos till refund 单号。",
)
NOT_COVERED: Final = (
    (
        "The vouchers did not cover all of this sale: it can only be voided whole, while its time "
        "runs. After that the goods come back as any others; tell the programme's office."
    ),
    "本单未由卡券全额支付：只能在撤销时限内整单撤销；逾期按普通商品退货，并告知项目办公室。",
)
NO_VOUCHER_PAID: Final = (
    "No voucher paid for this: give it back as any other goods, outside of the programme.",
    "该商品未用券支付：请按普通商品办理退货。",
)


@dataclass(frozen=True, slots=True)
class Sold:
    """A sale that stands in the book, as a void or refund of it looks at it.

    `refunded` is, by line, how much of it came back before; `undone` whether it was taken back
    whole; `settled` whether a settlement batch holds it; `is_short` whether vouchers covered less
    than the allocation says, so that its lines can't be given back one by one.
    """

    basket: tuple[Line, ...]
    allocation: tuple[Entry, ...]
    currency: str
    occurred_at: datetime
    recorded_at: datetime
    accepted_offline: bool = False
    is_short: bool = False
    settled: bool = False
    undone: bool = False
    refunded: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_used_up(self) -> bool:
        """Whether nothing of it is left to undo.

        Also before every line is back: the last minor unit of three pieces goes with the first.
        """
        return self.undone or not any(any(self.kept(entry)) for entry in self.allocation)

    def gives_back(self, line: int) -> bool:
        """Whether anything of this line can come back to a voucher yet."""
        entries = [entry for entry in self.allocation if entry.line == line]
        return not self.undone and any(any(self.kept(entry)) for entry in entries)

    def kept(self, entry: Entry, returned: int = 0) -> tuple[int, int, int]:
        """(quantity, programme's part, beneficiary's part) of an entry that stay taken when so
        much more of its line comes back."""
        n = self.basket[entry.line - 1].quantity
        left = n - self.refunded.get(entry.line, 0) - returned
        if entry.quantity == 0:
            return 0, entry.programme_minor * left // n, entry.beneficiary_minor * left // n
        units = self._units_kept(entry, left, n)
        return (
            units,
            entry.programme_minor * units // entry.quantity,
            entry.beneficiary_minor * units // entry.quantity,
        )

    def _units_kept(self, entry: Entry, left: int, n: int) -> int:
        """What all entries of the line keep together, filled into them in their order: each by
        itself would let go of a unit for the same piece."""
        line = [each for each in self.allocation if each.line == entry.line]
        units = sum(each.quantity for each in line) * left // n
        for each in line[: line.index(entry)]:
            units -= min(units, each.quantity)
        return min(units, entry.quantity)


def void_refusal(
    sold: Sold,
    programme: Programme,
    *,
    occurred_at: datetime,
    now: datetime,
    reason: VoidReason = "other",
) -> Refusal | None:
    """Why this sale can't be voided any more. `now` is the ledger's clock, or the till's."""
    if sold.undone or sold.refunded:
        return Refusal("already_undone")
    if sold.accepted_offline and reason == "goods_kept":
        return None  # found when the till was started again, however much later that was
    window = timedelta(seconds=programme.undo_window_s)
    if occurred_at - sold.occurred_at >= window:
        return Refusal("void_too_late")
    # Of a sale that was accepted offline the ledger's clock says nothing, nor could its till know
    # of a settlement.
    if not sold.accepted_offline and (sold.settled or now - sold.recorded_at >= window):
        return Refusal("void_too_late")
    return None


def refund_refusal(
    sold: Sold,
    programme: Programme,
    terms: Mapping[str, Terms | None],
    lines: Sequence[ReturnedLine],
    *,
    now: datetime,
) -> Refusal | None:
    """Why these lines can't come back. `terms` are those of the sale's vouchers, by id."""
    if sold.is_used_up:
        return Refusal("already_undone")
    if sold.is_short:
        return Refusal("refund_exceeds")
    if programme.refunds is None:
        return Refusal("refund_not_allowed")
    if now - sold.recorded_at >= timedelta(seconds=programme.refunds.window_s):
        return Refusal("refund_too_late")
    too_much = excess_refusal(sold, lines)
    if too_much is not None:
        return too_much
    for part in parts_of(sold, lines):
        its = terms[part.voucher]
        if its is not None and its.portion(part.quantity) != part.quantity:
            return Refusal("refund_not_whole", part.line)
    return None


def excess_refusal(sold: Sold, lines: Sequence[ReturnedLine]) -> Refusal | None:
    """Whether more comes back than is left, or nothing; no programme's rules are needed for it."""
    for line in lines:
        if line.line > len(sold.basket) or _back(sold, line) > sold.basket[line.line - 1].quantity:
            return Refusal("refund_exceeds", line.line)
    return None if parts_of(sold, lines) else Refusal("refund_exceeds")


def more_exactly(
    refusal: Refusal, sold: Sold, lines: Sequence[ReturnedLine] = ()
) -> tuple[str, str] | None:
    """What is known of this case besides the code's own sentence, in English and Chinese."""
    if refusal.code == "already_undone" and sold.refunded and not sold.is_used_up:
        return PART_REFUNDED
    if refusal.code in ("refund_exceeds", "void_too_late") and sold.is_short:
        return NOT_COVERED
    if refusal.code != "refund_exceeds":
        return None
    at_fault = {line.line for line in lines if refusal.at in (None, line.line)}
    if any(line.line in at_fault and line.line > len(sold.basket) for line in lines):
        return NO_SUCH_LINE
    if not at_fault & {entry.line for entry in sold.allocation}:
        return NO_VOUCHER_PAID
    return CAME_BACK if any(sold.refunded.get(line) for line in at_fault) else None


def parts_of(sold: Sold, lines: Sequence[ReturnedLine]) -> tuple[Entry, ...]:
    """What goes back to each voucher when these lines come back; what moves nothing is left out.

    Whatever the shop keeps of a part is rounded down, so what comes back piece by piece comes back
    whole in the end, and a cap that does not divide never leaves a voucher short.
    """
    back = {line.line: line for line in lines}
    found = []
    for entry in sold.allocation:
        line = back.get(entry.line)
        if line is None:
            continue
        earlier, kept = sold.kept(entry), sold.kept(entry, line.quantity)
        moved = (a - b for a, b in zip(earlier, kept, strict=True))
        part = Entry(entry.line, entry.voucher, *moved)
        if part.quantity or part.covered_minor:
            found.append(part)
    return tuple(found)


def _back(sold: Sold, line: ReturnedLine) -> int:
    return sold.refunded.get(line.line, 0) + line.quantity
