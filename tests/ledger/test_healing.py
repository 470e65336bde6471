"""INV-9, FI-1, FC-8: a ledger that lost data is what it was when its tills have reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from sqlalchemy import update

from carepos import jws
from carepos.acceptance import AcceptOffline, ReturnAllotment
from carepos.basket import Entry, Line
from carepos.errors import Malformed, SignatureInvalid
from carepos.evidence import seal
from carepos.ids import new_attempt_id
from carepos.keys import SigningKey, digest
from carepos.offline import AllotmentUse
from carepos.record import KeyChange
from carepos_ledger import schema
from carepos_ledger.heal_status import HealStatus
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.lost_batches import LostBatches
from carepos_ledger.opening import Opening
from carepos_ledger.problems import Problem
from carepos_ledger.settlement import Settlement
from tests.ledger.loss import Loss, found, outcome_of
from tests.ledger.rig import PROGRAMME, RICE, Rig, Signer, code
from tests.ledger.test_allotments import Shop

ITEM = {
    "kind": "item", "categories": ["grain"], "quantity": 5_000,
    "terms": {"unit": "g", "cap_minor": 1_000, "fixed_minor": 0, "cap_quantity": 500},
}  # fmt: skip


FLOOR = {
    "redemption_minor": 5_000, "beneficiary_minor": 9_000, "window_s": 86_400,
    "liability": "programme",
}  # fmt: skip


@pytest.fixture
def loss(rig: Rig) -> Iterator[Loss]:
    """A ledger that can lose data. Whatever it was brought back, its sums hold (`rig`)."""
    before = rig.keyring
    yield Loss(rig)
    rig.keyring = before


def change_key(loss: Loss, till: Signer) -> None:
    """A till announces another key, has its certificate, and signs with it from then on."""
    following = SigningKey.generate()
    change = KeyChange.make(
        following,
        terminal=till.terminal,
        incarnation=till.incarnation,
        sequence=till.sequence + 1,
    )
    assert loss.one(till.sign(change, till.own_id())).result == "posted"
    loss.certified(till, following)
    till.key = following
    loss.send(till.start())


def test_everything_that_was_decided_comes_back(loss: Loss) -> None:
    """Sales on value and item vouchers, a refusal, a reversal, a tombstone that met its original,
    a void, a refund, a day report: the same rows, the same signed answers, the same sums."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    family, rice = rig.holder(), rig.holder(ITEM)
    loss.send(till.start(), rig.redeem(till, family, 1_000))
    loss.back_up()
    rig.now.forward(minutes=1)
    sold = rig.redeem(till, family, 2_000)
    loss.send(sold, rig.redeem(till, family, 50_000), other.start())
    line = Line(RICE, 1_000, "g", 1_500, "大米")
    bag = rig.redeem(
        other, rice, basket=[line], allocation=[Entry(1, rice.voucher, 1_000, 1_500, 0)]
    )
    loss.send(bag)
    rig.now.forward(minutes=1)
    gone = rig.redeem(till, family, 700)
    loss.send(gone)
    loss.send(till.reversal(rig.read(gone)))
    late = rig.redeem(till, family, 300)
    loss.send(till.reversal(rig.read(late)))
    loss.send(late)
    rig.now.forward(minutes=1)
    loss.send(till.void(rig.read(sold)), other.refund(rig.read(bag), (1, 500)))
    loss.send(rig.redeem(other, family, 4_000), till.day_report())
    loss.lose()
    loss.begin()
    for each in (till, other):
        assert {r["result"] for r in loss.offer(each)["results"]} <= {"staged", "held"}
    loss.open()
    assert loss.exceptions() == []
    loss.is_whole()


