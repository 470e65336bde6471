"""Void and refund at the one write path (docs/offline.md §3, FF-1 to FF-3)."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from carepos import ids
from carepos.basket import Entry, Line
from carepos.outcome import Outcome
from carepos.record import Record
from carepos.undo import Original, ReturnedLine
from carepos_ledger import schema
from carepos_ledger.problems import Problem
from carepos_ledger.settlement import Settlement
from carepos_ledger.shelf import Command
from tests.ledger.rig import MILK, PROGRAMME, RICE, RULES, Envelope, Holder, Rig, Signer, code

MEAL = {"unit": "piece", "cap_minor": 1_500, "fixed_minor": 1, "cap_quantity": 1}
RICE_TERMS = {"unit": "g", "cap_minor": 800, "fixed_minor": 0, "cap_quantity": 500}
PORTION = {"unit": "piece", "cap_minor": 1_000, "fixed_minor": 100, "cap_quantity": 2}


def sold(rig: Rig, till: Signer, holder: Holder, amount_minor: int = 6_000, **more: Any) -> Record:
    """A sale that stands in the book; three pieces of milk unless told otherwise."""
    more.setdefault("basket", [Line(MILK, 3, "piece", amount_minor)])
    envelope = rig.redeem(till, holder, amount_minor, **more)
    assert rig.send_one(envelope).result == "posted"
    return rig.read(envelope)


def goods(
    rig: Rig,
    till: Signer,
    holder: Holder,
    terms: dict[str, Any],
    quantity: int,
    programme_minor: int,
    beneficiary_minor: int = 0,
) -> Record:
    """A booked sale of `quantity` at the programme's and the beneficiary's part together."""
    line = Line(RICE, quantity, terms["unit"], programme_minor + beneficiary_minor)
    entry = Entry(1, holder.voucher, quantity, programme_minor, beneficiary_minor)
    return sold(rig, till, holder, basket=[line], allocation=[entry])


def moved(answer: Outcome) -> dict[str, tuple[int, int]]:
    """By voucher: money and quantity that the outcome says went back."""
    return {each.voucher: (each.amount_minor, each.quantity) for each in answer.vouchers}


# ── void ───────────────────────────────────────────────────────────────────────────────────────


def test_a_void_gives_the_whole_sale_back_once(rig: Rig) -> None:
    """What was posted is negated; the same void again has the same outcome, another one is told
    that nothing is left."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    void = till.void(sale)
    first = rig.send_one(void)
    assert (first.result, first.currency, first.amount_minor) == ("posted", "CNY", 6_000)
    assert moved(first) == {holder.voucher: (6_000, 0)}
    assert rig.balance(holder.voucher) == (12_000, 0, 0)
    assert rig.send_one(void) == first
    assert code(rig.send_one(till.void(sale))) == "already_undone"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_void_again_in_another_record_gets_the_same_result(rig: Rig) -> None:
    """INV-1: same id, same content, whoever approved it; other content is refused and alarmed."""
    till, holder = rig.signer(), rig.holder()
    sale, other = sold(rig, till, holder), sold(rig, till, holder, 100)
    void = till.void(sale)
    rig.send_one(void)
    again = rig.send_one(till.void(sale, void.id, approved_by="c09"))
    assert (again.result, moved(again)) == ("posted", {holder.voucher: (6_000, 0)})
    assert rig.balance(holder.voucher) == (11_900, 0, 0)
    assert code(rig.send_one(till.void(other, void.id))) == "id_content_mismatch"
    assert [row["kind"] for row in rig.tables(["alarms"])["alarms"]] == ["id_content_mismatch"]


