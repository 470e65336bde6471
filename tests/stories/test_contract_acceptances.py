"""What becomes of a sale that went out of the door: docs/offline.md sections 1, 2, 7 and 8.

Every test runs over HTTP, against a ledger written from the pages alone and the product's.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.contract_codes import Printed
from tests.contract_ledgers import ISSUER, ITEM, ContractLedger, care
from tests.contract_offline import FLOOR, HALF, SOON, Alone, alone, at_home, pack
from tests.contract_till import ContractTill, Sent
from tests.contract_visit import LEDGERS, entry, line, till_of
from tests.second_signing import Json, Key, b64, digest, receipt_no, utc

MERCHANT = {**FLOOR, "liability": "merchant"}


@pytest.fixture(scope="module", params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    with LEDGERS[request.param]() as made:
        made.programme("dairy")
        yield made


@pytest.fixture
def till(ledger: ContractLedger) -> ContractTill:
    return till_of(ledger)


def outage(
    ledger: ContractLedger,
    till: ContractTill,
    floor: Json | None = None,
    *vouchers: Json,
    **programme: Any,
) -> Alone:
    """A family at a till that is ready for an outage, in a programme of its own."""
    name = "p-" + secrets.token_hex(6)
    rule = {**HALF, "floor": floor}
    ledger.programme(name, **{"offline": rule, "classes": ["once", "card"], **programme})
    return alone(ledger, till, name, *vouchers)


def spent_elsewhere(there: Alone, amount_minor: int) -> None:
    """Meanwhile the family buys in another shop of the merchant, which has a network."""
    other, token = till_of(there.ledger, "shop-b"), care(there.ledger, there.sub)
    sale = other.redeem(
        other.lookup(token),
        token,
        [line(amount_minor)],
        [entry(there.voucher(), amount_minor)],
        programme=there.programme,
    )
    assert other.outcome(sale)["result"] == "posted"


def refusal(told: Json) -> str:
    """The code of an exception, of which nothing was booked."""
    assert told["result"] == "exception", told
    assert set(told["refusal"]) == {"code", "at"} and "amount_minor" not in told
    assert told["liability"] in ("programme", "merchant")
    code: str = told["refusal"]["code"]
    return code


def held(there: Alone, *sent: Sent) -> str:
    """Why both are held; the same when they come again."""
    results = there.till.send(*sent)
    told = [there.till.believe(*pair) for pair in zip(sent, results, strict=True)]
    assert {each["result"] for each in told} == {"held"}, told
    assert there.till.send(*sent) == results
    [reason] = {each["reason"] for each in told}
    return str(reason)


# Within allotments.


def test_within_its_allotment_a_sale_is_posted_days_later(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """When its code is long over, and what is free was spent elsewhere: one answer to both."""
    there = outage(ledger, till)
    sale, accepted = there.sell(6_000, there.use(6_000))
    spent_elsewhere(there, 6_000)
    ledger.now.forward(hours=70)
    told = there.both(sale, accepted)
    names = "v result kind id terminal record_sha256 recorded_at epoch currency amount_minor"
    assert set(told) == {*names.split(), "vouchers"}
    assert (told["result"], told["currency"], told["amount_minor"]) == ("posted", "CNY", 6_000)
    [voucher] = told["vouchers"]
    assert (voucher["from_allotment_minor"], voucher["available_minor"]) == (6_000, 0)
    state, outcomes = till.attempt(sale.payload["id"])
    assert state == "posted" and [each["kind"] for each in outcomes] == ["redeem", "accept_offline"]
    assert there.balance() == 0


def test_sales_of_a_day_go_up_in_one_batch(ledger: ContractLedger, till: ContractTill) -> None:
    """In order, each seeing the one before; sent again in halves they are the same."""
    there = outage(ledger, till)
    pairs = [there.sell(part, there.use(part)) for part in (1_000, 2_000, 3_000)]
    sent = [each for pair in pairs for each in pair]
    results = till.send(*sent)
    told = [till.believe(*each) for each in zip(sent, results, strict=True)]
    assert [each["result"] for each in told] == ["posted"] * 6
    assert [each["vouchers"][0]["available_minor"] for each in told[::2]] == [11_000, 9_000, 6_000]
    assert till.send(*sent[:4]) + till.send(*sent[4:]) == results
    assert there.balance() == 6_000 and till.outcome(till.day_report())["result"] == "posted"


def test_an_acceptance_waits_for_nothing(ledger: ContractLedger, till: ContractTill) -> None:
    """It names what it drew on: what is missing or held before it can't hold it up."""
    there = outage(ledger, till)
    first, later = there.sell(4_000, there.use(4_000)), there.sell(2_000, there.use(2_000))
    assert [there.both(*each)["result"] for each in (later, first)] == ["posted", "posted"]
    assert there.balance() == 6_000


