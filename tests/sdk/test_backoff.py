"""When a till asks again: quick at first, then seldom, and no two tills at once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from carepos import backoff
from carepos.backoff import FIRST_S, LONGEST_S, STEADY_S, Asked, next_try
from tests import paper_till
from tests.sdk.test_journal import start

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
SHARES = st.floats(0, 1, exclude_max=True)


def in_vain(count: int, until: datetime = NOW) -> list[Asked]:
    return [Asked(until - timedelta(seconds=n), heard=False) for n in reversed(range(count))]


def delay_s(before: list[Asked], random: float, **more: datetime) -> float:
    return (next_try(before, NOW, random=random, **more) - NOW).total_seconds()


def test_each_question_in_vain_doubles_the_window() -> None:
    """Two seconds at first, while the checkout is on the screen; three minutes at most."""
    most = [delay_s(in_vain(n), 1.0) for n in range(1, 12)]
    assert most == [2, 4, 8, 16, 32, 64, 128, 180, 180, 180, 180]
    assert delay_s(in_vain(10_000), 1.0) == LONGEST_S


@given(st.integers(1, 200), SHARES)
def test_the_next_one_falls_anywhere_in_the_window(count: int, random: float) -> None:
    """Full jitter: from none to all of it, and behind the last one, never before."""
    whole = min(FIRST_S * 2 ** (count - 1), LONGEST_S)
    assert delay_s(in_vain(count), random) == timedelta(seconds=random * whole).total_seconds()


def test_what_was_never_asked_is_due() -> None:
    assert next_try([], NOW, random=0.9) == NOW


@given(st.integers(1, 50), SHARES)
def test_anything_signed_begins_anew(count: int, random: float) -> None:
    """An answer about this sale sets the pace of who is heard; one about another, or a look-up,
    just now makes what was in vain before it due."""
    heard = [*in_vain(count, NOW - timedelta(hours=1)), Asked(NOW, heard=True)]
    assert STEADY_S / 2 <= delay_s(heard, random) <= STEADY_S
    assert delay_s([*heard, Asked(NOW, heard=False)], random) <= FIRST_S
    lately = NOW + timedelta(milliseconds=1)
    assert delay_s(in_vain(count), random, heard_at=lately) == 0
    assert delay_s(in_vain(count), random, heard_at=NOW - timedelta(hours=1)) == delay_s(
        in_vain(count), random
    )


def test_fa9_a_clock_put_back_makes_it_due_once() -> None:
    """FA-9: the last question lies in the future by now. It is asked, and by that known again."""
    later = in_vain(5, NOW + timedelta(days=1))
    assert delay_s(later, 0.9) == 0
    assert delay_s([*later, Asked(NOW, heard=False)], 0.5) == 0.5 * FIRST_S * 2**5


@given(st.lists(st.booleans(), max_size=40), SHARES)
def test_what_is_due_does_not_move_while_it_waits(heard: list[bool], random: float) -> None:
    """Whoever looks every few seconds sees one time, and waits no longer for looking."""
    before = [Asked(NOW + timedelta(seconds=n), each) for n, each in enumerate(heard)]
    last = before[-1].at if before else NOW
    due = next_try(before, last, random=random)
    for wait in (0.1, 10, 10_000):
        seen = next_try(before, last + timedelta(seconds=wait), random=random)
        assert seen == due or not before


def test_50_tills_do_not_arrive_together() -> None:
    """50 tills lost the network in the same second and tried as often. When it is back, no second
    of the three minutes sees more than a few of them, and each tills' draw is its own."""
    arrivals: Counter[int] = Counter()
    draws = [backoff.share(f"attempt-of-till-{till}", 12) for till in range(50)]
    for draw in draws:
        arrivals[int(delay_s(in_vain(12), draw))] += 1
    assert len(set(draws)) == 50 and max(arrivals.values()) <= 4
    thirds = Counter(int(3 * draw) for draw in draws)
    assert min(thirds.values()) >= 8


def test_the_draw_is_of_the_facts() -> None:
    """The same after a restart, another for the next question, and spread over all of 0 to 1."""
    assert backoff.share("a", 1) == backoff.share("a", 1) != backoff.share("a", 2)
    drawn = [backoff.share("a", n) for n in range(2_000)]
    assert all(0 <= each < 1 for each in drawn)
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


def test_a_restart_neither_hammers_nor_forgets(tmp_path: Path) -> None:
    """Ten restarts of a till that asked six times: each finds the same time, none asks at once."""
    now = paper_till.Ticking()
    with start(tmp_path, now=now) as journal:
        sale, _ = paper_till.write_intent(journal, "S1")
        for _ in range(6):
            sale = journal.advance(sale.id, "no_answer")
            now.at += timedelta(seconds=20)
        last = journal.events_of(sale.id)[-1][1]
        due = backoff.of_attempt(journal, sale, now.at)
    assert due is not None and last < due <= last + timedelta(seconds=64)
    for _ in range(10):
        with start(tmp_path, now=now) as again:
            (found,) = again.attempts("interrupted")
            assert backoff.of_attempt(again, found, now.at) == due


def test_two_sales_with_one_history_have_two_times(tmp_path: Path) -> None:
    """Lost in the same moment and asked as often, they are asked about apart from each other."""
    now = paper_till.Ticking()
    with start(tmp_path, now=lambda: now.at, random_bytes=now.random_bytes) as journal:
        sales = [paper_till.write_intent(journal, f"S{n}")[0] for n in range(20)]
        for _ in range(8):
            sales = [journal.advance(sale.id, "no_answer") for sale in sales]
        assert len({backoff.of_attempt(journal, sale, now.at) for sale in sales}) == 20


def test_what_waits_for_a_person_is_not_asked_about(tmp_path: Path) -> None:
    """The cashier's answer, and what is over, bring no question to the ledger."""
    with start(tmp_path) as journal:
        sale, _ = paper_till.write_intent(journal, "S1")
        posted = paper_till.outcome("redeem", "posted", sale.id)
        done = journal.advance(sale.id, "sale_posted", outcome=posted)
        assert backoff.of_attempt(journal, done, NOW) is None
    for state in ("goods_asked", "confirmed", "refused", "reversed", "review"):
        assert state not in backoff.ASKING