def test_the_redeem_of_a_voided_sale_posts_nothing_again(rig: Rig) -> None:
    """The record that comes again has its stored outcome; the same sale in another record is told
    that nothing of it stands."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    first = rig.send_one(envelope)
    sale = rig.read(envelope)
    rig.send_one(till.void(sale))
    assert rig.send_one(envelope) == first
    twin = rig.redeem(till, holder, attempt_id=sale.id)
    answer = rig.send_one(twin)
    assert (answer.result, answer.amount_minor) == ("reversed", 0)
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_the_window_of_a_void_is_kept_by_both_clocks(rig: Rig) -> None:
    """Neither a till that dates its void back nor a late arrival opens the window again."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    at_once = till.void(sale)
    rig.now.forward(seconds=RULES["undo_window_s"])
    assert code(rig.send_one(at_once)) == "void_too_late"
    assert code(rig.send_one(till.void(sale))) == "void_too_late"
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_a_second_before_the_window_ends_a_void_is_taken(rig: Rig) -> None:
    """The window is half-open."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.now.forward(seconds=RULES["undo_window_s"] - 1)
    assert rig.send_one(till.void(sale)).result == "posted"


def test_a_settled_sale_is_not_voided_but_refunded(rig: Rig) -> None:
    """FF-2: once a batch holds the sale a void is `void_too_late`; the refund goes into the next
    batch."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    settlement = Settlement(rig.database, rig.keyring, rig.now)
    [first] = settlement.close()
    assert code(rig.send_one(till.void(sale))) == "void_too_late"
    refund = till.refund(sale, (1, 3))
    assert rig.send_one(refund).result == "posted"
    [second] = settlement.close()
    assert (first.net_minor, second.net_minor) == (6_000, -6_000)


def test_only_the_till_that_sold_may_void(rig: Rig) -> None:
    """Another till's sale, an id nobody used and another digest are all `original_unknown`."""
    till, other, holder = rig.signer(), rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    foreign = Original(other.terminal, sale.id, sale.digest)
    nobody = Original(till.terminal, till.undo_id(sale), sale.digest)
    wrong = Original(till.terminal, sale.id, rig.read(rig.redeem(till, holder)).digest)
    # The number of the record that was never sent must not stand in the way.
    till.sequence, till.prev = sale.sequence, sale.digest
    answers = [
        code(rig.send_one(signer.void(sale, original=original)))
        for signer, original in ((other, foreign), (till, nobody), (till, wrong))
    ]
    assert answers == ["original_unknown"] * 3
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_what_was_not_booked_can_t_be_taken_back(rig: Rig) -> None:
    """A refused sale, and one that was reversed, are `original_not_booked`."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder, 12_001)
    assert code(rig.send_one(envelope)) == "balance_insufficient"
    assert code(rig.send_one(till.void(rig.read(envelope)))) == "original_not_booked"
    sale = sold(rig, till, holder)
    rig.send_one(till.reversal(sale))
    assert code(rig.send_one(till.void(sale))) == "original_not_booked"
    assert code(rig.send_one(till.refund(sale, (1, 1)))) == "original_not_booked"


def test_an_undo_can_t_be_undone(rig: Rig) -> None:
    """A void or refund that names a void, and a reversal that does, move nothing."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    void = till.void(sale)
    rig.send_one(void)
    named = Original(till.terminal, void.id, void.digest)
    assert code(rig.send_one(till.void(sale, original=named))) == "original_unknown"
    assert code(rig.send_one(till.refund(sale, (1, 1), original=named))) == "original_unknown"
    assert code(rig.send_one(till.reversal(void))) == "id_content_mismatch"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_reversal_of_what_was_voided_gives_nothing_more(rig: Rig) -> None:
    """FF-1: all undo of one sale together never exceeds what it posted, whichever kind it is."""
    till, holder = rig.signer(), rig.holder()
    sale, other = sold(rig, till, holder), sold(rig, till, holder, 3_000)
    rig.send_one(till.void(sale))
    late = rig.send_one(till.reversal(sale))
    assert (late.result, late.amount_minor) == ("reversed", 0)
    rig.send_one(till.refund(other, (1, 2)))
    rest = rig.send_one(till.reversal(other))
    assert (rest.result, moved(rest)) == ("reversed", {holder.voucher: (1_000, 0)})
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_an_acted_sale_that_is_voided_makes_room_in_its_limit(rig: Rig) -> None:
    """As with a reversal: what was collected for another and is taken back was not collected."""
    till, holder = rig.signer(), rig.holder()
    limits = {"proxy": True, "witness": False, "household_minor": 6_000, "actor_minor": 6_000}
    rig.programmes.put_programme({**RULES, "acting": {**limits, "window_s": 86_400}})
    acted = rig.token(holder, act={"sub": "neighbour"}, care_reason="frail")
    sale = sold(rig, till, holder, token_text=acted)
    assert code(rig.send(rig.redeem(till, holder, 1, token_text=acted))[0]) == "acting_limit"
    assert rig.send_one(till.void(sale)).result == "posted"
    assert rig.send_one(rig.redeem(till, holder, 6_000, token_text=acted)).result == "posted"


