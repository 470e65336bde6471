"""The receipt: what the beneficiary takes home, as data that contradicts itself nowhere.

A `Receipt` holds no name, no ID number and no token. Every text in it is scrubbed when it is made.
`receipt_layout` arranges it on paper.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from carepos.clock import from_text, to_text
from carepos.errors import Malformed
from carepos.money import minor_unit_digits
from carepos.paper_text import scrub
from carepos.product import Unit
from carepos.strict_json import array, boolean, exact_names, integer, names_within

ReceiptKind = Literal["REDEEMED", "PROVISIONAL", "REVERSED", "VOIDED", "REFUND", "DRILL"]
Language = Literal["zh", "en", "zh+en"]
Liability = Literal["programme", "merchant"]
ActingWay = Literal["proxy", "witness"]

FORMAT = "carepos.receipt/1"
MAX_LINES = 100
MAX_BALANCES = 20
MAX_QR_CHARS = 300

_QR_TEXT = re.compile(f"[ -~]{{0,{MAX_QR_CHARS}}}")


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
    none. `acting` says that somebody came for the beneficiary or vouched for them, never who.
    A DRILL shows no amounts, whatever is given.
    `sale_no` is the number of the sale that a REFUND is of, and needed then; `approved_by` the
    label of a second person who was asked.
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
    acting: ActingWay | None = None
    sale_no: str = ""
    approved_by: str = ""

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
        if self.acting is not None:
            _one_of(self.acting, ActingWay, "acting")
        if self.kind == "REFUND" and not self.sale_no:
            raise Malformed("must name the sale", field="sale_no")
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
    def takes_back(self) -> bool:
        """Whether the amounts go back to voucher and beneficiary."""
        return self.kind in ("REVERSED", "VOIDED", "REFUND")

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
    "approved_by": 16,
    "sale_no": 32,
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


def mask(reference: str, shown: int = 4) -> str:
    """The end of a pseudonym, enough to compare two slips: `**7f3k`; as it is if masked."""
    if not reference or (reference.startswith("**") and len(reference) <= 2 + shown):
        return reference
    return f"**{reference[-shown:]}"


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
_MORE_NAMES = ("acting", "sale_no", "approved_by")
"""Left out where there is nothing to say."""
_NAMES = frozenset((*_PLAIN_NAMES, "format", "occurred_at", "lines", "balances"))


def to_json_object(receipt: Receipt) -> dict[str, Any]:
    """The print job as the journal keeps it: strings, integers, booleans and null."""
    made: dict[str, Any] = {name: getattr(receipt, name) for name in _PLAIN_NAMES}
    made["format"] = FORMAT
    made |= {name: value for name in _MORE_NAMES if (value := getattr(receipt, name))}
    made["occurred_at"] = to_text(receipt.occurred_at)
    made["lines"] = [{name: getattr(line, name) for name in _LINE_NAMES} for line in receipt.lines]
    made["balances"] = [
        {name: getattr(balance, name) for name in _BALANCE_NAMES} for balance in receipt.balances
    ]
    return made


def from_json_object(value: object) -> Receipt:
    """The receipt that `to_json_object` spelled. Raises Malformed for anything else."""
    fields = names_within(value, required=_NAMES, optional=set(_MORE_NAMES), where="receipt")
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
        **{name: fields[name] for name in _MORE_NAMES if name in fields},
    )
