"""Allotments: what two honest tills can't spend twice, by construction (docs/offline.md §4)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import insert, update

from carepos.acceptance import ReturnAllotment
from carepos.basket import Entry, Line
from carepos.households import HouseholdKey, read_segment
from carepos.ids import new_attempt_id
from carepos.keys import digest
from carepos.outcome import Outcome
from carepos_ledger import schema, terminal_keys
from carepos_ledger.erasure import Erasure
from carepos_ledger.held import export
from carepos_ledger.packs import Packs
from carepos_ledger.person import Who
from carepos_ledger.shelf import Terminal
from tests.ledger.rig import (
    AUDIENCE,
    ISSUER,
    MILK,
    PROGRAMME,
    RICE,
    RULES,
    Holder,
    Rig,
    Signer,
    code,
)

DAY = 86_400
OFFLINE: dict[str, Any] = {
    "allotment_permille": 500,
    "spend_s": 3 * DAY,
    "upload_s": 4 * DAY,
    "pack_age_s": 3 * DAY,
    "floor": None,
    "stored_sum_minor": 1_000_000,
    "stored_count": 500,
    "online_permille": 0,
}
ODD_CAP = {"unit": "piece", "cap_minor": 3, "fixed_minor": 0, "cap_quantity": 2}


class Shop:
    """A store that redeems offline: its first till, and packs for any till of it."""

    def __init__(self, rig: Rig, **rule: Any) -> None:
        rig.programmes.put_programme({**RULES, "offline": {**OFFLINE, **rule}})
        self.rig = rig
        self.till = rig.signer()
        self.packs = Packs(rig.database, rig.keyring, rig.intake.trust, AUDIENCE, rig.now)

    def at_home(self, *rows: dict[str, Any]) -> Holder:
        """A household that shops here: it did once, for one minor unit or piece of soap."""
        holder = self.rig.holder(*rows)
        self.visit(holder)
        return holder

    def visit(self, holder: Holder, till: Signer | None = None) -> None:
        signer = till or self.till
        with self.rig.database.write() as connection:
            connection.execute(
                insert(schema.homes).values(
                    bucket=holder.bucket,
                    beneficiary=holder.beneficiary,
                    store="zhou-shop" if signer.merchant == "zhou" else "li-shop",
                    pinned=0,
                )
            )

    def move(self, holder: Holder) -> None:
        """From now on it shops at another store."""
        with self.rig.database.write() as connection:
            connection.execute(update(schema.homes).values(store="li-shop"))

    def terminal(self, signer: Signer) -> Terminal:
        found = terminal_keys.find(self.rig.database, signer.key.kid)
        assert found is not None
        return found

    def pack(self, signer: Signer | None = None) -> dict[str, Any]:
        """The pack that a till is given, as JSON."""
        signer = signer or self.till
        sha256, _ = self.packs.make(self.terminal(signer), signer.incarnation)
        data = self.packs.file(self.terminal(signer), sha256)
        assert digest(data) == sha256
        return dict(json.loads(data))

    def household(self, holder: Holder, signer: Signer | None = None) -> Any:
        """What the holder's token opens in the till's pack."""
        signer = signer or self.till
        told = self.pack(signer)["households"]
        key = HouseholdKey.of(
            ISSUER, holder.sub, terminal=signer.terminal, incarnation=signer.incarnation
        )
        segment = told["segments"][key.segment]
        data = self.packs.file(self.terminal(signer), segment["sha256"])
        assert len(data) == segment["length"]
        entry = read_segment(data)[key.tag]
        return key.open(entry, kinds=len(told["kinds"]), dates=len(told["dates"]))

    def pay(self, holder: Holder, minor: int, signer: Signer | None = None) -> Outcome:
        return self.rig.send_one(self.rig.redeem(signer or self.till, holder, minor))


@pytest.fixture
def shop(rig: Rig) -> Shop:
    return Shop(rig)


# ── setting aside ──────────────────────────────────────────────────────────────────────────────


def test_half_of_a_voucher_is_set_aside_for_the_till_that_asks(shop: Shop) -> None:
    """The programme's share, told in the pack under the holder's own key; asking again, for the
    same till, sets nothing more aside and gives later dates."""
    holder = shop.at_home()
    [voucher] = shop.household(holder).vouchers
    assert (voucher.voucher, voucher.available_minor) == (holder.voucher, 6_000)
    [allotment] = voucher.allotments
    assert (allotment.allotment, allotment.amount_minor) == (1, 6_000)
    assert shop.rig.balance(holder.voucher) == (6_000, 0, 0)
    [first] = shop.pack()["households"]["dates"]
    shop.rig.now.forward(days=1)
    assert shop.household(holder).vouchers[0].allotments == (allotment,)
    [second] = shop.pack()["households"]["dates"]
    assert second > first
    assert shop.rig.balance(holder.voucher) == (6_000, 0, 0)


def test_the_pack_tells_what_is_set_aside_in_all(shop: Shop) -> None:
    """What the allotments hold together when it is made, by currency: less what was drawn on them;
    nothing of other tills'. It says nothing of a household."""
    first, _ = shop.at_home(), shop.at_home()
    assert shop.pack()["allotted"] == [{"currency": "CNY", "amount_minor": 12_000}]
    shop.pay(first, 8_000)  # 6000 were open
    [told] = shop.pack()["allotted"]
    assert told["amount_minor"] == 12_000 - 2_000
    assert shop.pack(shop.rig.signer())["allotted"] == []


