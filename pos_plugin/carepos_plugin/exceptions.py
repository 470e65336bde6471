"""Sales that a person must look at: what they were, what the ledger said of them, what to do.

They are read from the journal, beside a running plugin or without one.
"""

from __future__ import annotations

from typing import Any, Final

from carepos import attempt, clock, holding, ids, outcome
from carepos.acceptance import AcceptOffline
from carepos.enrolment import Enrolment
from carepos.journal_view import Attempt, JournalView
from carepos.keys import Keys
from carepos.outcome import Outcome
from carepos_plugin import offline_words
from carepos_plugin.offline_words import priced
from carepos_plugin.sentences import message_of, next_of, refusal_of, said

MOST: Final = 200
"""How many are told, the newest; all are counted."""

_STATES: Final = tuple(sorted(attempt.FOR_A_PERSON))


def document(journal: JournalView, enrolled: Enrolment) -> dict[str, Any]:
    """`{"count", "exceptions", "en", "zh"}`: how many there are, and the newest, oldest first."""
    keys = enrolled.ledger_keys.keys
    return {
        **offline_words.exceptions_said(count(journal)),
        "exceptions": _listed(journal, enrolled, keys),
    }


def count(journal: JournalView) -> int:
    """How many there are."""
    return journal.count(*_STATES)


def _listed(journal: JournalView, enrolled: Enrolment, keys: Keys) -> list[dict[str, Any]]:
    found = sorted(
        (each for state in _STATES for each in journal.newest(state, MOST)),
        key=lambda each: each.sequence,
    )
    return [_told(journal, enrolled, keys, each) for each in found[-MOST:]]


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
