"""What breaks under a posting, and that every record is still posted once or not at all."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url, text

from carepos.basket import Entry
from carepos.outcome import Outcome
from carepos_ledger import database as database_module
from carepos_ledger import desk as desk_module
from carepos_ledger import terminal_keys
from carepos_ledger.auth import Caller
from carepos_ledger.book import POINTS, Book, bind_visit
from carepos_ledger.counter import Counter
from carepos_ledger.desk import Desk
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Decided
from tests.ledger.rig import Rig, code, open_rig
from tests.postgres_cluster import PostgresCluster


class Boom(Exception):
    """The process dies here."""


def dies_at(point: str) -> Callable[[str], None]:
    def reached(name: str) -> None:
        if name == point:
            raise Boom

    return reached


@pytest.fixture
def postgres(postgres_cluster: PostgresCluster, tmp_path: Path) -> Iterator[Rig]:
    """A ledger on a PostgreSQL database that the test may break."""
    with postgres_cluster.fresh_database() as url, open_rig(url, tmp_path) as rig:
        yield rig
        assert rig.differences() == ()


@contextmanager
def other_session(rig: Rig) -> Iterator[Any]:
    """A transaction of somebody else on the same PostgreSQL database."""
    with rig.database.engine.connect() as connection, connection.begin():
        yield connection


# ── a process that dies (FC-1 to FC-4) ─────────────────────────────────────────────────────────


def test_a_death_before_the_posting_leaves_nothing(rig: Rig) -> None:
    """FC-1: a record that was read and verified and not posted left no trace."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    before = rig.tables()
    rig.commands([envelope])
    assert rig.tables() == before


@pytest.mark.parametrize("point", POINTS)
def test_a_death_at_a_point_of_a_posting(rig: Rig, point: str) -> None:
    """FC-2, FC-3, FC-4: dead before COMMIT, nothing of it is visible but that its number came; dead
    after COMMIT, all of it. Sent again it gets one answer and one posting either way."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    before = rig.tables()
    with pytest.raises(Boom):
        rig.send(envelope, book=rig.new_book(dies_at(point)))
    rig.new_book()
    after = rig.tables()
    stored = after["records"]
    if point != "committed":
        assert after.pop("terminal_notes") and not before.pop("terminal_notes")
        assert after == before
    answer = rig.send_one(envelope)
    assert answer.result == "posted"
    assert [row["outcome"] for row in stored] == ([answer.jws] if point == "committed" else [])
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_the_desk_answers_nothing_decided_when_the_book_fails(rig: Rig) -> None:
    """No answer leaves before COMMIT returned: whatever happens at a point, those who wait are told
    to try again, and the desk goes on."""
    till, holder = rig.signer(), rig.holder()
    at = ""
    desk = Desk(Book(rig.database, rig.keyring, rig.now, lambda name: dies_at(at)(name)))
    commands = [c for c in rig.commands([rig.redeem(till, holder)]) if not isinstance(c, Problem)]
    answers = []
    for at in (*POINTS, ""):  # noqa: B007  the hook reads it
        [answer] = desk.post(commands).values()
        answers.append(answer.code if isinstance(answer, Problem) else answer.result)
    desk.close()
    assert answers == ["try_again"] * 3 + ["posted"]
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


# ── group commit ───────────────────────────────────────────────────────────────────────────────


def test_what_waits_is_posted_together(rig: Rig) -> None:
    """While one posting runs, the requests that come wait; then one transaction takes them all."""
    tills, holder = [rig.signer() for _ in range(6)], rig.holder()
    passed: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def reached(name: str) -> None:
        passed.append(name)
        if len(passed) == 1:
            begun.set()
            assert go_on.wait(20)

    desk = Desk(Book(rig.database, rig.keyring, rig.now, reached))
    answers: list[Decided | Problem] = []

    def post(n: int) -> None:
        envelope = rig.redeem(tills[n], holder, 100)
        commands = [c for c in rig.commands([envelope]) if not isinstance(c, Problem)]
        answers.append(desk.post(commands)[commands[0].record.digest])

    threads = [threading.Thread(target=post, args=[n]) for n in range(6)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    while desk._waiting.qsize() < 5:
        assert any(thread.is_alive() for thread in threads)
    go_on.set()
    for thread in threads:
        thread.join()
    desk.close()
    assert passed == [*POINTS, *POINTS]
    assert [a.result for a in answers if isinstance(a, Decided)] == ["posted"] * 6
    assert rig.balance(holder.voucher) == (11_400, 0, 0)


def test_a_desk_takes_no_more_than_fits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits, one transaction takes requests up to about 500 records."""
    assert desk_module.MAX_BATCH == 500
    monkeypatch.setattr(desk_module, "MAX_BATCH", 3)
    till, passed = rig.signer(), []
    begun, go_on = threading.Event(), threading.Event()

    def reached(name: str) -> None:
        passed.append(name)
        if len(passed) == 1:
            begun.set()
            assert go_on.wait(20)

    desk = Desk(Book(rig.database, rig.keyring, rig.now, reached))

    def post() -> None:
        envelopes = [{"record": till.start().jws} for _ in range(2)]
        desk.post([c for c in rig.commands(envelopes) if not isinstance(c, Problem)])

    threads = [threading.Thread(target=post) for _ in range(5)]
    threads[0].start()
    assert begun.wait(20)
    for waiting, thread in enumerate(threads[1:], 1):
        thread.start()
        while desk._waiting.qsize() < waiting:
            assert thread.is_alive()
    go_on.set()
    for thread in threads:
        thread.join()
    desk.close()
    assert passed == [*POINTS] * 3
    assert rig.counts()["records"] == 10


