"""Which of a terminal's keys counts for which record: docs/identity.md §11 as pure functions.

A terminal has the key it enrolled with, and one more for each `key_change` that was posted. A key
that was announced counts at once; its first record closes every other key of the terminal: the one
that signed before it from that number on, those that never signed altogether.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from carepos.record import KeyChange, Record
from carepos_ledger.problems import Problem

Place = tuple[str, int]
"""(incarnation, sequence) of a record."""

ENROLLED: Final[Place] = ("", 0)
"""`first` of the key that a terminal enrolled with: in use before any record."""


class TerminalKey(NamedTuple):
    """One key of a terminal. `first`: its first record that is known, None while it only waits.
    `until`: the first record that is no longer its own, None while it counts."""

    terminal: str
    first: Place | None = ENROLLED
    until: Place | None = None


def is_closed(key: TerminalKey, record: Record) -> bool:
    """Whether a record of this key comes too late: another key has taken its place."""
    if key.until is None:
        return False
    incarnation, sequence = key.until
    return record.incarnation != incarnation or record.sequence >= sequence


def is_news(key: TerminalKey, record: Record) -> bool:
    """Whether this record tells that its key is in use, or since an earlier number than known."""
    if key.first is None:
        return True
    incarnation, sequence = key.first
    return record.incarnation == incarnation and record.sequence < sequence


def arrive(keys: dict[str, TerminalKey], record: Record) -> bool:
    """Whether the record counts, its terminal's keys being these by kid; closes what it closes."""
    key = keys[record.kid]
    if is_closed(key, record):
        return False
    if is_news(key, record):
        first = (record.incarnation, record.sequence)
        for kid, other in keys.items():
            if other.terminal != record.terminal or kid == record.kid:
                continue
            if key.first is not None:
                # Only the end of the one before moves. Keys that are open were announced since:
                # else a copy of a closed key could stop the till with a number that it left out.
                if other.until == key.first:
                    keys[kid] = other._replace(until=first)
            elif other.until is None:
                # A key that never signed has no number below the first.
                keys[kid] = other._replace(until=first if other.first else (first[0], 1))
        keys[record.kid] = key._replace(first=first)
    return True


def announce(keys: dict[str, TerminalKey], record: Record, change: KeyChange) -> bool:
    """Whether the change adds a key, `keys` being those of its terminal and whoever has the new
    one; False where it was announced already. Raises Problem signature_invalid, malformed."""
    if keys[record.kid].until is not None:
        # Numbers that were written before the change still count, but they announce nothing.
        raise Problem("signature_invalid", "another key has taken this one's place")
    known = keys.get(change.key.kid)
    if known is None:
        keys[change.key.kid] = TerminalKey(record.terminal, first=None)
        return True
    if known.terminal != record.terminal:
        raise Problem("malformed", "is another terminal's", field="content.key")
    if known.first is not None or known.until is not None:
        raise Problem("malformed", "was this terminal's before", field="content.key")
    return False


def waiting(keys: dict[str, TerminalKey], terminal: str) -> int:
    """How many keys of the terminal are announced and have signed nothing."""
    return sum(
        key.terminal == terminal and key.first is None and key.until is None
        for key in keys.values()
    )
