"""One chain or two: what makes a terminal forked, on either database (docs/offline.md §9)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select

from carepos import ids
from carepos.record import Record, Start
from carepos_ledger import chain_check, schema
from carepos_ledger.book import Book
from carepos_ledger.held_list import HeldList
from tests.ledger.rig import Envelope, Rig, Signer, code
from tests.ledger.test_terminal_keys import change


def status(rig: Rig, till: Signer) -> str:
    table = schema.terminals.c
    with rig.database.read() as connection:
        found: str = connection.scalars(
            select(table.status).where(table.terminal == till.terminal)
        ).one()
    return found


def alarms(rig: Rig) -> list[tuple[str, str]]:
    return [(row["kind"], row["digest"]) for row in rig.tables(["alarms"])["alarms"]]


def words(rig: Rig, *sent: Envelope | Record, book: Book | None = None) -> list[str]:
    return [code(answer) for answer in rig.send(*sent, book=book)]


def two_lines(till: Signer, how: str) -> tuple[Record, Record]:
    """Two records that can't both be of one chain; none was sent."""
    first = till.start()
    if how == "one number":
        return first, till.start(sequence=first.sequence)
    if how == "a predecessor that is another":
        return first, till.start(sequence=first.sequence + 1, prev="P" * 43)
    assert how == "a successor of another"
    return till.start(sequence=first.sequence + 1, prev="P" * 43), first


HOW = ["one number", "a predecessor that is another", "a successor of another"]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
@pytest.mark.parametrize("how", HOW)
def test_the_second_line_is_a_fork(rig: Rig, how: str, together: bool) -> None:
    """FG-7: what came first is decided; what contradicts it, and all behind, is held; the operator
    is told once, however often it is sent, and what to do."""
    till = rig.signer()
    rig.send_one(till.start())
    first, second = two_lines(till, how)
    behind = till.start()
    if together:
        assert words(rig, first, second, behind) == ["posted", "held", "held"]
    else:
        assert [words(rig, each) for each in (first, second, behind)] == [
            ["posted"],
            ["held"],
            ["held"],
        ]
    assert status(rig, till) == "forked"
    for _ in range(2):
        assert words(rig, second, behind, first, second) == ["held", "held", "posted", "held"]
    assert alarms(rig) == [("fork", second.digest)]
    [alarm] = rig.terminals.alarms(0)
    assert "carepos ledger held" in str(alarm["hint"])
    notes = {row["digest"] for row in rig.tables(["terminal_notes"])["terminal_notes"]}
    assert first.digest in notes and not {second.digest, behind.digest} & notes


def test_a_gap_is_no_fork(rig: Rig) -> None:
    """Numbers may come in any order, as long as each names its own predecessor."""
    till = rig.signer()
    records = [till.start() for _ in range(9)]
    for place in (4, 0, 8, 2, 6, 5, 7, 1, 3):
        assert words(rig, records[place]) == ["posted"]
    assert words(rig, *reversed(records)) == ["posted"] * 9
    assert status(rig, till) == "active" and alarms(rig) == []


def test_a_chain_is_an_incarnations(rig: Rig) -> None:
    """A further journal counts anew and forks nothing; its first record is an alarm, once."""
    till = rig.signer()
    anew = replace(till, incarnation=ids.new_incarnation(), prev="")
    assert words(rig, till.start(), till.start()) == ["posted"] * 2 and alarms(rig) == []
    first = anew.start()
    assert words(rig, first, first, anew.start(), till.start()) == ["posted"] * 4
    assert words(rig, first) == ["posted"]
    assert alarms(rig) == [("journal", first.digest)]


@contextmanager
def stopped_when_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The first transaction that notes is stopped with its notes written and not committed; the
    two events say that it is, and let it go on."""
    noted, go_on = threading.Event(), threading.Event()
    mark = chain_check.mark_forked

    def stop(*args: Any) -> None:
        mark(*args)
        if not noted.is_set():
            noted.set()
            assert go_on.wait(20)

    monkeypatch.setattr(chain_check, "mark_forked", stop)
    yield noted, go_on
    go_on.set()


@pytest.mark.parametrize("how", HOW)
def test_neighbours_at_two_servers_at_once(
    rig: Rig, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FG-8: neither server sees the other's notes before they are committed; they wait for each
    other, and exactly one of the two lines is decided."""
    till = rig.signer()
    first, second = two_lines(till, how)
    with ThreadPoolExecutor(2) as pool, stopped_when_noted(monkeypatch) as (noted, go_on):
        one = pool.submit(words, rig, first)
        assert noted.wait(20)
        book = Book(rig.database, rig.keyring, rig.now)
        other = pool.submit(words, rig, second, book=book)
        rig.until_it_waits(other)
        go_on.set()
        assert (one.result(), other.result()) == (["posted"], ["held"])
    assert status(rig, till) == "forked" and alarms(rig) == [("fork", second.digest)]


