"""Sales that a person at the shop ticked off the list of those that a person must look at.

A tick moves no money and is no record, so nobody but this shop hears of it: the office has its own
list. It counts for the state that the sale was in: whatever the ledger says later lists it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from carepos import clock, strict_json
from carepos.attempt import FOR_A_PERSON, TICKED_BY_HAND, State
from carepos.errors import JournalError, Malformed, WrongState
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView

_STATES: Final = tuple(sorted(FOR_A_PERSON))
_NOTE: Final = "ticked_off:"  # and the number of the sale's record


@dataclass(frozen=True, slots=True)
class Tick:
    """That somebody said at `at` what was done (`note`) about a sale that was in `state`."""

    state: State
    note: str
    at: datetime

    def ends(self, sale: Attempt) -> bool:
        """Whether it counts for the sale as it is now."""
        return sale.state == self.state


def ticks(journal: JournalView) -> dict[int, Tick]:
    """By the number of a sale's record: what somebody said of it last."""
    found = {}
    for name, value in journal.about().items():
        if name.startswith(_NOTE):
            said: Mapping[str, str] = json.loads(value)
            at = clock.from_text(said["at"])
            found[int(name.removeprefix(_NOTE))] = Tick(said["state"], said["note"], at)  # type: ignore[arg-type]
    return found


def count(journal: JournalView) -> int:
    """How many sales a person must still look at; by index, however long the journal is."""
    return journal.count(*_STATES) - _ended(journal)


def newest(journal: JournalView, most: int) -> list[Attempt]:
    """At most so many of the newest of them, in the order they were begun."""
    ticked = ticks(journal)
    found = sorted(
        (sale for state in _STATES for sale in journal.newest(state, most + len(ticked))),
        key=lambda sale: sale.sequence,
    )
    return [
        sale
        for sale in found
        if sale.sequence not in ticked or not ticked[sale.sequence].ends(sale)
    ][-most:]


def _ended(journal: JournalView) -> int:
    sales = ((journal.attempt_at(sequence), tick) for sequence, tick in ticks(journal).items())
    return sum(sale is not None and tick.ends(sale) for sale, tick in sales)


def tick_off(journal: Journal, sale: Attempt, note: object, now: datetime) -> Tick:
    """Say for good what was done about a sale: 1–200 printable characters, no name in them. One
    fsync; the same again does nothing.

    Raises Malformed, WrongState where the sale needs no person or the office still decides it,
    JournalError where something else was said of it before.
    """
    said = strict_json.text(note, "note", high=200)
    if not said.strip():
        raise Malformed("must say something", field="note")
    if sale.state not in TICKED_BY_HAND:
        raise WrongState(sale.state, "ticked_off")
    before = ticks(journal).get(sale.sequence)
    if before is not None and before.ends(sale):
        if before.note != said:
            raise JournalError(f"it was ticked off {clock.to_text(before.at)}: {before.note}")
        return before
    value = {"state": sale.state, "note": said, "at": clock.to_text(now)}
    journal.note(f"{_NOTE}{sale.sequence}", json.dumps(value, ensure_ascii=False, sort_keys=True))
    return Tick(sale.state, said, now)