def test_the_order_does_not_hang_on_the_ledgers_clock(loss: Loss) -> None:
    """FI-4: it stepped back between a change of key, a sale under the new one and its refund; what
    does not fit yet is tried again until nothing moves."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    family = rig.holder()
    loss.send(till.start(), other.start())
    loss.back_up()
    rig.now.forward(hours=2)
    change_key(loss, till)
    rig.now.forward(hours=-1)
    sold = rig.redeem(till, family, 2_000)
    loss.send(sold)
    rig.now.forward(minutes=-30)
    loss.send(other.refund(rig.read(sold), (1, 1)))
    loss.lose()
    loss.begin()
    for each in (till, other):
        loss.offer(each)
    loss.open()
    assert loss.exceptions() == []
    loss.is_whole()


# ── keys and tills ─────────────────────────────────────────────────────────────────────────────


def test_a_till_that_changed_its_key_comes_back_with_both(loss: Loss) -> None:
    """Its certificate vouches for the new key until its `key_change` is booked again; then the old
    one is closed as it was."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start())
    loss.back_up()
    loss.send(rig.redeem(till, family, 1_000))
    change_key(loss, till)
    loss.send(rig.redeem(till, family, 2_000))
    loss.lose()
    loss.begin()
    assert found(rig, till.key.kid) is None
    loss.offer(till)
    loss.open()
    loss.is_whole()


def test_a_till_that_enrolled_after_the_backup_is_enrolled_as_it_was(loss: Loss) -> None:
    """Name, number, store, key and every sale; also one that changed its key since."""
    rig, family = loss.rig, loss.rig.holder()
    loss.back_up()
    till, other = loss.till(), loss.till()
    loss.send(till.start(), rig.redeem(till, family, 1_000), other.start())
    change_key(loss, other)
    loss.send(rig.redeem(other, family, 500))
    loss.lose()
    loss.begin()
    # The younger first: numbers are as they were all the same.
    loss.offer(other)
    loss.offer(till)
    loss.open()
    loss.is_whole()


def test_a_till_whose_store_is_not_there_waits_for_the_operator(loss: Loss) -> None:
    """It is told, the operator is alarmed, and once the store is made again it goes on."""
    rig, family = loss.rig, loss.rig.holder()
    loss.back_up()
    rig.office.put_store("zhou-new", "zhou", "周家超市 新店")
    rig.programmes.admit_store(PROGRAMME, "zhou-new")
    till = loss.till("zhou-new")
    loss.send(till.start(), rig.redeem(till, family, 1_000))
    loss.lose()
    loss.begin()
    for _ in range(2):
        with pytest.raises(Problem) as refused:
            loss.offer(till)
        assert refused.value.code == "not_enrolled"
    alarms = rig.tables(["alarms"])["alarms"]
    assert [row["kind"] for row in alarms] == ["store_missing"]
    rig.office.put_store("zhou-new", "zhou", "周家超市 新店")
    rig.programmes.admit_store(PROGRAMME, "zhou-new")
    loss.offer(till)
    loss.open()
    loss.is_whole()


def test_numbers_noted_without_their_bucket_are_offered_once(loss: Loss) -> None:
    """A book from before the bucket was noted: the till offers what is held, and then no more."""
    rig, till = loss.rig, loss.till()
    loss.send(till.start())
    with rig.database.write() as connection:
        connection.execute(update(schema.terminal_notes).values(bucket=None))
    assert loss.offer(till, [], complete=False)["held"] == []
    answer = loss.offer(till)
    assert (answer["held"], answer["results"]) == ([[1, 1]], [{"result": "held"}])


def test_numbers_that_were_given_out_do_not_come_again(loss: Loss) -> None:
    """A till that enrols after the opening has another number than one that was lost for good."""
    rig = loss.rig
    loss.back_up()
    lost = rig.signer()
    number = found(rig, lost.key.kid)
    loss.lose()
    loss.begin()
    loss.open()
    fresh = found(rig, rig.signer().key.kid)
    assert number is not None and fresh is not None
    assert fresh.terminal_no > number.terminal_no + 90


# ── what is set aside ──────────────────────────────────────────────────────────────────────────


def given_pack(shop: Shop, till: Signer) -> tuple[str, list[bytes]]:
    """A pack as the till holds it: its manifest, its files."""
    caller = shop.terminal(till)
    sha256, manifest = shop.packs.make(caller, till.incarnation)
    data = shop.packs.file(caller, sha256)
    segments = json.loads(data)["households"]["segments"]
    others = sorted({each["sha256"] for each in segments})
    return manifest, [data, *(shop.packs.file(caller, each) for each in others)]


