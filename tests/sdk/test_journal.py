"""The journal's promises: what is acknowledged is there, what is there is what was signed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from carepos import clock, record
from carepos.errors import (
    JournalClosed,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    Malformed,
    Refused,
)
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView, Visit
from carepos.keys import KeySet, SigningKey
from carepos.record import DayReport, Record, Start
from tests import paper_till

KEY = SigningKey(b"k" * 32)
KEYS = KeySet([KEY.public])
OTHER = SigningKey(b"o" * 32)


def start(folder: Path, *, terminal: str = "t-1", key: SigningKey = KEY, **more: Any) -> Journal:
    return Journal.start(
        folder / "journal.db", key=key, terminal=terminal, software="test/1", **more
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with start(tmp_path) as opened:
        yield opened


def copied(source: Path, target: Path) -> Path:
    """The journal's files as they lie there now: what a power loss leaves."""
    target.mkdir()
    for file in source.glob("journal.db*"):
        if not file.name.endswith((".lock", "-shm")):
            shutil.copyfile(file, target / file.name)
    return target


# forgetting


def test_what_is_past_its_time_is_forgotten_and_the_chain_stays(tmp_path: Path) -> None:
    """Visits after two days, what a receipt showed after its time; records, numbers and sales that
    are not over stay, and neither table, free pages nor the log hold what was forgotten."""
    now = paper_till.Ticking()
    with start(tmp_path, now=now, random_bytes=now.random_bytes) as journal:
        for checkout in ("S1", "S2"):
            made, _ = journal.write_intent(
                paper_till.redeem(checkout),
                bucket=7,
                visit=Visit("https://issuer.test", checkout * 20 + "jti"),
                slip=lambda written: {
                    "receipt_no": f"0001-{written.sequence:06d}-0",
                    "goods": "奶",
                },
            )
            if checkout == "S1":
                posted = paper_till.outcome("redeem", "posted", made.id)
                journal.advance(made.id, "sale_posted", outcome=posted)
                journal.print_ended(journal.print_jobs()[0].n, "printed")
        before = paper_till.dump(journal)
        assert journal.forget() == (0, 0)
        assert paper_till.dump(journal) == before
        now.at += timedelta(days=200)
        assert journal.forget(timedelta(days=199)) == (2, 1)
        assert journal.forget(timedelta(days=199)) == (0, 0)
        after = paper_till.dump(journal)
        assert (after["records"], after["outcomes"]) == (before["records"], before["outcomes"])
        assert (after["visits"], after["print_jobs"]) == ([], [])
        ended, running = journal.attempts()
        assert ended.slip == {"forgotten": True, "receipt_no": "0001-000002-0"}
        assert running.slip["goods"] == "奶"
        assert journal.verify() == journal.sequence
        lies = b"".join(file.read_bytes() for file in tmp_path.glob("journal.db*"))
        assert b"S1" * 20 not in lies and lies.count("奶".encode()) == 1


# opening


def test_durability_is_asserted_not_hoped_for(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The open journal has WAL, FULL and foreign keys; a SQLite that gives less is refused."""
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
    got = [journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert got == ["wal", 2, 1, 0]

    class Slack(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *rest)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Slack))
    slack = tmp_path / "slack"
    slack.mkdir()
    with pytest.raises(JournalError, match="synchronous = 0"):
        start(slack)


def test_a_journal_is_made_once(tmp_path: Path) -> None:
    """Each start continues the same incarnation with a `start` record of its own."""
    with start(tmp_path) as first:
        about = first.about()
        assert (about["terminal"], about["schema"]) == ("t-1", "3")
    with start(tmp_path) as again:
        assert again.about() == about and again.incarnation == about["incarnation"]
        assert [r.content for r in again.records()] == [Start("test/1"), Start("test/1")]
        assert again.verify() == again.sequence == 2


def test_another_terminals_journal_is_refused(tmp_path: Path) -> None:
    """A journal belongs to one terminal and one key."""
    start(tmp_path).close()
    with pytest.raises(JournalCorrupt, match="another terminal"):
        start(tmp_path, terminal="t-2")
    with pytest.raises(JournalCorrupt, match="newest record"):
        start(tmp_path, key=OTHER)
    start(tmp_path).close()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE meta SET value = '4' WHERE name = 'schema'", "format 4"),
        ("DELETE FROM meta", "format None"),
        ("DELETE FROM meta WHERE name = 'terminal'", "another terminal"),
        ("UPDATE meta SET value = 'f' WHERE name = 'incarnation'", "does not hold"),
        ("DROP TABLE meta", "meta"),
    ],
)
def test_a_journal_of_another_making_is_refused(tmp_path: Path, damage: str, says: str) -> None:
    """Another format, or a damaged one, is an error of ours with words, and nothing is changed."""
    start(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute(damage)
    connection.close()
    before = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(JournalError, match=says):
        start(tmp_path)
    assert (tmp_path / "journal.db").read_bytes() == before


def of_format(number: int, folder: Path) -> Path:
    """A journal as an older software left it, the till stopped: 1 knew no voids and refunds, 2 no
    work without a network."""
    path = folder / "journal.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        dump = Path(__file__).with_name(f"journal_format_{number}.sql")
        connection.executescript(dump.read_text("utf-8"))
    connection.close()
    return path


def shape(path: Path) -> dict[str, list[Any]]:
    """Each table's columns, and each index and trigger as it was made."""
    with sqlite3.connect(path) as connection:
        made = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type != 'table'"
        ).fetchall()
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        found = {
            name: [
                connection.execute(f"PRAGMA table_info({name})").fetchall(),
                connection.execute(f"PRAGMA foreign_key_list({name})").fetchall(),
            ]
            for (name,) in tables.fetchall()
        }
    connection.close()
    return {**found, "": sorted(made, key=str)}


