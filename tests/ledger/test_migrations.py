"""Migrations lead to exactly the tables that the code is written for, whoever runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Column, Connection, MetaData, Table, insert, select, text

from carepos import jws
from carepos.keys import SigningKey
from carepos_ledger import migrations, schema, terminal_keys
from carepos_ledger.database import Database, LedgerInUse
from carepos_ledger.trust import Trust
from tests.ledger.rig import SetClock
from tests.postgres_cluster import PostgresCluster

ALL = [f"{number:04}" for number in range(1, 12)]

_UPGRADE = """
import sys
from carepos_ledger import migrations
from carepos_ledger.database import Database
database = Database(sys.argv[1])
print(migrations.upgrade(database))
database.close()
"""

_CATALOGUE = {
    "columns": """
        SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def description(connection: Connection) -> dict[str, list[Any]]:
    """Everything the database itself says about its tables, Alembic's own apart."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("SELECT tbl_name, name, sql FROM sqlite_master"))
        rows = [(table, name, _clauses(ddl)) for table, name, ddl in found]
        return {"ddl": sorted((r for r in rows if r[0] != "alembic_version"), key=repr)}
    return {
        what: sorted(
            (tuple(row) for row in connection.execute(text(query)) if row[0] != "alembic_version"),
            key=repr,
        )
        for what, query in _CATALOGUE.items()
    }


def _clauses(ddl: str | None) -> tuple[str, list[str], str]:
    """Head, sorted clauses and tail (STRICT, WITHOUT ROWID) of one DDL statement."""
    flat = " ".join((ddl or "").split())
    head, _, rest = flat.partition("(")
    body, _, tail = rest.rpartition(")")
    # A comma inside brackets does not end a clause; brackets nest once at most here.
    return head, sorted(c.strip() for c in re.split(r",(?![^()]*\))", body)), tail.strip()


def empty(connection: Connection) -> None:
    schema.metadata.drop_all(connection)
    connection.execute(text("DROP TABLE alembic_version"))


def test_an_upgrade_makes_the_tables_of_the_schema(database: Database) -> None:
    """From empty, migrations give the columns, types, NOT NULLs, CHECKs, keys, uniques and
    indexes of `schema.py`, on SQLite also STRICT and WITHOUT ROWID: nothing more, nothing less."""
    assert migrations.upgrade(database) == ALL
    with database.write() as connection:
        migrated = description(connection)
        empty(connection)
    with database.write() as connection:
        schema.metadata.create_all(connection)
        made = description(connection)
    assert migrated == made
    held = repr(migrated)
    if database.is_sqlite:
        assert held.count("'WITHOUT ROWID, STRICT'") == len(schema.metadata.tables) - 6
    assert "ck_vouchers_saved_minor" in held and "ck_entries_range" in held


def test_an_upgrade_twice_changes_nothing(database: Database) -> None:
    """A second upgrade applies nothing and says so; only then is the schema current."""
    assert not migrations.is_current(database)
    migrations.upgrade(database)
    assert migrations.is_current(database)
    with database.read() as connection:
        before = description(connection)
    assert migrations.upgrade(database) == []
    with database.read() as connection:
        assert description(connection) == before


def test_an_upgrade_that_fails_leaves_nothing(database: Database) -> None:
    """A migration and the note that it ran are one transaction: half of one does not exist."""
    with database.write() as connection:
        connection.execute(text("CREATE TABLE terminals (there integer)"))
    with pytest.raises(Exception, match="terminals"):
        migrations.upgrade(database)
    with database.read() as connection:
        assert {row[0] for rows in description(connection).values() for row in rows} == {
            "terminals"
        }
    assert not migrations.is_current(database)


def test_the_way_back_leaves_an_empty_database(database: Database) -> None:
    """A downgrade of the first version takes away every table that it made."""
    migrations.upgrade(database)
    config = migrations._config()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with database.read() as connection:
        assert not any(description(connection).values())


KEY = SigningKey.generate()
# What tables of the first version want in a column, or what software of today reads from there.
FIRST: dict[str, Any] = {
    "bucket": 7,
    "frozen": 0,
    "state": "posted",
    "status": "suspended",
    "keys": json.dumps([KEY.public.to_jwk()]),
    "certificate": jws.sign(
        {"issued_at": "2026-11-01T00:00:00.000Z"}, typ=jws.CERTIFICATE, key=KEY
    ),
}
KINDS = {"vouchers": "value", "postings": "fund", "records": "start", "alarms": "fork"}
# What is kept in another form: issuers' keys as a set, a terminal's keys in a table of their own.
CHANGED = {("issuers", "keys"), *(("terminals", each) for each in ("kid", "x", "certificate"))}


def first_row(table: Table) -> dict[str, Any]:
    """A row of the first version; a name has the same value wherever it stands."""

    def value(column: Column[Any]) -> Any:
        if column.name == "kind":
            return KINDS[table.name]
        if column.name in FIRST:
            return FIRST[column.name]
        kind = column.type.python_type
        return 1 if kind is int else b"bytes" if kind is bytes else f"the {column.name}"

    return {column.name: value(column) for column in table.columns}


def test_every_row_of_the_first_version_is_there_in_the_newest(database: Database) -> None:
    """Whatever tables are made anew on the way: each row has all that it had, references hold, and
    keys of issuers and terminals count as before."""
    config, tables = migrations._config(), MetaData()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        tables.reflect(connection)
        tables.remove(tables.tables["alembic_version"])
        before = {table.name: first_row(table) for table in tables.sorted_tables}
        for table in tables.sorted_tables:
            connection.execute(insert(table).values(**before[table.name]))
    migrations.upgrade(database)
    with database.write() as connection:
        for name, row in before.items():
            [now] = connection.execute(select(schema.metadata.tables[name])).mappings()
            kept = {each for each in row if (name, each) not in CHANGED}
            assert {each: now[each] for each in kept} == {each: row[each] for each in kept}
        if database.is_sqlite:
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        forfeit = {**before["postings"], "posting": "another", "kind": "forfeit"}
        connection.execute(insert(schema.postings).values(**forfeit))
    [held] = Trust(database, "urn:test", SetClock()).issuers().values()
    assert [key.kid for key in held] == [KEY.kid]
    found = terminal_keys.find(database, "the kid")
    assert found is not None and (found.terminal, found.x) == ("the terminal", "the x")


def test_what_was_booked_before_0006_can_be_undone_after_it(database: Database) -> None:
    """A reversal learns which sale it took back, also where another journal has the same number;
    a note learns the bucket of what was decided, and stays without one where nothing was."""
    config = migrations._config()
    one, other = "1" * 32, "2" * 32

    def posting(name: str, kind: str, incarnation: str, sequence: int) -> str:
        return (
            f"INSERT INTO postings VALUES (7, '{name}', '{kind}', 'flood', 'zhou', 'shop', 't-1', "
            f"'{incarnation}', {sequence}, '2026-11-22', '2026-11-22')"
        )

    def note(sequence: int, name: str) -> str:
        return (
            f"INSERT INTO terminal_notes VALUES ('t-1', '{one}', {sequence}, '{name}', 'before', "
            "'2026-11-22')"
        )

    decided = (
        "INSERT INTO records VALUES (7, 'sale', 't-1', 'an id', 'redeem', "
        f"'{one}', 2, '2026-11-22', '2026-11-22', 'posted', 'an outcome')"
    )
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        for statement in (
            posting("sale", "redeem", one, 2),
            posting("twin", "redeem", other, 2),
            posting("undo", "reversal", one, 2),
            note(2, "sale"),
            note(3, "waits"),
            decided,
        ):
            connection.execute(text(statement))
    assert migrations.upgrade(database) == ALL[5:]
    with database.read() as connection:
        originals = connection.execute(text("SELECT posting, original FROM postings")).all()
        buckets = connection.execute(text("SELECT digest, bucket FROM terminal_notes")).all()
    assert dict(map(tuple, originals)) == {"sale": None, "twin": None, "undo": "sale"}
    assert dict(map(tuple, buckets)) == {"sale": 7, "waits": None}


def test_a_row_that_waits_for_its_booking_waits_on_after_0011(database: Database) -> None:
    """A ledger is updated while it heals: when the sale was written stands in the batch's file."""
    config, one = migrations._config(), "1" * 32
    file = (
        "line_no,kind,receipt_no,incarnation,terminal,store,occurred_at,recorded_at,amount_minor,"
        "currency\n"
        f"1,redeem,0001-000002-5,{one},t-1,shop,2026-11-21T08:00:00.000Z,2026-11-22,700,CNY\n"
        f"2,redeem,0001-000003-3,{one},t-1,shop,2026-11-21T09:00:00.000Z,2026-11-22,50,CNY\n"
    )
    batch = {"merchant": "zhou", "programme": "flood", "batch_no": 1}
    row = {"terminal": "t-1", "incarnation": one, "sequence": 3, "kind": "redeem"}
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0010")
        programme = (
            "INSERT INTO programmes (programme, rules_version, rules, currency, unreserved_minor, "
            "loss_reserve_minor) VALUES ('flood', 1, '{}', 'CNY', 0, 0)"
        )
        for statement in ("INSERT INTO merchants VALUES ('zhou', '周家超市')", programme):
            connection.execute(text(statement))
        closed = {**batch, "closed_at": "2026-11-22", "manifest": "signed", "file": file.encode()}
        connection.execute(insert(schema.batches), closed)
        waiting = Table("heal_rows", MetaData(), autoload_with=connection)
        connection.execute(insert(waiting), {**row, **batch, "amount_minor": 50})
    assert migrations.upgrade(database) == ALL[10:]
    with database.read() as connection:
        rows = connection.execute(select(schema.heal_rows)).mappings().all()
    assert [dict(each) for each in rows] == [
        {**batch, **row, "occurred_at": "2026-11-21T09:00:00.000Z", "amount_minor": 50}
    ]