# ── what an undo waits for ─────────────────────────────────────────────────────────────────────


def test_an_undo_waits_for_every_record_before_it(rig: Rig) -> None:
    """A number that has not arrived, and a record that is not decided, are told; nothing is used
    up, and once they are decided the very same record is taken."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    not_sent = rig.redeem(till, holder, 100)
    no_token = rig.redeem(till, holder, 200)
    void = till.void(sale)
    assert rig.send({"record": no_token["record"]}) == ["malformed"]
    [command] = rig.commands([{"record": void.jws}])
    assert isinstance(command, Command)
    problem = rig.book.post([command])[void.digest]
    assert isinstance(problem, Problem)
    assert (problem.code, problem.extra) == ("sequence_gap", {"missing": [2, 3]})
    assert rig.send(no_token, void)[1] == "sequence_gap"
    assert rig.send_one(not_sent).result == "posted"
    assert rig.send_one(void).result == "posted"


def test_what_is_decided_in_the_same_batch_counts(rig: Rig) -> None:
    """A sale, its void and the next sale in one batch: each sees the one before."""
    till, holder = rig.signer(), rig.holder()
    first = rig.redeem(till, holder, 12_000)
    void = till.void(rig.read(first))
    second = rig.redeem(till, holder, 12_000)
    assert [code(each) for each in rig.send(first, void, second)] == ["posted"] * 3
    assert rig.balance(holder.voucher) == (0, 0, 0)


def test_a_chain_is_looked_through_once(rig: Rig) -> None:
    """How far a chain is decided is remembered, and a new incarnation begins at its own start."""
    till, holder = rig.signer(), rig.holder()
    for _ in range(4):
        rig.send_one(till.start())
    sale = sold(rig, till, holder)
    rig.send_one(till.void(sale))
    [row] = rig.tables(["terminal_progress"])["terminal_progress"]
    assert row["decided_to"] == 5
    later = sold(rig, till, holder)
    rig.send_one(till.void(later))
    [row] = rig.tables(["terminal_progress"])["terminal_progress"]
    assert row["decided_to"] == 7


@pytest.mark.parametrize("status", ["suspended", "revoked"])
def test_a_barred_terminal_takes_nothing_back(rig: Rig, status: str) -> None:
    """Not decided, and the id is not used up; a stored outcome is served all the same."""
    till, holder = rig.signer(), rig.holder()
    sale, other = sold(rig, till, holder), sold(rig, till, holder, 100)
    done = till.void(other)
    first = rig.send_one(done)
    void = till.void(sale)
    rig.terminals.set_status(till.terminal, status)
    barred = "held" if status == "revoked" else "terminal_suspended"
    assert [code(answer) for answer in rig.send(void)] == [barred]
    assert rig.send_one(done) == first
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


# ── refund ─────────────────────────────────────────────────────────────────────────────────────


def test_refunds_piece_by_piece_come_to_the_whole(rig: Rig) -> None:
    """FF-3: three refunds of a line that does not divide give back its amount, exactly."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder, 1_000)
    given = []
    for n in range(3):
        answer = rig.send_one(till.refund(sale, (1, 1), before={1: n}))
        given.append(answer.amount_minor)
    assert sum(given) == 1_000 and max(given) - min(given) <= 1
    assert code(rig.send_one(till.refund(sale, (1, 1), before={1: 2}))) == "already_undone"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_split_line_comes_back_to_each_voucher(rig: Rig) -> None:
    """FF-3: pieces to the item voucher, money to the value voucher, each by its own part."""
    till = rig.signer()
    terms = {"unit": "piece", "cap_minor": 300, "fixed_minor": 0, "cap_quantity": 1}
    holder = rig.holder({}, {"kind": "item", "quantity": 7, "terms": terms})
    value, item = holder.vouchers
    sale = sold(
        rig, till, holder,
        basket=[Line(RICE, 3, "piece", 900)],
        allocation=[Entry(1, item, 2, 600, 0), Entry(1, value, 0, 300, 0)],
    )  # fmt: skip
    before = [rig.balance(item), rig.balance(value)]
    assert before == [(1_500, 0, 5), (11_700, 0, 0)]
    first = rig.send_one(till.refund(sale, (1, 1)))
    assert moved(first) == {item: (300, 1), value: (100, 0)}
    second = rig.send_one(till.refund(sale, (1, 2), before={1: 1}))
    assert moved(second) == {item: (300, 1), value: (200, 0)}
    assert [rig.balance(item), rig.balance(value)] == [(2_100, 0, 7), (12_000, 0, 0)]


