"""What becomes of sales that went out of the door without the ledger (docs/offline.md §8)."""

from __future__ import annotations

from typing import Any

import pytest

from carepos import ids, jws
from carepos.acceptance import AcceptOffline
from carepos.basket import Line
from carepos.errors import Malformed
from carepos.evidence import seal
from carepos.offline import AllotmentUse
from carepos.outcome import Outcome
from carepos_ledger.offline_exceptions import OfflineExceptions
from carepos_ledger.problems import Problem
from carepos_ledger.settlement import Settlement
from tests.ledger.rig import MILK, PROGRAMME, RULES, Holder, Rig, code
from tests.ledger.test_acting import RULE, acted_token
from tests.ledger.test_allotments import DAY, OFFLINE, Shop

FLOOR = {"redemption_minor": 5_000, "beneficiary_minor": 9_000, "window_s": DAY}


@pytest.fixture
def shop(rig: Rig) -> Shop:
    made = Shop(rig, floor={**FLOOR, "liability": "programme"})
    rig.office.reserve_for_losses(PROGRAMME, 4_000, "losses-1")
    return made


def merchants_risk(shop: Shop) -> None:
    rule = {**OFFLINE, "floor": {**FLOOR, "liability": "merchant"}}
    shop.rig.programmes.put_programme({**RULES, "offline": rule})


def use(holder: Holder, minor: int, number: int = 1) -> AllotmentUse:
    return AllotmentUse(holder.voucher, number, minor, 0)


def sent(rig: Rig, envelopes: list[Any]) -> list[Outcome]:
    answers = rig.send(*envelopes)
    assert all(isinstance(each, Outcome) for each in answers), answers
    return [each for each in answers if isinstance(each, Outcome)]


def short(answer: Outcome) -> tuple[str, int, int, str | None]:
    return answer.result, answer.amount_minor, answer.shortfall_minor, answer.liability


def exceptions(rig: Rig) -> list[tuple[str, int, str]]:
    rows = rig.tables(["exceptions"])["exceptions"]
    return [(row["reason"], row["amount_minor"], row["liability"]) for row in rows]


def test_within_its_allotment_a_sale_is_posted_days_later(shop: Shop) -> None:
    """Though its token expired long ago and the rest of the voucher was spent elsewhere meanwhile:
    what was set aside is there. Sale and acceptance have the same answer, each its own."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    sold = rig.offline_sale(shop.till, holder, 5_000, uses=[use(holder, 5_000)])
    rig.now.forward(days=5)
    assert shop.pay(holder, 6_000, rig.signer()).result == "posted"
    sale, accepted = sent(rig, sold)
    assert (sale.result, sale.kind, accepted.result, accepted.kind) == (
        "posted", "redeem", "posted", "accept_offline",
    )  # fmt: skip
    for answer in (sale, accepted):
        [state] = answer.vouchers
        assert (state.amount_minor, state.from_allotment_minor) == (5_000, 5_000)
    assert sent(rig, sold) == [sale, accepted]
    assert exceptions(rig) == []


def test_a_sale_without_its_acceptance_is_not_decided(shop: Shop) -> None:
    """Nor the acceptance without its sale: they travel together."""
    rig, holder = shop.rig, shop.at_home()
    sale, accepted = rig.offline_sale(shop.till, holder, 100)
    assert rig.send(sale) == ["acceptance_missing"]
    assert rig.send(accepted) == ["acceptance_missing"]
    assert [each.result for each in sent(rig, [sale, accepted])] == ["posted"] * 2


def test_within_floor_limits_it_is_paid_as_far_as_the_voucher_covers(shop: Shop) -> None:
    """The rest comes from the programme's loss reserve: the merchant has it all."""
    rig, holder = shop.rig, shop.at_home()
    assert shop.pay(holder, 10_000).result == "posted"
    sold = rig.offline_sale(shop.till, holder, 5_000)
    sale, accepted = sent(rig, sold)
    assert short(sale) == short(accepted) == ("posted_short", 2_000, 3_000, "programme")
    assert exceptions(rig) == [("posted_short", 3_000, "programme")]
    sums = rig.office.programme_sums(PROGRAMME)
    assert (sums.loss_reserve_minor, sums.lost_minor, sums.redeemed_minor) == (1_000, 3_000, 12_000)


