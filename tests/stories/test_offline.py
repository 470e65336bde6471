"""Selling while the ledger is away: a real till, a real ledger, a cable between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carepos import Refused, Unreachable, WrongState, outcome
from carepos.acceptance import AcceptOffline
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.world import PROGRAMME, Family, World, milk


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[World]:
    with offline_world(tmp_path, database_url) as found:
        yield found


@pytest.fixture
def shop(made: World) -> OfflineShop:
    return OfflineShop(made)


def booked(shop: OfflineShop) -> int:
    """What the ledger has posted to redemptions."""
    sums = shop.world.ledger.office.programme_sums(PROGRAMME["programme"])
    return int(sums.redeemed_minor)


def refused_code(shop: OfflineShop, holder: object, amount_minor: int) -> str | None:
    """Why nothing can be redeemed for so much."""
    try:
        refusal = shop.offer(holder, amount_minor).refusal  # type: ignore[arg-type]
    except Refused as error:
        refusal = error.refusal
    return None if refusal is None else refusal.code


def most(shop: OfflineShop, family: Family) -> int:
    """How much of a large basket the till could pay for the family now."""
    offer = shop.offer(family, 50_000)
    return 0 if offer.refusal is not None else offer.proposal.programme_minor


def test_a_shop_sells_through_an_outage(shop: OfflineShop) -> None:
    """What was set aside is sold without the ledger, PROVISIONAL and at the programme's risk; when
    the network is back it is booked as sold, and the sealed code is gone."""
    family = shop.at_home(12_000)
    shop.learn()
    before = booked(shop)
    shop.cable.is_out = True
    offer = shop.offer(family, 4_000)
    assert (offer.presentment, offer.liability, offer.refusal) == ("offline", "programme", None)
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert (sale.state, sale.liability, sale.final) == ("accepted", "programme", False)
    [receipt] = [j for j in shop.till.journal.print_jobs() if j.receipt_no == sale.receipt_no]
    assert (receipt.slip["kind"], receipt.slip["liability"]) == ("PROVISIONAL", "programme")
    assert shop.till.answer_goods("S1", handed_over=True).state == "provisional"
    assert shop.till.settle()[-1].state == "provisional"
    sold = shop.newest()
    sealed = shop.till.journal.evidence_of(sold.id)
    assert sealed is not None and family.sub not in sealed
    shop.world.now.forward(days=2)
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.till.status("S1").state == "confirmed"
    assert shop.till.journal.evidence_of(sold.id) is None
    assert booked(shop) == before + 4_000
    accepted = shop.till.journal.record_of(shop.newest(), "accept_offline")
    assert isinstance(accepted.content, AcceptOffline)
    assert sum(use.amount_minor for use in accepted.content.allotment_use) == 4_000
    copy = shop.till.journal.queue_copy(sale.receipt_no)
    assert (copy.slip["kind"], copy.slip["is_copy"]) == ("REDEEMED", True)
    # And nothing waits any more.
    assert shop.till.journal.unanswered("redeem", "accept_offline") == []


def test_what_is_set_aside_is_spent_once(shop: OfflineShop) -> None:
    """Until the till has spent what is set aside for it, and not a minor unit more; a newer pack
    that names the same allotment does not bring it back, nor does a restart."""
    family = shop.at_home(12_000)
    shop.learn()
    shop.cable.is_out = True
    assert most(shop, family) == 6_000
    assert shop.sell(family, 4_000).state == "provisional"
    assert most(shop, family) == 2_000
    assert shop.sell(family, 2_000).state == "provisional"
    assert most(shop, family) == 0
    shop.restart()
    assert most(shop, family) == 0
    shop.cable.is_out = False
    shop.learn()  # before anything of it went up
    shop.cable.is_out = True
    assert most(shop, family) == 0


def test_online_sales_draw_on_what_is_set_aside_too(shop: OfflineShop) -> None:
    """What the ledger says it drew on an allotment can't be sold without it later."""
    family = shop.at_home(12_000)
    shop.learn()
    assert shop.sell(family, 8_000).state == "confirmed"  # 6000 were open, 2000 came from it
    shop.cable.is_out = True
    assert most(shop, family) == 4_000
    assert shop.sell(family, 4_000).state == "provisional"
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.newest().state == "confirmed"
    assert shop.world.balance() == 0


