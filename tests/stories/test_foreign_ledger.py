"""Our till at a ledger that somebody else wrote from docs/protocol.md.

The whole journey of a shop's day: enrolment, sales, lost answers, restarts, reversals, the day's
end, settlement files that are read back and reconciled to the last minor unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from carepos import ClockSkew, Holder, Line, Refused, ReturnedLine, Sale, Till
from carepos.clock_ratchet import Standing
from carepos.journal_view import JournalView
from carepos.keys import KeySet, SigningKey
from carepos.reconcile import Reconciliation, reconcile
from carepos.settlement import Batch, read_batch
from carepos.settlement_folder import check_sequence
from tests.contract_codes import IssuerSigner, ed25519, es256, rs256
from tests.contract_ledgers import FIXED, ITEM, VALUE, ContractLedger, care, second
from tests.contract_office import office
from tests.contract_till import FORMULA, MILK, RICE
from tests.faulty_proxy import FaultyProxy, Mode, between
from tests.second_signing import Json, digest, strict_json, unb64
from tests.world import FakeClock


@dataclass
class Shop:
    """One till of ours, a foreign ledger, and the wire between them."""

    ledger: ContractLedger
    proxy: FaultyProxy
    folder: Path
    till: Till

    def reopen(self) -> Till:
        """Stop the till and start it again."""
        self.till.close()
        self.till = Till.open(self.folder, now=self.ledger.now, answer_timeout_s=20)
        return self.till

    def family(self, *vouchers: Json) -> str:
        return self.ledger.family(*(vouchers or (VALUE,)))

    def scan(self, sub: str) -> Holder:
        return self.till.scan(care(self.ledger, sub))

    def balance(self, sub: str) -> int:
        return sum(each.available_minor for each in self.scan(sub).vouchers)

    def sell(self, sub: str, checkout: str, *lines: Line, fault: Mode | None = None) -> Sale:
        offer = self.till.propose(self.scan(sub), lines or (milk(),))
        assert offer.refusal is None
        if fault is not None:
            self.proxy.fail(fault)
        return self.till.redeem(offer, checkout=checkout, cashier="c01")

    def batches(self) -> list[Batch]:
        """Every settlement of the merchant, fetched, verified and in order."""
        client, keys = self.till._client, self.till.enrolment.ledger_keys.keys
        found = [
            read_batch(
                client.settlement_file(each["programme"], each["batch_no"]),
                each["manifest"],
                keys,
            )
            for each in client.settlements()
        ]
        check_sequence(found)
        return found

    def reconciled(self) -> Reconciliation:
        key = SigningKey.load(self.folder / "terminal.key")
        journal = JournalView.open(self.folder / "journal.db", KeySet([key.public]))
        try:
            return reconcile([journal], self.batches(), self.till.enrolment.ledger_keys.keys)
        finally:
            journal.close()


def milk(amount_minor: int = 6_490) -> Line:
    return Line(MILK, 1, "piece", amount_minor, "纯牛奶 250ml*24")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with second() as ledger, between(ledger.url) as proxy:
        ledger.programme("dairy")
        folder = tmp_path / "till"
        Till.enrol(folder, url=proxy.url, activation=ledger.activation("shop-a"))
        till = Till.open(folder, now=ledger.now, answer_timeout_s=20)
        made = Shop(ledger, proxy, folder, till)
        try:
            yield made
        finally:
            made.till.close()


def test_a_till_of_ours_redeems_at_a_foreign_ledger(shop: Shop) -> None:
    """Scan, offer, redeem: what the foreign ledger signs is REDEEMED here, once per checkout."""
    sub = shop.family()
    sale = shop.sell(sub, "S1")
    assert (sale.state, sale.amount_minor, sale.currency) == ("confirmed", 6_490, "CNY")
    assert shop.till.retry("S1") == sale and shop.balance(sub) == 5_510
    assert shop.till.enrolment.merchant_name == "zhou 超市"


def test_every_kind_of_voucher_in_one_basket(shop: Shop) -> None:
    """What our till proposes by its reading of the rules, a second reading of them accepts."""
    # Most specific first: without categories their random ids would say which is used.
    dairy, grain = {**ITEM, "categories": ["dairy"]}, {**FIXED, "categories": ["grain"]}
    sub = shop.family(dairy, grain, VALUE)
    lines = (
        Line(MILK, 3, "piece", 19_999, "纯牛奶"),
        Line(RICE, 1_300, "g", 3_333, "大米"),
        Line(FORMULA, 1, "piece", 4_001, "奶粉"),
    )
    offer = shop.till.propose(shop.scan(sub), lines)
    used = {entry.voucher for entry in offer.proposal.allocation}
    assert len(used) == 3
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "confirmed"
    assert sale.amount_minor == sum(e.programme_minor for e in offer.proposal.allocation)


def test_a_refusal_of_the_foreign_ledger_is_told_to_the_cashier(shop: Shop) -> None:
    """Frozen between offer and redemption: refused with the sentence for it, nothing taken."""
    sub = shop.family()
    offer = shop.till.propose(shop.scan(sub), (milk(),))
    (entry,) = offer.proposal.allocation
    shop.ledger.freeze(entry.voucher)
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "refused" and sale.refusal is not None
    assert sale.refusal.code == "voucher_frozen" and shop.balance(sub) == 12_000
    with pytest.raises(Refused) as refused:
        shop.till.scan(care(shop.ledger, sub, aud="urn:other"))
    assert refused.value.code == "token_audience"


def test_an_answer_lost_after_posting_is_asked_for(shop: Shop) -> None:
    """Booked there, unheard here: unknown, and asking again finds the one booking."""
    sub = shop.family()
    sale = shop.sell(sub, "S1", fault="drop_after")
    assert sale.state == "unknown"
    assert shop.till.retry("S1").state == "confirmed" and shop.balance(sub) == 5_510


def test_a_request_that_never_arrived_is_sent_again(shop: Shop) -> None:
    """The signed not_found is never final: the same record goes out again."""
    sub = shop.family()
    sale = shop.sell(sub, "S1", fault="drop_before")
    assert sale.state == "unknown" and shop.balance(sub) == 12_000
    assert shop.till.retry("S1").state == "confirmed" and shop.balance(sub) == 5_510


def test_a_sale_whose_answer_was_lost_is_cancelled(shop: Shop) -> None:
    """The reversal puts everything back, whether or not the sale had arrived."""
    sub = shop.family()
    faults: dict[str, Mode] = {"S1": "drop_after", "S2": "hold"}
    for checkout, fault in faults.items():
        assert shop.sell(sub, checkout, fault=fault).state == "unknown"
        assert shop.till.cancel(checkout).state == "reversed"
        assert shop.balance(sub) == 12_000
    shop.proxy.deliver_held()
    assert shop.balance(sub) == 12_000


def test_a_restart_after_posting_asks_for_the_goods(shop: Shop) -> None:
    """The ledger booked it while the till was down: the cashier says where the goods are."""
    sub = shop.family()
    for checkout, handed_over, state in (("S1", True, "confirmed"), ("S2", False, "reversed")):
        sale = shop.sell(sub, checkout, milk(3_000), fault="drop_after")
        assert sale.state == "unknown"
        till = shop.reopen()
        assert [each.state for each in till.settle()] == ["goods_asked"]
        assert till.answer_goods(checkout, handed_over=handed_over).state == state
    assert shop.balance(sub) == 9_000


def test_a_restart_before_arrival_reverses(shop: Shop) -> None:
    """Unknown there after a restart: a tombstone, and the late sale's own record meets it."""
    sub = shop.family()
    sale = shop.sell(sub, "S1", fault="drop_before")
    assert sale.state == "unknown"
    assert [each.state for each in shop.reopen().settle()] == ["reversed"]
    assert shop.balance(sub) == 12_000