def test_what_a_cap_saved_follows_the_goods_back(rig: Rig) -> None:
    """A cheaper price left something saved; half of the goods back, and it covers them again."""
    till = rig.signer()
    holder = rig.holder({"kind": "fixed_price", "quantity": 10, "terms": MEAL})
    sale = goods(rig, till, holder, MEAL, 2, 998, 2)
    assert rig.balance(holder.voucher) == (11_992, 2_000, 8)
    answer = rig.send_one(till.refund(sale, (1, 1)))
    assert moved(answer) == {holder.voucher: (499, 1)}
    assert rig.balance(holder.voucher) == (13_491, 1_000, 9)


def test_grams_come_back_as_grams(rig: Rig) -> None:
    """Weighed goods: units and money by what came back, and never short of what they may cost."""
    till = rig.signer()
    holder = rig.holder({"kind": "item", "quantity": 5_000, "terms": RICE_TERMS})
    sale = goods(rig, till, holder, RICE_TERMS, 777, 1_243)
    answer = rig.send_one(till.refund(sale, (1, 300)))
    [(money, grams)] = moved(answer).values()
    assert grams == 300 and 479 <= money <= 480
    available, saved, quantity = rig.balance(holder.voucher)
    assert quantity == 4_523 and available + saved >= 800 * quantity // 500


def test_only_whole_portions_of_a_fixed_price_come_back(rig: Rig) -> None:
    """A broken portion could never be used again: `refund_not_whole`, at its line."""
    till = rig.signer()
    holder = rig.holder({"kind": "fixed_price", "quantity": 6, "terms": PORTION})
    sale = goods(rig, till, holder, PORTION, 4, 1_800, 200)
    refused = rig.send_one(till.refund(sale, (1, 1)))
    assert refused.refusal is not None
    assert (refused.refusal.code, refused.refusal.at) == ("refund_not_whole", 1)
    assert rig.send_one(till.refund(sale, (1, 2))).result == "posted"
    assert rig.balance(holder.voucher) == (1_800, 0, 4)


