"""Why a ledger holds a record instead of deciding it, in the cashier's words (docs/offline.md §2).

A held record is kept at the ledger until a person decides it; it is never lost, and sending it
again is harmless.
"""

from __future__ import annotations

from typing import Final

from carepos import outcome
from carepos.journal_view import JournalView
from carepos.keys import Keys
from carepos.outcome import HeldReason, NotServed
from carepos.record import Record
from carepos.refusals import BY_CODE

FOR_GOOD: Final[tuple[NotServed, ...]] = ("terminal_revoked", "terminal_forked")
"""Reasons that hold whatever the till sends from then on, the first that fits: no such till becomes
active again, but at a ledger that lost what it had against it."""

_HELD = ("The office decides it by hand.", "由项目办公室人工处理。")
_TOKEN = (
    "The care code or PIN that came with it must be looked at.",
    "所附爱心码或密码需人工核对。",
)


def sentence(reason: HeldReason, language: str = "zh") -> str:
    """What the cashier reads; `language` is "zh" or "en"."""
    place = 0 if language == "en" else 1
    if reason == "token":
        said = _TOKEN[place]
    else:
        kind = BY_CODE[reason]
        said = (kind.en, kind.zh)[place]
    return f"{said} {_HELD[place]}" if language == "en" else f"{said}{_HELD[place]}"


def reason_of(journal: JournalView, written: Record, *, keys: Keys) -> HeldReason | None:
    """Why the ledger has this record and people are to decide it; None where that is not so, or
    they have. `keys` are the ledger's."""
    found = None
    for text in journal.outcomes_of(written.sequence):  # the oldest first
        found = outcome.read_any(text, keys=keys).reason
    return found