def test_a_journal_of_format_1_is_brought_up_where_it_lies(tmp_path: Path) -> None:
    """Opened, it has every table, index and trigger of a new one; all that was written in it is
    there unchanged, the chain goes on, and its sales can be voided."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    path = of_format(1, old)
    tables = paper_till.TABLES[1:7]
    with sqlite3.connect(path) as connection:
        before = {t: connection.execute(f"SELECT * FROM {t}").fetchall() for t in tables}
    connection.close()
    view = JournalView.open(path, KEYS)
    assert [a.state for a in view.attempts()] == ["confirmed", "refused", "reversing", "open"]
    assert view.undos() == [] == view.undos("waiting")  # looked at before any till opened it
    view.close()
    start(new).close()
    with start(old) as journal:
        assert journal.about()["schema"] == "3"
        assert [a.state for a in journal.unfinished()] == ["reversing", "interrupted"]
        assert journal.verify() == journal.sequence == 7
        after = paper_till.dump(journal)
        for table in set(tables) - {"attempts", "visits"}:
            assert after[table][: len(before[table])] == before[table]
        assert [row[:3] for row in after["attempts"]] == [row[:3] for row in before["attempts"]]
        sold = journal.of_checkout("S1")[0]
        undo, _ = paper_till.write_void(journal, sold)
        journal.advance_undo(
            undo.id, "undo_posted", outcome=paper_till.outcome("void", "posted", undo.id)
        )
        assert journal.attempt(sold.id).state == "voided"
        assert sold.id not in [a.id for a in journal.unfinished()]
    assert shape(path) == shape(new / "journal.db")
    with start(old) as again:
        assert again.verify() == again.sequence == 9 and again.undos("posted")


def test_a_journal_of_format_2_is_brought_up_where_it_lies(tmp_path: Path) -> None:
    """As format 1; the void that waits in it still waits, and can still be posted."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    path = of_format(2, old)
    view = JournalView.open(path, KEYS)
    assert [u.state for u in view.undos()] == ["waiting"]
    assert view.events_of_undo(view.undos()[0].id) == []
    view.close()
    start(new).close()
    with start(old) as journal:
        assert journal.verify() == journal.sequence == 8
        assert [a.state for a in journal.unfinished()] == ["reversing", "interrupted"]
        (undo,) = journal.undos("waiting")
        journal.advance_undo(
            undo.id, "undo_posted", outcome=paper_till.outcome("void", "posted", undo.id)
        )
        assert journal.attempt(undo.original).state == "voided"
    assert shape(path) == shape(new / "journal.db")


@pytest.mark.parametrize("failing", ["DROP INDEX", "CREATE TABLE corrections", "UPDATE meta"])
def test_a_journal_is_brought_up_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Cut at any of its steps it is of format 1 as before, and the next start does it."""
    path = of_format(1, tmp_path)
    before = shape(path)

    class Cut(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql.strip().startswith(failing):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *rest)

    with monkeypatch.context() as patched:
        connect = sqlite3.connect
        patched.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Cut))
        with pytest.raises(JournalError):
            start(tmp_path)
    assert shape(path) == before
    with start(tmp_path) as journal:
        assert journal.about()["schema"] == "3" and journal.verify() == 7


def test_a_void_takes_its_sale_with_it(journal: Journal) -> None:
    """In one transaction: the void is posted, the sale voided, its slip queued under the sale's
    number; a receipt that was not printed yet says REDEEMED no more, and a reprint says VOIDED."""
    made, _ = paper_till.write_intent(journal, "S1")
    journal.advance(made.id, "sale_posted")
    undo, written = paper_till.write_void(journal, made)
    assert written.bucket == 7 and journal.live_attempt("S1") is not None
    assert [j.state for j in journal.print_jobs()] == ["queued"]
    posted = paper_till.outcome("void", "posted", undo.id)
    after = {**undo.slip, "balances": ["now"]}
    assert journal.advance_undo(undo.id, "undo_posted", outcome=posted, slip=after).slip == after
    assert journal.attempt(made.id).state == "voided" and journal.live_attempt("S1") is None
    number = made.slip["receipt_no"]
    jobs = journal.print_jobs(number)
    assert [(j.copy_no, j.state) for j in jobs] == [(0, "failed"), (1, "queued")]
    assert jobs[1].slip == after and journal.print_jobs(queued=True) == [jobs[1]]
    copy = journal.queue_copy(number)
    assert copy.copy_no == 2 and copy.slip == {**after, "is_copy": True}
    again, _ = paper_till.write_intent(journal, "S1")
    assert journal.live_attempt("S1") == again


def test_a_sale_has_one_undo_that_waits(journal: Journal) -> None:
    """A second waits until the first is decided; after a refused one another may follow, and only
    one void is ever posted; a register's number of a return is used once."""
    made, _ = paper_till.write_intent(journal, "S1")
    journal.advance(made.id, "sale_posted")
    first, _ = paper_till.write_refund(journal, made, reference="R1")
    with pytest.raises(JournalError, match="refused the write"):
        paper_till.write_void(journal, made)
    foreign, _ = paper_till.write_refund(journal, made, terminal="t-2")  # another sale's
    journal.advance_undo(first.id, "undo_refused")
    with pytest.raises(JournalError, match="refused the write"):
        paper_till.write_refund(journal, made, reference="R1")
    second, _ = paper_till.write_void(journal, made)
    assert [u.id for u in journal.undos_of("t-1", made.id)] == [first.id, second.id]
    assert journal.undos("waiting") == [foreign, second] == [
        journal.undo(foreign.id), journal.undo(second.id)
    ]  # fmt: skip
    assert journal.undo_by_reference("R1") == journal.undo(first.id)
    assert journal.undo_by_reference("R2") is None
    with pytest.raises(KeyError):
        journal.undo("absent")


