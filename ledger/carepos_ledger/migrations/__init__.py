"""Schema migrations with Alembic: each runs in one transaction with the note that it ran."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from carepos_ledger.database import Database

_LOCK = int.from_bytes(b"CAREPOS", "big")
"""The advisory lock (PostgreSQL) that a migration holds."""


def upgrade(database: Database) -> list[str]:
    """Bring the database to this software's schema; the revisions that were applied, in order.

    Raises RuntimeError for a database that newer software has changed.
    """
    config = _config()
    script = ScriptDirectory.from_config(config)
    known = {each.revision for each in script.walk_revisions()}
    with database.write() as connection:
        if not database.is_sqlite:
            # Several servers may start at once; the later ones find it done. A migration may take
            # longer than a posting may wait.
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        before = MigrationContext.configure(connection).get_current_revision()
        if before is not None and before not in known:
            raise RuntimeError(
                f"the database has schema {before} of newer software: install that, or restore a "
                "backup of the database from before"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    applied = script.iterate_revisions("head", before or "base")
    return [each.revision for each in applied if each.revision != before][::-1]


def is_current(database: Database) -> bool:
    """Whether the database has exactly this software's schema."""
    return revision(database) == _newest()


@cache
def _newest() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def revision(database: Database) -> str | None:
    """The schema that the database has; None when no ledger was ever in it."""
    with database.read() as connection:
        found: str | None = MigrationContext.configure(connection).get_current_revision()
    return found


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