def test_what_was_set_aside_is_set_aside_again(loss: Loss) -> None:
    """With its number and dates, before what was drawn on it; and a sale that went out of the door
    within it is judged then as it would have been."""
    rig, shop = loss.rig, Shop(loss.rig)
    till, other = loss.till(), loss.till()
    family = shop.at_home()
    loss.send(till.start(), other.start())
    loss.back_up()
    loss.send(rig.redeem(other, family, 2_000))
    manifest, files = given_pack(shop, till)
    rig.now.forward(hours=1)
    pack = digest(files[0])
    uses = [AllotmentUse(family.voucher, 1, 1_500, 0)]
    loss.send(*rig.offline_sale(till, family, 1_500, uses=uses, pack_sha256=pack))
    loss.send(rig.redeem(other, family, 5_000))
    # More than is available: half a thousand from what is set aside for this till.
    assert loss.one(rig.redeem(till, family, 500)).vouchers[0].from_allotment_minor == 500
    waiting = rig.offline_sale(
        till, family, 900, uses=[AllotmentUse(family.voucher, 1, 900, 0)], pack_sha256=pack
    )
    loss.lose()
    loss.begin()
    assert set(loss.offer_pack(till, manifest, [])) == {pack}
    assert len(loss.offer_pack(till, manifest, files[:1])) == len(files) - 1
    assert loss.offer_pack(till, manifest, files[1:]) == []
    for each in (till, other):
        loss.offer(each)
    loss.open(early=True)  # the shop has a till more
    loss.is_whole()
    rig.now.forward(days=3)
    answers = loss.send(*waiting)
    assert [code(each) for each in answers] == ["posted", "posted"]


def test_later_dates_and_new_homes_come_back(loss: Loss) -> None:
    """What was set aside before the backup and asked for again since counts as long as the till was
    told; and a household's vouchers are set aside where it shopped last."""
    rig, shop = loss.rig, Shop(loss.rig)
    till, family, other, third = loss.till(), shop.at_home(), rig.holder(), rig.holder()
    loss.send(till.start())
    given_pack(shop, till)
    loss.back_up()
    rig.now.forward(days=2)
    loss.send(rig.redeem(till, other, 1_000))
    manifest, files = given_pack(shop, till)
    loss.send(rig.redeem(till, third, 1_000))
    rig.now.forward(days=6)
    loss.lose()
    loss.begin()
    # Only the first is known to have shopped here: the others' `sub`s are tried too.
    loss.offer_pack(till, manifest, files)
    loss.offer(till)
    loss.open(early=True)
    loss.is_whole()
    assert len(shop.pack(till)["households"]["dates"]) == 1
    assert rig.balance(family.voucher) == (6_000, 0, 0)


