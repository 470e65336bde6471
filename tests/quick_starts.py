"""What each ledger of a test would work out anew when it starts, worked out once in a process."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, event
from werkzeug.routing import Rule

from carepos_ledger import migrations
from carepos_ledger.database import Database

_CHANGES_NOTHING: Final = {"BEGIN", "SELECT", "PRAGMA", "SET"}
_said: Final[dict[str, list[tuple[str, Any]]]] = {}
"""By kind of database: the statements that change it, with their parameters."""


def migrate(database: Database) -> None:
    """As `migrations.upgrade` of a database that has no table yet: Alembic finds out what to say to
    the first of each kind, and every further one is told the same."""
    kind = "sqlite" if database.is_sqlite else "postgresql"
    if kind not in _said:
        _said[kind] = _told(database)
        return
    with database.write() as connection:
        for statement, parameters in _said[kind]:
            connection.exec_driver_sql(statement, parameters)


def _told(database: Database) -> list[tuple[str, Any]]:
    told: list[tuple[str, Any]] = []

    def listen(
        _: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement.split(maxsplit=1)[0] not in _CHANGES_NOTHING:
            assert not many
            told.append((statement, parameters))

    with database.write() as connection:
        engine = connection.engine
    event.listen(engine, "after_cursor_execute", listen)
    try:
        migrations.upgrade(database)
    finally:
        event.remove(engine, "after_cursor_execute", listen)
    return told


def remember_addresses() -> None:
    """From here on Werkzeug compiles each address of an application once, not once for each."""
    compile_builder = Rule._compile_builder
    built: dict[tuple[str, bool, str], Any] = {}

    def remembered(rule: Rule, append_unknown: bool = True) -> Any:
        key = (rule.rule, append_unknown, repr(rule.defaults))
        if key not in built:
            built[key] = compile_builder(rule, append_unknown)
        return built[key]

    Rule._compile_builder = remembered  # type: ignore[method-assign, assignment]
