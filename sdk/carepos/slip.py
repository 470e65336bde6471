"""From an offer or an undo and its outcome to the receipt: what a slip says, and its code.

The slip is drafted with the intent, so that a sale whose answer came after a crash prints the same
receipt; the outcome then puts the ledger's own balances on it. No name, id or token is on it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

from carepos import ids, receipt
from carepos.basket import Entry
from carepos.enrolment import Enrolment
from carepos.errors import Malformed
from carepos.keys import unb64
from carepos.offline_rule import Liability
from carepos.outcome import Outcome
from carepos.product import Unit
from carepos.record import Record
from carepos.refusals import Refusal
from carepos.rules import Proposal
from carepos.undo import Refund, Void
from carepos.voucher import Voucher

_QR = re.compile(r"CP1\*([0-9-]{13,40})\*[A-Z]{3}[0-9]{1,13}\*([A-Z2-7]{16})")


@dataclass(frozen=True, slots=True)
class Paper:
    """How this shop wants its slips: language and the clock on the wall (IANA zone).

    Raises Malformed for one that isn't there: said here, it can't stop a sale at the counter.
    """

    language: receipt.Language = "zh"
    zone: str = "Asia/Shanghai"

    def __post_init__(self) -> None:
        if self.language not in get_args(receipt.Language):
            raise Malformed("must be zh, en or zh+en", field="language")
        try:
            ZoneInfo(self.zone)
        except (OSError, ValueError, LookupError):
            raise Malformed("must be a time zone, like Asia/Shanghai", field="zone") from None


def draft(
    written: Record,
    programme_name: str,
    proposal: Proposal,
    shop: Enrolment,
    paper: Paper,
    *,
    acting: receipt.ActingWay | None = None,
    liability: Liability | None = None,
) -> dict[str, Any]:
    """The REDEEMED receipt of an intent as a JSON object; printed only once it is confirmed.

    `acting`: in which way somebody acts for the beneficiary, if somebody does. With a `liability`
    it is PROVISIONAL: accepted without the ledger, and printed at once.
    """
    number = ids.receipt_no(shop.terminal_no, written.sequence)
    redeem = written.redeem
    lines = tuple(
        receipt.ReceiptLine(
            description=line.line.description or line.line.key,
            quantity=line.line.quantity,
            unit=line.line.unit,
            line_amount_minor=line.line.line_amount_minor,
            programme_minor=sum(entry.programme_minor for entry in line.entries),
            beneficiary_minor=sum(entry.beneficiary_minor for entry in line.entries),
            note="" if line.reason is None else _note(line.reason, paper),
        )
        for line in proposal.lines
    )
    used = {entry.voucher for entry in proposal.allocation}
    made = receipt.Receipt(
        kind="REDEEMED" if liability is None else "PROVISIONAL",
        liability=liability,
        language=paper.language,
        merchant_name=shop.merchant_name,
        store_name=shop.store_name,
        programme_name=programme_name,
        terminal_no=f"{shop.terminal_no:04d}",
        receipt_no=number,
        occurred_at=written.occurred_at,
        utc_offset_minutes=_utc_offset_minutes(written, paper),
        zone_name=paper.zone,
        cashier=redeem.cashier,
        beneficiary_ref=redeem.beneficiary,
        currency=redeem.currency,
        lines=lines,
        programme_minor=proposal.programme_minor,
        beneficiary_minor=proposal.beneficiary_minor,
        other_tender_minor=proposal.rest_minor,
        total_minor=sum(line.line.line_amount_minor for line in proposal.lines),
        balances=tuple(
            _balance(proposal.before[voucher], proposal.after[voucher]) for voucher in sorted(used)
        ),
        qr_text=qr_text(number, redeem.currency, redeem.programme_minor, written.digest),
        acting=acting,
    )
    return receipt.to_json_object(made)


def provisional(drafted: dict[str, Any], liability: Liability) -> dict[str, Any]:
    """The PROVISIONAL slip of a sale that was begun with the ledger and accepted without it."""
    return {**drafted, "kind": "PROVISIONAL", "liability": liability}


def with_outcome(drafted: dict[str, Any], posted: Outcome) -> dict[str, Any]:
    """The REDEEMED slip, with the balances that the ledger stated after posting.

    An outcome that names other vouchers, as far as can be seen by number and unit, leaves the
    drafted balances: the sale is posted all the same, and a receipt must never stand in its way.
    """
    if drafted.get("kind") == "PROVISIONAL":
        drafted = {**drafted, "kind": "REDEEMED", "liability": None}
    by_voucher = sorted(posted.vouchers, key=lambda state: state.voucher)
    if [state.unit for state in by_voucher] != [shown["unit"] for shown in drafted["balances"]]:
        return drafted
    balances = [
        {
            **shown,
            "before": state.available_minor + state.amount_minor
            if state.unit is None
            else state.available_quantity + state.quantity,
            "after": state.available_minor if state.unit is None else state.available_quantity,
        }
        for shown, state in zip(drafted["balances"], by_voucher, strict=True)
    ]
    return {**drafted, "balances": balances}


def drill(shop: Enrolment, paper: Paper, at: datetime) -> receipt.Receipt:
    """The slip of a drill: it has no number, no amount and no code."""
    return receipt.Receipt(
        kind="DRILL",
        language=paper.language,
        merchant_name=shop.merchant_name,
        store_name=shop.store_name,
        programme_name="",
        terminal_no=f"{shop.terminal_no:04d}",
        receipt_no="",
        occurred_at=at,
        utc_offset_minutes=_offset_minutes(at, paper),
        zone_name=paper.zone,
        cashier="",
        beneficiary_ref="",
        currency="CNY",
        lines=(),
        programme_minor=0,
        beneficiary_minor=0,
        other_tender_minor=0,
        total_minor=0,
    )


@dataclass(frozen=True, slots=True)
class SoldBefore:
    """A sale as a slip that takes it back shows it. `descriptions` by line, `units` (None: money)
    and `labels` by voucher, as far as they are known."""

    written: Record
    receipt_no: str
    programme_name: str
    descriptions: Mapping[int, str]
    units: Mapping[str, Unit | None]
    labels: Mapping[str, str]


def draft_void(written: Record, sale: SoldBefore, shop: Enrolment, paper: Paper) -> dict[str, Any]:
    """The VOIDED slip of a void's intent, under the sale's number; printed only once posted."""
    redeem = sale.written.redeem
    lines = {n: (line.quantity, line.line_amount_minor) for n, line in enumerate(redeem.basket, 1)}
    qr = qr_text(sale.receipt_no, redeem.currency, redeem.programme_minor, sale.written.digest)
    made = _undone(
        "VOIDED", written, sale, lines, redeem.allocation, shop, paper, sale.receipt_no, qr
    )
    return receipt.to_json_object(made)


def draft_refund(
    written: Record, sale: SoldBefore, shop: Enrolment, paper: Paper
) -> dict[str, Any]:
    """The REFUND slip of a refund's intent, under its own number; printed only once posted.

    A line comes to what goes back of it to vouchers and beneficiary; what another tender had paid
    is between shop and customer.
    """
    refund = written.content
    assert isinstance(refund, Refund)
    lines = {
        each.line: (
            each.quantity,
            sum(part.covered_minor for part in refund.parts if part.line == each.line),
        )
        for each in refund.lines
    }
    number = ids.receipt_no(shop.terminal_no, written.sequence)
    qr = qr_text(number, refund.currency, refund.programme_minor, written.digest)
    made = _undone("REFUND", written, sale, lines, refund.parts, shop, paper, number, qr)
    return receipt.to_json_object(made)


def _undone(
    kind: receipt.ReceiptKind,
    written: Record,
    sale: SoldBefore,
    lines: Mapping[int, tuple[int, int]],
    parts: Sequence[Entry],
    shop: Enrolment,
    paper: Paper,
    number: str,
    qr: str,
) -> receipt.Receipt:
    undo, redeem = written.content, sale.written.redeem
    assert isinstance(undo, Void | Refund)
    shown = []
    for n, (quantity, line_amount_minor) in sorted(lines.items()):
        of = redeem.basket[n - 1]
        shown.append(
            receipt.ReceiptLine(
                description=sale.descriptions.get(n) or of.key,
                quantity=quantity,
                unit=of.unit,
                line_amount_minor=line_amount_minor,
                programme_minor=sum(p.programme_minor for p in parts if p.line == n),
                beneficiary_minor=sum(p.beneficiary_minor for p in parts if p.line == n),
            )
        )
    programme_minor = sum(line.programme_minor for line in shown)
    beneficiary_minor = sum(line.beneficiary_minor for line in shown)
    total_minor = sum(line.line_amount_minor for line in shown)
    moved = sorted({part.voucher for part in parts if part.programme_minor or part.quantity})
    return receipt.Receipt(
        kind=kind,
        language=paper.language,
        merchant_name=shop.merchant_name,
        store_name=shop.store_name,
        programme_name=sale.programme_name,
        terminal_no=f"{shop.terminal_no:04d}",
        receipt_no=number,
        occurred_at=written.occurred_at,
        utc_offset_minutes=_utc_offset_minutes(written, paper),
        zone_name=paper.zone,
        cashier=undo.cashier,
        beneficiary_ref=redeem.beneficiary,
        currency=redeem.currency,
        lines=tuple(shown),
        programme_minor=programme_minor,
        beneficiary_minor=beneficiary_minor,
        other_tender_minor=total_minor - programme_minor - beneficiary_minor,
        total_minor=total_minor,
        # What they hold is known when it is booked: `with_undo`.
        balances=tuple(
            receipt.VoucherBalance(sale.labels.get(each, ""), 0, 0, sale.units.get(each))
            for each in moved
        ),
        qr_text=qr,
        sale_no="" if kind == "VOIDED" else sale.receipt_no,
        approved_by=undo.approved_by or "",
    )


def with_undo(drafted: dict[str, Any], posted: Outcome) -> dict[str, Any]:
    """The slip of a void or refund with the balances that the ledger stated after posting it.

    Where the outcome names other vouchers, as far as can be seen, it shows none.
    """
    by_voucher = sorted(posted.vouchers, key=lambda state: state.voucher)
    labels = [shown["label"] for shown in drafted["balances"]]
    if len(by_voucher) != len(labels):
        return {**drafted, "balances": []}
    balances = []
    for label, state in zip(labels, by_voucher, strict=True):
        money = state.unit is None
        after = state.available_minor if money else state.available_quantity
        back = state.amount_minor if money else state.quantity
        # A voucher that is over holds nothing afterwards: it went back to the programme.
        balances.append(
            {"label": label, "before": max(0, after - back), "after": after, "unit": state.unit}
        )
    return {**drafted, "balances": balances}


def parse_scanned(text: str) -> tuple[str, str | None]:
    """(receipt number, code) of a receipt's QR, or of a number typed by hand, without a code.

    Raises Malformed.
    """
    text = text.strip()
    found = _QR.fullmatch(text)
    number, code = (found[1], found[2]) if found else (text, None)
    ids.parse_receipt_no(number)
    return number, code


def qr_text(receipt_no: str, currency: str, amount_minor: int, digest: str) -> str:
    """docs/protocol.md §13: commits to the signed record, names nobody."""
    return f"CP1*{receipt_no}*{currency}{amount_minor}*{receipt_code(digest)}"


def receipt_code(digest: str) -> str:
    """The first 80 bits of a record's digest in RFC 4648 base32: 16 characters."""
    return base64.b32encode(unb64(digest)[:10]).decode("ascii")


def _utc_offset_minutes(written: Record, paper: Paper) -> int:
    return _offset_minutes(written.occurred_at, paper)


def _offset_minutes(at: datetime, paper: Paper) -> int:
    offset = at.astimezone(ZoneInfo(paper.zone)).utcoffset() or timedelta()
    return int(offset.total_seconds()) // 60


def _note(code: str, paper: Paper) -> str:
    refusal = Refusal(code)
    if paper.language == "zh+en":
        return f"{refusal.sentence('zh')} {refusal.sentence('en')}"
    return refusal.sentence(paper.language)


def _balance(before: Voucher, after: Voucher) -> receipt.VoucherBalance:
    label = before.label or before.kind
    if before.terms is None:
        return receipt.VoucherBalance(label, before.available_minor, after.available_minor)
    return receipt.VoucherBalance(
        label, before.available_quantity, after.available_quantity, before.terms.unit
    )
