"""Why a ledger holds a record instead of deciding it, in the cashier's words (docs/offline.md §2).

A held record is kept at the ledger until a person decides it; it is never lost, and sending it
again is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from carepos import outcome
from carepos.keys import Keys
from carepos.outcome import HeldReason, NotServed
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


def reason_of(outcomes: Iterable[str], *, keys: Keys) -> HeldReason | None:
    """Why the record with these signed answers, oldest first, is held; None where it is not, or
    was decided since."""
    found = None
    for text in outcomes:
        found = outcome.read_any(text, keys=keys).reason
    return found