def test_a_sale_is_taken_back_at_a_foreign_ledger(shop: Shop) -> None:
    """Voided whole, refunded by lines, also when the answer was lost; all of it is reconciled."""
    shop.ledger.programme("dairy", refunds={"window_s": 86_400, "grace_s": 0})
    shop.till.refresh_pack()
    sub = shop.family()
    assert shop.sell(sub, "S1", milk(3_000)).state == "confirmed"
    shop.proxy.fail("drop_after")
    assert shop.till.void("S1", cashier="c01", reason="changed_mind").state == "waiting"
    shop.reopen().settle()
    assert shop.balance(sub) == 12_000
    sale = shop.sell(sub, "S2", milk(3_000), milk(2_000))
    done = shop.till.refund(
        str(sale.receipt_no), [ReturnedLine(2, 1)], cashier="c01", reason="returned"
    )
    assert done.state == "posted" and shop.balance(sub) == 9_000
    shop.till.close_day()
    shop.ledger.close("dairy")
    assert shop.reconciled().differences == ()


def test_another_till_refunds_at_a_foreign_ledger(shop: Shop) -> None:
    """What that ledger vouches for of the sale is enough to give it back."""
    shop.ledger.programme("dairy", refunds={"window_s": 86_400, "grace_s": 0})
    sub = shop.family()
    sale = shop.sell(sub, "S1", milk(3_000))
    folder = shop.folder.with_name("other")
    Till.enrol(folder, url=shop.proxy.url, activation=shop.ledger.activation("shop-b"))
    with Till.open(folder, now=shop.ledger.now, answer_timeout_s=20) as other:
        done = other.refund(
            str(sale.receipt_no), [ReturnedLine(1, 1)], cashier="c02", reason="faulty"
        )
        assert done.state == "posted"
    assert shop.balance(sub) == 12_000


