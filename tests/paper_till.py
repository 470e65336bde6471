"""What tests of the journal write in it: a redemption out of thin air, and the answers to it."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from carepos import outcome as outcomes
from carepos.attempt import Event
from carepos.basket import Entry, Line
from carepos.journal import Accepting, Journal
from carepos.journal_view import Attempt, Undo, Visit
from carepos.offline import AllotmentUse, Plan
from carepos.offline_rule import Liability
from carepos.outcome import Outcome, Result
from carepos.record import Record, Redeem
from carepos.refusals import Refusal
from carepos.undo import Original, Refund, ReturnedLine, Void

TABLES = (
    "meta", "records", "outcomes", "attempts", "attempt_events", "visits", "print_jobs",
    "sold_terms", "corrections", "correction_events", "acceptances", "taken",
    "returned_allotments", "pin_tries",
)  # fmt: skip
SOLD = Line("06913046198782", 1, "piece", 6_490)

_serial = itertools.count(1)


@dataclass
class Ticking:
    """A clock that goes a millisecond on each look, and bytes that are random but repeatable."""

    at: datetime = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
    source: random.Random = field(default_factory=lambda: random.Random(7))

    def __call__(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at

    def random_bytes(self, count: int) -> bytes:
        return self.source.randbytes(count)


def redeem(checkout: str, amount_minor: int = 6_000) -> Redeem:
    return Redeem(
        checkout=checkout,
        cashier="c01",
        programme="flood",
        rules_version=1,
        currency="CNY",
        beneficiary="B" * 22,
        token_sha256="T" * 43,
        basket=(SOLD,),
        allocation=(Entry(1, "V" * 22, 0, amount_minor, 0),),
    )


def write_intent(
    journal: Journal, checkout: str, *, visit: Visit | None = None, amount_minor: int = 6_000
) -> tuple[Attempt, Record]:
    return journal.write_intent(
        redeem(checkout, amount_minor),
        bucket=7,
        visit=visit,
        slip=lambda written: {"receipt_no": f"0001-{written.sequence:06d}-0"},
    )


def accepting(amount_minor: int = 6_000, liability: Liability = "programme") -> Accepting:
    """How a sale of `redeem` leaves without the ledger: all of it from one allotment."""
    plan = Plan((AllotmentUse("V" * 22, 1, amount_minor, 0),))
    return Accepting("P" * 43, plan, liability, seal=lambda an_id: f"sealed-{an_id}")


def write_void(
    journal: Journal, sale: Attempt, *, sale_event: Event | None = None
) -> tuple[Undo, Record]:
    written = journal.record_of(sale)
    return journal.write_undo(
        Void(Original("t-1", sale.id, written.digest), "c01", None, "changed_mind"),
        sale_receipt_no=sale.slip["receipt_no"],
        programme=sale.programme,
        currency=sale.currency,
        amount_minor=sale.amount_minor,
        beneficiary_minor=0,
        slip=lambda _: {"receipt_no": sale.slip["receipt_no"], "kind": "VOIDED"},
        sale_event=sale_event,
    )


def write_refund(
    journal: Journal, sale: Attempt, *, reference: str | None = None, terminal: str = "t-1"
) -> tuple[Undo, Record]:
    """A refund of the whole of `SOLD`, of this till's sale or as if of another's."""
    digest = journal.record_of(sale).digest
    content = Refund(
        Original(terminal, sale.id, digest), "c01", None, "returned", sale.currency,
        (ReturnedLine(1, 1),), (Entry(1, "V" * 22, 0, sale.amount_minor, 0),),
    )  # fmt: skip
    return journal.write_undo(
        content,
        sale_receipt_no=sale.slip["receipt_no"],
        programme=sale.programme,
        currency=sale.currency,
        amount_minor=content.programme_minor,
        beneficiary_minor=content.beneficiary_minor,
        reference=reference,
        slip=lambda made: {"receipt_no": f"0001-{made.sequence:06d}-0", "kind": "REFUND"},
    )


def outcome(kind: str | None, result: Result, an_id: str = "") -> Outcome:
    """An answer as if it had been verified; `jws` tells one from another."""
    return Outcome(
        jws=f"answer-{next(_serial)}" if kind is None else f"{kind}-{result}-{an_id}",
        result=result,
        id=an_id,
        terminal="t-1",
        recorded_at=datetime(2026, 11, 22, 8, tzinfo=UTC),
        epoch=1,
        kind=kind,
        record_sha256=None,
        refusal=Refusal("voucher_expired") if result in ("refused", "exception") else None,
        currency=None,
        amount_minor=0,
        vouchers=(),
        liability="merchant" if result in ("posted_short", "exception") else None,
    )


def dump(journal: Journal) -> dict[str, list[Any]]:
    """Every row of every table, to compare before and after."""
    return {
        table: journal._db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
        for table in TABLES
    }


def signed_outcome(record: Record, result: Result, key: Any, **more: Any) -> str:
    """What a ledger with this key would sign about a record."""
    body = outcomes.payload(
        result, record, recorded_at=datetime(2026, 11, 22, 8, tzinfo=UTC), epoch=1, **more
    )
    return outcomes.sign(body, key)
