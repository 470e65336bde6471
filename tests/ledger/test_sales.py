"""A sale is found by its receipt, by tills of its merchant only (docs/offline.md §3)."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import delete, update

from carepos import found_sale, ids, jws
from carepos.basket import Entry, Line
from carepos.errors import Malformed, SignatureInvalid
from carepos.found_sale import FoundSale
from carepos.keys import SigningKey
from carepos.record import Record
from carepos.slip import receipt_code
from carepos.undo import ReturnedLine, parts_of
from carepos.voucher import Terms
from carepos_ledger import schema, terminal_keys
from carepos_ledger.auth import Caller
from carepos_ledger.problems import Problem
from carepos_ledger.sales import Sales
from tests.ledger.rig import MILK, RICE, Envelope, Holder, Rig, Signer
from tests.vectors import second

JTI = "J" * 22
TERMS = {"unit": "piece", "cap_minor": 300, "fixed_minor": 0, "cap_quantity": 1}


def number(of: Record, terminal_no: int = 1) -> str:
    return ids.receipt_no(terminal_no, of.sequence)


def caller(rig: Rig, till: Signer) -> Caller:
    terminal = terminal_keys.find(rig.database, till.key.kid)
    assert terminal is not None
    return Caller(terminal, JTI)


def find(rig: Rig, till: Signer, receipt_no: str, code: str | None = None) -> FoundSale:
    answer = Sales(rig.database, rig.keyring).find(caller(rig, till), receipt_no, code)
    return found_sale.read(
        answer.sale,
        answer.record,
        request=JTI,
        terminal=till.terminal,
        keys=rig.keyring.keys.keys,
    )


def problem(rig: Rig, till: Signer, receipt_no: str, code: str | None = None) -> dict[str, Any]:
    """The whole problem document."""
    with pytest.raises(Problem) as raised:
        find(rig, till, receipt_no, code)
    return dict(raised.value.to_json())


def sold(rig: Rig, till: Signer, holder: Holder, **more: Any) -> Record:
    more.setdefault("basket", [Line(MILK, 3, "piece", 6_000)])
    envelope = rig.redeem(till, holder, 6_000, **more)
    assert rig.send_one(envelope).result == "posted"
    return rig.read(envelope)


def test_a_sale_of_another_till_is_all_that_a_refund_needs(rig: Rig) -> None:
    """Its record, what came back before and its vouchers' terms: the parts that are reckoned from
    it are the ones that the ledger books."""
    till, far = rig.signer(), rig.signer("zhou-far")
    holder = rig.holder({}, {"kind": "item", "quantity": 7, "terms": TERMS, "label": "大米"})
    value, item = holder.vouchers
    sale = sold(
        rig, till, holder,
        basket=[Line(RICE, 3, "piece", 900)],
        allocation=[Entry(1, item, 2, 600, 0), Entry(1, value, 0, 300, 0)],
    )  # fmt: skip
    rig.now.forward(hours=2)
    rig.send_one(till.refund(sale, (1, 1)))
    found = find(rig, far, number(sale))
    assert (found.record.jws, found.original.record_sha256) == (sale.jws, sale.digest)
    assert (found.sold.refunded, found.sold.undone) == ({1: 1}, False)
    assert found.sold.recorded_at == sale.occurred_at
    assert found.terms == {value: None, item: Terms.from_json(TERMS)}
    assert found.labels == {value: "奶制品卡", item: "大米"}
    parts = parts_of(found.sold, (ReturnedLine(1, 2),))
    refund = far.refund(
        found.record, (1, 2), before=found.sold.refunded, original=found.original, parts=parts
    )
    assert rig.send_one(refund).result == "posted"
    gone = find(rig, far, number(sale))
    assert (gone.sold.refunded, gone.sold.is_used_up) == ({1: 3}, True)


def test_what_was_voided_is_found_as_undone(rig: Rig) -> None:
    """The cashier is told so before anything is written."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.send_one(till.void(sale))
    found = find(rig, till, number(sale)).sold
    assert (found.undone, found.is_used_up) == (True, True)


def test_another_merchants_sale_answers_as_one_never_seen(rig: Rig) -> None:
    """A stranger can't tell whether there is such a sale, nor whether the code is right; nor can it
    ask for a number of its own till that was no sale."""
    rig.office.put_merchant("li", "李记")
    rig.office.put_store("li-shop", "li", "李记")
    till, stranger, holder = rig.signer(), rig.signer("li-shop"), rig.holder()
    sale = sold(rig, till, holder)
    start = stranger.start()
    rig.send_one(start)
    refused = rig.read(rig.redeem(till, holder, 99_999))
    rig.send(refused)
    never = problem(rig, stranger, ids.receipt_no(1, 77))
    assert never["code"] == "not_found"
    for asked in (
        problem(rig, stranger, number(sale)),
        problem(rig, stranger, number(sale), receipt_code(sale.digest)),
        problem(rig, stranger, ids.receipt_no(9, 1)),
        problem(rig, stranger, number(start, 2)),
        problem(rig, till, number(refused)),
        problem(rig, till, number(sale), "A" * 16),
    ):
        assert asked == never