def test_a_till_with_a_wrong_clock_is_told_the_time(shop: Shop) -> None:
    """A read of a till that is ten minutes ahead is answered with the signed time, by which it is
    made once more; one that does not take it over ends in ClockSkew."""
    assert shop.till.scan(care(shop.ledger, shop.family())).vouchers
    shop.till.close()
    ahead = FakeClock(datetime(2026, 11, 22, 8, 10, tzinfo=UTC))
    shop.till = Till.open(shop.folder, now=ahead, answer_timeout_s=20)
    shop.till.refresh_pack()
    assert shop.till.clock_standing() == Standing("ahead", 600)
    shop.till._client._now = ahead
    with pytest.raises(ClockSkew, match="10 minutes ahead"):
        shop.till.refresh_pack()


def test_a_suspended_till_may_still_undo(shop: Shop) -> None:
    """Nothing new is sold; a sale that was booked is reversed."""
    sub = shop.family()
    held = shop.till.propose(shop.scan(sub), (milk(),))
    assert shop.sell(sub, "S1", fault="drop_after").state == "unknown"
    shop.ledger.set_terminal(shop.till.enrolment.terminal, "suspended")
    assert shop.till.redeem(held, checkout="S2", cashier="c01").state == "unknown"
    assert [shop.till.cancel(each).state for each in ("S1", "S2")] == ["reversed", "reversed"]
    shop.ledger.set_terminal(shop.till.enrolment.terminal, "active")
    assert shop.balance(sub) == 12_000


def the_code(shop: Shop, scanned: str, pin: str | None = None) -> str:
    """The code with which a scan is refused."""
    with pytest.raises(Refused) as refused:
        shop.till.scan(scanned, pin=pin)
    return refused.value.code


def test_a_printed_card_with_its_pin(shop: Shop) -> None:
    """What our till derives of a PIN, a ledger that only has the page can check."""
    own = office(shop.ledger, amr_any=["pin"])
    shop.till.refresh_pack()
    sub = own.family()
    card = own.printed(sub)
    assert the_code(shop, card.scanned) == "pin_required"
    assert the_code(shop, card.scanned, "0000") == "pin_wrong"
    offer = shop.till.propose(shop.till.scan(card.scanned, pin=card.pin), (milk(),))
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "confirmed"
    for _ in range(4):
        assert the_code(shop, card.scanned, "0000") == "pin_wrong"
    assert the_code(shop, card.scanned, "0000") == "pin_locked"
    assert the_code(shop, card.scanned, card.pin) == "pin_locked"
    sale = shop.till.redeem(offer, checkout="S2", cashier="c01")
    assert sale.refusal is not None and sale.refusal.code == "pin_locked"
    shop.ledger.unlock(card.iss, card.jti_sha256)
    assert sum(v.available_minor for v in shop.till.scan(own.code(sub)).vouchers) == 5_510