def test_a_second_till_gets_what_is_still_free_of_the_share(shop: Shop) -> None:
    """All tills together never have more than the share."""
    holder, other = shop.at_home(), shop.rig.signer()
    shop.pack()
    assert shop.household(holder, other).vouchers[0].allotments == ()
    assert shop.rig.balance(holder.voucher) == (6_000, 0, 0)
    shop.pay(holder, 8_000)
    assert shop.rig.balance(holder.voucher) == (0, 0, 0)


def test_an_item_voucher_is_set_aside_in_whole_pieces(shop: Shop) -> None:
    """A quantity with the money that it may cost; where a cap does not divide, what is left over
    stays saved."""
    holder = shop.at_home({"kind": "item", "quantity": 5, "terms": ODD_CAP})
    [voucher] = shop.household(holder).vouchers
    [allotment] = voucher.allotments
    assert (allotment.amount_minor, allotment.quantity) == (3, 2)
    assert shop.rig.balance(holder.voucher) == (4, 0, 3)
    assert voucher.available_quantity == 3


def test_nothing_is_set_aside_where_the_programme_works_online_only(rig: Rig) -> None:
    """Without `offline` a pack names the households and holds nothing back."""
    shop = Shop(rig)
    rig.programmes.put_programme(RULES)
    holder = shop.at_home()
    assert shop.household(holder).vouchers[0].allotments == ()
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_nothing_of_a_voucher_that_can_t_be_used_is_set_aside(shop: Shop) -> None:
    """Frozen, expired or not begun; it is named all the same."""
    frozen = shop.at_home()
    shop.rig.office.freeze(PROGRAMME, voucher=frozen.voucher, frozen=True)
    later = shop.at_home({"starts_at": "2027-01-01T00:00:00.000Z"})
    over = shop.at_home({"expires_at": "2026-11-22T08:00:00.000Z"})
    for holder in (frozen, later, over):
        [voucher] = shop.household(holder).vouchers
        assert voucher.allotments == ()


def test_a_household_follows_where_it_redeems(shop: Shop) -> None:
    """The store of its latest redemption is its home, until an operator pins one."""
    holder = shop.rig.holder()
    assert shop.pack()["households"]["count"] == 0
    shop.pay(holder, 100)
    assert shop.pack()["households"]["count"] == 1


# ── redeeming against it ───────────────────────────────────────────────────────────────────────


def test_who_moved_on_is_forgotten_once_it_is_given_back(shop: Shop) -> None:
    """A pack tells of them only what is set aside, as long as it is."""
    holder, rig = shop.at_home(), shop.rig
    shop.pack()
    shop.move(holder)
    assert shop.pack()["households"]["count"] == 1
    [voucher] = shop.household(holder).vouchers
    assert (voucher.available_minor, voucher.available_quantity) == (0, 0)
    back = ReturnAllotment(((holder.voucher, 1),))
    rig.send(shop.till.sign(back, new_attempt_id(holder.bucket, rig.now())))
    assert shop.pack()["households"]["count"] == 0


