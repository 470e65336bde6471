"""The till's Z: what a day's numbers come to (docs/protocol.md §4, `day_report`)."""

from __future__ import annotations

from carepos.attempt import State
from carepos.journal import JournalView
from carepos.record import DayReport, DaySum


def report(journal: JournalView, day: str, last_sequence: int) -> DayReport:
    """Everything between the last report and `last_sequence`, for the ISO 8601 date `day`.

    A sale is counted in the report of the day it was begun, wherever it stands now.
    """
    earlier = journal.records("day_report")
    begin = earlier[-1].sequence + 1 if earlier else 1
    today = [a for a in journal.attempts() if begin <= a.sequence <= last_sequence]
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for each in today:
        if each.state == "confirmed":
            count, amount = sums.get((each.programme, each.currency), (0, 0))
            sums[each.programme, each.currency] = (count + 1, amount + each.amount_minor)

    def having(*states: State) -> int:
        return sum(each.state in states for each in today)

    confirmed = having("confirmed")
    refused, undone = having("refused"), having("reversed", "filling")
    return DayReport(
        z_no=len(earlier) + 1,
        business_date=day,
        from_sequence=begin,
        to_sequence=last_sequence,
        confirmed=confirmed,
        refused=refused,
        reversed=undone,
        open=len(today) - confirmed - refused - undone,
        sums=tuple(
            DaySum(programme, currency, count, amount)
            for (programme, currency), (count, amount) in sorted(sums.items())
        ),
    )
