"""Schema migrations with Alembic: each runs in one transaction with the note that it ran."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from carepos_ledger.database import Database


def upgrade(database: Database) -> list[str]:
    """Bring the database to this software's schema; the revisions that were applied, in order."""
    config = _config()
    with database.write() as connection:
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
