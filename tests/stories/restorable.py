"""A world whose ledger can be stopped, copied, restored from the copy and started again.

The copy is what an operator's backup is: SQLite's file, or a database of PostgreSQL; the key folder
has a copy of its own and is not part of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql
from sqlalchemy import make_url, select

from carepos import Till
from carepos.commands import main
from carepos.keys import SigningKey
from carepos_ledger import app, schema
from carepos_ledger.book import Reached, pass_by
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.operators import Operators, new_secret
from carepos_ledger.settings import Settings
from tests.ledger.loss import Rows
from tests.postgres_cluster import PostgresCluster
from tests.quick_starts import migrate
from tests.world import FakeClock, World, end, served, set_up

Cluster = Callable[[], PostgresCluster]


@dataclass
class Restorable:
    """`world.ledger` is the one that serves now, at the same address all the time."""

    world: World
    cluster: Cluster
    serving: ExitStack

    def start(self, reached: Reached = pass_by) -> None:
        made = self.world
        port = int(made.url.rpartition(":")[2])
        made.ledger = self.serving.enter_context(_built(made.settings, made.now, reached))
        made.url, made.server = self.serving.enter_context(served(made.ledger, port))

    def stop(self) -> None:
        end(self.world.server)
        self.serving.close()

    def back_up(self) -> None:
        """With the ledger stopped for a moment."""
        self.stop()
        self._copy(*self._places())
        self.start()

    def restore(self) -> None:
        """What happened since the backup is gone; the ledger stands still."""
        self.stop()
        self._copy(*self._places()[::-1])

    def _places(self) -> tuple[str, str]:
        url = make_url(self.world.settings.database)
        return str(url.database), f"{url.database}_backup"

    def _copy(self, source: str, target: str) -> None:
        if self.world.settings.database.startswith("sqlite"):
            for suffix in ("-wal", "-shm"):
                Path(target + suffix).unlink(missing_ok=True)
            shutil.copy(source, target)
            return
        with self.cluster().connect() as connection:
            names = sql.Identifier(target), sql.Identifier(source)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(names[0]))
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))

    # ── what is looked at ──────────────────────────────────────────────────────────────────────

    def rows(self) -> Rows:
        with self.world.ledger.database.read() as connection:
            return {
                table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in schema.metadata.sorted_tables
            }

    def carepos(self, *words: str) -> int:
        """A command of the ledger's operator; its exit code."""
        more = ["--folder", str(self.world.settings.folder)]
        if words[:2] != ("heal", "begin"):
            more += ["--url", self.world.url]
        return main(["ledger", *words, *more])

    def posted(self, till: Till) -> set[str]:
        """The ids that the ledger has booked for a till and that stand."""
        table = schema.attempts.c
        with self.world.ledger.database.read() as connection:
            return set(
                connection.scalars(
                    select(table.id)
                    .join(schema.records, schema.records.c.digest == table.record_sha256)
                    .where(
                        table.terminal == till.enrolment.terminal,
                        table.state == "posted",
                        schema.records.c.kind == "redeem",
                    )
                )
            )


def confirmed(till: Till) -> set[str]:
    """The ids that a till holds to be booked: INV-6."""
    return {each.id for each in till.journal.attempts("confirmed", "voided")}


@contextmanager
def _built(settings: Settings, now: FakeClock, reached: Reached) -> Iterator[app.Ledger]:
    ledger = app.build(settings, now=now, reached=reached)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def restorable(folder: Path, database_url: str, cluster: Cluster) -> Iterator[Restorable]:
    """As `world`, with an operator whose secret lies in the ledger's folder."""
    now, ledger_folder = FakeClock(), folder / "ledger"
    settings = Settings(ledger_folder, database_url)
    Keyring.create(ledger_folder)
    settings.save()
    database = Database(settings.database)
    migrate(database)
    secret = new_secret()
    Operators(database).add("office", secret)
    database.close()
    (ledger_folder / "operator.secret").write_text(secret)
    issuer_key = SigningKey.generate()
    with ExitStack() as serving:
        ledger = serving.enter_context(_built(settings, now, pass_by))
        set_up(ledger, issuer_key, 100_000_000)
        url, server = serving.enter_context(served(ledger))
        made = World(folder, settings, now, ledger, issuer_key, url, server)
        house = Restorable(made, cluster, serving)
        try:
            yield house
        finally:
            for till in made.tills:
                till.close()
            end(made.server)
            house.serving.close()
            if not database_url.startswith("sqlite"):
                with cluster().connect() as connection:
                    backup = sql.Identifier(house._places()[1])
                    connection.execute(
                        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(backup)
                    )
