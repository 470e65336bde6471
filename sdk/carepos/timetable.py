"""When a till by itself next does something for what is open: `backoff`, and what the ledger asked.

A ledger that wants to be left alone (`Retry-After`) is; what a cashier asks for is asked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from carepos import backoff
from carepos.clock import Clock
from carepos.journal_view import Attempt, JournalView, Undo


class Timetable:
    """One till's. `quiet_s`: for how long the ledger wants to be left alone; `heard_at`: when it
    was last heard."""

    def __init__(
        self,
        journal: JournalView,
        *,
        now: Clock,
        quiet_s: Callable[[], float],
        heard_at: Callable[[], datetime | None],
    ) -> None:
        self._journal = journal
        self._now = now
        self._quiet_s = quiet_s
        self._heard_at = heard_at

    def next_try(self) -> datetime | None:
        """The earliest of all; None while nothing waits for that."""
        times = [self.of_attempt(each) for each in self._journal.unfinished()]
        times += [self.of_undo(each) for each in self._journal.undos("waiting")]
        return min((at for at in times if at is not None), default=None)

    def of_attempt(self, sale: Attempt) -> datetime | None:
        """When it asks about this attempt again, or sends it; None: it does not."""
        now = self._now()
        return self._not_before_quiet(
            backoff.of_attempt(self._journal, sale, now, heard_at=self._heard_at()), now
        )

    def of_undo(self, of: Undo) -> datetime | None:
        """As `of_attempt`, of a void or refund."""
        now = self._now()
        return self._not_before_quiet(
            backoff.of_undo(self._journal, of, now, heard_at=self._heard_at()), now
        )

    def due(self) -> list[Attempt]:
        """What may be asked about by now, whoever waits longest first."""
        now = self._now()
        times = [(self.of_attempt(each), each) for each in self._journal.unfinished()]
        due = [(at, each) for at, each in times if at is not None and at <= now]
        return [each for _, each in sorted(due, key=lambda pair: (pair[0], pair[1].sequence))]

    def is_undo_due(self) -> bool:
        """Whether a void or refund may be sent again by now."""
        now = self._now()
        times = [self.of_undo(each) for each in self._journal.undos("waiting")]
        return any(at is not None and at <= now for at in times)

    def _not_before_quiet(self, at: datetime | None, now: datetime) -> datetime | None:
        quiet_s = self._quiet_s()
        return at if at is None or not quiet_s else max(at, now + timedelta(seconds=quiet_s))