def test_nothing_is_sold_without_a_network_where_nothing_is_set_aside(made: World) -> None:
    """A household of another store, or a pack without households: a network is needed."""
    shop = OfflineShop(made)
    family, other = shop.at_home(), made.family()
    shop.cable.is_out = True
    with pytest.raises(Unreachable):  # the first pack has no households
        shop.offer(family, 100)
    shop.cable.is_out = False
    shop.learn()
    shop.cable.is_out = True
    assert refused_code(shop, other, 100) == "holder_not_in_pack"
    assert refused_code(shop, family, 100) is None


def test_an_old_pack_sells_nothing(shop: OfflineShop) -> None:
    """After `pack_age_s`; and what is set aside only until `spend_until`."""
    family = shop.at_home()
    shop.learn()
    shop.cable.is_out = True
    shop.world.now.forward(days=2, hours=23)
    assert refused_code(shop, family, 100) is None
    shop.world.now.forward(hours=1)
    assert refused_code(shop, family, 100) == "pack_stale"


def test_what_is_set_aside_ends_by_its_own_date(tmp_path: Path) -> None:
    """A minute before `spend_until`, however new the pack is: from then the ledger only waits for
    what was sold before."""
    with offline_world(tmp_path, spend_s=86_400) as made:
        shop = OfflineShop(made)
        family = shop.at_home(12_000)
        shop.learn()
        shop.cable.is_out = True
        made.now.forward(hours=23, minutes=58)
        assert most(shop, family) == 6_000
        assert shop.sell(family, 100).state == "provisional"
        made.now.forward(minutes=1)
        assert most(shop, family) == 0


def test_a_code_that_expired_since_it_was_scanned_sells_nothing(shop: OfflineShop) -> None:
    """The ledger judges it by the time of the sale: goods must not leave on one that it will not
    take. Nothing is written; a fresh code sells."""
    family = shop.at_home(12_000)
    shop.learn()
    begun = shop.offer(family, 1_000)
    shop.cable.loses = "request"
    assert shop.till.redeem(begun, checkout="S-unknown", cashier="c01").state == "unknown"
    shop.cable.loses, shop.cable.is_out = None, True
    offer = shop.offer(family, 1_000)
    assert offer.presentment == "offline" and offer.refusal is None
    sequence = shop.till.journal.sequence
    shop.world.now.forward(minutes=10)
    assert not shop.till.can_accept("S-unknown")
    wishes: list[Callable[[], object]] = [
        lambda: shop.till.redeem(offer, checkout="S-late", cashier="c01"),
        lambda: shop.till.accept("S-unknown"),
    ]
    for wish in wishes:
        with pytest.raises(Refused) as refused:
            wish()
        assert refused.value.code == "token_expired"
    assert shop.till.journal.sequence == sequence
    late = shop.till.redeem(shop.offer(family, 1_000), checkout="S-late", cashier="c01")
    assert late.state == "accepted"


def test_an_unknown_outcome_may_leave_without_the_ledgers_word(shop: OfflineShop) -> None:
    """The cashier's choice, written before it counts and never taken back: it can't be cancelled
    any more. Whether the first copy was booked or not, it is booked once."""
    for never_arrives in (True, False):
        family = shop.at_home(12_000)
        shop.learn()
        before = booked(shop)
        offer = shop.offer(family, 5_000)
        checkout = f"S-{never_arrives}"
        shop.cable.loses = "request" if never_arrives else "answer"
        assert shop.till.redeem(offer, checkout=checkout, cashier="c01").state == "unknown"
        shop.cable.loses = None
        shop.cable.is_out = True
        assert shop.till.can_accept(checkout)
        assert shop.till.accept(checkout).state == "accepted"
        with pytest.raises(WrongState):
            shop.till.cancel(checkout)
        assert shop.till.accept(checkout).state == "accepted"
        shop.till.answer_goods(checkout, handed_over=True)
        shop.cable.is_out = False
        shop.till.settle()
        assert shop.till.status(checkout).state == "confirmed"
        assert booked(shop) == before + 5_000
        redeem = shop.till.journal.record_of(shop.newest())
        answers = shop.till.journal.outcomes_of(redeem.sequence)
        keys = shop.till.enrolment.ledger_keys.keys
        assert [outcome.read_any(a, keys=keys).result for a in answers] == ["posted"]


def test_a_cancelled_sale_is_not_accepted(shop: OfflineShop) -> None:
    """The other choice is as final."""
    family = shop.at_home()
    shop.learn()
    offer = shop.offer(family, 5_000)
    shop.cable.is_out = True
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    assert shop.till.cancel("S1").state == "reversing"
    assert not shop.till.can_accept("S1")
    with pytest.raises(WrongState):
        shop.till.accept("S1")