@pytest.mark.parametrize("key", [ed25519, es256])
def test_a_wallets_presentation(shop: Shop, key: Callable[[], IssuerSigner]) -> None:
    """Fresh when first shown; a second basket nine minutes later goes with the same picture."""
    own = office(shop.ledger, rs256(), classes=["card"], amr_any=["pop"])
    shop.till.refresh_pack()
    wallet = own.wallet(own.family(), key())
    assert the_code(shop, wallet.token) == "holder_unproven"
    assert the_code(shop, wallet.show(own.at - 301)) == "holder_unproven"
    shown = wallet.show(own.at)
    for checkout in ("S1", "S2"):
        offer = shop.till.propose(shop.till.scan(shown), (milk(3_000),))
        sale = shop.till.redeem(offer, checkout=checkout, cashier="c01")
        assert (sale.state, sale.amount_minor) == ("confirmed", 3_000)
        shop.ledger.now.forward(minutes=9)
    assert the_code(shop, shown) == "token_replayed"
    shop.ledger.withdraw_token(own.iss, digest(unread_jti(wallet.token).encode()))
    assert the_code(shop, wallet.show(own.at)) == "token_revoked"


def unread_jti(token: str) -> str:
    jti: str = strict_json(unb64(token.split(".")[1]))["jti"]
    return jti


def test_somebody_collects_for_a_family(shop: Shop) -> None:
    """What the foreign ledger tells of the limits, our till offers and no more."""
    limits = {"household_minor": 6_000, "actor_minor": 8_000, "window_s": 86_400}
    own = office(shop.ledger, acting={"proxy": True, "witness": False, **limits})
    shop.till.refresh_pack()
    one, two = own.family(), own.family()
    amounts = []
    for checkout, sub in (("S1", one), ("S2", two)):
        offer = shop.till.propose(shop.till.scan(own.acted(sub, "son")), (milk(),))
        sale = shop.till.redeem(offer, checkout=checkout, cashier="c01")
        assert sale.state == "confirmed"
        amounts.append(sale.amount_minor)
    assert amounts == [6_000, 2_000]
    ways = {"acting_limit": own.acted(two, "son")}
    ways["acting_not_allowed"] = own.acted(two, "neighbour", "carepos:witness")
    for code, token in ways.items():
        refusal = shop.till.propose(shop.till.scan(token), (milk(),)).refusal
        assert refusal is not None and refusal.code == code


def test_the_wrong_code_of_a_wallet_is_told_so(shop: Shop) -> None:
    """Good, and for something else than what is asked for here."""
    own = office(shop.ledger)
    shop.till.refresh_pack()
    holder = shop.till.scan(own.code(own.family()))
    with pytest.raises(Refused) as refused:
        shop.till.propose(holder, (milk(),), programme="dairy")
    assert refused.value.code == "other_programme"


def test_the_whole_day_settles_and_reconciles_without_a_difference(shop: Shop) -> None:
    """Sales, refusals, lost answers and reversals of two days; the files say what the tills say."""
    sub = shop.family({**VALUE, "available_minor": 100_000})
    shop.sell(sub, "A1", milk(6_490))
    shop.sell(sub, "A2", milk(1_000), fault="drop_after")
    shop.till.retry("A2")
    shop.sell(sub, "A3", milk(2_000), fault="drop_after")
    shop.till.cancel("A3")
    shop.sell(sub, "A4", milk(3_000), fault="drop_before")
    shop.till.cancel("A4")
    shop.sell(sub, "A5", milk(4_000), fault="drop_after")
    shop.reopen().settle()
    shop.till.answer_goods("A5", handed_over=True)
    day = shop.till.close_day()
    assert day.acknowledged, day.problem
    report = day.report
    assert (report.confirmed, report.reversed, report.open) == (3, 2, 0)
    assert [(each.count, each.amount_minor) for each in report.sums] == [(3, 11_490)]
    shop.ledger.close("dairy")

    shop.sell(sub, "B1", milk(500))
    shop.sell(sub, "B2", milk(700), fault="drop_after")
    shop.ledger.close("dairy")
    shop.till.cancel("B2")
    assert shop.till.close_day().acknowledged
    shop.ledger.close("dairy")

    found = shop.reconciled()
    assert [batch.manifest.net_minor for batch in shop.batches()] == [11_490, 1_200, -700]
    assert found.differences == () and len(found.files) == 3
    (sums,) = found.sums
    assert (sums.till_minor, sums.files_minor, sums.difference_minor) == (11_990, 11_990, 0)
    assert shop.balance(sub) == 100_000 - 11_990