def test_a_closed_desk_decides_nothing_and_keeps_nobody_waiting(rig: Rig) -> None:
    """What comes after the end is told to try again; closing twice is harmless."""
    till, holder = rig.signer(), rig.holder()
    desk = Desk(rig.book)
    commands = [c for c in rig.commands([rig.redeem(till, holder)]) if not isinstance(c, Problem)]
    assert desk.post([]) == {}
    desk.close()
    desk.close()
    [answer] = desk.post(commands).values()
    assert isinstance(answer, Problem) and answer.code == "try_again"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


# ── a record that breaks something ─────────────────────────────────────────────────────────────


@contextmanager
def poisoned(rig: Rig, digest: str) -> Iterator[None]:
    """The database refuses to store this one record."""
    with rig.database.write() as connection:
        if rig.database.is_sqlite:
            connection.execute(
                text(
                    f"CREATE TRIGGER poison BEFORE INSERT ON records WHEN NEW.digest = '{digest}'"
                    " BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
                )
            )
        else:
            connection.execute(
                text(
                    "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    f" IF NEW.digest = '{digest}' THEN"
                    " RAISE EXCEPTION 'poisoned' USING ERRCODE = '23514'; END IF;"
                    " RETURN NEW; END $$"
                )
            )
            connection.execute(
                text(
                    "CREATE TRIGGER poison BEFORE INSERT ON records"
                    " FOR EACH ROW EXECUTE FUNCTION poison()"
                )
            )
    try:
        yield
    finally:
        with rig.database.write() as connection:
            if rig.database.is_sqlite:
                connection.execute(text("DROP TRIGGER poison"))
            else:
                connection.execute(text("DROP FUNCTION poison CASCADE"))


def test_one_record_that_breaks_a_constraint_takes_no_other_down(rig: Rig) -> None:
    """It is undone and tried alone; the others of its batch are posted, before and after it and on
    the same voucher. When the cause is gone it is posted too: its id was not used up."""
    till, holder = rig.signer(), rig.holder()
    envelopes = [rig.redeem(till, holder, amount) for amount in (1_000, 2_000, 3_000)]
    with poisoned(rig, rig.read(envelopes[1]).digest):
        answers = rig.send(*envelopes)
        assert [code(answer) for answer in answers] == ["posted", "try_again", "posted"]
        assert rig.balance(holder.voucher) == (8_000, 0, 0)
        counts = rig.counts()
        assert (counts["records"], counts["record_bytes"], counts["attempts"]) == (2, 2, 2)
    again = rig.send(*envelopes)
    assert [code(answer) for answer in again] == ["posted"] * 3
    assert (again[0], again[2]) == (answers[0], answers[2])
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_the_database_itself_refuses_a_balance_below_zero(rig: Rig) -> None:
    """INV-2 does not rest on the code alone: counters have a CHECK on both databases."""
    holder = rig.holder()
    for table, column in (
        ("vouchers", "available_minor"),
        ("vouchers", "saved_minor"),
        ("vouchers", "available_quantity"),
        ("programmes", "unreserved_minor"),
        ("programmes", "loss_reserve_minor"),
    ):
        with (
            pytest.raises(Exception, match=f"ck_{table}_{column}"),
            rig.database.write() as connection,
        ):
            connection.execute(text(f"UPDATE {table} SET {column} = -1"))
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


