"""The till's Z: whatever happens between two of them, together they tell every sale once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carepos import day_end
from carepos.journal import Journal
from carepos.journal_view import Attempt
from carepos.record import DayReport, DaySum
from tests import paper_till
from tests.sdk.test_reconcile import Fate, Shop, a_shop

DAY = "2026-11-22"


def z(journal: Journal) -> DayReport:
    """Write the next Z; what it says."""
    written = journal.write_day_report(lambda last: day_end.report(journal, DAY, last))
    assert isinstance(written.content, DayReport)
    return written.content


def counts(report: DayReport) -> tuple[int, int, int, int]:
    return report.confirmed, report.refused, report.reversed, report.open


def test_a_sale_confirmed_after_its_z_is_in_the_next(tmp_path: Path) -> None:
    """A sale that was open at one Z and was booked after it is in the next one's sums, once; while
    it is open every Z says so."""
    with a_shop(tmp_path) as shop:
        shop.sale(6_000, "confirmed")
        late = shop.sale(500, "unknown")
        first = z(shop.journal)
        assert counts(first) == (1, 0, 0, 1)
        assert day_end.is_told(shop.journal, first)
        assert first.sums == (DaySum("flood-dairy", "CNY", 1, 6_000),)
        second = z(shop.journal)
        assert (counts(second), second.sums) == ((0, 0, 0, 1), ())
        shop.journal.advance(late.id, "sale_posted", outcome=shop.answer(late, "posted"))
        assert not day_end.is_told(shop.journal, second)
        shop.sale(70, "confirmed", "winter-fuel")
        third = z(shop.journal)
        assert counts(third) == (2, 0, 0, 0)
        assert third.sums == (
            DaySum("flood-dairy", "CNY", 1, 500),
            DaySum("winter-fuel", "CNY", 1, 70),
        )
        assert (third.z_no, third.from_sequence) == (3, second.to_sequence + 2)
        last = z(shop.journal)
        assert counts(last) == (0, 0, 0, 0)
        shop.sale(1, "unknown")
        assert not day_end.is_told(shop.journal, last)


@pytest.mark.parametrize("fate", ["undone", "unknown"])
def test_a_sale_undone_after_its_z_is_counted_as_reversed_once(tmp_path: Path, fate: Fate) -> None:
    """Reversed after a Z: in the next one's count, in no sum."""
    with a_shop(tmp_path) as shop:
        sale = shop.sale(6_000, fate)
        assert counts(z(shop.journal)) == (0, 0, 0, 1)
        shop.undo(sale)
        report = z(shop.journal)
        assert (counts(report), report.sums) == ((0, 0, 1, 0), ())
        assert counts(z(shop.journal)) == (0, 0, 0, 0)


def test_what_is_taken_back_is_told_once(tmp_path: Path) -> None:
    """Posted since the Z before, in the next one's `undone`; the sale stays one that was confirmed,
    and what is not decided is in none."""
    with a_shop(tmp_path) as shop:
        sales = [shop.sale(6_000, "confirmed"), shop.sale(70, "confirmed", "winter-fuel")]
        first = z(shop.journal)
        undos = [paper_till.write_void(shop.journal, sale)[0] for sale in sales]
        assert day_end.is_told(shop.journal, first)
        shop.journal.advance_undo(undos[1].id, "undo_posted")
        assert not day_end.is_told(shop.journal, first)
        second = z(shop.journal)
        assert (counts(second), second.sums) == ((0, 0, 0, 0), ())
        assert second.undone == (DaySum("winter-fuel", "CNY", 1, 70),)
        shop.journal.advance_undo(undos[0].id, "undo_posted")
        assert z(shop.journal).undone == (DaySum("flood-dairy", "CNY", 1, 6_000),)
        assert z(shop.journal).undone == ()


FATES = st.sampled_from(["confirmed", "refused", "cancelled", "unknown", "goods_asked", "review"])
PROGRAMMES = st.sampled_from(["flood-dairy", "winter-fuel"])


@settings(max_examples=40)
@given(st.lists(st.tuples(FATES, PROGRAMMES, st.integers(1, 10**6), st.booleans()), max_size=8))
def test_all_reports_together_are_the_journal(sales: list[tuple[Fate, str, int, bool]]) -> None:
    """Whenever a Z is made and whenever a sale ends, the sums of all reports are the confirmed
    sales of the journal to the last minor unit, and every sale that ended is counted once."""
    with tempfile.TemporaryDirectory() as folder, a_shop(Path(folder)) as shop:
        reports = [z(shop.journal)]
        for fate, programme, amount_minor, close in sales:
            shop.sale(amount_minor, fate, programme)
            if close:
                reports.append(z(shop.journal))
        for sale in shop.journal.attempts("unknown", "goods_asked"):
            end(shop, sale)
        reports.append(z(shop.journal))

        told: dict[str, tuple[int, int]] = {}
        for told_now in (each for report in reports for each in report.sums):
            count, minor = told.get(told_now.programme, (0, 0))
            told[told_now.programme] = (count + told_now.count, minor + told_now.amount_minor)
        confirmed: dict[str, tuple[int, int]] = {}
        for each in shop.journal.attempts("confirmed"):
            count, minor = confirmed.get(each.programme, (0, 0))
            confirmed[each.programme] = (count + 1, minor + each.amount_minor)
        assert told == confirmed
        ended = [
            len(shop.journal.attempts("confirmed")),
            len(shop.journal.attempts("refused")),
            len(shop.journal.attempts("reversed", "filling")),
        ]
        each_report = [(report.confirmed, report.refused, report.reversed) for report in reports]
        assert [sum(of_all) for of_all in zip(*each_report, strict=True)] == ended
        assert reports[-1].open == len(shop.journal.attempts("review"))


def end(shop: Shop, sale: Attempt) -> None:
    """The sale comes to its end: booked, or the goods were handed over."""
    if sale.state == "goods_asked":
        shop.journal.advance(sale.id, "goods_handed_over")
    else:
        shop.journal.advance(sale.id, "sale_posted", outcome=shop.answer(sale, "posted"))