def test_what_the_merchant_risked_nobody_pays(shop: Shop) -> None:
    """FD-4: the covered part is posted, the rest is on the list that a person works through."""
    rig, holder = shop.rig, shop.at_home()
    merchants_risk(shop)
    assert shop.pay(holder, 10_000).result == "posted"
    sale, _ = sent(rig, rig.offline_sale(shop.till, holder, 5_000, liability="merchant"))
    assert short(sale) == ("posted_short", 2_000, 3_000, "merchant")
    assert rig.office.programme_sums(PROGRAMME).lost_minor == 0


def test_an_empty_loss_reserve_pays_nothing_by_halves(shop: Shop) -> None:
    """An exception: nothing is booked, a person fills the reserve or decides."""
    rig, holder = shop.rig, shop.at_home()
    assert shop.pay(holder, 12_000).result == "posted"
    sale, accepted = sent(rig, rig.offline_sale(shop.till, holder, 4_001))
    assert [each.result for each in (sale, accepted)] == ["exception"] * 2
    assert exceptions(rig) == [("balance_insufficient", 4_001, "programme")]


def test_a_reclaimed_allotment_is_judged_as_a_floor_limit(shop: Shop) -> None:
    """Uploaded after the ledger freed it and somebody else spent it: programme liable."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    sold = rig.offline_sale(shop.till, holder, 3_500, uses=[use(holder, 3_500)])
    rig.now.forward(seconds=7 * DAY)
    assert shop.pay(holder, 12_000, rig.signer()).result == "posted"
    sale, _ = sent(rig, sold)
    assert short(sale) == ("posted_short", 0, 3_500, "programme")


def test_twenty_tills_that_were_shown_one_picture(shop: Shop) -> None:
    """T-2, FG-5: a copied code, sold offline on twenty tills: the voucher pays what it holds, the
    loss is what floor limits allow, and every conflict is on the list."""
    rig, holder = shop.rig, shop.at_home()
    merchants_risk(shop)
    token = rig.token(holder)
    tills = [rig.signer() for _ in range(20)]
    answers = [
        sent(rig, rig.offline_sale(till, holder, 1_000, token_text=token, liability="merchant"))[0]
        for till in tills
    ]
    assert [each.result for each in answers] == ["posted"] * 12 + ["exception"] * 8
    assert sum(each.amount_minor for each in answers) == 12_000
    assert exceptions(rig) == [("balance_insufficient", 1_000, "merchant")] * 8
    assert rig.balance(holder.voucher) == (0, 0, 0)


def test_what_is_posted_already_is_not_posted_again(shop: Shop) -> None:
    """The sale had reached the ledger, its answer was lost, and the till accepted it: the stored
    outcome, and the allotment is drawn on as that posting did."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    online = rig.redeem(shop.till, holder, 5_000)
    first = rig.send_one(online)
    redeem = rig.read(online)
    accept = shop.till.sign(
        AcceptOffline(redeem.digest, "programme", "A" * 43, (use(holder, 5_000),)), redeem.id
    )
    evidence = seal(
        online["token"], key=rig.keyring.evidence_key, terminal=shop.till.terminal,
        attempt_id=redeem.id,
    )  # fmt: skip
    sale, accepted = sent(
        rig,
        [
            {"record": redeem.jws, "evidence": evidence},
            {"record": accept.jws, "evidence": evidence},
        ],
    )
    assert sale == first
    assert (accepted.result, accepted.amount_minor) == ("posted", 5_000)
    assert accepted.vouchers[0].from_allotment_minor == 0
    assert rig.balance(holder.voucher) == (1_000, 0, 0)