def test_what_people_decided_in_what_is_lost_is_held_no_more(loss: Loss) -> None:
    """A record that was held before the backup and posted since: it has its last answer, and waits
    for nobody again."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start())
    rig.terminals.set_status(till.terminal, "revoked")
    sold = rig.redeem(till, family, 1_000)
    assert code(rig.send_one(sold)) == "held"
    loss.back_up()
    [held] = rig.tables(["held_records"])["held_records"]
    HeldRulings(rig.database, rig.book, rig.now).post(held["n"], operator="office")
    loss.one(sold)
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open()
    assert [row["decision"] for row in rig.tables(["held_records"])["held_records"]] == ["post"]
    assert rig.balance(family.voucher) == (11_000, 0, 0)
    assert loss.exceptions() == []


def test_what_is_set_aside_takes_nothing_from_a_sale_of_before(loss: Loss) -> None:
    """A voucher was spent, refunded, and then half of it set aside: put back first, that would
    leave too little for the sale, whose refund then never came."""
    rig, shop = loss.rig, Shop(loss.rig)
    till, other = loss.till(), loss.till()
    family = shop.at_home()
    loss.send(till.start(), other.start())
    loss.back_up()
    sold = rig.redeem(other, family, 11_000)
    loss.send(sold)
    rig.now.forward(minutes=5)
    loss.send(other.refund(rig.read(sold), (1, 1)))
    rig.now.forward(minutes=5)
    manifest, files = given_pack(shop, till)
    rig.now.forward(minutes=5)
    loss.send(rig.redeem(other, family, 6_000))
    assert loss.one(rig.redeem(till, family, 3_000)).vouchers[0].from_allotment_minor == 3_000
    loss.lose()
    loss.begin()
    loss.offer_pack(till, manifest, files)
    for each in (till, other):
        loss.offer(each)
    loss.open(early=True)
    assert loss.exceptions() == []
    loss.is_whole()


def test_what_is_past_its_date_makes_room_for_what_was_set_aside_since(loss: Loss) -> None:
    """The copy of the book still holds aside for one till what was freed since and set aside for
    another: that one's sales are within it, as it was told."""
    rig, shop = loss.rig, Shop(loss.rig)
    till, other = loss.till(), loss.till()
    family = shop.at_home()
    loss.send(till.start(), other.start())
    given_pack(shop, till)
    loss.back_up()
    loss.send(rig.redeem(other, family, 6_000))
    rig.now.forward(days=8)
    manifest, files = given_pack(shop, other)
    uses = [AllotmentUse(family.voucher, 2, 3_000, 0)]
    waiting = rig.offline_sale(other, family, 3_000, uses=uses, pack_sha256=digest(files[0]))
    loss.lose()
    loss.begin()
    loss.offer_pack(other, manifest, files)
    for each in (till, other):
        loss.offer(each)
    loss.open(early=True)  # the shop has a till more
    loss.is_whole()
    rows = rig.tables(["allotments"])["allotments"]
    assert [(row["terminal"], row["closed"]) for row in rows] == [
        (till.terminal, 1), (other.terminal, 0),
    ]  # fmt: skip
    assert [code(each) for each in loss.send(*waiting)] == ["posted", "posted"]


def test_what_was_given_back_stays_given_back(loss: Loss) -> None:
    """An allotment of before the loss that was returned in what is lost; and one that is past its
    time when the ledger is opened is freed."""
    rig, shop = loss.rig, Shop(loss.rig)
    till, other = loss.till(), loss.till()
    first, second = shop.at_home(), shop.at_home()
    loss.send(till.start(), other.start())
    given_pack(shop, till)
    given_pack(shop, other)
    loss.back_up()
    back = ReturnAllotment(((first.voucher, 1),))
    [own_id] = [new_attempt_id(first.bucket, rig.now())]
    loss.send(till.sign(back, own_id))
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.offer(other)
    loss.open(early=True)  # the shop has a till more
    loss.is_whole()
    loss.begin()
    rig.now.forward(days=8)
    loss.offer(till)
    loss.offer(other)
    loss.open(early=True)  # the shop has a till more
    assert all(row["closed"] for row in rig.tables(["allotments"])["allotments"])
    assert rig.balance(second.voucher) == (12_000, 0, 0)


def test_an_allotments_number_does_not_come_again(loss: Loss) -> None:
    """A till counts by number what it used: one that was lost must not be given out anew."""
    rig, shop = loss.rig, Shop(loss.rig)
    till, family = loss.till(), shop.at_home()
    loss.back_up()
    given_pack(shop, till)
    loss.lose()
    loss.begin()
    loss.open(early=True)
    [voucher] = shop.household(family, till).vouchers
    assert [each.allotment for each in voucher.allotments] == [epoch_floor(rig) + 1]


def epoch_floor(rig: Rig) -> int:
    return (rig.keyring.epoch - 1) * 10**6


def test_sales_out_of_the_door_come_back_with_their_losses(loss: Loss) -> None:
    """Posted short from the loss reserve, and the exception that a person looks at: listed again,
    paid once."""
    rig = loss.rig
    shop, till = Shop(rig, floor=FLOOR), loss.till()
    rig.office.reserve_for_losses(PROGRAMME, 4_000, "losses-1")
    family = shop.at_home()
    loss.send(till.start(), rig.redeem(till, family, 10_000))
    loss.back_up()
    rig.now.forward(hours=1)
    answers = loss.send(*rig.offline_sale(till, family, 5_000))
    assert [code(each) for each in answers] == ["posted_short", "posted_short"]
    loss.send(*rig.offline_sale(till, family, 4_000))
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open(early=True)  # the shop has a till more
    loss.is_whole()