# ── conflicts (FC-6) ───────────────────────────────────────────────────────────────────────────


def test_a_serialization_failure_is_tried_again(postgres: Rig) -> None:
    """FC-6: the whole transaction is undone and run anew; one posting, one answer."""
    rig = postgres
    with rig.database.write() as connection:
        # A sequence counts on when a transaction is undone: the first two tries fail.
        connection.execute(text("CREATE SEQUENCE tries"))
        connection.execute(
            text(
                "CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " IF nextval('tries') <= 2 THEN"
                " RAISE EXCEPTION 'raced' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER fail_first BEFORE INSERT ON postings"
                " FOR EACH ROW WHEN (NEW.kind = 'redeem') EXECUTE FUNCTION fail_first()"
            )
        )
    till, holder = rig.signer(), rig.holder()
    assert rig.send_one(rig.redeem(till, holder)).result == "posted"
    with rig.database.read() as connection:
        assert connection.execute(text("SELECT last_value FROM tries")).scalar() == 3
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_what_always_loses_is_told_to_try_again(postgres: Rig) -> None:
    """A race lost at every try ends: `try_again`, nothing posted, the id not used up."""
    rig = postgres
    with rig.database.write() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION fail_always() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'raced' USING ERRCODE = '40001'; END $$"
            )
        )
        for table in ("terminal_notes", "records"):
            connection.execute(
                text(
                    f"CREATE TRIGGER fail_always BEFORE INSERT ON {table}"
                    " FOR EACH ROW EXECUTE FUNCTION fail_always()"
                )
            )
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    for table in ("terminal_notes", "records"):
        assert rig.send(envelope) == ["try_again"]
        with rig.database.write() as connection:
            connection.execute(text(f"DROP TRIGGER fail_always ON {table}"))
    assert rig.send_one(envelope).result == "posted"


def test_a_deadlock_is_tried_again(postgres: Rig) -> None:
    """FC-6: somebody locks two vouchers in the other order; the posting is the victim, and is
    posted once when it is run anew."""
    rig = postgres
    till, holder = rig.signer(), rig.holder({}, {})
    low, high = sorted(holder.vouchers)
    envelopes = [
        rig.redeem(till, holder, 10, allocation=[Entry(1, voucher, 0, 10, 0)])
        for voucher in (low, high)
    ]
    lock = text("SELECT 1 FROM vouchers WHERE voucher = :voucher FOR UPDATE")
    answers: list[Any] = []
    with other_session(rig) as other:
        # The other one never looks for deadlocks: the posting has to find it.
        other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
        other.execute(text("SET LOCAL lock_timeout = 0"))
        other.execute(lock, {"voucher": high})
        thread = threading.Thread(target=lambda: answers.extend(rig.send(*envelopes)))
        thread.start()
        _wait_for_a_waiter(rig)
        other.execute(lock, {"voucher": low})  # granted once the posting was chosen as victim
    thread.join()
    assert [code(answer) for answer in answers] == ["posted", "posted"]
    assert [rig.balance(voucher)[0] for voucher in (low, high)] == [11_990, 11_990]