def test_what_was_reversed_is_an_exception(shop: Shop) -> None:
    """A till has one choice; one that took both is told, and nothing is booked."""
    rig, holder = shop.rig, shop.at_home()
    sale, accepted = rig.offline_sale(shop.till, holder, 1_000)
    rig.send_one(shop.till.reversal(rig.read(sale)))
    answers = sent(rig, [sale, accepted])
    assert [code(each) for each in answers] == ["reversed", "already_undone"]
    assert answers[1].result == "exception"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_voucher_that_the_pack_said_was_frozen(shop: Shop) -> None:
    """Sold against it all the same: an exception. Where it could not say so yet it is paid."""
    rig, early, late = shop.rig, shop.at_home(), shop.at_home()
    rig.office.freeze(PROGRAMME, voucher=early.voucher, frozen=True)
    sha256, _ = shop.packs.make(shop.terminal(shop.till), shop.till.incarnation)
    rig.now.forward(hours=1)
    rig.office.freeze(PROGRAMME, voucher=late.voucher, frozen=True)
    known = rig.offline_sale(shop.till, early, 1_000, pack_sha256=sha256)
    unknown = rig.offline_sale(shop.till, late, 1_000, pack_sha256=sha256)
    assert [code(each) for each in sent(rig, known)] == ["voucher_frozen"] * 2
    assert [code(each) for each in sent(rig, unknown)] == ["posted"] * 2


def test_an_expired_voucher_is_an_exception(shop: Shop) -> None:
    """Its date stood in the pack; one that expires after the sale is paid."""
    rig = shop.rig
    over = shop.at_home({"expires_at": "2026-11-22T08:00:00.000Z"})
    soon = shop.at_home({"expires_at": "2026-11-22T08:00:01.000Z"})
    wrong, right = (rig.offline_sale(shop.till, each, 1_000) for each in (over, soon))
    rig.now.forward(days=1)
    assert [code(each) for each in sent(rig, wrong)] == ["voucher_expired"] * 2
    assert [code(each) for each in sent(rig, right)] == ["posted"] * 2


def test_a_refused_sale_that_went_out_all_the_same_is_judged_once(shop: Shop) -> None:
    """The ledger refused it, the answer was lost, the till accepted it within its limits."""
    rig, holder = shop.rig, shop.at_home()
    assert shop.pay(holder, 11_500).result == "posted"
    sale, accepted = rig.offline_sale(shop.till, holder, 1_000)
    refused = rig.send({"record": sale["record"], "token": ""})
    assert refused  # without its token nothing is decided
    first, second = sent(rig, [sale, accepted])
    assert short(first) == short(second) == ("posted_short", 500, 500, "programme")


def test_a_void_of_what_was_accepted_is_taken_after_its_settlement(shop: Shop) -> None:
    """FF-2: the till could not know. A sale that was paid short is not refunded by lines."""
    rig, holder = shop.rig, shop.at_home()
    assert shop.pay(holder, 11_000).result == "posted"
    sold = rig.offline_sale(shop.till, holder, 3_000, basket=[Line(MILK, 3, "piece", 3_000)])
    sent(rig, sold)
    Settlement(rig.database, rig.keyring, rig.now).close()
    sale = rig.read(sold[0])
    assert code(rig.send_one(shop.till.refund(sale, (1, 1)))) == "refund_exceeds"
    answer = rig.send_one(shop.till.void(sale))
    assert (answer.result, answer.amount_minor) == ("posted", 1_000)
    sums = rig.office.programme_sums(PROGRAMME)
    assert (sums.loss_reserve_minor, sums.lost_minor) == (4_000, 0)


def test_a_refund_of_what_no_voucher_covered_is_refused(shop: Shop) -> None:
    """FF-3: at once, though nothing of it moved the voucher; what comes behind it is decided."""
    rig, holder = shop.rig, shop.at_home()
    assert shop.pay(holder, 12_000).result == "posted"
    sold = rig.offline_sale(shop.till, holder, 3_000, basket=[Line(MILK, 3, "piece", 3_000)])
    sale, _ = sent(rig, sold)
    assert short(sale) == ("posted_short", 0, 3_000, "programme")
    written = rig.read(sold[0])
    assert code(rig.send_one(shop.till.refund(written, (1, 1)))) == "refund_exceeds"
    assert rig.send_one(shop.till.void(written)).result == "posted"


