"""The till's Z: what a day's numbers come to (docs/protocol.md §4, `day_report`)."""

from __future__ import annotations

from collections import Counter

from carepos.attempt import State
from carepos.errors import Malformed
from carepos.journal_view import JournalView
from carepos.record import DayReport, DaySum


def report(journal: JournalView, day: str, last_sequence: int) -> DayReport:
    """What ended since the last report, for the ISO 8601 date `day`; numbers to `last_sequence`.

    It is all that ended in this journal less what earlier reports told of it. So a sale that was
    open at one report and was booked after it is in the next, and no sale is in two or in none.
    `open` counts every sale that has not ended, whenever it was begun.
    """
    written = journal.records("day_report")
    told = [each.content for each in written if isinstance(each.content, DayReport)]
    attempts = journal.attempts()
    # A sale that was voided was confirmed before: what went back of it is told beside it.
    ended: tuple[State, ...] = ("confirmed", "voided", "short")
    sums = _Sums()
    for sale in attempts:
        if sale.state in ended:
            sums.add(sale.programme, sale.currency, 1, sale.amount_minor)
    undone = _Sums()
    for undo in journal.undos("posted"):
        undone.add(undo.programme, undo.currency, 1, undo.amount_minor)
    for earlier in told:
        for each in earlier.sums:
            sums.add(each.programme, each.currency, -each.count, -each.amount_minor)
        for each in earlier.undone:
            undone.add(each.programme, each.currency, -each.count, -each.amount_minor)

    def standing(*states: State) -> int:
        return sum(sale.state in states for sale in attempts)

    confirmed, refused, reversed_ = (
        standing(*ended),
        standing("refused"),
        standing("reversed", "filling"),
    )
    return DayReport(
        z_no=len(written) + 1,
        business_date=day,
        from_sequence=written[-1].sequence + 1 if written else 1,
        to_sequence=last_sequence,
        confirmed=confirmed - sum(each.confirmed for each in told),
        refused=refused - sum(each.refused for each in told),
        reversed=reversed_ - sum(each.reversed for each in told),
        open=len(attempts) - confirmed - refused - reversed_,
        sums=sums.listed(),
        undone=undone.listed(),
    )


def date_for(journal: JournalView, wished: str | None, today: str) -> str:
    """The business date of the next report: `wished`, or `today`, ISO 8601, and never one before
    the last report's, whatever a clock says. Raises Malformed for a wish before it."""
    reports = [each.content for each in journal.records("day_report")]
    last = max((each.business_date for each in reports if isinstance(each, DayReport)), default="")
    if wished is None:
        return max(today, last)
    if wished < last:
        raise Malformed(f"is before {last}, which is closed", field="business_date")
    return wished


def is_told(journal: JournalView, newest: DayReport) -> bool:
    """Whether another report would say nothing that the `newest` one did not."""
    fresh = report(journal, newest.business_date, newest.to_sequence)
    ended = fresh.confirmed + fresh.refused + fresh.reversed
    return not ended and not fresh.undone and fresh.open == newest.open


class _Sums:
    """Counts and sums by (programme, currency)."""

    def __init__(self) -> None:
        self._count: Counter[tuple[str, str]] = Counter()
        self._minor: Counter[tuple[str, str]] = Counter()

    def add(self, programme: str, currency: str, count: int, amount_minor: int) -> None:
        self._count[programme, currency] += count
        self._minor[programme, currency] += amount_minor

    def listed(self) -> tuple[DaySum, ...]:
        return tuple(
            DaySum(*key, self._count[key], minor)
            for key, minor in sorted(self._minor.items())
            if self._count[key]
        )
