"""What bounds the loss of selling without the ledger, and where each loss ends up.

Tills sell to copied codes and with pictures of vouchers that are old; what comes of it is within
the stated limits, and every unit that nobody's voucher covers is listed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from carepos import Refused
from carepos.journal_view import Attempt
from carepos.undo import NOT_COVERED, ReturnedLine
from carepos_ledger.offline_exceptions import OfflineExceptions
from tests import cards
from tests.properties.ledger_model import Opened
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.stories.test_offline import booked, most, refused_code
from tests.world import PROGRAMME, World, milk


@pytest.fixture
def merchants(tmp_path: Path, database_url: str) -> Iterator[World]:
    """Beyond allotments the merchant bears the loss."""
    with offline_world(tmp_path, database_url, floor={}) as made:
        yield made


@pytest.fixture
def programmes(tmp_path: Path, database_url: str) -> Iterator[World]:
    """Beyond allotments the programme bears it, from its loss reserve."""
    with offline_world(
        tmp_path, database_url, floor={"liability": "programme"}, reserve_minor=4_000
    ) as made:
        yield made


def listed(made: World) -> list[tuple[str, int, str]]:
    """The ledger's exceptions: reason, minor units, who bears them."""
    found = OfflineExceptions(made.ledger.database, made.now).listed()
    return sorted((e["reason"], e["amount_minor"], e["liability"]) for e in found)


def test_floor_limits_are_per_redemption_and_per_beneficiary(merchants: World) -> None:
    """T-2, FG-4: beyond what is set aside at most 30.00 at once and 50.00 to one family in seven
    days, whatever the voucher holds; and it says that the merchant bears it."""
    shop = OfflineShop(merchants)
    family = shop.at_home(40_000)
    shop.learn()
    shop.cable.is_out = True
    assert most(shop, family) == 20_000 + 3_000
    assert shop.sell(family, 20_000).liability == "programme"
    assert most(shop, family) == 3_000
    assert shop.sell(family, 3_000).liability == "merchant"
    assert most(shop, family) == 2_000
    assert shop.sell(family, 2_000).liability == "merchant"
    assert most(shop, family) == 0
    shop.world.now.forward(days=2)
    assert most(shop, family) == 0
    shop.cable.is_out = False
    shop.till.settle()
    assert {a.state for a in shop.till.journal.attempts()} == {"confirmed"}
    assert listed(merchants) == []


def test_what_is_stored_is_bounded(tmp_path: Path) -> None:
    """FG-4: in sum and in number, over all sales that have no final outcome; once they went up the
    till sells again."""
    with offline_world(tmp_path, stored_sum_minor=3_000, stored_count=3) as made:
        shop = OfflineShop(made)
        family = shop.at_home(20_000)
        shop.learn()
        shop.cable.is_out = True
        shop.sell(family, 1_000)
        assert refused_code(shop, family, 2_001) == "stored_sum"
        for _ in range(2):
            shop.sell(family, 100)
        assert refused_code(shop, family, 100) == "stored_count"
        shop.cable.is_out = False
        shop.till.settle()
        shop.cable.is_out = True
        assert refused_code(shop, family, 100) is None


