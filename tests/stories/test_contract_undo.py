"""What any ledger must answer when a sale is taken back: docs/offline.md sections 1 to 3.

Every test runs over HTTP, against a ledger written from the pages alone and the product's.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.contract_ledgers import FIXED, ITEM, VALUE, ContractLedger, care
from tests.contract_till import FORMULA, MILK, RICE, ContractTill, Sent, refused
from tests.contract_visit import LEDGERS, Visit, entry, line, till_of, visit
from tests.second_signing import Json, digest, new_id, read, receipt_no, unb64, utc
from tests.vectors import second_undo

REFUNDS = {"window_s": 86_400, "grace_s": 7_200}
RETURNS: Json = {**VALUE, "programme": "returns"}


@pytest.fixture(scope="module", params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    with LEDGERS[request.param]() as made:
        made.programme("dairy")
        made.programme("returns", refunds=REFUNDS, top_up_allowed=True)
        made.programme("no-grace", refunds={**REFUNDS, "grace_s": 0})
        yield made


@pytest.fixture
def till(ledger: ContractLedger) -> ContractTill:
    """A new one each time: an undo waits for whatever a test left undecided."""
    return till_of(ledger)


@pytest.fixture
def neighbour(ledger: ContractLedger) -> ContractTill:
    """Another terminal, of another store of the merchant."""
    return till_of(ledger, "shop-b")


def sold(there: Visit, sale: Sent) -> Sent:
    assert there.till.outcome(sale)["result"] == "posted"
    return sale


def milk(ledger: ContractLedger, till: ContractTill, **voucher: object) -> tuple[Visit, Sent]:
    """A family whose milk was booked, 60.00 of its 120.00, in a programme that takes refunds."""
    there = visit(ledger, till, {**RETURNS, **voucher})
    there = replace(there, programme=str({**RETURNS, **voucher}["programme"]))
    return there, sold(there, there.milk(6_000))


def parts(sale: Sent, lines: Mapping[int, int], before: Sequence[Json] = ()) -> list[Json]:
    """What section 3's rule gives back."""
    back = [{"line": number, "quantity": quantity} for number, quantity in lines.items()]
    return second_undo.parts(sale.payload["content"], before, back)


def give_back(till: ContractTill, sale: Sent, lines: Mapping[int, int], *before: Json) -> Sent:
    return till.refund(sale, lines, parts(sale, lines, before))


def code(till: ContractTill, sent: Sent) -> str:
    """The code with which a void or refund is refused; its id is used up."""
    outcome = till.outcome(sent)
    assert outcome["result"] == "refused", outcome
    assert till.attempt(sent.payload["id"]) == ("refused", [outcome])
    told: str = outcome["refusal"]["code"]
    return told


# Void.


