"""What a till may still give without the ledger: never more than its pack and its journal allow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import set_aside
from carepos.households import Household, PackedAllotment, PackedVoucher
from carepos.offline import AllotmentUse, Plan
from carepos.outcome import Outcome, VoucherState
from carepos.set_aside import Taken
from tests import paper_till

V, W = "V" * 22, "W" * 22
NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)
DATES = [
    (NOW + timedelta(days=3), NOW + timedelta(days=7)),
    (NOW + timedelta(days=5), NOW + timedelta(days=9)),
]
KINDS: list[dict[str, Any]] = [
    {
        "programme": "flood",
        "kind": "value",
        "label": "",
        "categories": [],
        "starts_at": "2026-08-01T00:00:00.000Z",
        "expires_at": "2027-08-01T00:00:00.000Z",
        "terms": None,
    }
]


def packed(*amounts: int, voucher: str = V, available: int = 0) -> PackedVoucher:
    """A value voucher with one allotment of each amount, numbered from 1, all of the later date."""
    allotments = tuple(PackedAllotment(n, minor, 0, 1) for n, minor in enumerate(amounts, 1))
    return PackedVoucher(voucher, 0, available, 0, False, allotments)


def left(
    voucher: PackedVoucher, *taken: Taken, returned: Any = (), now: datetime = NOW
) -> dict[int, int]:
    found = set_aside.left([voucher], DATES, taken, returned, now)
    return {each.allotment: each.left_minor for each in found}


def drew(minor: int, number: int, *, is_later: bool = False, voucher: str = V) -> Taken:
    return Taken(voucher, number, is_later, minor, 0)


def posted(minor: int, from_allotment: int, voucher: str = V) -> Outcome:
    state = VoucherState(voucher, minor, 0, None, 0, 0, from_allotment, 0)
    return replace(paper_till.outcome("redeem", "posted"), amount_minor=minor, vouchers=(state,))


def test_what_was_drawn_is_gone_for_good() -> None:
    """From its own allotment, whichever pack names it; another voucher's draws do not count."""
    assert left(packed(50, 30)) == {1: 50, 2: 30}
    assert left(packed(50, 30), drew(20, 1), drew(30, 1)) == {1: 0, 2: 30}
    assert left(packed(50), drew(60, 1)) == {1: 0}
    assert left(packed(50), drew(20, 1, voucher=W)) == {1: 50}


def test_what_the_ledger_drew_on_one_not_yet_known_counts_when_it_is_named() -> None:
    """Against numbers behind those that the pack had then, in their order; and, because it may have
    been of those as well, against them too."""
    assert left(packed(50, 30, 10), drew(35, 1, is_later=True)) == {1: 15, 2: 0, 3: 5}
    assert left(packed(50), drew(35, 1, is_later=True)) == {1: 15}
    assert left(packed(50), drew(35, 0, is_later=True)) == {1: 15}
    assert left(packed(50, 30), drew(35, 1, is_later=True), returned={(V, 1)}) == {2: 0}


def test_more_than_expected_is_gone_of_what_another_sale_left() -> None:
    """Of 100 a sale without an answer may take all, so that the next expects nothing of it; the
    ledger took 30 and 60. Whichever is heard first, 10 are left."""
    first = (drew(30, 1),)
    second = set_aside.actual((), posted(60, 60))
    assert left(packed(100), drew(100, 1), *second) == {1: 0}
    assert left(packed(100), *first, *second) == {1: 10}


def test_a_date_is_over_a_minute_early_and_a_return_at_once() -> None:
    """The till's clock may be so far behind the ledger's; what is given back is not spent."""
    until = DATES[1][0] - set_aside.UNCERTAINTY
    assert left(packed(50), now=until - timedelta(milliseconds=1)) == {1: 50}
    assert left(packed(50), now=until) == {}
    assert left(packed(50, 30), returned={(V, 1)}) == {2: 30}


@pytest.mark.parametrize(
    ("from_allotment", "parts"),
    [
        (0, [(0, False, 70)]),
        (10, [(1, False, 10), (0, False, 60)]),
        (60, [(1, False, 50), (2, False, 10), (0, False, 10)]),
        (70, [(1, False, 50), (2, False, 20)]),
    ],
)
def test_what_was_booked_is_told_by_the_outcome(
    from_allotment: int, parts: list[tuple[int, bool, int]]
) -> None:
    """Planned at the most, it is put right by the signed answer: in order of number, the rest from
    what is open to all, decided at the ledger's time."""
    plan = Plan((AllotmentUse(V, 1, 50, 0), AllotmentUse(V, 2, 20, 0)))
    told = set_aside.actual(set_aside.planned(plan), posted(70, from_allotment))
    assert [(t.allotment, t.is_later, t.amount_minor) for t in told] == parts
    assert {t.decided_at for t in told} == {paper_till.outcome("redeem", "posted").recorded_at}


def test_more_than_the_pack_knew_of_is_kept_for_later_ones() -> None:
    """The ledger made an allotment whose pack never arrived, and drew on it."""
    told = set_aside.actual(set_aside.planned(Plan((AllotmentUse(V, 2, 20, 0),))), posted(70, 50))
    assert [(t.allotment, t.is_later, t.amount_minor) for t in told] == [
        (2, False, 20),
        (2, True, 30),
        (0, False, 20),
    ]


def test_what_is_open_to_all_is_counted_since_the_pack() -> None:
    """What the ledger had decided when it made the pack is in it; what came later, or is not
    decided, is not."""
    household = Household("B" * 22, 7, (packed(available=100),), {})
    open_to_all = [
        replace(drew(10, 0), decided_at=NOW - timedelta(seconds=1)),
        replace(drew(20, 0), decided_at=NOW + timedelta(seconds=1)),
        drew(30, 0),
        drew(5, 1),
    ]
    [voucher] = set_aside.vouchers_of(household, KINDS, open_to_all, NOW)
    assert (voucher.available_minor, voucher.beneficiary) == (50, "B" * 22)
    [voucher] = set_aside.vouchers_of(household, KINDS, [drew(130, 0)], NOW)
    assert voucher.available_minor == 0


@given(
    amounts=st.lists(st.integers(0, 100), min_size=1, max_size=5),
    draws=st.lists(st.tuples(st.integers(1, 120), st.integers(0, 6), st.booleans()), max_size=12),
    more=st.tuples(st.integers(1, 120), st.integers(0, 6), st.booleans()),
)
def test_it_never_grows_and_never_goes_below_zero(
    amounts: list[int],
    draws: list[tuple[int, int, bool]],
    more: tuple[int, int, bool],
) -> None:
    """However drawn: no allotment holds more than it was made with, and one draw more leaves none
    with more; all together lose what was drawn at most, or twice that where it is not known of
    which."""

    def taken(each: tuple[int, int, bool]) -> Taken:
        minor, number, is_later = each
        return drew(minor, number, is_later=is_later)

    voucher = packed(*amounts)
    before = left(voucher, *map(taken, draws))
    after = left(voucher, *map(taken, [*draws, more]))
    for n, minor in enumerate(amounts, 1):
        assert 0 <= after[n] <= before[n] <= minor
    assert sum(before.values()) - sum(after.values()) <= more[0] * 2
    if not any(is_later for *_, is_later in [*draws, more]):
        assert sum(before.values()) - sum(after.values()) <= more[0]