def test_more_than_is_left_does_not_come_back(rig: Rig) -> None:
    """A line that the sale has not, or more of one than is left: nothing is booked, the id ends."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    assert rig.send_one(till.refund(sale, (1, 2))).result == "posted"
    exceeds = till.refund(sale, (1, 1), before={1: 2}, lines=_lines((1, 2)))
    assert code(rig.send_one(exceeds)) == "refund_exceeds"
    no_line = till.refund(sale, (1, 1), before={1: 2}, lines=_lines((1, 1), (2, 1)))
    assert code(rig.send_one(no_line)) == "refund_exceeds"
    assert rig.balance(holder.voucher) == (10_000, 0, 0)


def test_a_refund_that_was_reckoned_on_an_older_state_is_refused(rig: Rig) -> None:
    """The ledger never reallocates: parts that are not what the rule gives are
    `proposal_changed`."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder, 1_000)
    rig.send_one(till.refund(sale, (1, 1)))
    assert code(rig.send_one(till.refund(sale, (1, 1)))) == "proposal_changed"
    yen = till.refund(sale, (1, 1), before={1: 1}, currency="JPY")
    assert code(rig.send_one(yen)) == "proposal_changed"


def test_another_till_of_the_merchant_may_refund(rig: Rig) -> None:
    """A till of another of its stores too; a till of another merchant is told that there is no such
    sale."""
    till, far, holder = rig.signer(), rig.signer("zhou-far"), rig.holder()
    rig.office.put_merchant("li", "李记")
    rig.office.put_store("li-shop", "li", "李记")
    stranger = rig.signer("li-shop")
    sale = sold(rig, till, holder)
    assert code(rig.send_one(stranger.refund(sale, (1, 1)))) == "original_unknown"
    assert rig.send_one(far.refund(sale, (1, 1))).result == "posted"
    rows = [row for row in rig.tables(["postings"])["postings"] if row["kind"] == "refund"]
    assert [(row["terminal"], row["sequence"], row["store"]) for row in rows] == [
        (far.terminal, 1, "zhou-far")
    ]


def test_a_refund_ends_with_its_window_and_where_none_are_taken(rig: Rig) -> None:
    """The ledger's clock decides; a programme without a rule takes none."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.now.forward(seconds=RULES["refunds"]["window_s"] - 1)
    assert rig.send_one(till.refund(sale, (1, 1))).result == "posted"
    rig.now.forward(seconds=1)
    assert code(rig.send_one(till.refund(sale, (1, 1), before={1: 1}))) == "refund_too_late"
    rig.programmes.put_programme({k: v for k, v in RULES.items() if k != "refunds"})
    assert code(rig.send_one(till.refund(sale, (1, 1), before={1: 1}))) == "refund_not_allowed"


def test_after_a_refund_there_is_no_void(rig: Rig) -> None:
    """A void takes back a whole sale: of one that is in part back already it is refused."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.send_one(till.refund(sale, (1, 1)))
    assert code(rig.send_one(till.void(sale))) == "already_undone"
    assert rig.balance(holder.voucher) == (8_000, 0, 0)


# ── into vouchers that are over ────────────────────────────────────────────────────────────────


def expiring(rig: Rig) -> Holder:
    return rig.holder({"expires_at": "2026-11-25T00:00:00.000Z"})


def test_a_refund_into_an_expired_voucher_can_be_used_a_while(rig: Rig) -> None:
    """Only what was refunded: what was left before goes back to the programme; after the grace it
    is expired again."""
    till, holder = rig.signer(), expiring(rig)
    before = rig.office.programme_sums(PROGRAMME)
    sale = sold(rig, till, holder, 6_000)
    rig.now.forward(days=4)
    answer = rig.send_one(till.refund(sale, (1, 2)))
    assert moved(answer) == {holder.voucher: (4_000, 0)}
    assert rig.balance(holder.voucher) == (4_000, 0, 0)
    rig.now.forward(seconds=RULES["refunds"]["grace_s"] - 1)
    assert rig.send_one(rig.redeem(till, holder, 1_000)).result == "posted"
    rig.now.forward(seconds=1)
    assert code(rig.send_one(rig.redeem(till, holder, 1_000))) == "voucher_expired"
    after = rig.office.programme_sums(PROGRAMME)
    assert after.unreserved_minor - before.unreserved_minor == 6_000