def test_a_void_gives_back_all_that_was_taken_once(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Its outcome says what went back and what is there now; the sale stays one that was posted."""
    there, sale = milk(ledger, till)
    booked = till.outcome(sale)
    void = till.void(sale)
    outcome = till.outcome(void)
    names = "v result kind id terminal record_sha256 recorded_at epoch currency amount_minor"
    assert set(outcome) == {*names.split(), "vouchers"}
    assert (outcome["result"], outcome["currency"], outcome["amount_minor"]) == (
        "posted",
        "CNY",
        6_000,
    )
    assert outcome["vouchers"] == [{**booked["vouchers"][0], "available_minor": 12_000}]
    assert till.send(void, void) == [till.send(void)[0]] * 2
    assert till.attempt(void.payload["id"]) == ("posted", [outcome])
    assert till.attempt(sale.payload["id"]) == ("posted", [booked])
    assert code(till, till.void(sale)) == "already_undone"
    assert there.balance() == 12_000


def test_a_void_under_its_id_again_is_bound_anew(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Another record of the same meaning has the same result; one of another sale has none."""
    there, sale = milk(ledger, till)
    other = sold(there, there.milk(1_000))
    void = till.void(sale)
    first = till.outcome(void)
    again = till.outcome(till.void(sale, identifier=void.payload["id"], reason="other"))
    assert (again["result"], again["vouchers"]) == ("posted", first["vouchers"])
    wrong = till.outcome(till.void(other, identifier=void.payload["id"]))
    assert wrong["refusal"]["code"] == "id_content_mismatch"
    assert there.balance() == 11_000


@pytest.mark.parametrize("seconds", [3_599, 3_600])
def test_a_void_has_its_window(ledger: ContractLedger, till: ContractTill, seconds: int) -> None:
    """The last instant is too late, by the ledger's clock, whatever the till's record says."""
    there, sale = milk(ledger, till)
    ledger.now.forward(seconds=seconds)
    void = till.void(sale)
    back = till.sign({**void.payload, "occurred_at": sale.payload["occurred_at"]})
    till.prev = back.digest
    if seconds < 3_600:
        assert till.outcome(back)["result"] == "posted"
    else:
        assert code(till, back) == "void_too_late"
        left = replace(there, token=care(ledger, there.sub)).balance()
        assert left == 6_000


def test_a_void_that_was_written_too_late_is_too_late(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """By the till's own two times, though the ledger's clock has not come so far."""
    _, sale = milk(ledger, till)
    ledger.now.forward(seconds=3_600)
    void = till.void(sale)
    ledger.now.forward(seconds=-3_600)
    assert code(till, void) == "void_too_late"


def test_a_sale_that_is_settled_is_not_voided(ledger: ContractLedger) -> None:
    """What a batch holds is taken back by a refund, in the next batch."""
    ledger.programme("swept", refunds=REFUNDS)
    till = till_of(ledger, "shop-l")
    _, sale = milk(ledger, till, programme="swept")
    ledger.close("swept")
    assert code(till, till.void(sale)) == "void_too_late"
    assert till.outcome(give_back(till, sale, {1: 1}))["amount_minor"] == 6_000


def test_only_what_was_booked_can_be_taken_back(ledger: ContractLedger, till: ContractTill) -> None:
    """Never seen, another record, refused, reversed, and one that met its tombstone."""
    there, sale = milk(ledger, till)
    refusal = there.milk(6_491)
    assert till.outcome(refusal)["result"] == "refused"
    undone, early = sold(there, there.milk(1_000)), there.milk(1_001)
    for each in (undone, early):
        assert till.outcome(till.reversal(each))["result"] == "reversed"
    waits = till.void(early)
    assert till.problem(waits)["missing"] == [early.payload["sequence"]]
    assert till.outcome(early)["result"] == "reversed"
    assert code(till, waits) == "original_not_booked"
    unknown = new_id(int(sale.payload["id"][15:18], 16), ledger.now())
    original = {"terminal": till.terminal, "id": unknown}
    assert code(till, till.void(sale, original=original)) == "original_unknown"
    assert code(till, till.void(sale, record_sha256=digest(b"another"))) == "original_unknown"
    for each in (refusal, undone, early):
        assert code(till, till.void(each)) == "original_not_booked"
        assert code(till, give_back(till, each, {1: 1})) == "original_not_booked"
    assert there.balance() == 6_000


def test_a_reversal_gives_back_what_no_undo_gave(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Of a sale never more goes back than it took; a till that reverses has lost its journal."""
    there, sale = milk(ledger, till)
    assert till.outcome(till.void(sale))["result"] == "posted"
    reversal = till.outcome(till.reversal(sale))
    assert (reversal["result"], reversal["amount_minor"]) == ("reversed", 0)
    assert reversal["vouchers"] == [] and there.balance() == 12_000
    there, sale = basket_of_three(ledger, till)
    assert till.outcome(give_back(till, sale, {1: 1, 3: 2}))["amount_minor"] == 9_419
    reversal = till.outcome(till.reversal(sale))
    assert (reversal["result"], reversal["amount_minor"]) == ("reversed", 3_982)
    assert totals(there) == [3, 4_000, 12_000]
    assert code(till, give_back(till, sale, {3: 1})) == "original_not_booked"


# Refund.


def basket_of_three(ledger: ContractLedger, till: ContractTill) -> tuple[Visit, Sent]:
    """Milk by an item voucher and money, rice by a fixed price, formula by money."""
    vouchers = [{**each, "programme": "returns"} for each in (ITEM, FIXED, VALUE)]
    there = replace(visit(ledger, till, *vouchers), programme="returns")
    by_kind = {found["kind"]: found["voucher"] for found in there.found["vouchers"]}
    basket = [line(13_001, MILK, 2), line(2_999, RICE, 1_000, "g"), line(5_000, FORMULA, 3)]
    allocation = [
        entry(by_kind["item"], 6_501, quantity=1),
        entry(by_kind["value"], 501),
        entry(by_kind["fixed_price"], 2_399, line=2, quantity=1_000, beneficiary_minor=600),
        entry(by_kind["value"], 4_000, line=3),
    ]
    return there, sold(there, there.redeem(basket, allocation))


def totals(there: Visit) -> list[int]:
    told = there.till.lookup(there.token)["vouchers"]
    return sorted(each["available_minor"] + each["available_quantity"] for each in told)


def test_a_basket_comes_back_piece_by_piece_as_at_once(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Each part goes to the voucher that gave it, and no minor unit is left or made."""
    pieces = [{1: 1}, {3: 1}, {2: 500}, {3: 2}, {1: 1, 2: 500}]
    for refunds in ([{1: 2, 2: 1_000, 3: 3}], pieces):
        there, sale = basket_of_three(ledger, till)
        before: list[Json] = []
        went = 0
        for lines in refunds:
            refund = give_back(till, sale, lines, *before)
            outcome = till.outcome(refund)
            assert outcome["result"] == "posted", outcome
            assert [each["voucher"] for each in outcome["vouchers"]] == sorted(
                {part["voucher"] for part in refund.payload["content"]["parts"]}
            )
            went += outcome["amount_minor"]
            before += refund.payload["content"]["lines"]
        assert went == 13_401 and totals(there) == [3, 4_000, 12_000]
        assert code(till, give_back(till, sale, {3: 1})) == "already_undone"


def test_a_part_that_was_refunded_bars_the_void(ledger: ContractLedger, till: ContractTill) -> None:
    """From then on the rest comes back by refunds, and never more than it."""
    there, sale = basket_of_three(ledger, till)
    assert till.outcome(give_back(till, sale, {3: 2}))["amount_minor"] == 2_667
    assert code(till, till.void(sale)) == "already_undone"
    assert code(till, give_back(till, sale, {3: 2})) == "refund_exceeds"
    last = [{"line": 3, "quantity": 2}]
    assert till.outcome(give_back(till, sale, {3: 1}, *last))["amount_minor"] == 1_333
    assert totals(there) == [2, 3_000, 11_499]


def test_what_a_refund_may_not_say(ledger: ContractLedger, till: ContractTill) -> None:
    """A line that is not there or more of it, a broken portion, and other parts than the rule's."""
    there, sale = basket_of_three(ledger, till)
    right = parts(sale, {1: 1})
    cases = [
        (till.refund(sale, {4: 1}, [{**right[0], "line": 4}]), "refund_exceeds"),
        (till.refund(sale, {3: 4}, parts(sale, {3: 3})), "refund_exceeds"),
        (give_back(till, sale, {2: 250}), "refund_not_whole"),
        (till.refund(sale, {1: 1}, [{**right[0], "programme_minor": 1}]), "proposal_changed"),
        (till.refund(sale, {1: 1}, right, currency="EUR"), "proposal_changed"),
        (till.refund(sale, {1: 2}, parts(sale, {1: 2})[::-1]), "proposal_changed"),
    ]
    for sent, wanted in cases:
        assert code(till, sent) == wanted
    assert totals(there) == [2, 3_000, 7_499]


def test_a_programme_says_whether_and_how_long(ledger: ContractLedger, till: ContractTill) -> None:
    """None without the rule; with it until just before the window's last instant."""
    there = visit(ledger, till)
    sale = sold(there, there.milk(6_000))
    assert code(till, give_back(till, sale, {1: 1})) == "refund_not_allowed"
    _, good = milk(ledger, till)
    _, late = milk(ledger, till)
    ledger.now.forward(seconds=REFUNDS["window_s"] - 1)
    assert till.outcome(give_back(till, good, {1: 1}))["result"] == "posted"
    ledger.now.forward(seconds=1)
    assert code(till, give_back(till, late, {1: 1})) == "refund_too_late"


def test_another_till_of_the_merchant_may_refund(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """A void only by the till that sold; another merchant knows no such sale."""
    there, sale = milk(ledger, till)
    assert neighbour.problem(neighbour.void(sale))["code"] == "malformed"
    stranger = till_of(ledger, "shop-w")
    assert code(stranger, give_back(stranger, sale, {1: 1})) == "original_unknown"
    neighbour = till_of(ledger, "shop-b")  # the one before waits for its malformed record
    refund = give_back(neighbour, sale, {1: 1})
    assert neighbour.outcome(refund)["amount_minor"] == 6_000
    assert code(till, till.void(sale)) == "already_undone"
    assert there.balance() == 12_000


def test_a_frozen_voucher_gets_it_back_and_stays_frozen(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Whoever froze it wants it not to be spent; nothing is lost."""
    there = visit(ledger, till)
    sale = sold(there, there.milk(6_000))
    ledger.freeze(there.voucher())
    assert till.outcome(till.void(sale))["vouchers"][0]["available_minor"] == 12_000
    [told] = till.lookup(there.token)["vouchers"]
    assert told["frozen"] and told["available_minor"] == 12_000


@pytest.mark.parametrize("programme", ["returns", "no-grace"])
def test_what_is_refunded_to_an_expired_voucher(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Its remainder goes to the programme first; what came back is good for the days of grace."""
    expires_at = utc(ledger.now() + timedelta(seconds=600))
    there, sale = milk(ledger, till, expires_at=expires_at, programme=programme)
    ledger.now.forward(seconds=600)
    outcome = till.outcome(give_back(till, sale, {1: 1}))
    assert (outcome["result"], outcome["amount_minor"]) == ("posted", 6_000)
    kept = 6_000 if programme == "returns" else 0
    assert outcome["vouchers"][0]["available_minor"] == kept
    again = replace(there, token=care(ledger, there.sub))
    [told] = till.lookup(again.token)["vouchers"]
    assert told["available_minor"] == kept
    if programme == "no-grace":
        assert told["expires_at"] == expires_at
        return
    assert told["expires_at"] == utc(ledger.now() + timedelta(seconds=7_200))
    assert till.outcome(again.milk(5_000))["result"] == "posted"
    ledger.now.forward(seconds=7_200)
    third = replace(there, token=care(ledger, there.sub))
    refusal = till.outcome(third.milk(1_000))["refusal"]
    assert refusal["code"] == "voucher_expired"


def test_a_void_makes_no_expired_voucher_good_again(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """It is as if the sale had never been: all of it is there, and as expired as it was."""
    expires_at = utc(ledger.now() + timedelta(seconds=600))
    there, sale = milk(ledger, till, expires_at=expires_at)
    ledger.now.forward(seconds=600)
    outcome = till.outcome(till.void(sale))
    assert (outcome["result"], outcome["amount_minor"]) == ("posted", 6_000)
    again = replace(there, token=care(ledger, there.sub))
    [told] = till.lookup(again.token)["vouchers"]
    assert (told["available_minor"], told["expires_at"]) == (12_000, expires_at)
    assert till.outcome(again.milk(1_000))["refusal"]["code"] == "voucher_expired"


# What it waits for, and its form.


@pytest.mark.parametrize("kind", ["void", "refund"])
def test_an_undo_waits_for_every_record_before_it(ledger: ContractLedger, kind: str) -> None:
    """Not only seen but decided: 409 with what is missing, and the id is not used up."""
    till = till_of(ledger)
    there, sale = milk(ledger, till)
    unseen, undecided = there.milk(1), there.milk(2)
    bare = Sent(undecided.jws, undecided.payload)
    assert till.problem(bare)["code"] == "malformed"
    sent = till.void(sale) if kind == "void" else give_back(till, sale, {1: 1})
    problem = till.problem(sent)
    assert (problem["code"], problem["status"]) == ("sequence_gap", 409)
    assert problem["missing"] == [each.payload["sequence"] for each in (unseen, undecided)]
    assert till.attempt(sent.payload["id"])[0] == "not_found"
    assert [till.outcome(each)["result"] for each in (unseen, undecided)] == ["posted"] * 2
    assert till.outcome(sent)["result"] == "posted"
    assert there.balance() == 11_997


def test_a_batch_brings_a_sale_and_its_undo(ledger: ContractLedger, till: ContractTill) -> None:
    """In the order of the items each sees what the one before it did."""
    there = replace(visit(ledger, till, RETURNS), programme="returns")
    sale = there.milk(5_000)
    void = till.void(sale)
    again = till.void(sale)
    results = till.send(sale, void, again)
    told = [till.believe(*each) for each in zip((sale, void, again), results, strict=True)]
    assert [each["result"] for each in told] == ["posted", "posted", "refused"]
    assert told[2]["refusal"]["code"] == "already_undone" and there.balance() == 12_000


def test_the_form_of_an_undo(ledger: ContractLedger, till: ContractTill) -> None:
    """The beneficiary's bucket, an id of its own, names and values of section 1; nothing moves."""
    there, sale = milk(ledger, till)
    bucket = int(sale.payload["id"][15:18], 16)
    right = parts(sale, {1: 1})
    bad = [
        till.void(sale, identifier=new_id(bucket ^ 1, ledger.now())),
        till.void(sale, identifier=sale.payload["id"]),
        till.void(sale, reason="returned"),
        till.void(sale, cashier="Frau Li 李"),
        till.refund(sale, {1: 0}, right),
        till.refund(sale, {1: 1}, []),
        till.refund(sale, {2: 1}, right),
        till.refund(sale, {1: 1}, [{**right[0], "programme_minor": 0}]),
    ]
    assert {till.problem(each)["code"] for each in bad} == {"malformed"}
    newer = till.void(sale, photo="no")
    assert till.problem(newer)["code"] == "unsupported_kind"
    assert till.attempt(bad[0].payload["id"])[0] == "not_found"
    assert there.balance() == 6_000


def test_an_id_means_one_kind_of_thing(ledger: ContractLedger) -> None:
    """A sale under a void's id, a void under a sale's or a refund's: nothing moves."""
    till = till_of(ledger)
    there, sale = milk(ledger, till)
    other = sold(there, there.milk(1_000))
    void = till.void(sale)
    assert till.outcome(void)["result"] == "posted"
    mismatch = {"code": "id_content_mismatch", "at": None}
    used = till.void(sale, identifier=other.payload["id"])
    assert till.outcome(used)["refusal"] == mismatch
    late = there.milk(500, identifier=void.payload["id"])
    assert till.outcome(late)["refusal"] == mismatch
    assert till.outcome(till.reversal(void))["refusal"] == mismatch
    refund = till.refund(other, {1: 1}, parts(other, {1: 1}), identifier=void.payload["id"])
    assert till.outcome(refund)["refusal"] == mismatch
    assert there.balance() == 11_000


@pytest.mark.parametrize("status", ["suspended", "revoked"])
def test_a_stopped_terminal_undoes_nothing(ledger: ContractLedger, status: str) -> None:
    """Suspended: not decided. Revoked: held for people."""
    till = till_of(ledger)
    there, sale = milk(ledger, till)
    void = till.void(sale)
    ledger.set_terminal(till.terminal, status)
    if status == "revoked":
        outcome = till.outcome(void)
        assert (outcome["result"], outcome["reason"]) == ("held", "terminal_revoked")
    else:
        assert till.problem(void)["code"] == "terminal_suspended"
        ledger.set_terminal(till.terminal, "active")
        assert till.outcome(void)["result"] == "posted"
    found = till_of(ledger).lookup(care(ledger, there.sub))["vouchers"][0]
    assert found["available_minor"] == (6_000 if status == "revoked" else 12_000)


# A sale of another till.


def find(till: ContractTill, sale: Sent, number: int, **changes: object) -> Json:
    receipt = receipt_no(number, sale.payload["sequence"])
    asked = {"receipt_no": receipt, "code": None, **changes}
    answer = till.post("/v1/sales/find", asked, jti="j" * 22)
    if answer.status_code != 200:
        return refused(answer)
    found = read(answer.json()["sale"], "carepos-sale+jws", till.ledger_keys)
    assert answer.json()["record"] == sale.jws
    assert (found["v"], found["request"], found["terminal"]) == (1, "j" * 22, till.terminal)
    return found


def test_a_sale_is_found_by_its_receipt(ledger: ContractLedger, till: ContractTill) -> None:
    """With all that a refund needs, and what was refunded before; a wrong code finds another."""
    there, sale = basket_of_three(ledger, till)
    number, neighbour = till.certificate["terminal_no"], till_of(ledger, "shop-b")
    printed = base64.b32encode(unb64(sale.digest)).decode()[:16]
    found = find(neighbour, sale, number, code=printed)
    names = "v request terminal original record_sha256 recorded_at refunded undone vouchers"
    assert set(found) == set(names.split())
    assert found["original"] == {"terminal": till.terminal, "id": sale.payload["id"]}
    assert found["record_sha256"] == sale.digest
    assert found["recorded_at"] == till.outcome(sale)["recorded_at"]
    assert (found["refunded"], found["undone"]) == ([], False)
    told = {each["voucher"]: each for each in there.found["vouchers"]}
    assert found["vouchers"] == [
        {name: told[each][name] for name in ("voucher", "label", "terms")} for each in sorted(told)
    ]
    assert find(neighbour, sale, number, code="A" * 16)["code"] == "not_found"
    before: list[Json] = []
    for lines in ({3: 1}, {1: 1, 3: 1}, {1: 1, 2: 1_000, 3: 1}):
        refund = give_back(neighbour, sale, lines, *before)
        assert neighbour.outcome(refund)["result"] == "posted"
        before += refund.payload["content"]["lines"]
        found = find(till, sale, number)
        sums = second_undo.line_sums(before)
        assert found["refunded"] == [
            {"line": each, "quantity": n} for each, n in sorted(sums.items())
        ]
        assert found["undone"] == (len(before) == 6)


def test_only_a_booked_sale_of_the_merchant_is_found(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """A refused one, one never made and another merchant's are the same 404."""
    there, sale = milk(ledger, till)
    number = till.certificate["terminal_no"]
    no = there.milk(6_491)
    assert till.outcome(no)["result"] == "refused"
    assert find(till, no, number)["code"] == "not_found"
    assert find(till_of(ledger, "shop-w"), sale, number)["code"] == "not_found"
    assert find(till, sale, number, code="x")["code"] == "malformed"
    assert find(till, sale, number, receipt_no="7")["code"] == "malformed"
    assert not find(till, sale, number)["undone"]
    assert till.outcome(till.void(sale))["result"] == "posted"
    assert find(till, sale, number)["undone"]
    assert find(till, there.milk(1), number)["code"] == "not_found"


# Settlement.


def test_settlement_rows_of_undo(ledger: ContractLedger) -> None:
    """A void bears the sale's number, a refund its own; a refund of a settled sale is a correction
    in the next batch, under whichever till gave it."""
    ledger.programme("undone", refunds=REFUNDS)
    till, other = till_of(ledger, "shop-l"), till_of(ledger, "shop-l")
    _, first = milk(ledger, till, programme="undone")
    _, second = milk(ledger, till, programme="undone")
    void = till.void(first)
    voided = till.outcome(void)
    ledger.close("undone")
    refund = give_back(other, second, {1: 1})
    refunded = other.outcome(refund)
    ledger.close("undone")
    listed = till.get("/v1/settlements").json()["settlements"]
    listed = [each for each in listed if each["programme"] == "undone"]
    one, two = (till.signed(each["manifest"], "carepos-manifest+jws") for each in listed)
    assert one["redeemed"] == {"count": 2, "amount_minor": 12_000}
    assert one["reversed"] == {"count": 1, "amount_minor": -6_000}
    assert (two["redeemed"]["count"], two["net_minor"]) == (0, -6_000)
    assert two["reversed"] == {"count": 1, "amount_minor": -6_000}
    rows = [
        list(csv.DictReader(io.StringIO(till.get(f"/v1/settlements/undone/{n}").text)))
        for n in (1, 2)
    ]
    kinds = [(row["kind"], row["receipt_no"]) for row in rows[0]]
    numbers = [
        receipt_no(till.certificate["terminal_no"], n.payload["sequence"]) for n in (first, second)
    ]
    assert kinds == [("redeem", numbers[0]), ("void", numbers[0]), ("redeem", numbers[1])]
    assert rows[0][1] == {
        **rows[0][0],
        "line_no": "2",
        "kind": "void",
        "occurred_at": void.payload["occurred_at"],
        "recorded_at": voided["recorded_at"],
        "amount_minor": "-6000",
    }
    [row] = rows[1]
    assert row == {
        "line_no": "1",
        "kind": "refund",
        "receipt_no": receipt_no(other.certificate["terminal_no"], refund.payload["sequence"]),
        "incarnation": other.incarnation,
        "terminal": other.terminal,
        "store": "shop-l",
        "occurred_at": refund.payload["occurred_at"],
        "recorded_at": refunded["recorded_at"],
        "amount_minor": "-6000",
        "currency": "CNY",
    }
