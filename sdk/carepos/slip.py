"""From an offer and its outcome to the receipt: what a slip says, and its code.

The slip is drafted with the intent, so that a sale whose answer came after a crash prints the same
receipt; the outcome then puts the ledger's own balances on it. No name, id or token is on it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

from carepos import ids, receipt
from carepos.enrolment import Enrolment
from carepos.errors import Malformed
from carepos.keys import unb64
from carepos.outcome import Outcome
from carepos.record import Record
from carepos.refusals import Refusal
from carepos.rules import Proposal
from carepos.voucher import Voucher


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
) -> dict[str, Any]:
    """The REDEEMED receipt of an intent as a JSON object; printed only once it is confirmed.

    `acting`: in which way somebody acts for the beneficiary, if somebody does.
    """
    zone = ZoneInfo(paper.zone)
    offset = written.occurred_at.astimezone(zone).utcoffset() or timedelta()
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
        kind="REDEEMED",
        language=paper.language,
        merchant_name=shop.merchant_name,
        store_name=shop.store_name,
        programme_name=programme_name,
        terminal_no=f"{shop.terminal_no:04d}",
        receipt_no=number,
        occurred_at=written.occurred_at,
        utc_offset_minutes=int(offset.total_seconds()) // 60,
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


def with_outcome(drafted: dict[str, Any], posted: Outcome) -> dict[str, Any]:
    """The same slip with the balances that the ledger stated after posting.

    An outcome that names other vouchers, as far as can be seen by number and unit, leaves the
    drafted balances: the sale is posted all the same, and a receipt must never stand in its way.
    """
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


def qr_text(receipt_no: str, currency: str, amount_minor: int, digest: str) -> str:
    """docs/protocol.md §13: commits to the signed record, names nobody."""
    return f"CP1*{receipt_no}*{currency}{amount_minor}*{receipt_code(digest)}"


def receipt_code(digest: str) -> str:
    """The first 80 bits of a record's digest in RFC 4648 base32: 16 characters."""
    return base64.b32encode(unb64(digest)[:10]).decode("ascii")


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