def test_what_comes_back_into_an_expired_item_voucher_can_be_redeemed(rig: Rig) -> None:
    """At the full cap, though it was sold for less and what was left has gone back: what the cap
    saved is kept for it, over several refunds too."""
    till = rig.signer()
    terms = {"unit": "piece", "cap_minor": 1_500, "fixed_minor": 0, "cap_quantity": 1}
    item = {"kind": "item", "quantity": 4, "terms": terms, "expires_at": "2026-11-25T00:00:00.000Z"}
    holder = rig.holder(item)
    sale = goods(rig, till, holder, terms, 2, 1_000)
    rig.now.forward(days=4)
    for before in (0, 1):
        assert rig.send_one(till.refund(sale, (1, 1), before={1: before})).result == "posted"
    assert rig.balance(holder.voucher) == (3_000, 0, 2)
    again = goods(rig, till, holder, terms, 2, 3_000)
    assert rig.balance(holder.voucher) == (0, 0, 0)
    assert rig.send_one(till.void(again)).result == "posted"


def test_without_grace_a_refund_into_an_expired_voucher_goes_to_the_programme(rig: Rig) -> None:
    """The shop pays back, the family can't use it: the programme can issue it anew."""
    rig.programmes.put_programme({**RULES, "refunds": {"window_s": 10**7, "grace_s": 0}})
    till, holder = rig.signer(), expiring(rig)
    before = rig.office.programme_sums(PROGRAMME)
    sale = sold(rig, till, holder, 6_000)
    rig.now.forward(days=4)
    answer = rig.send_one(till.refund(sale, (1, 3)))
    assert (answer.amount_minor, answer.vouchers[0].available_minor) == (6_000, 0)
    assert rig.balance(holder.voucher) == (0, 0, 0)
    after = rig.office.programme_sums(PROGRAMME)
    assert after.unreserved_minor - before.unreserved_minor == 12_000


def test_a_refund_to_somebody_who_was_erased_goes_to_the_programme(rig: Rig) -> None:
    """Nobody holds the voucher any more."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    people, vouchers = schema.beneficiaries, schema.vouchers
    with rig.database.write() as connection:
        connection.execute(people.delete().where(people.c.beneficiary == holder.beneficiary))
        connection.execute(
            update(vouchers)
            .where(vouchers.c.voucher == holder.voucher)
            .values(beneficiary="nobody-nobody-nobody-n")
        )
    assert rig.send_one(till.refund(sale, (1, 3))).result == "posted"
    assert rig.balance(holder.voucher) == (0, 0, 0)


def test_a_frozen_voucher_gets_its_money_and_stays_frozen(rig: Rig) -> None:
    """A freeze bars spending, not giving back."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.office.freeze(PROGRAMME, voucher=holder.voucher, frozen=True)
    assert rig.send_one(till.refund(sale, (1, 3))).result == "posted"
    assert code(rig.send_one(rig.redeem(till, holder, 1))) == "voucher_frozen"


# ── at once ────────────────────────────────────────────────────────────────────────────────────


