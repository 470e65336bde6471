"""The receipt on paper: `lay_out` arranges it once; the text and every printer show those rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from carepos.money import format_amount
from carepos.paper_text import text_width, wrap
from carepos.product import Unit
from carepos.receipt import Receipt, ReceiptLine, VoucherBalance

COLUMNS = (32, 42, 48)

Align = Literal["left", "center"]
Size = Literal["normal", "tall", "large"]


@dataclass(frozen=True, slots=True)
class Row:
    """One printed line. `large` doubles width and height (half the cells fit), `tall` the height.

    `inverse` is white on black. A `rule` is a line across the paper, which a printer may draw in
    its own way.
    """

    text: str
    align: Align = "left"
    size: Size = "normal"
    bold: bool = False
    inverse: bool = False
    rule: bool = False

    @property
    def cells(self) -> int:
        """Cells of the paper's width that it takes."""
        return text_width(self.text) * (2 if self.size == "large" else 1)


_WORDS: dict[str, tuple[str, str]] = {
    "REDEEMED": ("已核销", "REDEEMED"),
    "PROVISIONAL": ("待确认", "PROVISIONAL"),
    "REVERSED": ("已撤销", "REVERSED"),
    "VOIDED": ("已撤销", "VOIDED"),
    "REFUND": ("退货", "REFUND"),
    "DRILL": ("演练", "DRILL"),
    "not_valid": ("无效", "NOT VALID"),
    "copy": ("副本", "COPY"),
    "receipt_no": ("单号", "Receipt"),
    "terminal": ("终端", "Till"),
    "cashier": ("收银", "Cashier"),
    "approved_by": ("复核", "Approved"),
    "sale_no": ("原单号", "Sale"),
    "beneficiary": ("持券人", "Holder"),
    "proxy": ("代领", "Collected by another"),
    "witness": ("见证", "Witnessed"),
    "items": ("商品", "Items"),
    "amount": ("金额", "Amount"),
    "total": ("合计", "Total"),
    "voucher_pays": ("爱心券支付", "Voucher pays"),
    "you_pay": ("自付", "You pay"),
    "voucher_back": ("退回爱心券", "Voucher back"),
    "own_back": ("退还自付", "You get back"),
    "fixed": ("固定自付", "Fixed part"),
    "other": ("其他方式", "Other tender"),
    "voucher": ("券付", "voucher"),
    "self": ("自付", "you pay"),
    "to_voucher": ("退券", "to voucher"),
    "to_self": ("退您", "to you"),
    "before": ("用前", "Before"),
    "after": ("还剩", "Left"),
    "offline_before": ("断网可用", "Offline before"),
    "offline_after": ("断网还剩", "Offline left"),
    "was": ("退回前", "Before"),
    "restored": ("现有", "Now"),
    "provisional": (
        "账本尚未确认，您无需再付款。",
        "Not yet confirmed by the ledger. You owe nothing more.",
    ),
    "programme": ("如未通过，损失由救助项目承担。", "If refused, the programme bears the loss."),
    "merchant": ("如未通过，损失由本店承担。", "If refused, this shop bears the loss."),
    "reversed": ("本单已作废，爱心券未被使用。", "This sale is undone. The voucher was not used."),
    "voided": ("本单已撤销，券额已退回券中。", "This sale is void. The voucher has it back."),
    "refunded": ("券付部分已退回券中。", "What the voucher paid is on the voucher again."),
    "drill": (
        "这不是小票，没有出售任何商品。",
        "This is no receipt. Nothing was sold and nothing was paid.",
    ),
    "keep": ("请保存小票，凭单号可查询。", "Keep this slip; ask with its number."),
}
_UNITS: dict[str, tuple[str, str]] = {
    "piece": ("件", " pc"),
    "g": ("克", " g"),
    "ml": ("毫升", " ml"),
}


def lay_out(receipt: Receipt, columns: int) -> tuple[Row, ...]:
    """The rows of a slip `columns` cells wide; none is wider. Raises ValueError below 24 cells."""
    if columns < 24:
        raise ValueError("a receipt needs at least 24 columns")
    return tuple(_Page(receipt, columns).rows())


