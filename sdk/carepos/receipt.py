"""The receipt: what the beneficiary takes home, as data, as rows and as text.

A `Receipt` holds no name, no ID number and no token. Every text in it is scrubbed when it is made,
so what a product is called can't move the paper, open the drawer or turn an amount around (T-9).
`lay_out()` arranges it once; `render_text()` and every printer show those same rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, get_args

from carepos.clock import from_text, to_text
from carepos.errors import Malformed
from carepos.money import format_amount, minor_unit_digits
from carepos.product import Unit
from carepos.strict_json import array, boolean, exact_names, integer

ReceiptKind = Literal["REDEEMED", "PROVISIONAL", "REVERSED"]
Language = Literal["zh", "en", "zh+en"]
Liability = Literal["programme", "merchant"]

FORMAT = "carepos.receipt/1"
COLUMNS = (32, 42, 48)
MAX_LINES = 100
MAX_BALANCES = 20
MAX_QR_CHARS = 300

_QR_TEXT = re.compile(r"[ -~]{0,300}")
_ELLIPSIS = "…"
# Letters and symbols that show nothing, or stand for a missing object: they would hide text.
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufffc\ufffd")
_RIGHT_TO_LEFT = frozenset(("R", "AL", "AN"))
_NOT_AT_LINE_START = frozenset(",.;:!?)]}%、。，．；：！？）】》」』”’…·")


# -- text that is safe on paper ---------------------------------------------------------------


@lru_cache(maxsize=8192)
def cell_width(char: str) -> int:
    """Half-width cells of one character on paper and in a Chinese terminal: 1 or 2, 0 if barred.

    Ambiguous widths (UAX #11) count as 2: GB18030 printers draw everything beyond ASCII full width.
    Barred are controls, formats (bidi, zero width), private use, surrogates, unassigned code
    points, combining marks, invisible letters and right-to-left letters, which would turn the
    amounts beside them around.
    """
    if " " <= char <= "~":
        return 1
    if unicodedata.category(char)[0] not in "LNPS" or char in _BLANKS:
        return 0
    if unicodedata.bidirectional(char) in _RIGHT_TO_LEFT:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WFA" else 1


def text_width(text: str) -> int:
    """Cells that `text` takes on one line."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(cell_width, text))


def scrub(text: str, max_width: int) -> str:
    """`text` as it may be printed: one line of allowed characters in NFC, within `max_width` cells.

    White space of any kind becomes one space; a text that is too long ends in `…`.
    """
    if max_width <= 0:
        return ""
    # Bounded before any work: what is cut here could not have been shown.
    text = unicodedata.normalize("NFC", text[: 8 * max_width + 64])
    kept = "".join(
        " " if char.isspace() else char for char in text if char.isspace() or cell_width(char)
    )
    # What was taken out may have stood between two characters that compose.
    kept = " ".join(unicodedata.normalize("NFC", kept).split())
    if text_width(kept) <= max_width:
        return kept
    ending = _ELLIPSIS if max_width > text_width(_ELLIPSIS) else ""
    return _head(kept, max_width - text_width(ending)).rstrip() + ending


def mask(reference: str, shown: int = 4) -> str:
    """The end of a pseudonym, enough to compare two slips: `**7f3k`; as it is if masked."""
    if not reference or (reference.startswith("**") and len(reference) <= 2 + shown):
        return reference
    return f"**{reference[-shown:]}"


def _head(text: str, width: int) -> str:
    """The longest beginning of `text` within `width` cells."""
    taken = 0
    for place, char in enumerate(text):
        taken += cell_width(char)
        if taken > width:
            return text[:place]
    return text


# -- the receipt as data ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """One line of the basket. `quantity` counts `unit`s; amounts are minor units of the receipt.

    `line_amount_minor` less the two parts is what the other tender pays; `note` says in the
    receipt's language why the voucher did not cover all of it, empty where it did.
    """

    description: str
    quantity: int
    unit: Unit
    line_amount_minor: int
    programme_minor: int = 0
    beneficiary_minor: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        _scrub_fields(self, _LINE_TEXTS)
        integer(self.quantity, "quantity", low=0)
        _one_of(self.unit, Unit, "unit")
        integer(self.line_amount_minor, "line_amount_minor")
        integer(self.programme_minor, "programme_minor")
        integer(self.beneficiary_minor, "beneficiary_minor")
        if self.own_minor < self.beneficiary_minor:
            raise Malformed("the parts exceed the line's amount", field="programme_minor")

    @property
    def own_minor(self) -> int:
        """What the beneficiary pays for this line, by fixed part or other tender."""
        return self.line_amount_minor - self.programme_minor


@dataclass(frozen=True, slots=True)
class VoucherBalance:
    """One voucher before and after. `label` is its name with a masked number, never an id.

    `unit` None means money in the receipt's currency; else `before` and `after` count that unit.
    """

    label: str
    before: int
    after: int
    unit: Unit | None = None

    def __post_init__(self) -> None:
        _scrub_fields(self, _BALANCE_TEXTS)
        integer(self.before, "before")
        integer(self.after, "after")
        if self.unit is not None:
            _one_of(self.unit, Unit, "unit")


@dataclass(frozen=True, slots=True)
class Receipt:
    """All that stands on one slip. Texts are scrubbed on the way in; wrong values raise Malformed.

    `occurred_at` is aware and kept to the millisecond; `utc_offset_minutes` and `zone_name` say how
    it is shown. The three parts sum to `total_minor`, and the lines, where there are any, to both
    the parts and the total. `beneficiary_ref` is masked here. `liability` is needed when
    PROVISIONAL and shown only then. `qr_text` is printable ASCII, printed exactly, or empty for
    none.
    """

    kind: ReceiptKind
    language: Language
    merchant_name: str
    store_name: str
    programme_name: str
    terminal_no: str
    receipt_no: str
    occurred_at: datetime
    utc_offset_minutes: int
    zone_name: str
    cashier: str
    beneficiary_ref: str
    currency: str
    lines: tuple[ReceiptLine, ...]
    programme_minor: int
    beneficiary_minor: int
    other_tender_minor: int
    total_minor: int
    balances: tuple[VoucherBalance, ...] = ()
    liability: Liability | None = None
    qr_text: str = ""
    is_copy: bool = False

    def __post_init__(self) -> None:
        _scrub_fields(self, _RECEIPT_TEXTS)
        # Here and not with the caller: no slip or print job ever holds the whole pseudonym.
        object.__setattr__(self, "beneficiary_ref", mask(self.beneficiary_ref))
        _one_of(self.kind, ReceiptKind, "kind")
        _one_of(self.language, Language, "language")
        boolean(self.is_copy, "is_copy")
        if not isinstance(self.occurred_at, datetime) or self.occurred_at.tzinfo is None:
            raise Malformed("must be an aware datetime", field="occurred_at")
        object.__setattr__(self, "occurred_at", from_text(to_text(self.occurred_at)))
        integer(self.utc_offset_minutes, "utc_offset_minutes", low=-18 * 60, high=18 * 60)
        minor_unit_digits(self.currency)
        if self.liability is not None:
            _one_of(self.liability, Liability, "liability")
        elif self.kind == "PROVISIONAL":
            raise Malformed("must say who bears the loss", field="liability")
        if not isinstance(self.qr_text, str) or _QR_TEXT.fullmatch(self.qr_text) is None:
            raise Malformed("must be printable ASCII", field="qr_text")
        _tuple_of(self.lines, ReceiptLine, "lines", MAX_LINES)
        _tuple_of(self.balances, VoucherBalance, "balances", MAX_BALANCES)
        self._check_sums()

    def _check_sums(self) -> None:
        for name in ("programme_minor", "beneficiary_minor", "other_tender_minor", "total_minor"):
            integer(getattr(self, name), name)
        if self.programme_minor + self.own_minor != self.total_minor:
            raise Malformed("the parts do not sum to the total", field="total_minor")
        if not self.lines:
            return
        for name, whole in (
            ("line_amount_minor", self.total_minor),
            ("programme_minor", self.programme_minor),
            ("beneficiary_minor", self.beneficiary_minor),
        ):
            if sum(getattr(line, name) for line in self.lines) != whole:
                raise Malformed("the lines do not sum to it", field=name)

    @property
    def own_minor(self) -> int:
        """What the beneficiary pays: the fixed part and the other tender."""
        return self.beneficiary_minor + self.other_tender_minor

    @property
    def local_time(self) -> datetime:
        """The wall clock in the shop, naive."""
        at = self.occurred_at.replace(tzinfo=None)
        try:
            return at + timedelta(minutes=self.utc_offset_minutes)
        except OverflowError:
            return at


_LINE_TEXTS = {"description": 96, "note": 96}
_BALANCE_TEXTS = {"label": 64}
_RECEIPT_TEXTS = {
    "merchant_name": 64,
    "store_name": 64,
    "programme_name": 96,
    "terminal_no": 16,
    "receipt_no": 32,
    "zone_name": 24,
    "cashier": 16,
    "beneficiary_ref": 200,
}


def _scrub_fields(value: object, widths: dict[str, int]) -> None:
    for name, width in widths.items():
        text = getattr(value, name)
        if not isinstance(text, str):
            raise Malformed("must be a string", field=name)
        object.__setattr__(value, name, scrub(text, width))


def _one_of(value: object, choices: Any, field: str) -> None:
    if not isinstance(value, str) or value not in get_args(choices):
        raise Malformed(f"must be one of {', '.join(get_args(choices))}", field=field)


def _tuple_of(value: object, kind: type, field: str, high: int) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise Malformed(f"must be a tuple of {kind.__name__}", field=field)
    if len(value) > high:
        raise Malformed(f"must have at most {high} elements", field=field)


# -- to and from JSON -------------------------------------------------------------------------

_PLAIN_NAMES = (
    "kind",
    "is_copy",
    "language",
    "merchant_name",
    "store_name",
    "programme_name",
    "terminal_no",
    "receipt_no",
    "utc_offset_minutes",
    "zone_name",
    "cashier",
    "beneficiary_ref",
    "currency",
    "programme_minor",
    "beneficiary_minor",
    "other_tender_minor",
    "total_minor",
    "liability",
    "qr_text",
)
_LINE_NAMES = (
    "description",
    "quantity",
    "unit",
    "line_amount_minor",
    "programme_minor",
    "beneficiary_minor",
    "note",
)
_BALANCE_NAMES = ("label", "before", "after", "unit")
_NAMES = frozenset((*_PLAIN_NAMES, "format", "occurred_at", "lines", "balances"))


def to_json_object(receipt: Receipt) -> dict[str, Any]:
    """The print job as the journal keeps it: strings, integers, booleans and null."""
    made: dict[str, Any] = {name: getattr(receipt, name) for name in _PLAIN_NAMES}
    made["format"] = FORMAT
    made["occurred_at"] = to_text(receipt.occurred_at)
    made["lines"] = [{name: getattr(line, name) for name in _LINE_NAMES} for line in receipt.lines]
    made["balances"] = [
        {name: getattr(balance, name) for name in _BALANCE_NAMES} for balance in receipt.balances
    ]
    return made


def from_json_object(value: object) -> Receipt:
    """The receipt that `to_json_object` spelled. Raises Malformed for anything else."""
    fields = exact_names(value, _NAMES, where="receipt")
    if fields["format"] != FORMAT:
        raise Malformed(f"must be {FORMAT}", field="format")
    lines = tuple(
        ReceiptLine(**exact_names(line, frozenset(_LINE_NAMES), where="lines"))
        for line in array(fields["lines"], "lines", high=MAX_LINES)
    )
    balances = tuple(
        VoucherBalance(**exact_names(balance, frozenset(_BALANCE_NAMES), where="balances"))
        for balance in array(fields["balances"], "balances", high=MAX_BALANCES)
    )
    return Receipt(
        **{name: fields[name] for name in _PLAIN_NAMES},
        occurred_at=from_text(fields["occurred_at"], "occurred_at"),
        lines=lines,
        balances=balances,
    )


# -- the receipt as rows ----------------------------------------------------------------------

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
    "copy": ("副本", "COPY"),
    "receipt_no": ("单号", "Receipt"),
    "terminal": ("终端", "Till"),
    "cashier": ("收银", "Cashier"),
    "beneficiary": ("持券人", "Holder"),
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
    "before": ("用前", "Before"),
    "after": ("还剩", "Left"),
    "was": ("撤销前", "Before"),
    "restored": ("现有", "Now"),
    "provisional": (
        "账本尚未确认，您无需再付款。",
        "Not yet confirmed by the ledger. You owe nothing more.",
    ),
    "programme": ("如未通过，损失由救助项目承担。", "If refused, the programme bears the loss."),
    "merchant": ("如未通过，损失由本店承担。", "If refused, this shop bears the loss."),
    "reversed": ("本单已作废，爱心券未被使用。", "This sale is undone. The voucher was not used."),
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
        yield from self._wrapped(f"{at} {named or offset}")
        together = ""
        for name, value in (
            ("terminal", receipt.terminal_no),
            ("cashier", receipt.cashier),
            ("beneficiary", receipt.beneficiary_ref),
        ):
            part = f"{self._word(name)} {value}" if value else ""
            if together and text_width(together) + 2 + text_width(part) > self.columns:
                yield from self._wrapped(together)
                together = ""
            together = f"{together}  {part}" if together and part else together or part
        yield from self._wrapped(together)

    def _line(self, line: ReceiptLine) -> Iterator[Row]:
        quantity = (
            f"x{line.quantity}"
            if line.unit == "piece"
            else self._quantity(line.quantity, line.unit)
        )
        yield from self._pair(
            f"{line.description} {quantity}".strip(), self._amount(line.line_amount_minor)
        )
        if line.own_minor and line.programme_minor:
            voucher = f"{self._word('voucher')} {self._amount(line.programme_minor)}"
            own = f"{self._word('self')} {self._amount(line.own_minor)}"
            yield from self._pair(f"  {voucher}", own)
            yield from self._wrapped(line.note, indent="  ")
        elif line.own_minor or line.note:
            own = f"{self._word('self')} {self._amount(line.own_minor)}" if line.own_minor else ""
            yield from self._pair(f"  {line.note}", own)

    def _totals(self) -> Iterator[Row]:
        receipt = self.receipt
        undone = receipt.kind == "REVERSED"
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
        undone = self.receipt.kind == "REVERSED"
        before, after = ("was", "restored") if undone else ("before", "after")
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
        joined = " ".join(self._both(key))
        room = self.columns // 2 - 2 * unusual
        for part in (joined,) if text_width(joined) <= room else self._both(key):
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


def wrap(text: str, columns: int) -> list[str]:
    """`text` in lines of at most `columns` (≥ 2) cells: between words, else between characters.

    Chinese may break anywhere but before a closing mark, which takes its neighbour along.
    """
    lines: list[str] = []
    rest = text.strip(" ")
    if rest and text_width(rest) <= columns:
        return [rest]
    while rest:
        line = _head(rest, columns)
        if len(line) < len(rest):
            line = line[: _break_place(rest, len(line))]
        lines.append(line.rstrip(" "))
        rest = rest[len(line) :].lstrip(" ")
    return lines


def _break_place(text: str, limit: int) -> int:
    """Where to break `text` at or before `limit`, which is past its first character."""
    for place in range(limit, 0, -1):
        if " " in text[place - 1 : place + 1] or _breakable(text, place):
            return place
    return limit


def _breakable(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place]
    return after not in _NOT_AT_LINE_START and (cell_width(before) == 2 or cell_width(after) == 2)


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
