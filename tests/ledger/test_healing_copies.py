"""FG-7 with FC-8: a till and its copy count with the same numbers, and the ledger lost its data.

What was decided of either line comes back, is paid as it was, and the terminal is forked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from carepos import clock
from carepos.record import Record
from carepos_ledger.chain_check import ALARM
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.lost_batches import LostBatches
from carepos_ledger.settlement import Settlement
from tests.ledger.loss import Loss
from tests.ledger.rig import Rig, Signer, code
from tests.ledger.test_chain_check import alarms, status


@pytest.fixture
def loss(rig: Rig) -> Iterator[Loss]:
    before = rig.keyring
    yield Loss(rig)
    rig.keyring = before


def rule(loss: Loss, sequence: int | None = None) -> None:
    """People let what is held be decided: all of it, or what has this number."""
    rig = loss.rig
    for row in rig.tables(["held_records"])["held_records"]:
        if row["resolved_at"] is None and sequence in (None, row["sequence"]):
            HeldRulings(rig.database, rig.book, rig.now).post(row["n"], operator="office")


def two_lines(
    loss: Loss, *, behind: int = 0, apart_s: int = 60
) -> tuple[Signer, Signer, list[Record], list[Record]]:
    """A till, its copy, and the sales of each under the same numbers, of 1,000 and of 700: the
    till's are decided, the copy's by people."""
    rig, till = loss.rig, loss.till()
    families = rig.holder(), rig.holder()
    loss.send(till.start())
    loss.back_up()
    copy = replace(till)
    sent = [rig.redeem(till, families[0], 1_000) for _ in range(1 + behind)]
    loss.send(*sent)
    rig.now.forward(seconds=apart_s)
    held = [rig.redeem(copy, families[1], 700) for _ in range(1 + behind)]
    assert {code(answer) for answer in rig.send(*held)} == {"held"}
    rule(loss)
    assert {code(answer) for answer in loss.send(*held)} == {"posted"}
    return till, copy, [rig.read(each) for each in sent], [rig.read(each) for each in held]


def kept_by(loss: Loss, records: list[Record]) -> list[tuple[str, str]]:
    """What a till holds of these: each record, and the last outcome of it."""
    held = dict(loss.held[records[0].terminal])
    return [(each.jws, held[each.jws]) for each in records]


def as_before(loss: Loss) -> None:
    """Every booking and balance, every answer; and the terminal is stopped."""
    now, before = loss.rig.tables(), loss.whole
    names = "postings entries vouchers records attempts terminals batch_postings".split()
    for name in names:
        assert sorted(now[name], key=repr) == sorted(before[name], key=repr), name


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the till first", "the copy first"])
def test_both_lines_come_back(loss: Loss, order: tuple[int, int]) -> None:
    """In whatever order they are brought; the operator is told of the fork once more."""
    till, copy, *lines = two_lines(loss, behind=1)
    loss.rig.now.forward(hours=1)
    loss.lose()
    loss.begin()
    for each in order:
        signer, records = (till, copy)[each], lines[each]
        told = loss.offer(signer, kept_by(loss, records))
        known = lines if each == order[1] else [records]
        assert (told["held"], told["ends"]) == (
            [[1, 3]],
            [sorted(line[-1].digest for line in known)],
        )
        assert told["forked"] == (each == order[1])
    found_at = clock.to_text(loss.rig.now())
    loss.rig.now.forward(hours=1)
    loss.open()
    assert loss.exceptions() == []
    as_before(loss)
    assert status(loss.rig, till) == "forked"
    [alarm] = loss.rig.tables(["alarms"])["alarms"]
    assert (alarm["kind"], alarm["at"]) == (ALARM, found_at)
    # The same bytes to whoever asks again.
    assert {code(each) for line in lines for each in loss.rig.send(*line)} == {"posted"}


def test_a_copy_that_comes_late_is_booked_too(loss: Loss) -> None:
    till, copy, first, second = two_lines(loss)
    loss.lose()
    loss.begin()
    loss.offer(till, kept_by(loss, first))
    loss.open()
    assert status(loss.rig, till) == "active"
    assert loss.offer(copy, [])["ends"] == [[first[-1].digest]]
    assert loss.offer(copy, kept_by(loss, second))["results"] == [{"result": "placed"}]
    as_before(loss)


def test_what_people_decided_last_comes_back_too(loss: Loss) -> None:
    """The number behind it had been decided before the backup, so the ledger holds more of the
    line than its end tells: the terminal is known to be forked, and numbers say nothing."""
    rig, till = loss.rig, loss.till()
    family = rig.holder()
    loss.send(till.start())
    copy = replace(till)
    loss.send(rig.redeem(till, rig.holder(), 1_000))
    sent = [rig.redeem(copy, family, 700) for _ in range(2)]
    rig.send(*sent)
    rule(loss, sequence=3)
    loss.back_up()
    rule(loss, sequence=2)
    loss.send(*sent)
    loss.lose()
    loss.begin()
    told = loss.offer(copy, [])
    assert told["forked"]
    loss.offer(copy, kept_by(loss, [rig.read(each) for each in sent]))
    loss.open(early=True)
    as_before(loss)


def test_what_a_copy_tells_of_hides_nothing_of_the_till(loss: Loss) -> None:
    """The till's later number is in the backup, and its earlier one was decided after it; the copy
    fills that number with its own record, and contradicts what stands behind it."""
    rig, till = loss.rig, loss.till()
    family = rig.holder()
    loss.send(till.start())
    copy, others = replace(till), rig.holder()
    late, first = rig.redeem(till, family, 1_000), rig.redeem(till, family, 500)
    loss.send(first)
    loss.back_up()
    loss.send(late)
    other = rig.redeem(copy, others, 700)
    rig.send(other)
    rule(loss)
    loss.send(other)
    loss.lose()
    loss.begin()
    loss.offer(copy, kept_by(loss, [rig.read(other)]))
    assert loss.offer(till, [])["forked"]
    loss.offer(till, kept_by(loss, [rig.read(late), rig.read(first)]))
    loss.open(early=True)
    assert loss.exceptions() == []
    as_before(loss)


@pytest.mark.parametrize("apart_s", [60, 0], ids=["a minute apart", "in one moment"])
@pytest.mark.parametrize("missing", [0, 1], ids=["the till is gone", "the copy is gone"])
def test_what_was_paid_of_each_line_is_paid_to_it(loss: Loss, missing: int, apart_s: int) -> None:
    """Both sold under one number, each in a batch of its own: a booking belongs to the batch that
    its own record was paid with, and what nobody brought back is named."""
    rig = loss.rig
    till, copy, *lines = two_lines(loss, apart_s=apart_s)
    closing = Settlement(rig.database, rig.keyring, rig.now)
    rig.now.forward(minutes=5)
    for _ in range(2):
        assert len(closing.close()) == 1
    batches = rig.tables(["batches"])["batches"]
    loss.lose()
    loss.begin()
    restoring = LostBatches(rig.database, rig.keyring)
    for row in batches:
        restoring.restore(row["manifest"], bytes(row["file"]))
    assert len(loss.status()["paid_not_booked"]) == 2
    there = 1 - missing
    loss.offer((till, copy)[there], kept_by(loss, lines[there]))
    loss.open()
    waiting = loss.status()["paid_not_booked"]
    amount = (1_000, 700)[missing]
    [paid] = [row for row in batches if f",{amount},CNY" in bytes(row["file"]).decode()]
    assert [(row["batch_no"], row["amount_minor"]) for row in waiting] == [
        (paid["batch_no"], amount)
    ]
    closing = Settlement(rig.database, rig.keyring, rig.now)
    assert closing.close() == []
    loss.offer((till, copy)[missing], kept_by(loss, lines[missing]))
    assert loss.status()["paid_not_booked"] == []
    assert closing.close() == [] and [kind for kind, _ in alarms(rig)] == [ALARM]
    as_before(loss)