def test_two_checkouts_at_once_do_not_spend_the_same_allotment(tmp_path: Path) -> None:
    """Eight cashiers of one till, each with an offer of all that is set aside: one of them
    sells."""
    with offline_world(tmp_path) as made:
        shop = OfflineShop(made)
        family = shop.at_home(12_000)
        shop.learn()
        shop.cable.is_out = True
        offers = [shop.offer(family, 6_000) for _ in range(8)]
        begin = threading.Barrier(8)
        done: list[str] = []

        def sell(n: int) -> None:
            begin.wait()
            try:
                done.append(shop.till.redeem(offers[n], checkout=f"C{n}", cashier="c01").state)
            except Refused as error:
                done.append(error.refusal.code)

        threads = [threading.Thread(target=sell, args=(n,)) for n in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(done) == ["accepted"] + ["allotment_exceeded"] * 7


def test_a_till_that_is_offline_asks_now_and_then(tmp_path: Path) -> None:
    """`online_permille` of its sales try the ledger once more; when it answers, the sale is an
    online one, and a code that was withdrawn meanwhile is refused."""
    with offline_world(tmp_path, online_permille=1_000) as made:
        shop = OfflineShop(made)
        family = shop.at_home(12_000)
        shop.learn()
        shop.cable.is_out = True
        offer = shop.offer(family, 1_000)
        calls = shop.cable.calls
        assert shop.till.redeem(offer, checkout="A", cashier="c01").state == "accepted"
        assert shop.cable.calls == calls + 1
        offer = shop.offer(family, 1_000)
        shop.cable.is_out = False
        assert shop.till.redeem(offer, checkout="B", cashier="c01").state == "confirmed"


def test_a_card_is_sold_to_with_its_pin(tmp_path: Path, database_url: str) -> None:
    """The PIN is proved against the pack; five wrong ones in a row end it at this till, also after
    a restart. What was sold so is booked: the proof went up sealed with the card."""
    with offline_world(tmp_path, database_url, classes=("once", "card")) as made:
        shop = OfflineShop(made)
        family = shop.at_home(12_000)
        card, other = cards.print_card(family), cards.print_card(family)
        shop.learn()
        before = booked(shop)
        shop.cable.is_out = True
        holder = shop.till.scan(card.scanned, pin=cards.PIN)
        sold = shop.till.redeem(
            shop.till.propose(holder, [milk(2_000)]), checkout="C1", cashier="c01"
        )
        assert sold.state == "accepted"
        shop.till.answer_goods("C1", handed_over=True)
        for left in (4, 3, 2, 1):
            with pytest.raises(Refused) as wrong:
                shop.till.scan(other.scanned, pin=cards.WRONG)
            assert (wrong.value.refusal.code, wrong.value.tries_left) == ("pin_wrong", left)
        shop.restart()
        for number in (cards.WRONG, cards.PIN):
            with pytest.raises(Refused) as wrong:
                shop.till.scan(other.scanned, pin=number)
            assert wrong.value.refusal.code == "pin_locked"
        shop.cable.is_out = False
        shop.till.settle()
        assert shop.till.status("C1").state == "confirmed" and booked(shop) == before + 2_000


def copied_code(
    made: World, tills: int, days: int
) -> tuple[list[OfflineShop], dict[str, list[str]]]:
    """A family of one voucher of 100.00 whose code was copied to so many shops, all without a
    network for so many days; each till sells as much as it may each day. Returns what they sold."""
    shops = []
    for n in range(tills):
        made.ledger.office.put_merchant(f"m{n}", f"店{n}")
        made.ledger.office.put_store(f"s{n}", f"m{n}", f"店{n}")
        made.ledger.programmes.admit_store(PROGRAMME["programme"], f"s{n}")
        shops.append(OfflineShop(made, f"till-{n}", f"s{n}"))
    family = made.family(10_000 + 100 * tills)
    for shop in shops:
        # Each shop was the family's home when its till fetched its pack.
        assert shop.sell(family, 100).state == "confirmed"
        shop.learn()
    for shop in shops:
        shop.cable.is_out = True
    sold: dict[str, list[str]] = {}
    for _ in range(days):
        for shop in shops:
            while (amount := most(shop, family)) > 0:
                sale = shop.sell(family, amount)
                assert sale.state == "provisional" and sale.liability is not None
                sold.setdefault(shop.name, []).append(sale.receipt_no)
        made.now.forward(hours=20)
    return shops, sold


def test_t2_twenty_tills_and_a_copied_code_for_three_days(merchants: World) -> None:
    """T-2, FG-5: what the voucher holds is paid, once; each till's loss is within its floor limit
    per beneficiary; each sale that was not covered is on the list, and none is dropped."""
    shops, sold = copied_code(merchants, 20, 3)
    given = {shop.name: 0 for shop in shops}
    for shop in shops:
        for each in shop.till.journal.attempts("provisional"):
            given[shop.name] += each.amount_minor
    total = sum(given.values())
    assert total > 10_000  # the codes did cost something
    for shop in shops:
        shop.cable.is_out = False
        shop.till.settle()
    paid = {
        shop.name: sum(
            a.amount_minor for a in shop.till.journal.attempts("confirmed", "short")
        ) - 100
        for shop in shops
    }  # fmt: skip
    assert merchants.balance() == 0
    assert sum(paid.values()) == 10_000
    for shop in shops:
        assert given[shop.name] - paid[shop.name] <= 5_000, "within the floor limit per beneficiary"
        assert shop.till.journal.attempts("provisional") == []
        # INV-7: each ended once.
        states = {a.state for a in shop.till.journal.attempts()}
        assert states <= {"confirmed", "short", "exception"}
    missing = total - 10_000
    exceptions = listed(merchants)
    assert sum(minor for _, minor, _ in exceptions) == missing
    assert {who for _, _, who in exceptions} == {"merchant"}
    assert sum(len(each) for each in sold.values()) >= 20


def test_what_the_programme_bears_is_paid_from_its_reserve(programmes: World) -> None:
    """Until the reserve is used up; from then it is an exception that a person works through. The
    shops have all that the programme risked."""
    shops, _ = copied_code(programmes, 4, 1)
    for shop in shops:
        shop.cable.is_out = False
        shop.till.settle()
    sums = programmes.ledger.office.programme_sums(PROGRAMME["programme"])
    assert sums.lost_minor <= 4_000 and sums.available_minor == 0
    open_minor = sum(a.amount_minor for s in shops for a in s.till.journal.attempts("exception"))
    short = [e for e in listed(programmes) if e[0] != "posted_short"]
    assert open_minor == sum(minor for _, minor, _ in short)
    assert sums.lost_minor == sum(m for r, m, _ in listed(programmes) if r == "posted_short")


def test_a_sale_that_the_reserve_paid_is_not_refunded_by_lines(programmes: World) -> None:
    """FF-3: the till knows it, and refuses before anything is written. It does not send the
    cashier from the void to the refund and back."""
    shops, _ = copied_code(programmes, 3, 1)
    for shop in shops:
        shop.cable.is_out = False
        shop.till.settle()
    for shop in shops:
        for sale in shop.till.journal.attempts("confirmed"):
            if not is_short(shop, sale):
                continue
            before = shop.till.journal.sequence
            number = shop.till.status(sale.checkout).receipt_no
            with pytest.raises(Refused) as refused:
                shop.till.refund(number, [ReturnedLine(1, 1)], cashier="c01", reason="returned")
            assert refused.value.refusal.code == "refund_exceeds"
            assert refused.value.exactly == NOT_COVERED
            programmes.now.forward(days=30)
            with pytest.raises(Refused) as refused:
                shop.till.void(sale.checkout, cashier="c01", reason="wrong_goods")
            assert refused.value.refusal.code == "void_too_late"
            assert refused.value.exactly == NOT_COVERED
            assert shop.till.journal.sequence == before
            return
    raise AssertionError("the reserve paid for nothing")


def is_short(shop: OfflineShop, sale: Attempt) -> bool:
    """Whether the ledger booked less to vouchers than a sale without it came to."""
    with suppress(KeyError):
        sequence = shop.till.journal.record_of(sale, "accept_offline").sequence
        told = [Opened.of(text).payload for text in shop.till.journal.outcomes_of(sequence)]
        return bool(told[-1]["result"] == "posted_short")
    return False


def test_a_voucher_that_was_stopped_meanwhile(merchants: World) -> None:
    """FG-6: the pack did not say so yet, so the shop is paid; one that it did say so of is an
    exception, and is not sold to anyway."""
    shop = OfflineShop(merchants)
    family = shop.at_home(12_000)
    shop.learn()
    shop.world.now.forward(minutes=1)
    shop.cable.is_out = True
    shop.sell(family, 2_000)
    [voucher] = [v.voucher for v in shop.till.scan(family.token()).vouchers]
    merchants.ledger.office.freeze(PROGRAMME["programme"], frozen=True, voucher=voucher)
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.newest().state == "confirmed"
    shop.learn()
    shop.cable.is_out = True
    assert refused_code(shop, family, 100) == "voucher_frozen"


def test_fifty_tills_race_on_one_voucher(tmp_path: Path, database_url: str) -> None:
    """T-2, FC-10: fifty tills at once with the same code, each for a tenth of the voucher: exactly
    its balance is posted."""
    with offline_world(tmp_path, database_url) as made:
        shops = [OfflineShop(made, f"till-{n}") for n in range(50)]
        family = made.family(10_000)
        tokens = [family.token() for _ in shops]
        offers = [
            shop.till.propose(text, [milk(1_000)]) for shop, text in zip(shops, tokens, strict=True)
        ]
        begin = threading.Barrier(len(shops))

        def sell(n: int) -> None:
            begin.wait()
            shops[n].till.redeem(offers[n], checkout="S", cashier="c01")

        threads = [threading.Thread(target=sell, args=(n,)) for n in range(len(shops))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        for shop in shops:
            shop.till.settle()
            if shop.till.status("S").state not in ("confirmed", "refused"):
                shop.till.retry("S")
        states = [shop.till.status("S").state for shop in shops]
        assert (states.count("confirmed"), states.count("refused")) == (10, 40)
        assert made.balance() == 0