def test_a_restart_leaves_an_undo_waiting(tmp_path: Path) -> None:
    """What is not decided is found again, with the restart in its story."""
    with start(tmp_path) as journal:
        made, _ = paper_till.write_intent(journal, "S1")
        journal.advance(made.id, "sale_posted")
        undo, written = paper_till.write_void(journal, made)
    with start(tmp_path) as again:
        assert again.undos("waiting") == [undo] and again.record_at(undo.sequence) == written
        assert [e[2:5] for e in paper_till.dump(again)["correction_events"]] == [
            ("restart", "waiting", "waiting")
        ]
        with pytest.raises(KeyError):
            again.record_at(99)


def test_what_a_slip_of_an_undo_showed_is_forgotten_too(tmp_path: Path) -> None:
    """With the sale's own: the record stays, goods and balances go; what waits is kept."""
    now = paper_till.Ticking()
    with start(tmp_path, now=now) as journal:
        undos = []
        for checkout in ("S1", "S2"):
            made, _ = paper_till.write_intent(journal, checkout)
            journal.advance(made.id, "sale_posted")
            undos.append(paper_till.write_void(journal, made)[0])
        journal.advance_undo(undos[0].id, "undo_posted")
        now.at += timedelta(days=200)
        journal.forget(timedelta(days=199))
        ended, waiting = journal.undos()
        assert ended.slip == {"forgotten": True, "receipt_no": undos[0].slip["receipt_no"]}
        assert waiting.slip == undos[1].slip and journal.verify() == journal.sequence


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Something else under the journal's name is left alone."""
    (tmp_path / "journal.db").write_bytes(b"not a database, certainly\n" * 100)
    with pytest.raises(JournalError, match="can't be opened"):
        start(tmp_path)
    with pytest.raises(JournalError, match="can't be read"):
        JournalView.open(tmp_path / "journal.db", KEYS)
    with pytest.raises(JournalError, match="never started"):
        JournalView.open(tmp_path / "absent.db", KEYS)


def test_a_view_reads_beside_the_till(journal: Journal, tmp_path: Path) -> None:
    """A second process may look while the till writes; it sees each commit and can't write."""
    view = JournalView.open(tmp_path / "journal.db", KEYS)
    made, written = paper_till.write_intent(journal, "S1")
    assert view.attempts() == [made] == view.unfinished() == view.attempts("open")
    assert view.record_of(made) == written and view.about() == journal.about()
    assert view.records("redeem", "start")[1:] == [written]
    with pytest.raises(KeyError):
        view.record_of(made, "reversal")
    with pytest.raises(KeyError):
        view.attempt("absent")
    with pytest.raises(sqlite3.OperationalError):
        view._db.execute("DELETE FROM print_jobs")
    view.close()


# FA-1, FA-4, FA-5, FA-9


def test_fa_1_a_crash_before_the_write_leaves_nothing(journal: Journal) -> None:
    """Whatever fails while the intent is being made, no row and no number of it remains."""
    before = paper_till.dump(journal)

    def boom(_: Record) -> dict[str, Any]:
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        journal.write_intent(
            paper_till.redeem("S1"), bucket=7, visit=Visit("i", "j" * 43), slip=boom
        )
    assert paper_till.dump(journal) == before
    _, written = paper_till.write_intent(journal, "S1")
    assert written.sequence == 2 == journal.verify()


def test_fa_4_an_open_sale_is_interrupted_by_a_restart(tmp_path: Path) -> None:
    """After a crash behind the fsync the sale is there and waits to be asked about."""
    with start(tmp_path) as journal:
        made, _ = paper_till.write_intent(journal, "S1")
    with start(tmp_path) as again:
        assert again.attempt(made.id).state == "interrupted"
        assert again.live_attempt("S1") == again.attempt(made.id)


def test_fa_5_power_loss_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    """Each acknowledged write is in the files at once: a copy taken then holds it."""
    here = tmp_path / "here"
    here.mkdir()
    with start(here) as journal:
        for n in range(1, 4):
            made, _ = paper_till.write_intent(journal, f"S{n}")
            there = copied(here, tmp_path / f"lost-{n}")
            with start(there) as after:
                assert after.attempt(made.id).state == "interrupted"
                assert after.sequence == journal.sequence + 1 == after.verify()