def test_a_twin_that_waited_for_the_lock_reads_what_was_stored_meanwhile(postgres: Rig) -> None:
    """FC-11: of one record posted at two servers at once, the later waits for the voucher and only
    *then* reads what is stored. So it answers from it; it never decides on what it saw before the
    wait and leaves it to the unique keys to stop a second posting."""
    rig = postgres
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    errors: list[BaseException] = []
    event.listen(rig.database.engine, "handle_error", lambda c: errors.append(c.original_exception))
    later: list[Any] = []
    twin = threading.Thread(
        target=lambda: later.extend(
            rig.send(envelope, book=Book(rig.database, rig.keyring, rig.now))
        )
    )

    def reached(name: str) -> None:
        if name == "written":  # not committed yet
            twin.start()
            _wait_for_a_waiter(rig)

    first = rig.send_one(envelope, book=rig.new_book(reached))
    twin.join()
    assert [first] == later and first.result == "posted"
    assert errors == []
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def _wait_for_a_waiter(rig: Rig) -> None:
    """Until some session of this database waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with rig.database.engine.connect() as watcher:
        while not watcher.execute(waiting).scalar():
            watcher.rollback()


def test_a_record_in_flight_elsewhere(
    postgres_cluster: PostgresCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INV-1: a voucher locked for longer than LOCK_TIMEOUT_S is `in_flight` and uses up no id; the
    rest of the batch is decided, and the wait is not spent again on each record."""
    assert database_module.LOCK_TIMEOUT_S == 3
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT_S", "0.2")
    with postgres_cluster.fresh_database() as url, open_rig(url, tmp_path) as rig:
        till, held, free = rig.signer(), rig.holder(), rig.holder()
        envelopes = [rig.redeem(till, each, 100) for each in (held, free, held, held)]
        with other_session(rig) as other:
            other.execute(
                text("SELECT 1 FROM vouchers WHERE voucher = :v FOR UPDATE"), {"v": held.voucher}
            )
            answers = rig.send(*envelopes)
            assert [code(a) for a in answers] == ["in_flight", "posted", "in_flight", "in_flight"]
            assert rig.send(envelopes[0]) == ["in_flight"]
        assert [code(a) for a in rig.send(*envelopes)] == ["posted"] * 4
        assert rig.send(*envelopes)[1] == answers[1]
        assert rig.balance(held.voucher) == (11_700, 0, 0)