def test_what_is_set_aside_can_t_be_spent_elsewhere(shop: Shop) -> None:
    """Until `reclaim_after`; the refusal says where it is and until when."""
    holder, other = shop.at_home(), shop.rig.signer()
    shop.pack()
    assert shop.pay(holder, 6_000, other).result == "posted"
    refused = shop.pay(holder, 1, other)
    assert code(refused) == "reserved_elsewhere"
    assert refused.refusal is not None and refused.refusal.reserved is not None
    assert refused.refusal.reserved.store_name == "周家超市 古州店"
    assert refused.refusal.at == holder.voucher
    shop.rig.now.forward(seconds=7 * DAY - 1)
    assert code(shop.pay(holder, 1, other)) == "reserved_elsewhere"
    shop.rig.now.forward(seconds=1)
    assert shop.pay(holder, 6_000, other).result == "posted"
    assert shop.rig.balance(holder.voucher) == (0, 0, 0)


def test_the_till_itself_draws_on_available_first(shop: Shop) -> None:
    """Online it can spend all of the voucher; the outcome says what came from the allotment, and
    what is left counts both."""
    holder = shop.at_home()
    shop.pack()
    first = shop.pay(holder, 5_000)
    [state] = first.vouchers
    assert (state.from_allotment_minor, state.available_minor) == (0, 7_000)
    second = shop.pay(holder, 6_500)
    [state] = second.vouchers
    assert (state.amount_minor, state.from_allotment_minor) == (6_500, 5_500)
    assert state.available_minor == 500
    assert code(shop.pay(holder, 501)) == "balance_insufficient"
    [voucher] = shop.household(holder).vouchers
    assert [each.amount_minor for each in voucher.allotments] == [6_000]


def test_a_used_up_allotment_is_followed_by_another(shop: Shop) -> None:
    """What was used is set aside anew, under a number of its own, of what is left."""
    holder = shop.at_home()
    shop.pack()
    shop.pay(holder, 10_000)
    [voucher] = shop.household(holder).vouchers
    assert [each.allotment for each in voucher.allotments] == [1]
    shop.rig.office.fund(PROGRAMME, "red-cross", 1, "grant-2")
    assert shop.pay(holder, 2_000).result == "posted"
    assert [each.allotment for each in shop.household(holder).vouchers[0].allotments] == [1]
    assert shop.rig.balance(holder.voucher) == (0, 0, 0)


def test_pieces_and_money_of_an_item_voucher_from_both(shop: Shop) -> None:
    """Each source keeps what its rest may cost, so that the whole voucher can be redeemed at its
    cap, in whatever pieces."""
    for pieces in ([5], [4, 1], [1, 4], [1] * 5, [3, 2]):
        holder = shop.at_home({"kind": "item", "quantity": 5, "terms": ODD_CAP})
        shop.pack()
        for quantity in pieces:
            cap = 3 * quantity // 2
            envelope = shop.rig.redeem(
                shop.till,
                holder,
                basket=[Line(RICE, quantity, "piece", cap)],
                allocation=[Entry(1, holder.voucher, quantity, cap, 0)],
            )
            assert shop.rig.send_one(envelope).result == "posted", pieces
        assert shop.rig.balance(holder.voucher)[2] == 0


def test_drawing_on_it_waits_for_the_records_before(shop: Shop) -> None:
    """What the till sold offline before may have drawn on the same allotment; `available` is not
    waited for."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    missing = shop.till.start()
    assert shop.pay(holder, 6_000).result == "posted"
    waits = rig.redeem(shop.till, holder, 1_000)
    assert rig.send(waits) == ["sequence_gap"]
    assert rig.send_one(missing).result == "posted"
    assert rig.send_one(waits).vouchers[0].from_allotment_minor == 1_000


def test_a_new_journal_does_not_spend_what_the_old_one_was_given(shop: Shop) -> None:
    """Another incarnation of the same till is another till: the old one may have sold offline."""
    holder = shop.at_home()
    shop.pack()
    reborn = Signer(shop.till.terminal, shop.till.merchant, shop.till.key, shop.rig.now)
    assert shop.household(holder, reborn).vouchers[0].allotments == ()
    assert shop.pay(holder, 6_000, reborn).result == "posted"
    assert code(shop.pay(holder, 1, reborn)) == "reserved_elsewhere"


def test_what_is_set_aside_of_somebody_who_is_erased_goes_back_too(shop: Shop) -> None:
    """The programme gets all of it, the export says where the household shopped, and no pack holds
    them any more."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    before = rig.office.programme_sums(PROGRAMME)
    assert (before.available_minor, before.allotted_minor) == (6_000, 6_000)
    erasure = Erasure(rig.database, rig.now)
    who = Who(ISSUER, holder.sub, None, None)
    assert export(rig.database, who, rig.now)["home_store"] == "zhou-shop"
    told = erasure.erase(who, forfeit=True, operator="o", dry_run=True)
    assert told.forfeited_minor == {PROGRAMME: 12_000}
    assert rig.office.programme_sums(PROGRAMME) == before
    erasure.erase(who, forfeit=True, operator="o")
    after = rig.office.programme_sums(PROGRAMME)
    assert (after.available_minor, after.allotted_minor, after.returned_minor) == (0, 0, 12_000)
    assert rig.counts().get("homes") is None and rig.counts().get("pack_files") is None
    assert shop.pack()["households"]["count"] == 0