def test_fa_9_a_jumping_clock_changes_no_id(tmp_path: Path) -> None:
    """The clock may jump a year back between crash and recovery: same id, same record."""
    now = paper_till.Ticking()
    with start(tmp_path, now=now) as journal:
        made, written = paper_till.write_intent(journal, "S1")
    now.at -= timedelta(days=365)
    with start(tmp_path, now=now) as again:
        (after,) = again.attempts()
        assert after.id == made.id and again.record_of(after) == written


def test_times_of_records_never_go_back(tmp_path: Path) -> None:
    """A clock that was put back gives a record the time of the one before, also after a restart."""
    now = paper_till.Ticking()
    with start(tmp_path, now=now) as journal:
        _, first = paper_till.write_intent(journal, "S1")
        now.at -= timedelta(days=365)
        _, second = paper_till.write_intent(journal, "S2")
    with start(tmp_path, now=now) as again:
        times = [each.occurred_at for each in again.records()]
        assert times[1] == first.occurred_at == second.occurred_at == times[-1]
        assert times == sorted(times) and again.verify() == again.sequence


# FA-2


def _wal_with_sales(folder: Path, count: int) -> tuple[list[Attempt], list[int]]:
    """Sales left in the WAL, and how long the WAL was after each."""
    lengths, made = [], []
    journal = start(folder)
    for n in range(count):
        made.append(paper_till.write_intent(journal, f"S{n}")[0])
        lengths.append((folder / "journal.db-wal").stat().st_size)
    copied(folder, folder / "crash")
    journal.close()
    return made, lengths


@pytest.mark.parametrize("how", ["truncate", "garble", "zero"])
def test_fa_2_a_torn_tail_costs_the_tail_only(tmp_path: Path, how: str) -> None:
    """A torn last write is dropped whole; every record before it is intact and the chain holds.

    At every place within the last transaction's part of the WAL.
    """
    made, lengths = _wal_with_sales(tmp_path, 3)
    begin, end = lengths[-2], lengths[-1]
    places = random.Random(how)
    for round_no in range(25):
        torn = copied(tmp_path / "crash", tmp_path / f"{how}-{round_no}")
        wal = torn / "journal.db-wal"
        data = bytearray(wal.read_bytes())
        assert len(data) == end
        at = places.randrange(begin, end)
        if how == "truncate":
            del data[at:]
        elif how == "zero":
            data[at:] = bytes(end - at)
        else:
            data[at:] = places.randbytes(end - at)
        wal.write_bytes(data)
        with start(torn) as after:
            assert after.verify() == after.sequence
            found = {attempt.id: attempt.state for attempt in after.attempts()}
            assert list(found)[:2] == [each.id for each in made[:2]]
            assert set(found.values()) == {"interrupted"}
            assert made[2].id not in found
            # The number that was torn off is given out again, to the `start` of this life.
            assert after.records("start")[-1].sequence == 4
        shutil.rmtree(torn)


# FA-3, FA-8


class FailingDisk:
    """A connection whose disk fails at one statement: before it took effect, or after."""

    def __init__(self, connection: sqlite3.Connection, failing: str, *, after: bool) -> None:
        self._connection = connection
        self._failing = failing
        self._after = after

    def execute(self, sql: str, *rest: Any) -> Any:
        if not sql.startswith(self._failing):
            return self._connection.execute(sql, *rest)
        if self._after:
            self._connection.execute(sql, *rest)
        raise sqlite3.OperationalError("disk I/O error")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    ("failing", "after"),
    [
        ("BEGIN", False),
        ("INSERT INTO records", False),
        ("INSERT INTO attempts", True),
        ("COMMIT", False),
        ("COMMIT", True),
        ("ROLLBACK", False),
    ],
)
def test_fa_3_a_failed_write_closes_the_journal(tmp_path: Path, failing: str, after: bool) -> None:
    """After a failed write nothing is written until a restart; what reappears is interrupted.

    An fsync that fails may still leave the record on the disk: then it is found after the restart
    like any sale that was open, and never taken for one that wasn't there.
    """
    journal = start(tmp_path)
    sequence = journal.sequence
    whole = journal._db
    journal._db = FailingDisk(whole, failing, after=after)  # type: ignore[assignment]
    if failing == "ROLLBACK":
        journal._db._failing = "INSERT INTO records"  # type: ignore[attr-defined]
        with pytest.raises(JournalClosed):
            paper_till.write_intent(journal, "S1")
        journal._db._failing = "ROLLBACK"  # type: ignore[attr-defined]
        journal._roll_back((sequence, "head"))
    else:
        with pytest.raises(JournalClosed, match="restart"):
            paper_till.write_intent(journal, "S1")
    journal._db = whole
    for write in (
        lambda: paper_till.write_intent(journal, "S2"),
        lambda: journal.queue_copy("0001-000002-0"),
        lambda: journal.write_day_report(lambda last: day_report(1, last)),
    ):
        with pytest.raises(JournalClosed, match="closed"):
            write()
    assert journal.sequence == sequence or failing == "ROLLBACK"
    journal.close()
    with start(tmp_path) as again:
        reappeared = [attempt.state for attempt in again.attempts()]
        assert reappeared == (["interrupted"] if (failing, after) == ("COMMIT", True) else [])
        assert again.verify() == again.sequence == sequence + len(reappeared) + 1
        paper_till.write_intent(again, "S2")