class _Page:
    def __init__(self, receipt: Receipt, columns: int) -> None:
        self.receipt = receipt
        self.columns = columns

    def rows(self) -> Iterator[Row]:
        yield from self._head()
        yield self._rule()
        yield from self._facts()
        if self.receipt.kind == "DRILL":
            # Nothing on it may look as if it were worth something.
            yield self._rule()
            yield from self._sentence("drill", bold=True)
            yield Row("")
            yield from self._headline("not_valid")
            return
        if self.receipt.lines:
            yield self._rule()
            yield from self._pair(self._word("items"), self._word("amount"))
            for line in self.receipt.lines:
                yield from self._line(line)
        yield self._rule()
        yield from self._totals()
        if self.receipt.balances:
            yield self._rule()
            for balance in self.receipt.balances:
                yield from self._balance(balance)
        yield self._rule()
        yield from self._foot()

    def _head(self) -> Iterator[Row]:
        yield from self._centred(self.receipt.merchant_name, bold=True)
        yield from self._centred(self.receipt.store_name)
        yield from self._centred(self.receipt.programme_name)
        yield Row("")
        yield from self._headline(self.receipt.kind)
        if self.receipt.kind == "DRILL":
            yield from self._headline("not_valid")
        if self.receipt.is_copy:
            yield Row("")
            yield from self._headline("copy")

    def _facts(self) -> Iterator[Row]:
        receipt = self.receipt
        sign = "-" if receipt.utc_offset_minutes < 0 else "+"
        hours, minutes = divmod(abs(receipt.utc_offset_minutes), 60)
        offset = f"UTC{sign}{hours}" + (f":{minutes:02d}" if minutes else "")
        at = f"{receipt.local_time:%Y-%m-%d %H:%M:%S}"
        named = text_width(f"{at} {receipt.zone_name}") <= self.columns and receipt.zone_name
        yield from self._fact("receipt_no", receipt.receipt_no)
        yield from self._fact("sale_no", receipt.sale_no)
        yield from self._wrapped(f"{at} {named or offset}")
        together = ""
        for name, value in (
            ("terminal", receipt.terminal_no),
            ("cashier", receipt.cashier),
            ("approved_by", receipt.approved_by),
            ("beneficiary", receipt.beneficiary_ref),
        ):
            part = f"{self._word(name)} {value}" if value else ""
            if together and text_width(together) + 2 + text_width(part) > self.columns:
                yield from self._wrapped(together)
                together = ""
            together = f"{together}  {part}" if together and part else together or part
        yield from self._wrapped(together)
        if receipt.acting is not None:
            yield from self._wrapped(self._word(receipt.acting), bold=True)

    def _line(self, line: ReceiptLine) -> Iterator[Row]:
        quantity = (
            f"x{line.quantity}"
            if line.unit == "piece"
            else self._quantity(line.quantity, line.unit)
        )
        yield from self._pair(
            f"{line.description} {quantity}".strip(), self._amount(line.line_amount_minor)
        )
        undone = self.receipt.takes_back
        by_voucher, by_self = ("to_voucher", "to_self") if undone else ("voucher", "self")
        if line.own_minor and line.programme_minor:
            voucher = f"{self._word(by_voucher)} {self._amount(line.programme_minor)}"
            own = f"{self._word(by_self)} {self._amount(line.own_minor)}"
            yield from self._pair(f"  {voucher}", own)
            yield from self._wrapped(line.note, indent="  ")
        elif line.own_minor or line.note:
            own = f"{self._word(by_self)} {self._amount(line.own_minor)}" if line.own_minor else ""
            yield from self._pair(f"  {line.note}", own)

    def _totals(self) -> Iterator[Row]:
        receipt = self.receipt
        undone = receipt.takes_back
        yield from self._pair(self._word("total"), self._priced(receipt.total_minor))
        programme, own = ("voucher_back", "own_back") if undone else ("voucher_pays", "you_pay")
        for word, amount_minor in ((programme, receipt.programme_minor), (own, receipt.own_minor)):
            yield from self._pair(
                self._word(word), self._priced(amount_minor), size="tall", bold=True
            )
        if receipt.beneficiary_minor and receipt.other_tender_minor:
            for word, amount_minor in (
                ("fixed", receipt.beneficiary_minor),
                ("other", receipt.other_tender_minor),
            ):
                yield from self._pair(f"  {self._word(word)}", self._amount(amount_minor))

    def _balance(self, balance: VoucherBalance) -> Iterator[Row]:
        before, after = ("before", "after")
        if self.receipt.takes_back:
            before, after = ("was", "restored")
        elif self.receipt.kind == "PROVISIONAL":
            # What this till may give of it, not all that the voucher holds.
            before, after = ("offline_before", "offline_after")
        yield from self._pair(
            balance.label, f"{self._word(before)} {self._held(balance.before, balance.unit)}"
        )
        yield from self._pair(
            "",
            f"{self._word(after)} {self._held(balance.after, balance.unit)}",
            size="tall",
            bold=True,
        )

    def _foot(self) -> Iterator[Row]:
        receipt = self.receipt
        if receipt.kind == "PROVISIONAL":
            yield from self._sentence("provisional", bold=True)
            yield from self._sentence(receipt.liability or "programme", bold=True)
        elif receipt.kind == "REVERSED":
            yield from self._sentence("reversed", bold=True)
        elif receipt.kind == "VOIDED":
            yield from self._sentence("voided", bold=True)
        elif receipt.kind == "REFUND":
            yield from self._sentence("refunded", bold=True)
        yield from self._sentence("keep")

    # -- words and numbers

    def _word(self, key: str) -> str:
        chinese, english = _WORDS[key]
        if self.receipt.language == "zh+en":
            return f"{chinese} {english}"
        return chinese if self.receipt.language == "zh" else english

    def _both(self, key: str) -> tuple[str, ...]:
        """The languages' spellings one under the other, for what is too long side by side."""
        chinese, english = _WORDS[key]
        return {"zh": (chinese,), "en": (english,), "zh+en": (chinese, english)}[
            self.receipt.language
        ]

    def _amount(self, amount_minor: int) -> str:
        return format_amount(amount_minor, self.receipt.currency)

    def _priced(self, amount_minor: int) -> str:
        if self.receipt.currency == "CNY" and self.receipt.language != "en":
            return f"￥{self._amount(amount_minor)}"
        return f"{self.receipt.currency} {self._amount(amount_minor)}"

    def _quantity(self, quantity: int, unit: Unit) -> str:
        if unit != "piece" and quantity >= 1000:
            whole, part = divmod(quantity, 1000)
            decimals = f".{part:03d}".rstrip("0") if part else ""
            return f"{whole}{decimals}{'kg' if unit == 'g' else 'L'}"
        return f"{quantity}{_UNITS[unit][self.receipt.language == 'en']}"

    def _held(self, held: int, unit: Unit | None) -> str:
        return self._amount(held) if unit is None else self._quantity(held, unit)

    # -- rows

    def _rule(self) -> Row:
        return Row("-" * self.columns, rule=True)

    def _headline(self, key: str) -> Iterator[Row]:
        """What kind of slip this is, twice as large; white on black unless it is the usual kind."""
        unusual = key != "REDEEMED"
        # Whoever finds the slip of a drill must understand it.
        spelled = _WORDS[key] if self.receipt.kind == "DRILL" else self._both(key)
        joined = " ".join(spelled)
        room = self.columns // 2 - 2 * unusual
        for part in (joined,) if text_width(joined) <= room else spelled:
            text = f" {part} " if unusual else part
            yield Row(text, "center", "large", bold=True, inverse=unusual)

    def _centred(self, text: str, *, bold: bool = False) -> Iterator[Row]:
        for part in wrap(text, self.columns):
            yield Row(part, "center", bold=bold)

    def _wrapped(self, text: str, *, indent: str = "", bold: bool = False) -> Iterator[Row]:
        for part in wrap(text, self.columns - len(indent)):
            yield Row(indent + part, bold=bold)

    def _sentence(self, key: str, *, bold: bool = False) -> Iterator[Row]:
        for text in self._both(key):
            yield from self._wrapped(text, bold=bold)

    def _fact(self, key: str, value: str) -> Iterator[Row]:
        if value:
            yield from self._wrapped(f"{self._word(key)} {value}")

    def _pair(
        self, left: str, right: str, *, size: Size = "normal", bold: bool = False
    ) -> Iterator[Row]:
        """`left` wrapped, `right` at the edge of its last row, or on a row of its own."""
        indent = left[: len(left) - len(left.lstrip())]
        *above, last = wrap(left[len(indent) :], self.columns - len(indent)) or [""]
        for part in above:
            yield Row(indent + part, size=size, bold=bold)
        last = indent + last
        gap = self.columns - text_width(last) - text_width(right)
        if gap >= 1 or not last:
            ends = [last + " " * gap + right] if gap >= 0 else wrap(right, self.columns)
        else:
            ends = [last, *(_right(part, self.columns) for part in wrap(right, self.columns))]
        for part in ends:
            yield Row(part, size=size, bold=bold)


def _right(text: str, columns: int) -> str:
    return " " * (columns - text_width(text)) + text


def render_text(receipt: Receipt, columns: int = 32) -> str:
    """The slip as plain text, `columns` (32, 42 or 48) cells wide, ending in a newline."""
    if columns not in COLUMNS:
        raise ValueError(f"columns must be one of {COLUMNS}")
    lines = []
    for row in lay_out(receipt, columns):
        # Where the size can't be shown, stars take its place.
        text = f"** {row.text.strip()} **" if row.size == "large" else row.text
        margin = (columns - text_width(text)) // 2 if row.align == "center" else 0
        lines.append((" " * margin + text).rstrip(" "))
    if receipt.qr_text:
        lines.extend(
            receipt.qr_text[start : start + columns]
            for start in range(0, len(receipt.qr_text), columns)
        )
    return "\n".join(lines) + "\n"