def test_what_an_unknown_sale_may_have_taken_is_not_sold_again(shop: OfflineShop) -> None:
    """While its outcome is unknown, and while it is being reversed, its amount counts as spent;
    once the ledger has said that nothing was booked it can be sold."""
    family = shop.at_home(12_000)
    shop.learn()
    offer = shop.offer(family, 6_000)
    shop.cable.is_out = True
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    assert most(shop, family) == 0
    shop.till.cancel("S1")
    assert most(shop, family) == 0
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.till.status("S1").state == "reversed"
    shop.cable.is_out = True
    assert shop.sell(family, 6_000).state == "provisional"


@pytest.mark.parametrize("handed_over", [True, False])
def test_goods_that_may_not_have_left_are_asked_about(shop: OfflineShop, handed_over: bool) -> None:
    """FG: the till stops between acceptance and goods. Nothing goes up before the cashier has
    answered; goods that stayed are taken back by a void that goes up behind the sale."""
    family = shop.at_home(12_000)
    shop.learn()
    before = booked(shop)
    shop.cable.is_out = True
    assert shop.sell(family, 4_000, seen=False).state == "accepted"
    shop.restart()
    asked = shop.newest()
    assert asked.state == "accept_asked"
    shop.cable.is_out = False
    shop.till.settle()
    assert booked(shop) == before and shop.newest().state == "accept_asked"
    shop.cable.is_out = True
    shop.world.now.forward(days=1)  # long after the undo window
    assert shop.till.answer_goods(asked.checkout, handed_over=handed_over).state == "provisional"
    waiting = shop.till.corrections(waiting=True)
    assert len(waiting) == (0 if handed_over else 1)
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.newest().state == ("confirmed" if handed_over else "voided")
    assert booked(shop) == before + (4_000 if handed_over else 0)
    assert shop.till.corrections(waiting=True) == []


def test_a_sale_that_is_not_uploaded_is_voided_not_refunded(shop: OfflineShop) -> None:
    """The void waits for it and goes up behind it, in the same request."""
    family = shop.at_home(12_000)
    shop.learn()
    before = booked(shop)
    shop.cable.is_out = True
    sold = shop.sell(family, 4_000)
    with pytest.raises(WrongState):
        shop.till.returnable(sold.receipt_no)
    done = shop.till.void(sold.checkout, cashier="c01", reason="changed_mind")
    assert (done.state, done.amount_minor) == ("waiting", 4_000)
    shop.cable.is_out = False
    calls = shop.cable.calls
    shop.till.settle()
    assert shop.newest().state == "voided" and booked(shop) == before
    assert shop.cable.calls - calls <= 2
    assert shop.till.corrections()[-1].state == "posted"


def test_many_sales_go_up_in_order_and_in_batches(made: World) -> None:
    """FG-1 to FG-3: in sequence order, an outcome each; a batch that was cut goes up again whole,
    and nothing is booked twice."""
    shop = OfflineShop(made)
    family = shop.at_home(100_000)
    shop.learn()
    before = booked(shop)
    shop.cable.is_out = True
    for _ in range(101):
        assert shop.sell(family, 100).state == "provisional"
    shop.cable.is_out = False
    shop.cable.loses = "answer"
    shop.till.settle()
    shop.cable.loses = None
    assert {a.state for a in shop.till.journal.attempts()[1:]} == {"provisional"}
    shop.till.settle()
    assert {a.state for a in shop.till.journal.attempts()} == {"confirmed"}
    assert booked(shop) == before + 10_100


def test_an_online_sale_waits_behind_what_was_sold_without_a_network(shop: OfflineShop) -> None:
    """It may draw on the same allotment: all that is stored goes up before it."""
    family = shop.at_home(12_000)
    shop.learn()
    shop.cable.is_out = True
    assert shop.sell(family, 4_000).state == "provisional"
    shop.cable.is_out = False
    assert shop.sell(family, 8_000).state == "confirmed"
    assert [a.state for a in shop.till.journal.attempts()[-2:]] == ["confirmed", "confirmed"]
    assert shop.world.balance() == 0


def test_what_is_set_aside_can_be_given_back(shop: OfflineShop) -> None:
    """With the holder at the counter: from then on nothing of it is sold without the ledger, and
    when the ledger has it, it is open everywhere."""
    family = shop.at_home(12_000)
    shop.learn()
    assert shop.till.give_back(shop.till.scan(family.token())) == 1
    shop.cable.is_out = True
    assert most(shop, family) == 0
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.till.journal.unanswered("return_allotment") == []
    assert shop.world.balance() == 12_000