def test_a_rollback_that_fails_closes_the_journal(journal: Journal) -> None:
    """Even a refusal by a rule closes the journal when it can't be undone on the disk."""
    whole = journal._db
    journal._db = FailingDisk(whole, "ROLLBACK", after=True)  # type: ignore[assignment]
    with pytest.raises(KeyError):
        journal.queue_copy("never printed")
    journal._db = whole
    with pytest.raises(JournalClosed, match="rollback"):
        paper_till.write_intent(journal, "S1")


def run(script: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        **more,
    )


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from carepos.errors import JournalClosed
    from tests import paper_till
    from tests.sdk.test_journal import start

    journal = start(Path(sys.argv[1]))
    room = (Path(sys.argv[1]) / "journal.db-wal").stat().st_size + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    acknowledged = []
    try:
        for n in range(100):
            acknowledged.append(paper_till.write_intent(journal, f"S{n}")[0].id)
    except JournalClosed:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(*acknowledged)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits how large a file may grow")
@pytest.mark.parametrize("room", [0, 5_000, 60_000, 130_001])
def test_fa_8_a_full_disk_refuses_before_anything_is_promised(tmp_path: Path, room: int) -> None:
    """When a write finds no room the sale is refused; all acknowledged ones are there after.

    The operating system itself refuses the bytes here, in a process of its own.
    """
    ended = run(FULL_DISK, tmp_path, room)
    assert ended.returncode == 0, ended.stderr
    acknowledged = ended.stdout.split()
    assert len(acknowledged) < 100 and (room < 60_000 or acknowledged)
    with start(tmp_path) as again:
        assert [attempt.id for attempt in again.attempts()] == acknowledged
        assert again.verify() == again.sequence
        paper_till.write_intent(again, "after")


# FA-6

HOLDER = """
    import sys, time
    from pathlib import Path
    from tests.sdk.test_journal import start

    journal = start(Path(sys.argv[1]))
    print("open", flush=True)
    sys.stdin.read()
"""


