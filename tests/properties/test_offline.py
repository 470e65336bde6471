"""The same rules decide online and offline (docs/offline.md §6), over random programmes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from carepos import offline, rules
from carepos.offline import Allotted, OfflineState
from carepos.offline_rule import FloorRule, OfflineRule
from carepos.rules import Proposal, Situation
from carepos.voucher import Voucher
from tests.properties.test_rules import random_situation, situation_of

ROUNDS = settings(max_examples=300)
RANDOM = st.randoms(use_true_random=True)
BOUNDLESS = OfflineRule(1_000, 1, 1, 1, None, 10**12, 1_000_000, 0)


def alone(random: Random) -> Situation:
    """A situation in which nobody acts for the holder: that is never redeemed offline."""
    while (situation := situation_of(random_situation(random))).acted is not None:
        pass
    return situation


def whole(voucher: Voucher) -> Allotted:
    """All that the voucher holds, set aside for this till."""
    if voucher.terms is None:
        return Allotted(voucher.voucher, 1, voucher.available_minor, 0)
    quantity = voucher.available_quantity
    return Allotted(voucher.voucher, 1, voucher.terms.reserve(quantity), quantity)


def emptied(voucher: Voucher) -> Voucher:
    """As a pack names it, when all that it holds is set aside."""
    return replace(voucher, available_minor=0, available_quantity=0)


def at_the_till(situation: Situation, state: OfflineState) -> tuple[Situation, Proposal]:
    shown = replace(situation, vouchers=offline.offered(situation.vouchers, state))
    return shown, rules.propose(shown)


@ROUNDS
@given(RANDOM)
def test_with_everything_set_aside_the_till_offers_what_it_would_online(random: Random) -> None:
    """Programme, dates, basket, quotas, limits and balances: no rule is another without a network,
    and what is offered is accepted."""
    situation = alone(random)
    online = rules.propose(situation)
    packed = {name: emptied(voucher) for name, voucher in situation.vouchers.items()}
    state = OfflineState(BOUNDLESS, tuple(map(whole, situation.vouchers.values())))
    shown, offer = at_the_till(replace(situation, vouchers=packed), state)
    event("refused whole" if offer.refusal else f"{min(len(offer.allocation), 4)} entries")
    assert (offer.lines, offer.refusal) == (online.lines, online.refusal)
    if not offer.allocation:
        return
    assert rules.check(shown, offer.allocation) is None
    assert offline.refusal(shown.vouchers, offer.allocation, state) is None
    planned = offline.plan(shown.vouchers, offer.allocation, state)
    assert (planned.beyond, planned.liability(BOUNDLESS)) == ({}, "programme")
    assert sum(use.amount_minor for use in planned.use) == offer.programme_minor


def random_state(random: Random, situation: Situation) -> OfflineState:
    """Parts of the vouchers set aside (of a value voucher in up to three), and floor limits."""
    allotted = []
    for voucher in situation.vouchers.values():
        if voucher.terms is None:
            for number in range(1, random.randint(1, 4)):
                allotted.append(Allotted(voucher.voucher, number, random.randint(0, 900), 0))
        elif random.random() < 0.7:
            quantity = random.randint(0, 8)
            money = voucher.terms.reserve(quantity) + random.choice((0, 0, random.randint(1, 99)))
            allotted.append(Allotted(voucher.voucher, 1, money, quantity))
    floor = FloorRule(
        random.randint(0, 1_500), random.randint(0, 2_500), 3_600,
        random.choice(("programme", "merchant")),
    )  # fmt: skip
    rule = replace(BOUNDLESS, floor=random.choice((None, floor, floor)))
    return OfflineState(rule, tuple(allotted), beyond_minor=random.randint(0, 1_500))


@ROUNDS
@given(RANDOM)
def test_what_is_offered_offline_is_accepted_and_within_every_limit(random: Random) -> None:
    """No offer is beyond allotments and floor limits, each source gives no more than it has, and
    what an item voucher's allotment keeps still covers its quantity."""
    situation = alone(random)
    state = random_state(random, situation)
    shown, offer = at_the_till(situation, state)
    if not offer.allocation:
        return
    assert rules.check(shown, offer.allocation) is None
    assert offline.refusal(shown.vouchers, offer.allocation, state) is None
    planned = offline.plan(shown.vouchers, offer.allocation, state)
    event(f"beyond: {bool(planned.beyond_minor)}, allotments: {min(len(planned.use), 3)}")
    assert planned.beyond_minor <= state.headroom_minor
    assert (
        sum(use.amount_minor for use in planned.use) + planned.beyond_minor == offer.programme_minor
    )
    held = {(each.voucher, each.allotment): each for each in state.allotted}
    for use in planned.use:
        each, terms = held[use.voucher, use.allotment], shown.vouchers[use.voucher].terms
        money = each.left_minor - use.amount_minor
        quantity = each.left_quantity - use.quantity
        assert money >= (0 if terms is None else terms.reserve(quantity)) and quantity >= 0
    for voucher, (minor, quantity) in planned.beyond.items():
        assert minor <= situation.vouchers[voucher].available_minor or quantity >= 0
        assert quantity <= situation.vouchers[voucher].available_quantity