def test_somebody_who_acts_for_another_is_not_served_offline(shop: Shop) -> None:
    """Also where the programme lets them act: what limits them is known to the ledger alone, so the
    till had to refuse. An exception; nothing is booked, and nothing counts against a limit."""
    rig, holder = shop.rig, shop.at_home()
    rule = {**OFFLINE, "floor": {**FLOOR, "liability": "programme"}}
    rig.programmes.put_programme({**RULES, "offline": rule, "acting": RULE})
    sold = rig.offline_sale(shop.till, holder, 1_000, token_text=acted_token(rig, holder))
    assert [code(each) for each in sent(rig, sold)] == ["offline_not_allowed"] * 2
    assert rig.balance(holder.voucher) == (12_000, 0, 0) and rig.counts().get("acted", 0) == 0


def test_a_void_of_what_no_voucher_covered_gives_nothing_back(shop: Shop) -> None:
    """Its answer says so in the form in which a till believes it; the loss reserve has all back."""
    rig, holder = shop.rig, shop.at_home()
    assert shop.pay(holder, 12_000).result == "posted"
    sold = rig.offline_sale(shop.till, holder, 3_500)
    sale, _ = sent(rig, sold)
    assert short(sale) == ("posted_short", 0, 3_500, "programme")
    void = shop.till.void(rig.read(sold[0]))
    answer = rig.send_one(void)
    assert (answer.result, answer.currency, answer.amount_minor) == ("posted", None, 0)
    assert answer.vouchers == () and rig.send_one(void) == answer
    sums = rig.office.programme_sums(PROGRAMME)
    assert (sums.loss_reserve_minor, sums.lost_minor) == (4_000, 0)


def test_evidence_of_another_sale_opens_nothing(shop: Shop) -> None:
    """Sealed to terminal and id: moved to another record it is `malformed`, and nothing is used."""
    rig, holder = shop.rig, shop.at_home()
    one, two = (rig.offline_sale(shop.till, holder, minor) for minor in (100, 200))
    moved = [{**each, "evidence": one[0]["evidence"]} for each in two]
    assert rig.send(*moved) == ["malformed"] * 2
    assert [each.result for each in sent(rig, two)] == ["posted"] * 2


def test_exceptions_are_a_list_that_a_person_works_through(shop: Shop) -> None:
    """Closed one by one with what was done, for good; closing moves no money."""
    rig, holder = shop.rig, shop.at_home()
    merchants_risk(shop)
    assert shop.pay(holder, 11_500).result == "posted"
    lost = rig.offline_sale(shop.till, holder, 1_000, liability="merchant")
    sent(rig, lost)
    listed = OfflineExceptions(rig.database, rig.now)
    [found] = listed.listed()
    of_the_sale = jws.peek(lost[0]["record"], typ=jws.RECORD)[1]["sequence"]
    assert ids.parse_receipt_no(str(found["receipt_no"]))[1] == of_the_sale
    assert (found["state"], found["amount_minor"], found["store"]) == ("open", 500, "zhou-shop")
    number = found["exception"]
    before = rig.office.programme_sums(PROGRAMME)
    assert listed.close(number, "paid from petty cash", operator="op") == "changed"
    assert listed.close(number, "paid from petty cash", operator="op") == "exists"
    for wrong, problem in ((number, "already_exists_differently"), (number + 1, "not_found")):
        with pytest.raises(Problem) as raised:
            listed.close(wrong, "something else", operator="op")
        assert raised.value.code == problem
    with pytest.raises(Malformed):
        listed.close(number, " ", operator="op")
    assert listed.listed()[0]["state"] == "closed" and listed.listed(number) == []
    assert rig.office.programme_sums(PROGRAMME) == before


def test_a_loss_reserve_is_set_aside_once_and_from_what_is_free(shop: Shop) -> None:
    """The same reference books nothing again, another amount under it is refused, and so is more
    than the programme has."""
    office = shop.rig.office
    before = office.programme_sums(PROGRAMME)
    assert office.reserve_for_losses(PROGRAMME, 4_000, "losses-1") == "exists"
    assert office.programme_sums(PROGRAMME) == before
    for amount, reference, problem in (
        (4_001, "losses-1", "already_exists_differently"),
        (before.unreserved_minor + 1, "losses-2", "not_funded"),
    ):
        with pytest.raises(Problem) as raised:
            office.reserve_for_losses(PROGRAMME, amount, reference)
        assert raised.value.code == problem
    with pytest.raises(Problem):
        office.reserve_for_losses("no-such", 1, "losses-1")
