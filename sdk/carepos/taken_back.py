"""Voids and refunds as a journal holds them, each with the ledger's signed word on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from carepos import outcome
from carepos.errors import Malformed
from carepos.journal_view import JournalView
from carepos.keys import KeySet
from carepos.outcome import Outcome
from carepos.record import Record
from carepos.undo import Original, Refund, Void

Word = Literal["posted", "refused", "waiting"]
_FINAL: Final = ("posted", "refused")


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A till's record of a void or refund, and what the ledger answered to it, if it did."""

    written: Record
    answer: Outcome | None

    @property
    def word(self) -> Word:
        """`waiting` also where only somebody else than the ledger answered."""
        if self.answer is None:
            return "waiting"
        return "posted" if self.answer.result == "posted" else "refused"

    @property
    def is_void(self) -> bool:
        return isinstance(self.written.content, Void)

    @property
    def original(self) -> Original:
        """The sale that it takes back."""
        content = self.written.content
        assert isinstance(content, Void | Refund)
        return content.original

    @property
    def amount_minor(self) -> int:
        """What a refund takes back of what the programme paid; calling it on a void is a
        programming error: that takes back whatever its sale was."""
        assert isinstance(self.written.content, Refund)
        return self.written.content.programme_minor


def read(journal: JournalView, keys: KeySet) -> Iterator[TakenBack]:
    """Every void and refund of a journal, in sequence order. `keys`: the ledger's."""
    for written in journal.records("void", "refund"):
        yield TakenBack(written, _answer(journal, written, keys))


def _answer(journal: JournalView, written: Record, keys: KeySet) -> Outcome | None:
    for text in journal.outcomes_of(written.sequence):
        try:
            found = outcome.read_bound(text, written, keys=keys)
        except Malformed:
            continue  # not the ledger's word: as if it were not there
        if found.result in _FINAL:
            return found
    return None