def test_two_servers_that_start_at_once_both_find_it_done(
    postgres_cluster: PostgresCluster,
) -> None:
    """Processes that upgrade one PostgreSQL database at the same moment wait for each other:
    one applies the migration, the other finds it applied."""
    with (
        postgres_cluster.fresh_database() as url,
        postgres_cluster.connect(url.rpartition("/")[2]) as watcher,
    ):
        watcher.execute("SELECT pg_advisory_lock(%s)", [migrations._LOCK])
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _UPGRADE, url], stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        waiting = 0
        while waiting < 2 and not all(p.poll() is not None for p in processes):
            [[waiting]] = watcher.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
        watcher.execute("SELECT pg_advisory_unlock(%s)", [migrations._LOCK])
        said = sorted(process.communicate()[0].strip() for process in processes)
        assert [process.returncode for process in processes] == [0, 0]
        assert said == [str(ALL), "[]"]


def test_a_second_process_on_one_sqlite_ledger_is_refused(database_url: str) -> None:
    """One process at a time has an SQLite ledger open; PostgreSQL takes any number."""
    first = Database(database_url)
    try:
        if first.is_sqlite:
            with pytest.raises(LedgerInUse):
                Database(database_url)
        else:
            Database(database_url).close()
    finally:
        first.close()
    Database(database_url).close()
