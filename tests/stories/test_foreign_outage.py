"""Our till without a network, at a ledger that somebody else wrote from the pages alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from carepos import Sale, Till
from carepos.journal_view import JournalView
from carepos.keys import KeySet, SigningKey
from carepos.reconcile import reconcile
from carepos.settlement import read_batch
from tests.contract_ledgers import VALUE, ContractLedger, care, second
from tests.contract_offline import FLOOR, HALF
from tests.contract_till import ContractTill
from tests.contract_visit import entry, line, till_of
from tests.stories.offline_shop import Cable
from tests.world import milk


@dataclass
class Shop:
    """A till of ours at a foreign ledger, with a cable that can be pulled out."""

    ledger: ContractLedger
    cable: Cable
    folder: Path
    till: Till
    sales: int = 0

    def family(self, amount_minor: int = 12_000) -> str:
        """Somebody who shopped here once, and left `amount_minor`."""
        voucher = {**VALUE, "programme": "dairy", "available_minor": amount_minor + 100}
        sub = self.ledger.family(voucher)
        assert self.sell(sub, 100).state == "confirmed"
        self.till.refresh_pack()
        return sub

    def sell(self, sub: str, amount_minor: int, *, leave: bool = True) -> Sale:
        self.sales += 1
        offer = self.till.propose(care(self.ledger, sub), [milk(amount_minor)])
        assert offer.refusal is None, offer.refusal
        sale = self.till.redeem(offer, checkout=f"S{self.sales}", cashier="c01")
        if sale.state == "accepted":
            sale = self.till.answer_goods(f"S{self.sales}", handed_over=leave)
        return sale

    def balance(self, sub: str) -> int:
        found = till_of(self.ledger, "shop-b").lookup(care(self.ledger, sub))["vouchers"]
        return sum(each["available_minor"] for each in found)

    def states(self) -> list[str]:
        return [each.state for each in self.till.journal.attempts()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with second() as ledger:
        ledger.programme("dairy", offline={**HALF, "floor": FLOOR})
        folder, cable = tmp_path / "till", Cable(ledger.url)
        Till.enrol(folder, url=ledger.url, activation=ledger.activation("shop-a"))
        with Till.open(folder, now=ledger.now, transport=cable) as till:
            yield Shop(ledger, cable, folder, till)


def spend_elsewhere(shop: Shop, sub: str, amount_minor: int) -> None:
    other: ContractTill = till_of(shop.ledger, "shop-b")
    token = care(shop.ledger, sub)
    found = other.lookup(token)
    part = entry(found["vouchers"][0]["voucher"], amount_minor)
    sale = other.redeem(found, token, [line(amount_minor)], [part])
    assert other.outcome(sale)["result"] == "posted"


def test_a_shop_sells_through_an_outage_of_a_foreign_ledger(shop: Shop) -> None:
    """What that ledger sealed into its pack our till opens; what our till sealed, it judges; in
    the end both agree to the last minor unit."""
    sub = shop.family()
    shop.cable.is_out = True
    assert [shop.sell(sub, part).state for part in (4_000, 2_000)] == ["provisional"] * 2
    assert shop.sell(sub, 1_000, leave=False).state == "provisional"  # beyond, and it stayed
    shop.ledger.now.forward(hours=30)
    shop.cable.is_out = False
    shop.till.settle()
    shop.till.settle()
    assert shop.states() == ["confirmed", "confirmed", "confirmed", "voided"]
    # What was free is set aside anew, not more than the share of it.
    shop.till.refresh_pack()
    assert shop.balance(sub) + 3_000 == 6_000
    shop.till.close_day()
    shop.ledger.close("dairy")
    client, ledger_keys = shop.till._client, shop.till.enrolment.ledger_keys.keys
    batches = [
        read_batch(
            client.settlement_file(each["programme"], each["batch_no"]),
            each["manifest"],
            ledger_keys,
        )
        for each in client.settlements()
    ]
    key = SigningKey.load(shop.folder / "terminal.key")
    journal = JournalView.open(shop.folder / "journal.db", KeySet([key.public]))
    try:
        assert reconcile([journal], batches, ledger_keys).differences == ()
    finally:
        journal.close()


@pytest.mark.parametrize(
    ("liability", "state"), [("programme", "confirmed"), ("merchant", "short")]
)
def test_a_shortfall_is_told_as_one(shop: Shop, liability: str, state: str) -> None:
    """Short by what was spent elsewhere: paid all the same, or the shop's loss; and what nobody
    pays anything of is not booked."""
    rule = {**HALF, "floor": {**FLOOR, "liability": liability}}
    shop.ledger.programme("dairy", offline=rule)
    sub = shop.family()
    shop.ledger.reserve("dairy", 3_000)
    shop.cable.is_out = True
    spend_elsewhere(shop, sub, 6_000)
    assert shop.sell(sub, 7_500).state == "provisional"
    assert shop.sell(sub, 3_400).state == "provisional"
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.states() == ["confirmed", state, "exception"]
    assert shop.balance(sub) == 0


def test_an_unknown_sale_may_leave(shop: Shop) -> None:
    """The foreign ledger posted it and nobody heard: accepted here, it is booked there once."""
    sub = shop.family()
    offer = shop.till.propose(care(shop.ledger, sub), [milk(2_000)])
    shop.cable.loses = "answer"
    assert shop.till.redeem(offer, checkout="S9", cashier="c01").state == "unknown"
    shop.cable.loses, shop.cable.is_out = None, True
    assert shop.till.accept("S9").state == "accepted"
    assert shop.till.answer_goods("S9", handed_over=True).state == "provisional"
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.states() == ["confirmed", "confirmed"]
    assert shop.balance(sub) + 6_000 == 10_000