def test_many_refunds_of_one_line_at_once(rig: Rig) -> None:
    """FC-10: eight tills give back one piece each of three; three do, the sum is what was paid."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder, 999)
    tills = [rig.signer() for _ in range(8)]
    refunds: list[Envelope] = [{"record": each.refund(sale, (1, 1)).jws} for each in tills]
    answers = [code(each) for each in rig.side_by_side(refunds)]
    assert answers.count("posted") == 3, answers
    assert set(answers) <= {
        "posted",
        "proposal_changed",
        "already_undone",
        "in_flight",
        "try_again",
    }
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_void_and_a_refund_at_once(rig: Rig) -> None:
    """One of them is first; the other is told that the sale is taken back."""
    till, far, holder = rig.signer(), rig.signer("zhou-far"), rig.holder()
    sale = sold(rig, till, holder)
    both = [{"record": till.void(sale).jws}, {"record": far.refund(sale, (1, 3)).jws}]
    answers = sorted(code(each) for each in rig.side_by_side(both))
    assert answers == ["already_undone", "posted"]
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def _lines(*lines: tuple[int, int]) -> Any:
    return tuple(ReturnedLine(*line) for line in lines)


def test_ids_of_an_undo_stand_in_the_sales_bucket(rig: Rig) -> None:
    """Another bucket is `malformed`: a posting touches one bucket."""
    till, holder = rig.signer(), rig.holder(bucket=7)
    sale = sold(rig, till, holder)
    with pytest.raises(Exception, match="bucket"):
        till.void(sale, ids.new_attempt_id(8, rig.now()))


def test_what_is_voided_is_gone_also_where_a_cap_does_not_divide(rig: Rig) -> None:
    """How a void shared its money between available and saved is no rest of the sale: nothing is
    left to void, refund or reverse."""
    till = rig.signer()
    terms = {"unit": "piece", "cap_minor": 10, "fixed_minor": 0, "cap_quantity": 3}
    holder = rig.holder({"kind": "item", "quantity": 5, "terms": terms})
    first = goods(rig, till, holder, terms, 1, 3)
    goods(rig, till, holder, terms, 2, 6)
    assert rig.balance(holder.voucher) == (6, 1, 2)
    assert rig.send_one(till.void(first)).result == "posted"
    held = rig.balance(holder.voucher)
    assert held == (10, 0, 3)
    assert code(rig.send_one(till.void(first))) == "already_undone"
    assert code(rig.send_one(till.refund(first, (1, 1)))) == "already_undone"
    late = rig.send_one(till.reversal(first))
    assert (late.result, late.currency, late.amount_minor, late.vouchers) == (
        "reversed",
        None,
        0,
        (),
    )
    assert rig.balance(holder.voucher) == held


def test_a_number_noted_before_buckets_were_kept_is_decided_like_any_other(rig: Rig) -> None:
    """What was noted by an older version and is decided now does not keep an undo waiting."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    assert rig.send({"record": envelope["record"]}) == ["malformed"]
    with rig.database.write() as connection:
        connection.execute(update(schema.terminal_notes).values(bucket=None))
    assert rig.send_one(envelope).result == "posted"
    assert rig.send_one(till.void(rig.read(envelope))).result == "posted"


def test_only_what_comes_back_is_told(rig: Rig) -> None:
    """A voucher whose goods came back before stands in no later outcome, also where its money lies
    otherwise than the sale left it."""
    till = rig.signer()
    terms = {"unit": "piece", "cap_minor": 10, "fixed_minor": 0, "cap_quantity": 3}
    holder = rig.holder({}, {"kind": "item", "quantity": 5, "terms": terms})
    value, item = holder.vouchers
    sale = sold(
        rig, till, holder,
        basket=[Line(RICE, 1, "piece", 3), Line(MILK, 1, "piece", 500)],
        allocation=[Entry(1, item, 1, 3, 0), Entry(2, value, 0, 500, 0)],
    )  # fmt: skip
    sold(
        rig, till, holder,
        basket=[Line(RICE, 2, "piece", 6)], allocation=[Entry(1, item, 2, 6, 0)],
    )  # fmt: skip
    assert moved(rig.send_one(till.refund(sale, (1, 1)))) == {item: (3, 1)}
    assert moved(rig.send_one(till.void(sale))) == {}
    assert moved(rig.send_one(till.reversal(sale))) == {value: (500, 0)}