def test_a_refused_sale_that_went_out_all_the_same_comes_back(loss: Loss) -> None:
    """Refused online, the answer lost, accepted by the till, judged once more: both answers are
    stored, and it is booked once."""
    rig, shop, till = loss.rig, Shop(loss.rig, floor=FLOOR), loss.till()
    rig.office.reserve_for_losses(PROGRAMME, 4_000, "losses-1")
    family = shop.at_home()
    loss.send(till.start(), rig.redeem(till, family, 11_500))
    loss.back_up()
    online = rig.redeem(till, family, 1_000)
    assert code(loss.one(online)) == "balance_insufficient"
    rig.now.forward(minutes=1)
    sale = rig.read(online)
    accept = till.sign(AcceptOffline(sale.digest, "programme", "A" * 43, ()), sale.id)
    evidence = seal(
        online["token"], key=rig.keyring.evidence_key, terminal=till.terminal, attempt_id=sale.id
    )
    both = [{"record": each.jws, "evidence": evidence} for each in (sale, accept)]
    assert [code(each) for each in loss.send(*both)] == ["balance_insufficient", "posted_short"]
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open(early=True)
    assert loss.exceptions() == []
    loss.is_whole()


# ── settlement ─────────────────────────────────────────────────────────────────────────────────


def test_a_batch_that_was_paid_is_not_paid_again(loss: Loss) -> None:
    """The same number, bytes and funders' shares, whether its bookings are there already or come
    with the tills; and the next close takes only what is new."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    closing = Settlement(rig.database, rig.keyring, rig.now)
    loss.send(till.start(), rig.redeem(till, family, 1_000))
    closing.close()
    loss.send(rig.redeem(till, family, 300))
    loss.back_up()
    sold = rig.redeem(till, family, 2_000)
    loss.send(sold)
    rig.now.forward(minutes=5)
    closing.close()
    loss.send(till.void(rig.read(sold)))  # too late: it is settled
    loss.send(till.refund(rig.read(sold), (1, 1)))
    closing.close()
    batches = rig.tables(["batches"])["batches"]
    loss.send(rig.redeem(till, family, 40))
    loss.lose()
    loss.begin()
    restoring = LostBatches(rig.database, rig.keyring)
    second, third = (row for row in batches if row["batch_no"] > 1)
    with pytest.raises(Problem) as refused:
        restoring.restore(third["manifest"], bytes(third["file"]))
    assert refused.value.code == "out_of_order"
    for row in (second, third, second):
        restoring.restore(row["manifest"], bytes(row["file"]))
    assert [each["offered"] for each in loss.status()["paid_not_booked"]] == [False, False]
    loss.offer(till)
    assert [each["offered"] for each in loss.status()["paid_not_booked"]] == [True, True]
    loss.open()
    loss.is_whole()
    assert loss.status()["paid_not_booked"] == []
    [batch] = Settlement(rig.database, rig.keyring, rig.now).close()
    assert (batch.batch_no, batch.rows, batch.net_minor) == (4, 1, 40)


def test_a_batch_whose_sale_is_sent_again_after_the_opening(loss: Loss) -> None:
    """The till never had the answer, so it could prove nothing; it was paid all the same."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start())
    loss.back_up()
    sold = rig.redeem(till, family, 2_000)
    rig.send(sold)
    Settlement(rig.database, rig.keyring, rig.now).close()
    [batch] = rig.tables(["batches"])["batches"]
    loss.lose()
    loss.begin()
    LostBatches(rig.database, rig.keyring).restore(batch["manifest"], bytes(batch["file"]))
    loss.offer(till)
    loss.open()
    assert loss.status()["report"]["paid_not_booked"] == 1
    assert code(rig.send_one(sold)) == "posted"
    assert Settlement(rig.database, rig.keyring, rig.now).close() == []
    assert loss.status()["paid_not_booked"] == []