def test_one_record_at_two_servers_at_once(rig: Rig) -> None:
    """It is one record, and neighbours of one line are one line, whoever is first."""
    for _ in range(4):
        till, holder = rig.signer(), rig.holder()
        sent = [{"record": till.start().jws}, rig.redeem(till, holder, 100)]
        answers = rig.side_by_side([*sent, *sent])
        assert [code(each) for each in answers] == ["posted"] * 4
    assert alarms(rig) == []


def test_two_forks_at_once_are_one_alarm(rig: Rig) -> None:
    """Several records that contradict arrive at several servers: all are held, one is told."""
    till = rig.signer()
    rig.send_one(till.start())
    others = [{"record": till.start(sequence=1).jws} for _ in range(4)]
    answers = rig.side_by_side(others)
    assert [code(each) for each in answers] == ["held"] * 4
    assert [kind for kind, _ in alarms(rig)] == ["fork"]


def test_what_was_noted_before_the_fork_is_decided(rig: Rig) -> None:
    """Also when the contradiction comes to another server between noting and deciding."""
    till, holder = rig.signer(), rig.holder()
    sale = rig.redeem(till, holder, 1_000)
    other = Book(rig.database, rig.keyring, rig.now)

    def reached(point: str) -> None:
        if point == "noted":
            assert words(rig, till.start(sequence=1), book=other) == ["held"]

    assert words(rig, sale, book=rig.new_book(reached)) == ["posted"]
    assert status(rig, till) == "forked" and rig.balance(holder.voucher) == (11_000, 0, 0)


def test_what_was_noted_by_a_suspended_till_is_not_decided_by_a_fork(rig: Rig) -> None:
    """A fork lets nobody in: noted while suspended, it is undecided, and then held."""
    till, holder = rig.signer(), rig.holder()
    rig.terminals.set_status(till.terminal, "suspended")
    sale = rig.redeem(till, holder, 1_000)
    assert words(rig, sale, till.start(sequence=1)) == ["terminal_suspended", "held"]
    assert words(rig, sale) == ["held"] and rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_till_that_is_revoked_while_its_record_is_noted_is_held(rig: Rig) -> None:
    """Nothing is decided of a revoked till, and nothing is lost."""
    till, holder = rig.signer(), rig.holder()
    sale = rig.redeem(till, holder, 1_000)

    def reached(point: str) -> None:
        if point == "noted":
            rig.terminals.set_status(till.terminal, "revoked")

    assert words(rig, sale, book=rig.new_book(reached)) == ["held"]
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_key_whose_place_was_taken_stops_nobody(rig: Rig) -> None:
    """T-1: a number from before the change, signed by the copied key, is held alone; also in the
    very batch in which the new key says its first word."""
    till = rig.signer()
    assert words(rig, till.start()) == ["posted"]
    copied = replace(till)
    fresh = change(rig, till)
    contradiction = copied.start(sequence=1)
    assert words(rig, fresh.start(), contradiction) == ["posted", "held"]
    again = copied.start(sequence=1)
    assert words(rig, again, contradiction, again) == ["held"] * 3
    assert status(rig, till) == "active" and words(rig, fresh.start()) == ["posted"]
    assert alarms(rig) == [("fork", contradiction.digest), ("fork", again.digest)]


def test_a_fork_by_the_key_in_use_is_one_also_after_a_change(rig: Rig) -> None:
    """The new key was copied as well."""
    till = rig.signer()
    fresh = change(rig, till)
    assert words(rig, fresh.start()) == ["posted"]
    assert words(rig, fresh.start(sequence=fresh.sequence)) == ["held"]
    assert status(rig, till) == "forked"