def test_a_sale_and_its_acceptance_travel_together(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Either without the other is a problem that decides nothing."""
    there = outage(ledger, till)
    sale, accepted = there.sell(2_000, there.use(2_000))
    for sent in (sale, accepted):
        problem = till.problem(sent)
        assert (problem["code"], problem["status"]) == ("acceptance_missing", 409)
    assert till.attempt(sale.payload["id"])[0] == "not_found"
    assert there.both(sale, accepted)["result"] == "posted"


def test_pieces_within_an_allotment(ledger: ContractLedger, till: ContractTill) -> None:
    """Units and what they cost; what a cheap price saves stays set aside."""
    there = outage(ledger, till, None, {**ITEM, "expires_at": SOON["expires_at"]})
    sale, accepted = there.sell(
        0,
        there.use(5_000, quantity=1),
        basket=[line(5_000)],
        allocation=[entry(there.voucher(), 5_000, quantity=1)],
    )
    spent = there.both(sale, accepted)["vouchers"][0]
    assert (spent["quantity"], spent["from_allotment_quantity"]) == (1, 1)
    assert (spent["amount_minor"], spent["from_allotment_minor"]) == (5_000, 5_000)
    assert spent["available_quantity"] == 2 and there.balance() == 2


# Beyond them.


def test_what_is_free_pays_beyond_allotments(ledger: ContractLedger, till: ContractTill) -> None:
    """Whatever the floor limits are: the money is there, and nobody loses any."""
    for floor in (None, FLOOR, MERCHANT):
        there = outage(ledger, till, floor)
        told = there.both(*there.sell(6_490, there.use(6_000)))
        assert (told["result"], told["amount_minor"]) == ("posted", 6_490)
        assert there.balance() == 5_510


@pytest.mark.parametrize("liability", ["programme", "merchant"])
def test_what_vouchers_do_not_cover_is_a_shortfall(
    ledger: ContractLedger, till: ContractTill, liability: str
) -> None:
    """Booked as far as they cover; the rest is the reserve's or nobody's, as the rule says."""
    there = outage(ledger, till, {**FLOOR, "liability": liability})
    ledger.reserve(there.programme, 10_000)
    spent_elsewhere(there, 6_000)
    told = there.both(*there.sell(6_490, there.use(6_000)))
    names = "v result kind id terminal record_sha256 recorded_at epoch currency amount_minor"
    assert set(told) == {*names.split(), "vouchers", "shortfall_minor", "liability"}
    assert told["result"] == "posted_short" and told["liability"] == liability
    assert (told["amount_minor"], told["shortfall_minor"]) == (6_000, 490)
    assert there.balance() == 0


def test_more_than_the_floor_is_the_merchants(ledger: ContractLedger, till: ContractTill) -> None:
    """`redemption_minor` bounds what a programme loses by one sale, whatever its rule says."""
    there = outage(ledger, till, {**FLOOR, "redemption_minor": 489})
    ledger.reserve(there.programme, 10_000)
    spent_elsewhere(there, 6_000)
    told = there.both(*there.sell(6_490, there.use(6_000)))
    assert (told["liability"], told["shortfall_minor"]) == ("merchant", 490)
    there = outage(ledger, till, {**FLOOR, "redemption_minor": 490})
    ledger.reserve(there.programme, 10_000)
    spent_elsewhere(there, 6_000)
    told = there.both(*there.sell(6_490, there.use(6_000)))
    assert (told["liability"], told["shortfall_minor"]) == ("programme", 490)


def test_a_reserve_pays_the_whole_or_nothing(ledger: ContractLedger, till: ContractTill) -> None:
    """An empty reserve: an exception, nothing is booked, and what was set aside is still there."""
    there = outage(ledger, till, FLOOR)
    ledger.reserve(there.programme, 489)
    spent_elsewhere(there, 6_000)
    sale, accepted = there.sell(6_490, there.use(6_000))
    assert refusal(there.both(sale, accepted)) == "balance_insufficient"
    assert there.balance() == 6_000
    assert there.both(*there.sell(6_000, there.use(6_000)))["result"] == "posted"
    void = till.outcome(till.void(sale))
    assert void["refusal"]["code"] == "original_not_booked"


def test_what_nothing_covers(ledger: ContractLedger, till: ContractTill) -> None:
    """Merchant liable: an exception. The programme: short by all of it, and it can be voided."""
    there = outage(ledger, till, MERCHANT)
    spent_elsewhere(there, 6_000)
    assert refusal(there.both(*there.sell(1_000))) == "balance_insufficient"
    there = outage(ledger, till, FLOOR)
    ledger.reserve(there.programme, 1_000)
    spent_elsewhere(there, 6_000)
    sale, accepted = there.sell(1_000)
    told = there.both(sale, accepted)
    assert (told["result"], told["amount_minor"], told["shortfall_minor"]) == (
        "posted_short",
        0,
        1_000,
    )
    assert (told["currency"], told["vouchers"]) == (None, [])
    void = till.outcome(till.void(sale))
    assert (void["result"], void["amount_minor"], void["vouchers"]) == ("posted", 0, [])


def test_an_allotment_that_was_freed_is_still_the_programmes_risk(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """The till kept to its date and had no network: the reserve pays what others took since."""
    there = outage(ledger, till)
    ledger.reserve(there.programme, 10_000)
    sale, accepted = there.sell(6_000, there.use(6_000))
    ledger.now.forward(seconds=HALF["spend_s"] + HALF["upload_s"])
    spent_elsewhere(there, 8_000)
    told = there.both(sale, accepted)
    assert (told["result"], told["amount_minor"]) == ("posted_short", 4_000)
    assert (told["liability"], told["shortfall_minor"]) == ("programme", 2_000)
    # Only once: what one sale said of it, the next can't say again.
    told = there.both(*there.sell(6_000, there.use(6_000), token=care(ledger, there.sub)))
    assert refusal(told) == "balance_insufficient"


def test_a_till_says_no_more_of_an_allotment_than_it_was_given(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """One that lies draws nothing on the reserve: what was set aside for nobody, or twice, or was
    given back, is beyond allotments, where the programme has no floor."""
    for lie in ("more", "none", "twice", "given back"):
        there = outage(ledger, till)
        ledger.reserve(there.programme, 100_000)
        spent_elsewhere(there, 6_000)
        if lie == "twice":
            assert there.both(*there.sell(6_000, there.use(6_000)))["result"] == "posted"
        elif lie == "given back":
            assert till.outcome(there.give_back(1))["amount_minor"] == 6_000
            spent_elsewhere(there, 6_000)
        use = there.use(60_000, 99 if lie == "none" else 1)
        told = there.both(*there.sell(60_000, use, basket=[line(60_000)]))
        if lie == "more":
            assert (told["result"], told["liability"]) == ("posted_short", "merchant")
            assert (told["amount_minor"], told["shortfall_minor"]) == (6_000, 54_000)
        else:
            assert refusal(told) == "balance_insufficient", lie


# What was decided before.


def test_a_sale_that_the_ledger_has_already_is_not_booked_twice(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Posted while the till heard nothing, and accepted there: its acceptance is posted, too."""
    there = outage(ledger, till)
    sale, accepted = there.sell(2_000, there.use(2_000))
    posted = till.outcome(replace(sale, token=there.token, evidence=None))
    assert (posted["result"], posted["vouchers"][0]["from_allotment_minor"]) == ("posted", 0)
    results = till.send(sale, accepted)
    assert till.believe(sale, results[0]) == posted
    told = till.believe(accepted, results[1])
    assert (told["result"], told["vouchers"]) == ("posted", posted["vouchers"])
    assert there.balance() == 10_000


def test_a_sale_that_was_refused_is_judged_once_more(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """It went out all the same: its refusal stands, its acceptance has an answer of its own."""
    there = outage(ledger, till)
    sale, accepted = there.sell(2_000, there.use(2_000))
    ledger.programme(there.programme, offline=HALF, paused=True)
    no = till.outcome(replace(sale, token=there.token, evidence=None))
    assert no["refusal"]["code"] == "programme_paused"
    ledger.programme(there.programme, offline=HALF)
    results = till.send(sale, accepted)
    assert till.believe(sale, results[0]) == no
    told = till.believe(accepted, results[1])
    assert (told["result"], told["amount_minor"]) == ("posted", 2_000)
    assert till.send(sale, accepted) == results and there.balance() == 10_000


def test_a_sale_that_was_reversed_stays_so(ledger: ContractLedger, till: ContractTill) -> None:
    """The choice was made: its acceptance is an exception, and nothing is booked."""
    there = outage(ledger, till)
    sale, accepted = there.sell(2_000, there.use(2_000))
    assert till.outcome(till.reversal(sale))["result"] == "reversed"
    results = till.send(sale, accepted)
    assert till.believe(sale, results[0])["result"] == "reversed"
    assert refusal(till.believe(accepted, results[1])) == "already_undone"
    assert till.send(sale, accepted) == results and there.balance() == 12_000


def test_goods_that_stayed_are_voided_behind_it(ledger: ContractLedger, till: ContractTill) -> None:
    """`goods_kept` has no window, and no settlement bars it; all of it goes back, once."""
    there = outage(ledger, till)
    sale, accepted = there.sell(6_000, there.use(6_000))
    ledger.now.forward(hours=4)
    late, kept = till.void(sale), till.void(sale, reason="goods_kept")
    assert till.problem(kept)["code"] == "sequence_gap"
    assert there.both(sale, accepted)["result"] == "posted"
    ledger.close(there.programme)
    assert till.outcome(late)["refusal"]["code"] == "void_too_late"
    told = till.outcome(kept)
    assert (told["result"], told["amount_minor"]) == ("posted", 6_000)
    assert told["vouchers"][0]["from_allotment_minor"] == 0 and there.balance() == 12_000


def test_a_void_gives_the_loss_back_too(ledger: ContractLedger) -> None:
    """The merchant was paid the shortfall from the reserve: nothing of that stays with it, and
    the reserve can pay it again. By lines a short sale is not refunded."""
    till = till_of(ledger, "shop-l")
    there = outage(ledger, till, FLOOR, refunds={"window_s": 86_400, "grace_s": 0})
    ledger.reserve(there.programme, 490)
    other, token = till_of(ledger, "shop-w"), care(ledger, there.sub)
    bought = other.redeem(
        other.lookup(token),
        token,
        [line(6_000)],
        [entry(there.voucher(), 6_000)],
        programme=there.programme,
    )
    assert other.outcome(bought)["result"] == "posted"
    sale, accepted = there.sell(6_490, there.use(6_000))
    assert there.both(sale, accepted)["shortfall_minor"] == 490
    part = {
        "line": 1,
        "voucher": there.voucher(),
        "quantity": 0,
        "programme_minor": 6_490,
        "beneficiary_minor": 0,
    }
    assert till.outcome(till.refund(sale, {1: 1}, [part]))["refusal"]["code"] == "refund_exceeds"
    void = till.void(sale)
    assert till.outcome(void)["amount_minor"] == 6_000
    ledger.close(there.programme)
    text = till.get(f"/v1/settlements/{there.programme}/1").text
    rows = [
        (row["kind"], row["receipt_no"], int(row["amount_minor"]))
        for row in csv.DictReader(io.StringIO(text))
    ]
    number = receipt_no(till.certificate["terminal_no"], sale.payload["sequence"])
    assert rows[1:] == [("redeem", number, 6_490), ("void", number, -6_490)]


# What can't be judged, and what was known.


def test_a_bad_code_is_held(ledger: ContractLedger, till: ContractTill) -> None:
    """Nobody's signature, and expired when it was shown: the goods are gone, so both are kept until
    a person decides them; a day report does not wait for it, what is given back does."""
    there = outage(ledger, till)
    at = int(ledger.now().timestamp())
    forged = care(ledger, there.sub, Key.new())
    old = care(ledger, there.sub, iat=at - 700, nbf=at - 700, exp=at)
    for token in (forged, old):
        sale, accepted = there.sell(100, there.use(100), token=token)
        assert held(there, sale, accepted) == "token"
    assert there.balance() == 12_000
    assert till.outcome(till.day_report())["result"] == "posted"
    assert till.problem(there.give_back(1))["code"] == "sequence_gap"


def test_evidence_of_another_sale_decides_nothing(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Nobody signed it, so whoever carries a record could put any beside it: sent again with its
    own, it is posted. So is one that holds another code than the sale names."""
    there = outage(ledger, till)
    sale, accepted = there.sell(100, there.use(100))
    other, other_accepted = there.sell(200, there.use(200))
    for evidence in (other.evidence, there.seal(sale, care(ledger, there.sub)).evidence):
        strange = replace(sale, evidence=evidence)
        problem = till.send(strange, accepted)[0]["problem"]
        assert (problem["code"], problem.get("field")) == ("malformed", "evidence")
        assert till.attempt(sale.payload["id"])[0] == "not_found"
    assert there.both(sale, accepted)["result"] == "posted"
    assert there.both(other, other_accepted)["result"] == "posted"


def test_a_card_is_good_with_its_pin(ledger: ContractLedger, till: ContractTill) -> None:
    """The proof lies in the evidence, behind the code; nothing counts it as a try."""
    there = outage(ledger, till)
    jti, at = b64(secrets.token_bytes(16)), int(ledger.now().timestamp())
    token = care(
        ledger, there.sub, jti=jti, care_class="card", exp=at + 86_400, amr=["carepos:card"]
    )
    card = Printed(ISSUER, jti, token, "2580", b64(secrets.token_bytes(16)))
    ledger.put_card(ISSUER, there.sub, card.jti_sha256, card.verifier)
    good = there.sell(1_000, there.use(1_000), token=token, proof=card.proof())
    assert there.both(*good)["result"] == "posted"
    for proof in (None, card.proof("0000")):
        bad = there.sell(1_000, token=token, proof=proof)
        assert held(there, *bad) == "token"
    assert till.lookup(token, card.proof())["vouchers"]


def test_what_is_signed_and_malformed_is_held(ledger: ContractLedger, till: ContractTill) -> None:
    """A programme or currency that is not there, another's reference, another sale's acceptance,
    and more from an allotment than the sale takes."""
    there = outage(ledger, till)
    cases = [
        there.sell(100, currency="EUR"),
        there.sell(100, beneficiary="A" * 22),
        there.sell(100, there.use(101)),
    ]
    sale, _ = there.sell(100)
    cases.append((sale, there.accept(sale, record_sha256=digest(b"another"))))
    for sent in cases:
        assert held(there, *sent) == "malformed"
    assert there.balance() == 12_000


def test_of_a_suspended_till_both_are_held(ledger: ContractLedger, till: ContractTill) -> None:
    """Also when it is resumed: whether its sales of that time count, a person says."""
    there = outage(ledger, till)
    sent = there.sell(100, there.use(100))
    ledger.set_terminal(till.terminal, "suspended")
    assert held(there, *sent) == "terminal_suspended"
    ledger.set_terminal(till.terminal, "active")
    assert held(there, *sent) == "terminal_suspended"
    assert there.balance() == 12_000


def test_where_nobody_may_sell_offline(ledger: ContractLedger, till: ContractTill) -> None:
    """A programme without the rule, and somebody who acts for the holder."""
    there = outage(ledger, till, FLOOR, acting={
        "proxy": True, "witness": True, "household_minor": 9_000, "actor_minor": 9_000,
        "window_s": 86_400,
    })  # fmt: skip
    acted = care(ledger, there.sub, act={"sub": "helper"}, care_reason="frail")
    sent = there.sell(100, there.use(100), token=acted)
    assert refusal(there.both(*sent)) == "offline_not_allowed"
    sent = there.sell(100, there.use(100))
    ledger.programme(there.programme, offline=None)
    assert refusal(there.both(*sent)) == "offline_not_allowed"


def test_what_the_pack_said_counts(ledger: ContractLedger, till: ContractTill) -> None:
    """Expired when it was sold: an exception. Paused since the pack: as ever."""
    soon = utc(ledger.now().replace(microsecond=0))
    there = outage(ledger, till, None, {**SOON, "expires_at": soon[:14] + "59:59.000Z"})
    good = there.sell(100, there.use(100))
    ledger.now.forward(hours=1)
    token = care(ledger, there.sub)
    late = there.sell(200, there.use(200), token=token)
    told = [there.both(*sent) for sent in (good, late)]
    assert told[0]["result"] == "posted" and refusal(told[1]) == "voucher_expired"
    there = outage(ledger, till)
    sent = there.sell(100, there.use(100))
    ledger.programme(there.programme, offline=HALF, paused=True)
    ledger.now.forward(minutes=1)
    assert there.both(*sent)["result"] == "posted"


def test_rules_of_the_basket_hold_offline_too(ledger: ContractLedger, till: ContractTill) -> None:
    """The till could know them: an exception, with what it should have said."""
    there = outage(ledger, till, limit_per_redemption_minor=1_000)
    sent = there.sell(1_001, there.use(1_001))
    assert refusal(there.both(*sent)) == "limit_exceeded"
    stranger = till_of(ledger)
    other = alone(ledger, stranger, there.programme)
    sent = there.sell(100, allocation=[entry(other.voucher(), 100)])
    assert refusal(there.both(*sent)) in ("voucher_unknown", "voucher_not_yours")


def test_one_code_shown_to_many_tills_loses_no_more_than_was_agreed(
    ledger: ContractLedger,
) -> None:
    """T-2: each till within its limits, the voucher is spent once; the rest is the reserve's until
    that is empty, and then nobody's: an exception each."""
    first = till_of(ledger)
    there = outage(ledger, first, {**FLOOR, "redemption_minor": 5_000})
    ledger.reserve(there.programme, 10_000)
    tills = [till_of(ledger) for _ in range(6)]
    shops = [replace(there, pack=pack(each)) for each in tills]
    told = [each.both(*each.sell(5_000)) for each in shops]
    results = [(each["result"], each.get("shortfall_minor")) for each in told]
    assert results == [
        ("posted", None),
        ("posted_short", 4_000),
        ("posted_short", 5_000),
        *[("exception", None)] * 3,
    ]
    assert there.both(*there.sell(6_000, there.use(6_000)))["result"] == "posted"


def test_nobody_at_home_is_nobodys_business(ledger: ContractLedger, till: ContractTill) -> None:
    """An acceptance without a household in the pack is judged like any other."""
    name = "p-" + secrets.token_hex(6)
    ledger.programme(name, offline={**HALF, "floor": FLOOR})
    sub = at_home(ledger, till_of(ledger, "shop-b"), name)
    elsewhere = alone(ledger, till, name)
    found = till.lookup(care(ledger, sub))
    token = care(ledger, sub)
    sale = till.redeem(
        found, token, [line(100)], [entry(found["vouchers"][0]["voucher"], 100)], programme=name
    )
    accepted = elsewhere.accept(sale, token=token)
    assert elsewhere.both(elsewhere.seal(sale, token), accepted)["result"] == "posted"