def test_a_batch_that_somebody_made_up(loss: Loss) -> None:
    """Another ledger's, or a file that is not the one that was signed: nothing is restored."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start(), rig.redeem(till, family, 2_000))
    Settlement(rig.database, rig.keyring, rig.now).close()
    [batch] = rig.tables(["batches"])["batches"]
    stranger = replace(rig.keyring, signing=SigningKey.generate())
    Settlement(rig.database, stranger, rig.now)
    before = rig.tables()
    file = bytes(batch["file"])
    with pytest.raises(Malformed):
        LostBatches(rig.database, rig.keyring).restore(
            batch["manifest"], file.replace(b"2000", b"9000")
        )
    payload = jws.verify(batch["manifest"], typ=jws.MANIFEST, keys=rig.keyring.keys.keys).payload
    forged = jws.sign(payload, typ=jws.MANIFEST, key=SigningKey.generate())
    with pytest.raises(SignatureInvalid):
        LostBatches(rig.database, rig.keyring).restore(forged, file)
    assert rig.tables() == before


# ── what does not fit ──────────────────────────────────────────────────────────────────────────


def test_opening_before_every_till_has_reported_wants_a_word(loss: Loss) -> None:
    """It is refused with their names; told so, it opens, and what comes late is booked where it
    still fits, with what only waited for it."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    family = rig.holder()
    loss.send(till.start(), other.start())
    loss.back_up()
    sold = rig.redeem(other, family, 2_000)
    loss.send(sold)
    loss.send(till.refund(rig.read(sold), (1, 1)), rig.redeem(till, family, 1_000))
    loss.lose()
    loss.begin()
    loss.offer(till)
    with pytest.raises(Problem) as refused:
        loss.open()
    assert refused.value.code == "not_reported"
    assert refused.value.extra["terminals"] == [other.terminal]
    loss.open(early=True)
    assert loss.exceptions() == [("original_unknown", "refund", "open")]
    answer = loss.offer(other)
    assert (answer["state"], {r["result"] for r in answer["results"]}) == (
        "open", {"held", "placed"},
    )  # fmt: skip
    assert loss.exceptions() == []
    loss.is_whole()


def test_late_evidence_of_money_that_is_spent_is_a_persons(loss: Loss) -> None:
    """Opened early, the voucher was spent again: the lost sale is not booked, its id stays used
    up, its answer stays the same, and it is on the list until somebody has dealt with it."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    family = rig.holder()
    loss.send(till.start(), other.start())
    loss.back_up()
    sold = rig.redeem(other, family, 9_000)
    told = loss.one(sold)
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open(early=True)
    assert loss.one(rig.redeem(till, family, 8_000)).result == "posted"
    answer = loss.offer(other)
    assert [r["result"] for r in answer["results"]] == ["held", "exception"]
    assert loss.exceptions() == [("balance_insufficient", "redeem", "open")]
    assert rig.send_one(sold).jws == told.jws
    assert code(rig.send_one(other.void(rig.read(sold)))) == "original_not_booked"
    assert loss.offer(other)["results"][1] == {"result": "exception"}
    status = HealStatus(rig.database, rig.now)
    [listed] = status.exceptions(0)
    assert status.close(listed["exception"], "paid by hand", operator="office") == "changed"
    assert status.close(listed["exception"], "paid by hand", operator="office") == "exists"
    assert loss.exceptions() == [("balance_insufficient", "redeem", "closed")]


def test_a_voucher_that_was_issued_in_what_is_lost_is_named(loss: Loss) -> None:
    """Nobody brings it back: what was spent of it is on the list."""
    rig, till = loss.rig, loss.till()
    loss.send(till.start())
    loss.back_up()
    family = rig.holder()
    sold = rig.redeem(till, family, 1_000)
    told = loss.one(sold)
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open()
    assert loss.exceptions() == [("voucher_unknown", "redeem", "open")]
    assert rig.tables(["attempts"])["attempts"][-1]["posting"] is None
    assert rig.send_one(rig.read(sold)).jws == told.jws
    [line] = loss.status()["report"]["excepted"]
    assert (line["reason"], line["count"], line["amount_minor"]) == ("voucher_unknown", 1, 1_000)


def test_the_till_reverses_what_could_not_be_booked_again(loss: Loss) -> None:
    """Goods that never left: nothing was booked, so nothing goes back, and the till is free."""
    rig, till = loss.rig, loss.till()
    loss.send(till.start())
    loss.back_up()
    family = rig.holder()
    sold = rig.redeem(till, family, 1_000)
    loss.send(sold)
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open()
    answer = rig.send_one(till.reversal(rig.read(sold), "goods_kept"))
    assert (answer.result, answer.vouchers) == ("reversed", ())


def test_a_reversal_whose_sale_nobody_has_an_answer_of(loss: Loss) -> None:
    """The till gave up on a sale that had been posted: it comes to nothing, and stays so."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start())
    loss.back_up()
    sold = rig.redeem(till, family, 1_000)
    rig.send(sold)  # the answer is lost on the way
    assert loss.one(till.reversal(rig.read(sold))).amount_minor == 1_000
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open()
    assert loss.exceptions() == []
    assert rig.balance(family.voucher) == (12_000, 0, 0)
    assert code(rig.send_one(sold)) == "reversed"