def test_two_sales_of_one_number_are_told_apart_by_code(rig: Rig) -> None:
    """A journal made anew counts from 1 again: without the code neither is shown, also once one of
    the two is past its retention."""
    till, holder = rig.signer(), rig.holder()
    first = sold(rig, till, holder)
    again = Signer(till.terminal, till.merchant, till.key, rig.now)
    second_one = sold(rig, again, holder)
    assert number(first) == number(second_one)
    assert problem(rig, till, number(first))["code"] == "not_found"
    for sale in (first, second_one):
        found = find(rig, till, number(sale), receipt_code(sale.digest))
        assert found.record.digest == sale.digest
    table = schema.record_bytes
    with rig.database.write() as connection:
        connection.execute(delete(table).where(table.c.digest == first.digest))
    assert problem(rig, till, number(first))["code"] == "not_found"
    forgotten = problem(rig, till, number(first), receipt_code(first.digest))
    assert forgotten == problem(rig, till, ids.receipt_no(1, 77))
    assert find(rig, till, number(first), receipt_code(second_one.digest)).record == second_one


def test_the_sale_of_somebody_who_was_erased_is_found(rig: Rig) -> None:
    """What a refund gives back goes to the programme then; the shop pays all the same."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    people, vouchers = schema.beneficiaries, schema.vouchers
    with rig.database.write() as connection:
        connection.execute(people.delete().where(people.c.beneficiary == holder.beneficiary))
        connection.execute(update(vouchers).values(beneficiary="nobody-nobody-nobody-n"))
    assert find(rig, till, number(sale)).record.digest == sale.digest


def test_a_large_basket_is_found(rig: Rig) -> None:
    """A record that fills its 16 KiB would not fit in another signed thing: it comes beside."""
    till, holder = rig.signer(), rig.holder(*[{"amount_minor": 4_000_000} for _ in range(20)])
    lines = [Line(f"cat:{n:02d}{'x' * 38}", 10**9, "piece", 10**11) for n in range(40)]
    rig.programmes.put_product_list("relief", 2, {line.key: "dairy" for line in lines})
    vouchers = sorted(holder.vouchers)
    allocation = [
        Entry(n, vouchers[(n + m) % 20], 0, 1_000_000 - n, 0)
        for n in range(1, 41)
        for m in range(2)
    ]

    def largest() -> Envelope:
        for count in range(80, 40, -1):
            with suppress(Malformed):
                return rig.redeem(till, holder, basket=lines, allocation=allocation[:count])
        raise AssertionError("no basket is small enough")

    envelope = largest()
    assert rig.send_one(envelope).result == "posted"
    assert len(str(envelope["record"])) > jws.MAX_PAYLOAD_BYTES
    found = find(rig, till, number(rig.read(envelope)))
    assert found.record.jws == envelope["record"] and len(found.terms) == 20


def test_only_the_ledgers_own_word_is_believed(rig: Rig) -> None:
    """Another signature, another record beside it, more refunded than was sold, other vouchers,
    another question: nothing is known then."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    other = sold(rig, till, holder, allocation=[Entry(1, holder.voucher, 0, 100, 0)])
    answer = Sales(rig.database, rig.keyring).find(caller(rig, till), number(sale), None)
    keys = rig.keyring.keys.keys
    good = jws.verify(answer.sale, typ=jws.SALE, keys=keys).payload

    def read(payload: dict[str, Any], text: str = sale.jws, key: SigningKey | None = None) -> None:
        signed = jws.sign(payload, typ=jws.SALE, key=key or rig.keyring.signing)
        found_sale.read(signed, text, request=JTI, terminal=till.terminal, keys=keys)

    read(good)
    with pytest.raises(SignatureInvalid):
        read(good, key=SigningKey.generate())
    [voucher] = good["vouchers"]
    wrongs: list[dict[str, Any]] = [
        {"v": 2},
        {"request": "K" * 22},
        {"terminal": "t-other"},
        {"original": {**good["original"], "id": other.id}},
        {"record_sha256": other.digest},
        {"recorded_at": "yesterday"},
        {"refunded": [{"line": 1, "quantity": 4}]},
        {"refunded": [{"line": 2, "quantity": 1}]},
        {"undone": 0},
        {"vouchers": []},
        {"vouchers": [voucher, voucher]},
        {"vouchers": [{**voucher, "voucher": "V" * 22}]},
        {"vouchers": [{**voucher, "terms": {}}]},
        {"more": 1},
    ]
    for wrong in wrongs:
        with pytest.raises(Malformed):
            read({**good, **wrong})
    with pytest.raises(Malformed, match="another one"):
        read(good, other.jws)
    start = till.start()
    with pytest.raises(Malformed, match="the record of the sale"):
        read({**good, "record_sha256": start.digest}, start.jws)


def test_a_second_reading_of_the_page_finds_the_same(rig: Rig) -> None:
    """Signature, digest and names by the vectors' own implementation, which has nothing of ours."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.send_one(till.refund(sale, (1, 1)))
    answer = Sales(rig.database, rig.keyring).find(caller(rig, till), number(sale), None)
    key = rig.keyring.signing.public
    payload = second.verify(answer.sale, "carepos-sale+jws", [second.unb64(key.x)])
    code = base64.b32encode(second.unb64(second.jws_digest(answer.record)))[:16].decode()
    assert payload == {
        "v": 1,
        "request": JTI,
        "terminal": till.terminal,
        "original": {"terminal": till.terminal, "id": sale.id},
        "record_sha256": second.jws_digest(answer.record),
        "recorded_at": "2026-11-22T08:00:00.000Z",
        "refunded": [{"line": 1, "quantity": 1}],
        "undone": False,
        "vouchers": [{"voucher": holder.voucher, "label": "奶制品卡", "terms": None}],
    }
    assert find(rig, till, number(sale), code).record.jws == answer.record