def test_fa_6_a_second_process_is_refused(tmp_path: Path) -> None:
    """One process holds the journal; a kill frees it, and what it wrote is there."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        before = (tmp_path / "journal.db-wal").read_bytes()
        with pytest.raises(JournalLocked, match="another process"):
            start(tmp_path)
        assert (tmp_path / "journal.db-wal").read_bytes() == before
        os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        holder.wait(timeout=30)
    with start(tmp_path) as again:
        assert again.sequence == 2 == again.verify()


def test_fa_6_a_second_journal_in_one_process_is_refused(journal: Journal, tmp_path: Path) -> None:
    """Two tills over one folder in one process are one too many, too."""
    with pytest.raises(JournalLocked):
        start(tmp_path)
    paper_till.write_intent(journal, "S1")


def test_a_failed_start_frees_the_lock(tmp_path: Path) -> None:
    """After a refused start the next one need not wait for the process to end."""
    with pytest.raises(Malformed):
        start(tmp_path, terminal="Not A Name")
    with start(tmp_path) as journal:
        assert journal.sequence == 1


# T-5


@pytest.mark.parametrize("table", ["records", "outcomes"])
def test_records_and_outcomes_stay(journal: Journal, table: str) -> None:
    """The database itself refuses to change or delete a record or an outcome."""
    made, _ = paper_till.write_intent(journal, "S1")
    journal.advance(made.id, "sale_posted", outcome=paper_till.outcome("redeem", "posted", made.id))
    assert journal._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] >= 1
    for statement in (f"UPDATE {table} SET jws = 'x'", f"DELETE FROM {table}"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            journal._db.execute(statement)


@contextmanager
def tampering(journal: Journal) -> Iterator[Callable[[str], object]]:
    """Changes as somebody with the file and no scruples makes them; taken back at the end."""
    db = journal._db
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("PRAGMA ignore_check_constraints = ON")
    db.execute("BEGIN")
    for trigger in ("records_stay", "records_remain", "outcomes_stay", "outcomes_remain"):
        db.execute(f"DROP TRIGGER {trigger}")
    try:
        yield lambda sql: db.executescript(f"SAVEPOINT s; {sql}")
    finally:
        db.execute("ROLLBACK")
        db.execute("PRAGMA ignore_check_constraints = OFF")


def found(journal: Journal) -> bool:
    try:
        journal.verify()
    except JournalCorrupt:
        return True
    return False


@pytest.fixture
def lived(journal: Journal) -> Journal:
    """A journal with every kind of record: six in all, the last one acknowledged."""
    kept, _ = paper_till.write_intent(journal, "S1")
    journal.advance(kept.id, "sale_posted")
    undone, _ = paper_till.write_intent(journal, "S2")
    journal.advance(undone.id, "no_answer")
    journal.advance(undone.id, "reverse_chosen")
    journal.write_day_report(lambda last: day_report(1, last))
    paper_till.write_intent(journal, "S3")
    assert journal.verify() == 6
    assert [r.kind for r in journal.records()] == [
        "start", "redeem", "redeem", "reversal", "day_report", "redeem",
    ]  # fmt: skip
    return journal


def day_report(z_no: int, last: int) -> DayReport:
    return DayReport(z_no, "2026-11-22", 1, last, 1, 0, 0, 0, ())


def test_t_5_every_flipped_character_is_found(lived: Journal) -> None:
    """No character of any signed record can be another one, wherever it stands."""
    db = lived._db
    texts = dict(db.execute("SELECT sequence, jws FROM records").fetchall())
    missed = []
    db.execute("BEGIN")
    db.execute("DROP TRIGGER records_stay")
    try:
        for sequence, text in texts.items():
            for at in range(0, len(text), 3):  # each byte of what base64url spells is in one
                other = "A" if text[at] != "A" else "B"
                changed = text[:at] + other + text[at + 1 :]
                db.execute("UPDATE records SET jws = ? WHERE sequence = ?", (changed, sequence))
                if not found(lived):
                    missed.append((sequence, at))
            db.execute("UPDATE records SET jws = ? WHERE sequence = ?", (text, sequence))
    finally:
        db.execute("ROLLBACK")
    assert missed == [] and not found(lived)


@pytest.mark.parametrize("sequence", range(1, 7))
@pytest.mark.parametrize(
    "change",
    [
        "sequence = sequence + 100",
        "sequence = -sequence",
        "kind = 'void'",
        "kind = CASE kind WHEN 'start' THEN 'day_report' ELSE 'start' END",
        "id = '01a20260-5f40-8001-8000-000000000001'",
        "choice = CASE WHEN choice IS NULL THEN 'other' END",
        "digest = CASE substr(digest, 1, 1) WHEN 'A' THEN 'B' ELSE 'A' END || substr(digest, 2)",
        "digest = 'x'",
        "prev = 'x'",
        "occurred_at = '2026-11-22T08:00:00.000Z'",
        "jws = 'é' || substr(jws, 2)",
        "jws = CAST(x'ff' || CAST(jws AS BLOB) AS TEXT)",
        "jws = ''",
    ],
)
def test_t_5_every_changed_column_is_found(lived: Journal, sequence: int, change: str) -> None:
    """Nor can what stands beside a signed record say something else than it."""
    with tampering(lived) as tamper:
        tamper(f"UPDATE records SET {change} WHERE sequence = {sequence}")
        assert found(lived)
    assert not found(lived)


@pytest.mark.parametrize("sequence", range(1, 7))
def test_t_5_every_deleted_record_is_found(lived: Journal, sequence: int) -> None:
    """A record taken out is missed, the last one by the attempt that still tells of it."""
    with tampering(lived) as tamper:
        tamper(f"DELETE FROM records WHERE sequence = {sequence}")
        assert found(lived)


def test_t_5_a_renumbered_chain_is_found(lived: Journal) -> None:
    """Taking one out and moving the others up is found by their signed numbers."""
    with tampering(lived) as tamper:
        tamper(
            "DELETE FROM records WHERE sequence = 2;"
            "UPDATE records SET sequence = sequence - 1 WHERE sequence > 2;"
        )
        assert found(lived)


@pytest.mark.parametrize("first", range(1, 6))
@pytest.mark.parametrize("gap", [1, 2])
def test_t_5_every_swap_is_found(lived: Journal, first: int, gap: int) -> None:
    """Two records that change places are found."""
    second = min(first + gap, 6)
    with tampering(lived) as tamper:
        tamper(
            f"UPDATE records SET sequence = 1000 WHERE sequence = {first};"
            f"UPDATE records SET sequence = {first} WHERE sequence = {second};"
            f"UPDATE records SET sequence = {second} WHERE sequence = 1000;"
        )
        assert found(lived)


@pytest.mark.parametrize("key", [KEY, OTHER], ids=["own key", "other key"])
@pytest.mark.parametrize("at", range(1, 8))
def test_t_5_every_inserted_record_is_found(lived: Journal, at: int, key: SigningKey) -> None:
    """A record put in anywhere is found, even one that the till's own key signed.

    Even at the end, unless it was signed by that key for exactly that place: then it is a record.
    """
    forged = record.make(
        Start("forged/1"),
        attempt_id=lived._own_id(),
        terminal="t-1",
        incarnation=lived.incarnation,
        sequence=at,
        prev=record.first_prev(lived.incarnation) if at == 1 else "P" * 43,
        occurred_at=lived._now(),
        key=key,
    )
    with tampering(lived) as tamper:
        tamper(
            f"UPDATE records SET sequence = -sequence - 1 WHERE sequence >= {at};"
            "UPDATE records SET sequence = -sequence WHERE sequence < 0;"
        )
        lived._db.execute(
            "INSERT INTO records VALUES (?, 'start', ?, NULL, ?, ?, '', ?)",
            # No two rows may say one `prev`: what stands in the column is not what was signed.
            (at, forged.id, forged.digest, "P" * 43, forged.jws),
        )
        assert found(lived)


@pytest.mark.parametrize(
    ("at", "links"),
    [*((at, True) for at in range(1, 6)), *((at, False) for at in range(2, 7))],
)
def test_t_5_every_rewritten_record_is_found(lived: Journal, at: int, links: bool) -> None:
    """Another record that the till's own key signed for the same number is found by the links.

    Except as the very last one, where it may be: what was acknowledged there the ledger knows.
    """
    (true_prev,) = lived._db.execute(
        "SELECT prev FROM records WHERE sequence = ?", (at,)
    ).fetchone()
    forged = record.make(
        Start("forged/1"),
        attempt_id=lived._own_id(),
        terminal="t-1",
        incarnation=lived.incarnation,
        sequence=at,
        prev=true_prev if links else "P" * 43,
        occurred_at=lived._now(),
        key=KEY,
    )
    with tampering(lived) as tamper:
        tamper(f"DELETE FROM records WHERE sequence = {at};")
        lived._db.execute(
            "INSERT INTO records VALUES (?, 'start', ?, NULL, ?, ?, ?, ?)",
            (at, forged.id, forged.digest, forged.prev, clock.to_text(forged.occurred_at),
             forged.jws),
        )  # fmt: skip
        assert found(lived)


def test_t_5_a_record_of_another_incarnation_is_found(lived: Journal, tmp_path: Path) -> None:
    """The same till's record out of another journal doesn't fit, though its signature is good."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with start(elsewhere) as other:
        (foreign,) = other.records()
    with tampering(lived) as tamper:
        tamper("DELETE FROM records WHERE sequence = 1;")
        lived._db.execute(
            "INSERT INTO records VALUES (1, 'start', ?, NULL, ?, ?, '', ?)",
            (foreign.id, foreign.digest, foreign.prev, foreign.jws),
        )
        assert found(lived)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE records SET digest = 'x' WHERE sequence = 1",
        "UPDATE records SET prev = 'x' WHERE sequence = 2",
        "DELETE FROM records WHERE sequence = 1",
        "UPDATE records SET jws = 'é' WHERE sequence = 1",
        "UPDATE records SET jws = CAST(x'ff' AS TEXT) WHERE sequence = 2",
    ],
)
def test_a_broken_chain_is_not_continued(tmp_path: Path, damage: str) -> None:
    """A till whose chain does not hold does not open, and says so with an error of ours."""
    with start(tmp_path) as journal:
        paper_till.write_intent(journal, "S1")
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("DROP TRIGGER records_stay")
        connection.execute("DROP TRIGGER records_remain")
        connection.execute(damage)
    connection.close()
    with pytest.raises(JournalError):
        start(tmp_path)