def test_a_number_in_flight_elsewhere(
    postgres_cluster: PostgresCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same record being noted by another server at this moment is `in_flight` too."""
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT_S", "0.2")
    with postgres_cluster.fresh_database() as url, open_rig(url, tmp_path) as rig:
        till, holder = rig.signer(), rig.holder()
        envelope = rig.redeem(till, holder, 100)
        record = rig.read(envelope)
        with other_session(rig) as other:
            other.execute(
                text("INSERT INTO terminal_notes VALUES (:t, :i, :s, :d, :p, 'now')"),
                {
                    "t": record.terminal,
                    "i": record.incarnation,
                    "s": record.sequence,
                    "d": record.digest,
                    "p": record.prev,
                },
            )
            assert rig.send(envelope) == ["in_flight"]
        assert rig.send_one(envelope).result == "posted"


def test_a_code_that_another_server_looks_up(
    postgres_cluster: PostgresCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that waits in vain for the visit that is being opened elsewhere is `try_again`, not
    a failure."""
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT_S", "0.2")
    with postgres_cluster.fresh_database() as url, open_rig(url, tmp_path) as rig:
        till, holder = rig.signer(), rig.holder()
        token, terminal = rig.token(holder), terminal_keys.find(rig.database, till.key.kid)
        assert terminal is not None
        counter = Counter(rig.database, rig.keyring, rig.intake, rig.now)
        caller = Caller(terminal, "r" * 22)
        with other_session(rig) as other:
            identity = rig.intake.verify_token(token)
            bind_visit(other, holder.bucket, identity, "t-elsewhere", rig.now())
            with pytest.raises(Problem) as caught:
                counter.look_up(caller, token)
            assert caught.value.code == "try_again"
            other.rollback()
        assert counter.look_up(caller, token)


# ── a connection that is lost (FC-7) ───────────────────────────────────────────────────────────


def test_the_connection_dies_before_commit(postgres: Rig) -> None:
    """FC-7: the server ends the session when all is written; nothing of it is there, so it is
    decided anew: one posting."""
    rig = postgres
    killed: list[int] = []

    def reached(name: str) -> None:
        if name == "written" and not killed:
            with rig.database.engine.connect() as other:
                killed.extend(
                    other.execute(
                        text(
                            "SELECT pid FROM pg_stat_activity, pg_terminate_backend(pid, 5000)"
                            " WHERE datname = current_database()"
                            " AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
                        )
                    ).scalars()
                )

    till, holder = rig.signer(), rig.holder()
    answer = rig.send_one(rig.redeem(till, holder), book=rig.new_book(reached))
    assert len(killed) == 1
    assert answer.result == "posted"
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


class CommitEater:
    """A wire to PostgreSQL that can lose the answer to one COMMIT, after the server gave it."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.armed = False
        self.eaten = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            doomed = threading.Event()
            for way in ((client, server, True, doomed), (server, client, False, doomed)):
                threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(
        self, source: socket.socket, target: socket.socket, up: bool, doomed: threading.Event
    ) -> None:
        with source, target:
            while True:
                try:
                    data = source.recv(65_536)
                    if up and self.armed and b"COMMIT\0" in data:
                        self.armed = False
                        doomed.set()
                    if data and not up and doomed.is_set():
                        self.eaten += 1  # the server has committed; its word does not arrive
                        data = b""
                    if data:
                        target.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    for each in (source, target):
                        with suppress(OSError):
                            each.shutdown(socket.SHUT_RDWR)
                    return


@pytest.mark.parametrize("sent", [1, 3])
def test_the_answer_to_commit_is_lost(
    postgres_cluster: PostgresCluster, tmp_path: Path, sent: int
) -> None:
    """FC-7: COMMIT was done and its answer never came: every id is looked up, not guessed. What is
    answered is what is stored, and each is posted once."""
    with postgres_cluster.fresh_database() as url:
        direct = make_url(url)
        wire = CommitEater(str(direct.host), int(direct.port or 5432))
        through = direct.set(host="127.0.0.1", port=wire.port).render_as_string(False)
        with open_rig(through, tmp_path) as rig:

            def reached(name: str) -> None:
                wire.armed = wire.armed or (name == "written" and wire.eaten == 0)

            till, holder = rig.signer(), rig.holder()
            envelopes = [rig.redeem(till, holder, 100) for _ in range(sent)]
            answers = rig.send(*envelopes, book=rig.new_book(reached))
            assert wire.eaten == 1
            assert [code(answer) for answer in answers] == ["posted"] * sent
            stored = {row["outcome"] for row in rig.tables()["records"]}
            assert {a.jws for a in answers if isinstance(a, Outcome)} == stored
            assert len(stored) == sent
            assert rig.balance(holder.voucher) == (12_000 - 100 * sent, 0, 0)
        wire.close()


# ── a database that can't write (FC-9) ─────────────────────────────────────────────────────────


def test_a_database_that_cannot_write(rig: Rig) -> None:
    """FC-9: disk full, or the database is read-only: those who wait are told to try again, nothing
    is half posted, and when it can write again the same records are posted."""
    till, holder = rig.signer(), rig.holder()
    envelopes = [rig.redeem(till, holder, 100) for _ in range(20)]
    commands = [c for c in rig.commands(envelopes) if not isinstance(c, Problem)]
    before = rig.tables()
    desk = Desk(rig.book)
    with unwritable(rig):
        answers = desk.post(commands)
    desk.close()
    assert {a.code for a in answers.values() if isinstance(a, Problem)} == {"try_again"}
    after = rig.tables()
    del after["terminal_notes"], before["terminal_notes"]  # noted or not: it is no posting
    assert after == before
    assert [code(answer) for answer in rig.send(*envelopes)] == ["posted"] * 20


@contextmanager
def unwritable(rig: Rig) -> Iterator[None]:
    """An SQLite file that may not grow by a page; a PostgreSQL database that is read-only."""
    engine = rig.database.engine

    def run(*statements: str) -> object:
        with engine.connect() as connection:
            results = [connection.exec_driver_sql(statement) for statement in statements]
            found = results[-1].scalar() if results[-1].returns_rows else None
            connection.commit()
            return found

    if rig.database.is_sqlite:
        run(f"PRAGMA max_page_count = {run('PRAGMA page_count')}")
        yield
        run("PRAGMA max_page_count = 1073741823")
        return
    alter = f"ALTER DATABASE {run('SELECT current_database()')}"
    run(f"{alter} SET default_transaction_read_only = on")
    engine.pool.dispose()
    yield
    run("SET TRANSACTION READ WRITE", f"{alter} RESET default_transaction_read_only")
    engine.pool.dispose()


def test_an_sqlite_file_that_somebody_else_locks(tmp_path: Path) -> None:
    """FC-6 on SQLite: a foreign writer holds the file: `try_again`, nothing posted; then posted."""
    path = tmp_path / "ledger.db"
    with open_rig(f"sqlite:///{path}", tmp_path) as rig:
        till, holder = rig.signer(), rig.holder()
        envelope = rig.redeem(till, holder)
        with rig.database.write() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 1")
        foreign = sqlite3.connect(path, isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        assert rig.send(envelope) == ["try_again"]
        foreign.execute("ROLLBACK")
        foreign.close()
        assert rig.send_one(envelope).result == "posted"