def test_what_was_decided_otherwise_since_is_a_persons(loss: Loss) -> None:
    """The till sent the record again before anybody noticed the loss."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start())
    loss.back_up()
    sold = rig.redeem(till, family, 9_000)
    loss.send(sold)
    loss.lose()
    assert rig.send_one(rig.redeem(till, family, 8_000)).result == "posted"
    assert code(rig.send_one(sold)) == "balance_insufficient"
    loss.begin()
    loss.offer(till)
    loss.open()
    assert loss.exceptions() == [("decided_differently", "redeem", "open")]


# ── who finds it out ───────────────────────────────────────────────────────────────────────────


def test_a_loss_that_nobody_told_of_is_found_by_the_first_till(loss: Loss) -> None:
    """What it holds is kept and nothing is booked; the operator is alarmed; begun and opened, all
    is there."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    loss.send(till.start())
    loss.back_up()
    loss.send(rig.redeem(till, family, 2_000))
    loss.lose()
    answer = loss.offer(till)
    assert answer["state"] == "open"
    assert [r["result"] for r in answer["results"]] == ["held", "staged"]
    assert (loss.status()["lost"], loss.status()["state"]) == (1, "open")
    assert [row["kind"] for row in rig.tables(["alarms"])["alarms"]] == ["data_lost"]
    assert [each["over"] for each in rig.terminals.alarms(0)] == [False]
    assert rig.balance(family.voucher) == (12_000, 0, 0)
    loss.begin()
    # Whoever reads the alarm now must not stop the ledger and begin again.
    assert [each["over"] for each in rig.terminals.alarms(0)] == [True]
    loss.offer(till)
    loss.open()
    loss.is_whole()
    assert [each["over"] for each in rig.terminals.alarms(0)] == [True]


def test_a_till_learns_what_is_missing(loss: Loss) -> None:
    """By number: what is decided here or was offered; so it offers the rest, and nothing twice."""
    rig, till, family = loss.rig, loss.till(), loss.rig.holder()
    for _ in range(3):
        loss.send(rig.redeem(till, family, 10))
    loss.back_up()
    for _ in range(3):
        loss.send(rig.redeem(till, family, 10))
    loss.lose()
    loss.begin()
    pairs = loss.held[till.terminal]
    assert loss.offer(till, [], complete=False)["held"] == [[1, 3]]
    assert loss.offer(till, [pairs[4]], complete=False)["held"] == [[1, 3], [5, 5]]
    [told] = [each for each in loss.status()["terminals"] if each["missing"]]
    assert told["missing"] == [{"incarnation": till.incarnation, "numbers": [[4, 4]]}]
    assert (told["complete"], told["offered"]) == (False, 1)
    assert loss.offer(till)["held"] == [[1, 6]]
    assert loss.status()["terminals"][0]["complete"]


