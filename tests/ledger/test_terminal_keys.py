"""Terminals' keys in the ledger, on either database: races, what is asked, what is listed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from alembic import command
from sqlalchemy import event, insert, select, text

from carepos import ids, jws
from carepos.keys import SigningKey
from carepos.record import KeyChange
from carepos_ledger import migrations, schema, terminal_keys
from carepos_ledger.actions import find
from carepos_ledger.database import Database
from carepos_ledger.key_rules import TerminalKey
from tests.ledger.rig import Rig, Signer, code


def changed(till: Signer, key: SigningKey | None = None) -> tuple[Signer, KeyChange]:
    """The till under a new key, and the content that announces it as the till's next record, behind
    which its chain goes on (`behind`)."""
    fresh = key or SigningKey.generate()
    content = KeyChange.make(
        fresh,
        terminal=till.terminal,
        incarnation=till.incarnation,
        sequence=till.sequence + 1,
    )
    return replace(till, key=fresh, sequence=till.sequence + 1), content


def change(rig: Rig, till: Signer) -> Signer:
    """The till under a new key that was posted; its chain goes on behind the change."""
    fresh, content = changed(till)
    assert rig.send_one(till.sign(content, till.own_id())).result == "posted"
    return behind(till, fresh)


def behind(till: Signer, fresh: Signer) -> Signer:
    """The chain goes on behind what the till wrote last."""
    fresh.prev = till.prev
    return fresh


@contextmanager
def statements(rig: Rig) -> Iterator[list[str]]:
    """What is sent to the database meanwhile, reading or writing."""
    seen: list[str] = []

    def watch(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    engines = {id(e): e for e in (rig.database._writer, rig.database._reader)}.values()
    targets = engines if rig.database.is_sqlite else [rig.database._writer]
    for engine in targets:
        event.listen(engine, "before_cursor_execute", watch)
    try:
        yield seen
    finally:
        for engine in targets:
            event.remove(engine, "before_cursor_execute", watch)


def test_several_keys_cost_a_sale_nothing(rig: Rig) -> None:
    """A sale under a key that has signed before asks the database as often as one of a till that
    never changed, and never for `terminal_keys` but to find its key."""
    plain, till, holder = rig.signer(), rig.signer(), rig.holder()
    fresh = change(rig, till)
    rig.send_one(fresh.start())
    rig.send_one(rig.redeem(plain, holder, 100))  # the product list is read once
    sales = [rig.redeem(each, holder, 100) for each in (plain, fresh, plain, fresh)]
    counts = []
    for sale in sales:
        with statements(rig) as seen:
            rig.send_one(sale)
        assert sum("terminal_keys" in each for each in seen) <= 1
        counts.append(len(seen))
    assert len(set(counts)) == 1


def test_an_old_and_a_new_key_at_once(rig: Rig) -> None:
    """Whichever comes first: the old key's record is posted or `signature_invalid`; the new key's
    is posted; afterwards the old key is closed and no number is lost."""
    for _ in range(6):
        till, holder = rig.signer(), rig.holder()
        fresh = change(rig, till)
        old, new = rig.redeem(till, holder, 100), rig.redeem(fresh, holder, 200)
        # At one number, or beside each other, they would be a fork.
        old = rig.redeem(till, holder, 100, sequence=till.sequence + 2)
        answers = rig.side_by_side([old, new])
        assert code(answers[0]) in ("posted", "signature_invalid") and code(answers[1]) == "posted"
        late = rig.redeem(till, holder, 100, sequence=till.sequence + 5)
        assert [code(a) for a in rig.send(late)] == ["signature_invalid"]


def test_two_changes_and_a_first_record_at_once(rig: Rig) -> None:
    """A change that races with the first record of an earlier announced key never outlives it:
    one key is open afterwards."""
    for _ in range(6):
        till, holder = rig.signer(), rig.holder()
        fresh = change(rig, till)
        rival, content = changed(till)
        rivalry = {"record": till.sign(content, till.own_id()).jws}
        fresh.sequence += 1
        rig.side_by_side([rivalry, rig.redeem(fresh, holder, 100)])
        keys = schema.terminal_keys.c
        with rig.database.read() as connection:
            still_open = connection.scalars(
                select(keys.kid).where(
                    keys.terminal == till.terminal, keys.until_sequence.is_(None)
                )
            ).all()
        assert still_open == [fresh.key.kid]
        rival.sequence += 5
        assert [code(a) for a in rig.send(rival.start())] == ["signature_invalid"]


def test_a_change_waits_for_the_close_that_is_under_way(rig: Rig) -> None:
    """Two servers: while one closes a key, the other may not add one beside it."""
    till = rig.signer()
    fresh = change(rig, till)
    rival, content = changed(till)
    record = till.sign(content, till.own_id())
    [closing] = rig.commands([{"record": fresh.start().jws}])
    with ThreadPoolExecutor(1) as pool:
        with rig.database.write() as connection:
            assert terminal_keys.close_others(connection, [closing]) == set()  # type: ignore[list-item]
            sent = pool.submit(rig.send, record)
            rig.until_it_waits(sent)
        assert [code(a) for a in sent.result()] == ["signature_invalid"]
    rival.sequence += 3
    assert [code(a) for a in rig.send(rival.start())] == ["signature_invalid"]


def test_one_new_key_for_two_terminals_at_once(rig: Rig) -> None:
    """One of them has it; the other's change is `malformed`."""
    for _ in range(4):
        tills, key = [rig.signer(), rig.signer()], SigningKey.generate()
        envelopes = []
        for till in tills:
            _, content = changed(till, key)
            envelopes.append({"record": till.sign(content, till.own_id()).jws})
        answers = sorted(code(a) for a in rig.side_by_side(envelopes))
        assert answers == ["malformed", "posted"]


