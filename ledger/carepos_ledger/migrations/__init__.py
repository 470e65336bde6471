"""Schema migrations with Alembic: each runs in one transaction with the note that it ran."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from carepos_ledger.database import Database

_LOCK = int.from_bytes(b"CAREPOS", "big")
"""The advisory lock (PostgreSQL) that a migration holds."""


def upgrade(database: Database) -> list[str]:
    """Bring the database to this software's schema; the revisions that were applied, in order."""
    config = _config()
    with database.write() as connection:
        if not database.is_sqlite:
            # Several servers may start at once; the later ones find it done. A migration may take
            # longer than a posting may wait.
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        before = MigrationContext.configure(connection).get_current_revision()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    script = ScriptDirectory.from_config(config)
    applied = script.iterate_revisions("head", before or "base")
    return [revision.revision for revision in applied if revision.revision != before][::-1]


def is_current(database: Database) -> bool:
    """Whether the database has exactly this software's schema."""
    script = ScriptDirectory.from_config(_config())
    with database.read() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == script.get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
