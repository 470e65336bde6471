"""Sales that a person must look at: what they were, what the ledger said of them, what to do.

They are read from the journal, beside a running plugin or without one. One that was dealt with is
ticked off (`carepos.ticked_off`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from carepos import Malformed, clock, holding, ids, outcome, ticked_off
from carepos.acceptance import AcceptOffline
from carepos.enrolment import Enrolment
from carepos.errors import JournalError, WrongState
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView
from carepos.keys import Keys
from carepos.outcome import Outcome
from carepos_plugin import offline_words
from carepos_plugin.offline_words import priced
from carepos_plugin.problems import Problem
from carepos_plugin.sentences import message_of, next_of, refusal_of, said

MOST: Final = 200
"""How many are told, the newest; all are counted."""


def document(journal: JournalView, enrolled: Enrolment) -> dict[str, Any]:
    """`{"count", "exceptions", "en", "zh"}`: how many there are, and the newest, oldest first."""
    keys = enrolled.ledger_keys.keys
    found = ticked_off.newest(journal, MOST)
    return {
        **offline_words.exceptions_said(ticked_off.count(journal)),
        "exceptions": [_told(journal, enrolled, keys, each) for each in found],
    }


def tick_off(
    journal: Journal, enrolled: Enrolment, receipt_no: object, note: object, now: datetime
) -> dict[str, Any]:
    """Take a sale off the list, for good, with what was done: `{"receipt_no", "note", "at"}`. The
    same again does nothing. Raises Malformed, Problem receipt_unknown, wrong_state."""
    if not isinstance(receipt_no, str):
        raise Malformed("must be a receipt number", field="receipt_no")
    terminal_no, sequence = ids.parse_receipt_no(receipt_no)
    sale = journal.attempt_at(sequence) if terminal_no == enrolled.terminal_no else None
    if sale is None:
        raise Problem("receipt_unknown")
    try:
        tick = ticked_off.tick_off(journal, sale, note, now)
    except WrongState:
        is_held = sale.state == "held"
        raise Problem(
            "wrong_state",
            "the programme's office decides it, and the till hears of it by itself"
            if is_held
            else "this sale needs no person",
        ) from None
    except JournalError as error:
        raise Problem("wrong_state", str(error)) from None
    return {"receipt_no": receipt_no, "note": tick.note, "at": clock.to_text(tick.at)}


def _told(journal: JournalView, enrolled: Enrolment, keys: Keys, sale: Attempt) -> dict[str, Any]:
    redeem = journal.record_of(sale)
    amount_minor = redeem.redeem.programme_minor
    about = journal.record_of(sale, "reversal" if sale.state == "review" else "accept_offline")
    accepted = about.content
    liability = accepted.liability if isinstance(accepted, AcceptOffline) else None
    answers = [outcome.read_any(text, keys=keys) for text in journal.outcomes_of(about.sequence)]
    last = answers[-1] if answers else None
    return {
        "checkout": sale.checkout,
        "receipt_no": ids.receipt_no(enrolled.terminal_no, sale.sequence),
        "occurred_at": clock.to_text(redeem.occurred_at),
        "state": sale.state,
        "currency": sale.currency,
        "amount_minor": amount_minor,
        "paid_minor": 0 if last is None or sale.state == "review" else last.amount_minor,
        "liability": liability,
        "message": message_of(sale.state),
        "ledger_said": None if last is None else _said(last, amount_minor, sale.currency),
        "next": next_of(sale.state),
    }


def _said(last: Outcome, amount_minor: int, currency: str) -> dict[str, Any]:
    """`{"result", "code", "recorded_at", "en", "zh"}`: the ledger's newest word of it."""
    refusal, reason = refusal_of(last.refusal), last.reason
    if reason is not None:
        told = said(holding.sentence(reason, "en"), holding.sentence(reason, "zh"))
    elif last.result == "posted_short":
        paid, whole = priced(last.amount_minor, currency), priced(amount_minor, currency)
        short = priced(last.shortfall_minor, currency)
        told = said(
            f"Booked {paid} of {whole}: {short} is not covered.",
            f"已入账{paid}（共{whole}），差额{short}无券额可扣。",
        )
    elif refusal is not None:
        told = said(refusal["en"], refusal["zh"])
    else:
        told = message_of("held")
    return {
        "result": last.result,
        "code": reason if refusal is None else refusal["code"],
        "recorded_at": clock.to_text(last.recorded_at),
        **told,
    }