def test_a_newest_record_from_elsewhere_is_not_continued(tmp_path: Path) -> None:
    """A chain whose digests fit but whose newest record is of another chain is not continued."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    start(tmp_path / "a").close()
    with start(tmp_path / "b") as other:
        (foreign,) = other.records()
    with sqlite3.connect(tmp_path / "a" / "journal.db") as connection:
        connection.execute("DROP TRIGGER records_stay")
        (own,) = connection.execute("SELECT prev FROM records").fetchone()
        connection.execute(
            "UPDATE records SET jws = ?, digest = ?, prev = ?", (foreign.jws, foreign.digest, own)
        )
    connection.close()
    with pytest.raises(JournalCorrupt, match="another chain"):
        start(tmp_path / "a")


def test_flipped_bytes_of_the_file_never_go_unseen(tmp_path: Path) -> None:
    """A byte of a signed record flipped in the file itself: opening or verifying finds it."""
    with start(tmp_path) as journal:
        paper_till.write_intent(journal, "S1")
        texts = [r.jws.encode() for r in journal.records()]
    whole = (tmp_path / "journal.db").read_bytes()
    places = random.Random(5)
    for text in texts:
        begin = whole.index(text[:200])
        for _ in range(12):
            flipped = bytearray(whole)
            flipped[begin + places.randrange(200)] ^= 1 << places.randrange(8)
            (tmp_path / "journal.db").write_bytes(flipped)
            with pytest.raises(JournalError), start(tmp_path) as damaged:
                damaged.verify()
            for leftover in tmp_path.glob("journal.db-*"):
                leftover.unlink()


# what a sale may and may not do


def test_a_sale_has_one_live_attempt(journal: Journal) -> None:
    """A second attempt of a sale waits until the first is over; the database holds it too."""
    first, _ = paper_till.write_intent(journal, "S1")
    with pytest.raises(JournalError, match="not over"):
        paper_till.write_intent(journal, "S1")
    with pytest.raises(sqlite3.IntegrityError):
        journal._db.execute(
            "INSERT INTO attempts SELECT 'x', 1, checkout, state, programme, currency, "
            "amount_minor, slip FROM attempts"
        )
    journal.advance(first.id, "sale_refused")
    second, _ = paper_till.write_intent(journal, "S1")
    assert [a.id for a in journal.of_checkout("S1")] == [first.id, second.id]


def test_a_write_the_database_refuses_leaves_the_journal_open(journal: Journal) -> None:
    """A broken constraint is our error, not the disk's: nothing is written and work goes on."""
    before = paper_till.dump(journal)
    with pytest.raises(JournalError, match="refused the write"):  # noqa: SIM117
        with journal._transaction():
            journal._queue("0001-000001-0", -1, {})
    assert paper_till.dump(journal) == before
    paper_till.write_intent(journal, "S1")