# ── taking back ────────────────────────────────────────────────────────────────────────────────


def test_what_was_drawn_goes_back_to_available(shop: Shop) -> None:
    """Reversal, void and refund: by then the allotment may be closed, so the till gets nothing of
    it back and the household everything."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    for undo in (shop.till.reversal, shop.till.void, lambda sale: shop.till.refund(sale, (1, 3))):
        envelope = rig.redeem(shop.till, holder, 9_000, basket=[Line(MILK, 3, "piece", 9_000)])
        assert rig.send_one(envelope).result == "posted"
        answer = rig.send_one(undo(rig.read(envelope)))
        [back] = answer.vouchers
        assert (back.amount_minor, back.from_allotment_minor) == (9_000, 0)
        assert back.available_minor == 12_000
    assert rig.balance(holder.voucher) == (9_000, 0, 0)


def test_fifty_tills_race_for_one_voucher_that_is_set_aside_in_part(shop: Shop) -> None:
    """T-2: exactly what is not set aside is posted, and the till it is for gets the rest."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    tills = [rig.signer() for _ in range(20)]
    answers = rig.side_by_side([rig.redeem(each, holder, 1_000) for each in tills])
    posted = [each for each in answers if code(each) == "posted"]
    assert len(posted) <= 6
    while shop.rig.balance(holder.voucher)[0]:
        assert shop.pay(holder, 1_000, tills[0]).result == "posted"
    assert code(shop.pay(holder, 1_000, tills[1])) == "reserved_elsewhere"
    assert shop.pay(holder, 6_000).vouchers[0].from_allotment_minor == 6_000


# ── giving back ────────────────────────────────────────────────────────────────────────────────


def give_back(shop: Shop, holder: Holder, *numbers: int, signer: Signer | None = None) -> Any:
    till = signer or shop.till
    content = ReturnAllotment(tuple((holder.voucher, number) for number in numbers))
    return till.sign(content, new_attempt_id(holder.bucket, shop.rig.now()))


def test_a_till_gives_back_what_is_left_of_its_allotment(shop: Shop) -> None:
    """What it did not use, once; from then anybody can spend it. Somebody else's stays."""
    rig, holder, other = shop.rig, shop.at_home(), shop.rig.signer()
    shop.pack()
    assert shop.pay(holder, 7_000).result == "posted"
    nothing = rig.send_one(give_back(shop, holder, 1, signer=other))
    assert (nothing.result, nothing.amount_minor, nothing.currency) == ("posted", 0, None)
    record = give_back(shop, holder, 1, 2)
    answer = rig.send_one(record)
    [state] = answer.vouchers
    assert (answer.currency, state.amount_minor, state.available_minor) == ("CNY", 5_000, 5_000)
    assert rig.send_one(record) == answer
    assert rig.send_one(give_back(shop, holder, 1)).amount_minor == 0
    assert shop.pay(holder, 5_000, other).result == "posted"
    assert shop.household(holder).vouchers[0].allotments == ()


def test_giving_back_waits_for_the_records_before(shop: Shop) -> None:
    """One of them may have drawn on it."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    missing = shop.till.start()
    record = give_back(shop, holder, 1)
    assert rig.send(record) == ["sequence_gap"]
    rig.send_one(missing)
    assert rig.send_one(record).amount_minor == 6_000