def test_a_refused_old_record_takes_no_number(rig: Rig) -> None:
    """Nothing is noted of it, alone or behind the record that closes its key, so that the till's
    own record at that number is no fork."""
    till, holder = rig.signer(), rig.holder()
    fresh = change(rig, till)
    first = fresh.start()
    late = rig.redeem(till, holder, 100, sequence=fresh.sequence + 1)
    assert [code(a) for a in rig.send(first, late)] == ["posted", "signature_invalid"]
    assert [code(a) for a in rig.send(late)] == ["signature_invalid"]
    assert code(rig.send(rig.redeem(fresh, holder, 100))[0]) == "posted"
    assert rig.counts().get("alarms") is None


def test_what_was_decided_before_its_key_was_closed_keeps_its_outcome(rig: Rig) -> None:
    """INV-1: also behind the record that closes the key, in one batch with it."""
    till, holder = rig.signer(), rig.holder()
    sale = rig.redeem(till, holder, 100)
    before = rig.send_one(sale)
    fresh = change(rig, till)
    anew = replace(fresh, incarnation=ids.new_incarnation(), sequence=0, prev="")
    answers = rig.send(anew.start(), sale, rig.redeem(till, holder, 100))
    assert [code(each) for each in answers] == ["posted", "posted", "signature_invalid"]
    assert answers[1] == before == rig.send_one(sale)


def test_a_terminal_that_is_busy_keeps_no_other_waiting(rig: Rig) -> None:
    """While another server changes a terminal, what is sent with its next records is booked."""
    if rig.database.is_sqlite:
        return  # one writer at a time: nothing is posted meanwhile, of whichever terminal
    till, other, holder = rig.signer(), rig.signer(), rig.holder()
    fresh = change(rig, till)
    sent = fresh.start(), rig.redeem(other, holder, 100)
    with rig.database.write() as connection:
        find(connection, schema.terminals, {"terminal": till.terminal}, for_update=True)
        assert [code(each) for each in rig.send(*sent)] == ["in_flight", "posted"]
    assert [code(each) for each in rig.send(*sent)] == ["posted", "posted"]


def test_a_fork_does_not_keep_the_old_key_open(rig: Rig) -> None:
    """T-1: where the copy was first at the number of the new key's first record, that record is a
    fork, and closes the old key all the same."""
    till, holder = rig.signer(), rig.holder()
    fresh = change(rig, till)
    assert code(rig.send(rig.redeem(till, holder, 100))[0]) == "posted"
    assert [code(a) for a in rig.send(fresh.start())] == ["held"]
    assert [code(a) for a in rig.send(till.start())] == ["signature_invalid"]
    assert code(rig.send(rig.redeem(fresh, holder, 100))[0]) == "held"
    assert [row["kind"] for row in rig.tables(["alarms"])["alarms"]] == ["fork"]


def test_a_second_change_while_one_is_open_is_an_alarm(rig: Rig) -> None:
    """A till changes and then uses the key; two announced keys may be two machines."""
    till = rig.signer()
    change(rig, till)
    assert rig.counts().get("alarms") is None
    change(rig, till)
    assert [row["kind"] for row in rig.tables(["alarms"])["alarms"]] == ["key_change"]


def test_operators_see_the_key_in_use(rig: Rig) -> None:
    """Its thumbprint and since when, and whether another waits."""
    till = rig.signer()
    [before] = rig.terminals.listed()
    rig.now.forward(days=3)
    fresh = change(rig, till)
    [waiting] = rig.terminals.listed()
    assert waiting == {**before, "key_changing": True} and before["kid"] == till.key.kid
    rig.send_one(fresh.start())
    [after] = rig.terminals.listed()
    assert (after["kid"], after["key_changing"]) == (fresh.key.kid, False)
    assert str(after["key_since"]) > str(before["key_since"])


def test_terminals_of_before_keep_their_keys(database_url: str) -> None:
    """A database from before a terminal could have several keys: each key is there with the day of
    its certificate, and counts as before. Nothing leads back but a backup."""
    database, key = Database(database_url), SigningKey.generate()
    try:
        migrated_to(database, "0002")
        certificate = jws.sign(
            {"issued_at": "2026-11-01T00:00:00.000Z"}, typ=jws.CERTIFICATE, key=key
        )
        with database.write() as connection:
            connection.execute(insert(schema.merchants).values(merchant="m", name="M"))
            connection.execute(insert(schema.stores).values(store="s", merchant="m", name="S"))
            connection.execute(
                text(
                    "INSERT INTO terminals (terminal, terminal_no, store, merchant, kid, x, "
                    "status, certificate) VALUES ('t-1', 7, 's', 'm', :kid, :x, 'suspended', :c)"
                ),
                {"kid": key.kid, "x": key.public.x, "c": certificate},
            )
        assert migrations.upgrade(database)[0] == "0003"
        found = terminal_keys.find(database, key.kid)
        assert found is not None
        assert (found.terminal, found.terminal_no, found.store) == ("t-1", 7, "s")
        assert (found.x, found.status, found.key) == (
            key.public.x,
            "suspended",
            TerminalKey("t-1"),
        )
        with database.read() as connection:
            assert terminal_keys.in_use(connection)["t-1"] == (
                key.kid,
                "2026-11-01T00:00:00.000Z",
                False,
            )
        with pytest.raises(RuntimeError, match="backup"):
            migrated_to(database, "0002", back=True)
        assert migrations.is_current(database)
    finally:
        database.close()


def migrated_to(database: Database, revision: str, *, back: bool = False) -> None:
    config = migrations._config()
    with database.write() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)