def test_a_day_is_closed_without_a_network(shop: OfflineShop) -> None:
    """The Z counts as open what has no outcome yet; the one after the network's return tells it."""
    family = shop.at_home(12_000)
    shop.till.close_day()
    shop.learn()
    shop.cable.is_out = True
    shop.sell(family, 4_000)
    closed = shop.till.close_day()
    assert (closed.report.confirmed, closed.report.open, closed.acknowledged) == (0, 1, False)
    shop.cable.is_out = False
    shop.till.settle()
    shop.till.settle()
    closed = shop.till.close_day()
    assert (closed.report.confirmed, closed.report.open, closed.acknowledged) == (1, 0, True)
    assert [s.amount_minor for s in closed.report.sums] == [4_000]


def test_pieces_and_a_split_tender_without_a_network(shop: OfflineShop) -> None:
    """Of an item voucher pieces are set aside, with what they may cost; of a basket that costs more
    the customer pays the rest, as ever, and both are booked as sold."""
    cans = shop.world.family(
        kind="item",
        quantity=8,
        terms={
            "unit": "piece",
            "cap_minor": 2_000,
            "cap_quantity": 1,
            "fixed_minor": 0,
        },
    )
    shop.checkouts += 1
    first = shop.till.propose(cans.token(), [milk(1_500)])
    assert shop.till.redeem(first, checkout="first", cashier="c01").state == "confirmed"
    shop.learn()
    shop.cable.is_out = True
    offer = shop.till.propose(cans.token(), [milk(9_000, quantity=5)])
    assert offer.refusal is None
    assert sum(e.quantity for e in offer.proposal.allocation) == 3  # half of the seven left
    sold = shop.till.redeem(offer, checkout="cans", cashier="c01")
    assert (sold.state, sold.amount_minor) == ("accepted", 5_400)
    shop.till.answer_goods("cans", handed_over=True)
    again = shop.till.propose(cans.token(), [milk(1_800)])
    assert again.refusal is not None
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.till.status("cans").state == "confirmed"
    online = shop.till.propose(cans.token(), [milk(9_000, quantity=5)])
    assert sum(e.quantity for e in online.proposal.allocation) == 4


def test_a_family_does_not_wait_long_twice_for_a_ledger_that_is_away(shop: OfflineShop) -> None:
    """After a call without an answer the next scan waits three seconds instead of eight; the first
    answer makes it patient again."""
    family = shop.at_home(12_000)
    shop.learn()
    waited = []
    call = shop.cable.call

    def noted(method: str, target: str, **more: Any) -> Any:
        if target == "/v1/vouchers/lookup":
            waited.append(more["deadline_s"])
        return call(method, target, **more)

    shop.cable.call = noted  # type: ignore[method-assign]
    for is_out in (True, True, False, False):
        shop.cable.is_out = is_out
        shop.till.scan(family.token())
    assert waited == [None, 3.0, 3.0, None]


@pytest.mark.parametrize("ruling", ["post", "refuse"])
def test_a_person_decides_what_is_held_and_the_till_hears_of_it(
    shop: OfflineShop, ruling: str
) -> None:
    """A till that was stopped while it was offline: what it sold is held, with its reason; nothing
    of it is lost, and once the office has ruled the till knows, as often as it asks."""
    family = shop.at_home(12_000)
    shop.learn()
    before = booked(shop)
    shop.cable.is_out = True
    sold = shop.sell(family, 2_000)
    terminals = shop.world.ledger.terminals
    terminals.set_status(shop.till.enrolment.terminal, "suspended")
    shop.cable.is_out = False
    for _ in range(2):
        shop.till.settle()
        held = shop.till.status(sold.checkout)
        assert (held.state, held.held, held.final) == ("held", "terminal_suspended", False)
    assert shop.till.journal.evidence_of(shop.newest().id) is not None
    assert booked(shop) == before
    database, book = shop.world.ledger.database, shop.world.ledger.desk._book
    number = HeldList(database).listed()[-1]["n"]
    rulings = HeldRulings(database, book, shop.world.now)
    if ruling == "post":
        rulings.post(number, operator="wang")
    else:
        rulings.refuse(number, "not_accepted", "sold after the shop had closed", operator="wang")
    terminals.set_status(shop.till.enrolment.terminal, "active")
    shop.till.settle()
    ended = {"post": "confirmed", "refuse": "exception"}[ruling]
    assert shop.till.status(sold.checkout).state == ended
    assert shop.till.journal.evidence_of(shop.newest().id) is None
    assert booked(shop) - before == (2_000 if ruling == "post" else 0)