def test_a_visit_is_bound_with_the_intent(tmp_path: Path) -> None:
    """A `once` token is good for a quarter of an hour at this till, also across restarts."""
    now, visit = paper_till.Ticking(), Visit("https://issuer.test", "j" * 43)
    with start(tmp_path, now=now) as journal:
        assert journal.first_use(visit) is None
        paper_till.write_intent(journal, "S1", visit=visit)
        first = journal.first_use(visit)
        assert first is not None
        now.at = first + timedelta(minutes=15)
    with start(tmp_path, now=lambda: first + timedelta(minutes=15)) as again:
        paper_till.write_intent(again, "S2", visit=visit)
        assert again.first_use(visit) == first
    later = first + timedelta(minutes=15, milliseconds=1)
    with start(tmp_path, now=lambda: later) as late:
        before = paper_till.dump(late)
        with pytest.raises(Refused) as refused:
            paper_till.write_intent(late, "S3", visit=visit)
        assert refused.value.code == "token_replayed" and paper_till.dump(late) == before


def test_an_outcome_is_kept_once(journal: Journal) -> None:
    """The same answer heard twice is one outcome; `held` and its successor are two."""
    made, written = paper_till.write_intent(journal, "S1")
    for result in ("held", "held"):
        answer = paper_till.outcome("redeem", result, made.id)
        journal.advance(made.id, "sale_held", outcome=answer)
    assert len(journal.outcomes_of(written.sequence)) == 1
    assert written not in journal.unanswered("redeem")
    posted = paper_till.outcome("redeem", "posted", made.id)
    journal.advance(made.id, "sale_posted", outcome=posted)
    assert len(journal.outcomes_of(written.sequence)) == 2
    begun = journal.unanswered("start")
    journal.keep_outcome(begun[0], paper_till.outcome("start", "posted"))
    assert journal.unanswered("start", "redeem") == []


def test_the_receipt_released_by_the_cashier_is_the_ledgers(journal: Journal) -> None:
    """Balances that the outcome stated are on the receipt, also when the goods were asked about."""
    made, _ = paper_till.write_intent(journal, "S1")
    journal.advance(made.id, "restart")
    from_ledger = {"receipt_no": made.slip["receipt_no"], "balances": [{"after": 3_000}]}
    asked = journal.advance(made.id, "sale_posted", slip=from_ledger)
    assert asked.state == "goods_asked" and journal.print_jobs() == []
    journal.advance(made.id, "goods_handed_over")
    (job,) = journal.print_jobs(queued=True)
    assert job.slip == from_ledger and job.copy_no == 0


def test_printing_is_its_own_fact(tmp_path: Path) -> None:
    """A job that was printing when the till stopped is `unknown`; a reprint says COPY."""
    with start(tmp_path) as journal:
        made, _ = paper_till.write_intent(journal, "S1")
        journal.advance(made.id, "sale_posted")
        number = made.slip["receipt_no"]
        (job,) = journal.print_jobs(queued=True)
        journal.print_started(job.n)
        assert journal.print_jobs(number)[0].state == "printing"
    with start(tmp_path) as again:
        assert [j.state for j in again.print_jobs(number)] == ["unknown"]
        copy = again.queue_copy(number)
        assert (copy.copy_no, copy.slip["is_copy"], copy.state) == (1, True, "queued")
        again.print_started(copy.n)
        again.print_ended(copy.n, "printed")
        assert [j.state for j in again.print_jobs(number)] == ["unknown", "printed"]
        assert again.queue_copy(number).copy_no == 2
        with pytest.raises(KeyError):
            again.queue_copy("9999-000001-0")


def test_a_basket_too_large_for_a_record_is_refused_before_the_intent(journal: Journal) -> None:
    """What would not fit into 16 KiB, or has more than 80 entries, leaves no trace and its code."""
    line, entry = paper_till.SOLD, paper_till.redeem("S1").allocation[0]
    for lines, entries in ((2, 81), (40, 80)):
        content = record.Redeem(
            **{
                **{n: getattr(paper_till.redeem("S1"), n) for n in record.Redeem.__slots__},
                "basket": (type(line)(line.key, 10**9, "piece", 10**12),) * lines,
                "allocation": tuple(
                    type(entry)(1 + n * lines // entries, f"{n % 20:022d}", 10**9, 10**12, 10**12)
                    for n in range(entries)
                ),
            }
        )
        before = paper_till.dump(journal)
        with pytest.raises(Malformed) as malformed:
            journal.write_intent(content, bucket=7, visit=None, slip=lambda _: {})
        assert malformed.value.code == "basket_too_large"
        assert paper_till.dump(journal) == before


def test_a_record_between_the_two_size_limits_is_too_large(journal: Journal) -> None:
    """A payload under 12 KiB whose JWS is over 16 KiB is refused with the same code."""
    base = paper_till.redeem("S1")
    line = base.basket[0]
    codes = set()
    for entries in range(56, 80):
        content = record.Redeem(
            **{
                **{n: getattr(base, n) for n in record.Redeem.__slots__},
                "basket": (type(line)(line.key, 10**9, "piece", 10**12),) * 40,
                "allocation": tuple(
                    type(base.allocation[0])(1 + n // 2, f"{n % 2:022d}", 10**9, 10**10, 10**12)
                    for n in range(entries)
                ),
            }
        )
        try:
            with journal._transaction():
                journal._append(content, "01a20260-5f40-8001-8000-000000000001")
                raise RuntimeError("small enough")
        except Malformed as error:
            codes.add(error.code)
        except RuntimeError:
            codes.add("fits")
    assert codes == {"fits", "basket_too_large"}


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    """Closing is final and may be repeated."""
    journal = start(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(JournalClosed):
        paper_till.write_intent(journal, "S1")
