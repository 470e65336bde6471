"""What every operator's action is made of: one transaction, and rows kept as first written.

Every action may be repeated: the same content again changes nothing, other content under the same
name is `already_exists_differently`. An action that raises has written nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Row, Table, insert, select
from sqlalchemy.exc import DBAPIError

from carepos_ledger.database import Database, is_conflict, is_lock_timeout
from carepos_ledger.problems import Problem

Done = Literal["created", "exists", "changed"]

_TRIES = 5

_T = TypeVar("_T")


def act(database: Database, work: Callable[[Connection], _T]) -> _T:
    """`work` in a transaction, again while it loses races. After a lost COMMIT the repetition
    finds what was written: every action can be repeated. Raises Problem `try_again`."""
    for _ in range(_TRIES):
        try:
            with database.write() as connection:
                return work(connection)
        except DBAPIError as error:
            if not is_conflict(error):
                raise
            if is_lock_timeout(error):
                break
    raise Problem("try_again", "somebody else is changing the same thing")


def find(
    connection: Connection, table: Table, key: Mapping[str, object], *, for_update: bool = False
) -> Row[Any] | None:
    """The row of `key`, locked until the transaction ends if it is `for_update`."""
    query = select(table).where(*(table.c[name] == value for name, value in key.items()))
    if for_update:
        # NO KEY UPDATE: rows that only refer to this one need not wait.
        query = query.with_for_update(key_share=True)
    return connection.execute(query).one_or_none()


def keep(
    connection: Connection, table: Table, key: Mapping[str, str], values: Mapping[str, str]
) -> Done:
    """Write a row once; it stays as it was first written."""
    held = find(connection, table, key)
    if held is None:
        connection.execute(insert(table).values(**key, **values))
        return "created"
    for name, value in values.items():
        if getattr(held, name) != value:
            raise Problem(
                "already_exists_differently", f"it is there with another {name}", field=name
            )
    return "exists"


def need(
    connection: Connection, table: Table, column: str, value: str, *, field: str | None = None
) -> None:
    """Raises Problem `not_found` when there is no such row."""
    if find(connection, table, {column: value}) is None:
        name = field or column
        raise Problem("not_found", f"no such {name}", field=name)