def test_what_is_forged_brings_nothing_back(loss: Loss) -> None:
    """An outcome that the ledger did not sign, one for another record, another till's record, a
    certificate of another ledger: each is refused in its place, and the good one beside is kept."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    family = rig.holder()
    loss.send(till.start(), other.start())
    loss.back_up()
    loss.send(rig.redeem(till, family, 2_000), rig.redeem(till, family, 3_000))
    loss.send(rig.redeem(other, family, 1_000))
    loss.lose()
    loss.begin()
    _, first, second = loss.held[till.terminal]
    stranger = SigningKey.generate()
    forged = jws.sign(outcome_of(first[1]), typ=jws.OUTCOME, key=stranger)
    items = [
        (first[0], forged),
        (first[0], second[1]),
        loss.held[other.terminal][1],
        second,
    ]
    results = loss.offer(till, items)["results"]
    assert [r.get("result") or r["problem"]["code"] for r in results] == [
        "signature_invalid", "malformed", "signature_invalid", "staged",
    ]  # fmt: skip
    made_up = jws.sign(
        jws.verify(
            loss.certificates[till.terminal][0]["certificate"],
            typ=jws.CERTIFICATE,
            keys=rig.keyring.keys.keys,
        ).payload,
        typ=jws.CERTIFICATE,
        key=stranger,
    )
    with pytest.raises(SignatureInvalid):
        loss.offering().certified([{"key": till.key.public.to_jwk(), "certificate": made_up}])
    loss.open(early=True)
    assert rig.balance(family.voucher) == (9_000, 0, 0)


# ── crashes ────────────────────────────────────────────────────────────────────────────────────


class Killed(Exception):
    """The process ended here."""


def killed(loss: Loss, point: str, after: int) -> Opening:
    """An opening whose process ends at the `after`-th such point."""
    left = [after]

    def reached(passed: str) -> None:
        if passed == point:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    return loss.opening(reached)


@pytest.mark.parametrize("point", ["noted", "written", "committed"])
def test_late_evidence_that_is_placed_when_the_ledger_dies(loss: Loss, point: str) -> None:
    """The till is told that all of it is held and offers it no more: when it asks again, what fits
    is booked, and what does not is listed, wherever the ledger was killed."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    fits, spent = rig.holder(), rig.holder()
    loss.send(till.start(), other.start())
    loss.back_up()
    loss.send(rig.redeem(other, fits, 2_000), rig.redeem(other, spent, 9_000))
    loss.lose()
    loss.begin()
    loss.offer(till)
    loss.open(early=True)
    loss.one(rig.redeem(till, spent, 8_000))
    for after in range(1, 5):
        with suppress(Killed):
            items: list[tuple[str, str]] | None = None if after == 1 else []
            loss.offer(other, items, opening=killed(loss, point, after))
    assert loss.offer(other, [])["held"] == [[1, 3]]
    assert loss.exceptions() == [("balance_insufficient", "redeem", "open")]
    assert rig.balance(fits.voucher) == (10_000, 0, 0)
    assert rig.balance(spent.voucher) == (4_000, 0, 0)


@pytest.mark.parametrize("point", ["noted", "written", "committed", "replayed", "turned"])
def test_an_opening_that_is_cut_short_goes_on(loss: Loss, point: str) -> None:
    """INV-8: killed at each such point, again and again; in the end it is as if it never was."""
    rig, till, other = loss.rig, loss.till(), loss.till()
    family = rig.holder()
    loss.send(till.start(), other.start())
    loss.back_up()
    sold = rig.redeem(other, family, 2_000)
    loss.send(rig.redeem(till, family, 500), sold)
    loss.send(till.refund(rig.read(sold), (1, 1)))
    change_key(loss, other)
    loss.lose()
    loss.begin()
    for each in (till, other):
        loss.offer(each)

    for after in range(1, 5):
        try:
            loss.open(early=False, opening=killed(loss, point, after))
        except Killed:
            loss.offer(till)  # repeated, it changes nothing
    loss.open()
    loss.open()  # it is open: nothing happens
    assert loss.exceptions() == []
    loss.is_whole()