# ── T-5, as far as a ledger sees it ────────────────────────────────────────────────────────────


def another(till: Signer, of: Record) -> Record:
    """Another record that the till's own key signed for the same place of its chain."""
    return till.sign(Start("forged/1"), till.own_id(), sequence=of.sequence, prev=of.prev)


@pytest.mark.parametrize("at", range(6))
def test_t_5_what_the_ledger_has_seen_can_not_be_rewritten(rig: Rig, at: int) -> None:
    """T-5: a journal whose records were changed, left out, turned round or added to, and signed
    anew by the till's own key, contradicts what was uploaded before: found at its first record."""
    till = rig.signer()
    chain = [till.start() for _ in range(6)]
    words(rig, *chain)
    forged = another(till, chain[at])
    assert words(rig, forged) == ["held"] and alarms(rig) == [("fork", forged.digest)]
    assert words(rig, *chain) == ["posted"] * 6


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("how", ["rewritten", "left out", "turned round", "put in"])
def test_t_5_a_chain_that_does_not_hold_together_is_found(rig: Rig, how: str, at: int) -> None:
    """T-5: uploaded for the first time, but not as it was written: the records around it tell. One
    that is left out is a gap, which is listed and for which a day report waits."""
    till = rig.signer()
    chain = [till.start() for _ in range(6)]
    report = till.day_report()
    sent = list(chain)
    if how == "rewritten":
        sent[at] = another(till, chain[at])
    elif how == "left out":
        del sent[at]
    elif how == "turned round":
        one, two = chain[at], chain[at + 1] if at < 4 else chain[0]
        sent[at] = till.sign(one.content, one.id, sequence=two.sequence, prev=two.prev)
    else:
        sent.insert(at, another(till, chain[at]))
    told = words(rig, *sent)
    if how == "left out":
        assert set(told) == {"posted"} and words(rig, report) == ["sequence_gap"]
        [seen] = HeldList(rig.database).chains(till.terminal)["chains"]
        assert seen["missing"] == [at + 1]
    else:
        assert "held" in told and status(rig, till) == "forked"


def test_t_5_a_tail_that_nobody_saw_can_be_cut(rig: Rig) -> None:
    """T-5: what no ledger has seen can be left off the end and written anew; not detectable here.
    Only a receipt that a customer holds tells of it."""
    till = rig.signer()
    seen = till.start()
    words(rig, seen)
    cut = replace(till)
    till.start()
    assert words(rig, cut.start(), cut.start()) == ["posted"] * 2
    assert alarms(rig) == []


# ── what it costs ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def noting(rig: Rig) -> Iterator[list[list[str]]]:
    """The statements of each transaction meanwhile that looks at notes, first word and table."""
    transactions: list[list[str]] = []

    def begin(_: object) -> None:
        transactions.append([])

    def watch(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if transactions and not statement.startswith("BEGIN"):
            transactions[-1].append(statement.split()[0] + " " + _table(statement))

    engine = rig.database._writer
    event.listen(engine, "begin", begin)
    event.listen(engine, "before_cursor_execute", watch)
    try:
        yield transactions
    finally:
        event.remove(engine, "begin", begin)
        event.remove(engine, "before_cursor_execute", watch)
        transactions[:] = [each for each in transactions if "SELECT terminal_notes" in each]


def _table(statement: str) -> str:
    words = statement.split()
    place = words.index("FROM") if "FROM" in words else words.index("INTO")
    return words[place + 1]


@pytest.mark.parametrize("tills", [1, 3])
@pytest.mark.parametrize("each", [1, 60])
def test_noting_is_three_statements_whatever_the_batch(rig: Rig, tills: int, each: int) -> None:
    """Lock the terminals, look at the numbers, write the notes: of one record or of a hundred, of
    one till or of several; of records that are noted already it is two."""
    signers = [rig.signer() for _ in range(tills)]
    first = [till.start() for till in signers for _ in range(2)]
    words(rig, *first)
    records = [till.start() for till in signers for _ in range(each)]
    expected = ["SELECT terminals", "SELECT terminal_notes"]
    with noting(rig) as transactions:
        assert set(words(rig, *records)) == {"posted"}
    assert transactions == [[*expected, "INSERT terminal_notes"]]
    with noting(rig) as transactions:
        words(rig, *records)
    assert transactions == [expected]