@ROUNDS
@given(RANDOM)
def test_sale_after_sale_never_spends_an_allotment_twice(random: Random) -> None:
    """A till that counts what it used offers, over any number of sales, no more than was set aside
    and what the floor allows one beneficiary."""
    situation = alone(random)
    state = random_state(random, situation)
    first = {(each.voucher, each.allotment): each for each in state.allotted}
    used: dict[tuple[str, int], int] = {}
    beyond = 0
    packed = dict(situation.vouchers)
    for _ in range(4):
        _, offer = at_the_till(replace(situation, vouchers=packed), state)
        if not offer.allocation:
            break
        planned = offline.plan(packed, offer.allocation, state)
        beyond += planned.beyond_minor
        left = {(each.voucher, each.allotment): each for each in state.allotted}
        for use in planned.use:
            key = (use.voucher, use.allotment)
            used[key] = used.get(key, 0) + use.amount_minor
            left[key] = replace(
                left[key],
                left_minor=left[key].left_minor - use.amount_minor,
                left_quantity=left[key].left_quantity - use.quantity,
            )
        for voucher, (minor, quantity) in planned.beyond.items():
            packed[voucher] = packed[voucher].less(minor, quantity)
        state = replace(
            state,
            allotted=tuple(left.values()),
            beyond_minor=state.beyond_minor + planned.beyond_minor,
        )
    assert all(spent <= first[key].left_minor for key, spent in used.items())
    if state.floor is not None and beyond:
        assert state.beyond_minor <= state.floor.beneficiary_minor


def _offers() -> Iterator[tuple[Situation, OfflineState, Proposal]]:
    """Situations of which something can be redeemed, with everything set aside."""
    for seed in range(1_000):
        situation = alone(Random(seed))
        state = OfflineState(BOUNDLESS, tuple(map(whole, situation.vouchers.values())))
        _, offer = at_the_till(situation, state)
        if offer.allocation:
            yield situation, state, offer


def test_each_limit_has_its_refusal_in_the_order_of_the_page() -> None:
    """Every state that the page names is refused with its code, the first that matches."""
    situation, state, offer = next(_offers())
    assert offline.refusal(situation.vouchers, offer.allocation, state) is None
    floor = FloorRule(0, 10**9, 1, "merchant")
    cases: dict[str, dict[str, Any]] = {
        "offline_not_allowed": {"rule": None},
        "clock_behind": {"is_clock_behind": True},
        "pack_stale": {"pack_age_s": 1},
        "floor_limit": {"rule": replace(BOUNDLESS, floor=floor), "allotted": ()},
        "stored_sum": {"stored_minor": 10**12},
        "stored_count": {"stored_count": 1_000_000},
        "allotment_exceeded": {"allotted": ()},
    }
    worse: dict[str, Any] = {}
    for expected, change in reversed(cases.items()):
        worse = {**worse, **change}
        found = offline.refusal(situation.vouchers, offer.allocation, replace(state, **worse))
        assert found is not None and found.code == expected
    acting = replace(state, is_acting=True)
    assert offline.refusal(situation.vouchers, offer.allocation, acting) is not None
