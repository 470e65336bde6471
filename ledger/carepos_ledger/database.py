"""One way to a transaction on either database, with its durability asserted.

SQLite: one connection of this process writes *and* checkpoints; readers are `query_only` and never
checkpoint (before 3.51.3 two that do may corrupt the file). PostgreSQL: READ COMMITTED with row
locks taken by hand in sorted order; the isolation level alone is not what correctness rests on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool, StaticPool

from carepos import durable
from carepos.errors import Malformed

LOCK_TIMEOUT_S = 3
"""How long a record waits for another one in flight on the same rows (INV-1)."""


def _no_rows(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


# With `hide_parameters` SQLAlchemy shows no values that go in, in a log or an exception's text; at
# DEBUG it would still show the rows that come out. The statements stay visible.
logging.getLogger("sqlalchemy.engine.Engine").addFilter(_no_rows)


class LedgerInUse(Exception):
    """Another process has this SQLite ledger open."""


class Database:
    """`write()` and `read()` give SQLAlchemy connections inside a transaction."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        """Raises Malformed for a URL that is neither's, LedgerInUse."""
        self.url = _understood(url)
        self._lock_file: BinaryIO | None = None
        self._writing = threading.RLock()
        if self.url.get_backend_name() == "sqlite":
            self._writer, self._reader = self._open_sqlite(pool_size)
        else:
            self._writer = self._open_postgresql(url, pool_size)
            # The same connections; each reading transaction sees one snapshot and can't write.
            self._reader = self._writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def write(self, *, wait: bool = True) -> Iterator[Connection]:
        """A transaction that is durable when the block ends, and absent when it raises.

        Without `wait`, rows that another transaction holds raise a lock timeout at once.
        """
        if self.is_sqlite:
            with self._writing, self._writer.begin() as connection:
                yield connection
        else:
            with self._writer.begin() as connection:
                if not wait:
                    # The least there is; 0 would be for ever.
                    connection.exec_driver_sql("SET LOCAL lock_timeout = '1ms'")
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; writing in it fails."""
        with self._reader.begin() as connection:
            yield connection

    def clear_log(self) -> bool:
        """Let no deleted row be readable in the write-ahead log of an SQLite file.

        False while a reader still looks at it, and always for PostgreSQL, which keeps dead rows
        until a VACUUM and its log until a checkpoint (docs/privacy.md).
        """
        if not self.is_sqlite:
            return False
        with self._writing, self._writer.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            [busy, _, _] = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def others(self) -> int:
        """How many other connections there are to a PostgreSQL database: servers, or people. Of an
        SQLite file none: it has one process that writes."""
        if self.is_sqlite:
            return 0
        with self.read() as connection:
            found = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).scalar()
        # The pool of this very object may hold some.
        own = self._writer.pool.checkedin()  # type: ignore[attr-defined]
        return max(0, int(found or 0) - int(own))

    @property
    def engine(self) -> Engine:
        """The writing engine, for migrations."""
        return self._writer

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()
        if self._lock_file is not None:
            self._lock_file.close()

    def _open_sqlite(self, pool_size: int) -> tuple[Engine, Engine]:
        path = Path(self.url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._lock_file = durable.lock(path.with_name(path.name + ".lock"))
        except BlockingIOError:
            raise LedgerInUse(
                f"another process has {path} open; talk to it over HTTP instead"
            ) from None
        durable.private(path)
        options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
        writer = create_engine(
            self.url, poolclass=StaticPool, connect_args=options, hide_parameters=True
        )
        reader = create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=pool_size,
            connect_args=options,
            hide_parameters=True,
        )
        event.listen(writer, "connect", _make_writer)
        event.listen(writer, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        event.listen(reader, "connect", _make_reader)
        event.listen(reader, "begin", lambda c: c.exec_driver_sql("BEGIN"))
        return writer, reader

    def _open_postgresql(self, url: str, pool_size: int) -> Engine:
        engine = create_engine(
            url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True, hide_parameters=True
        )
        event.listen(engine, "connect", _make_postgresql)
        return engine


def _understood(text: str) -> URL:
    """The address in `text`. What is wrong with it is not repeated: it may hold a password."""
    try:
        url = make_url(text)
        if url.drivername == "postgresql+psycopg" and url.database:
            return url
        if url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
            return url
    except (ArgumentError, ValueError):
        pass
    raise Malformed(
        "must look like sqlite:////folder/ledger.db or postgresql+psycopg://user:password@host/name"
        " (a : / or @ of a password is written %3A, %2F, %40)",
        field="database",
    )


def _make_writer(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 5000")
    # What is deleted is overwritten: `retain` and `erase` would else leave it in free pages.
    connection.execute("PRAGMA secure_delete = ON")
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    for name, value in wanted.items():
        found = connection.execute(f"PRAGMA {name}").fetchone()[0]
        if found != value:
            raise RuntimeError(f"SQLite gives {name} = {found} instead of {value}")


def _make_reader(connection: Any, _: object) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA busy_timeout = 5000")


def _make_postgresql(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
        cursor.execute("SET idle_in_transaction_session_timeout = '30s'")
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] == "off":
            raise RuntimeError("PostgreSQL runs with synchronous_commit = off: not durable")
    connection.commit()


def insert_or_ignore(connection: Connection, table: Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING, which SQLAlchemy spells per dialect."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def is_conflict(error: DBAPIError) -> bool:
    """Whether running the transaction again may succeed: a race, a deadlock, a lost connection."""
    if isinstance(error, IntegrityError) or error.connection_invalidated:
        return True
    return sqlstate(error) in {"40001", "40P01", "55P03"} or (
        isinstance(error, OperationalError) and "locked" in str(error.orig)
    )


def is_lock_timeout(error: DBAPIError) -> bool:
    return sqlstate(error) == "55P03"


def sqlstate(error: DBAPIError) -> str | None:
    found = getattr(error.orig, "sqlstate", None)
    return found if isinstance(found, str) else None
