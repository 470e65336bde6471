"""The ledger's epoch as its book knows it, and numbers that must not come again after a loss.

One more each time the ledger begins to heal (docs/offline.md §12). What was numbered in a part of
the book that is lost may still be known elsewhere, so whatever counts goes on above it.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from carepos_ledger import schema

_EPOCH: Final = "epoch"
_TERMINAL_NO: Final = "terminal_no_after"
_ALLOTMENTS: Final = 10**6
_USES: Final = 10**9
_TERMINALS: Final = 100
"""So many allotments of one voucher, uses and tills, no backup is ever behind."""


def read(connection: Connection) -> int:
    """1 in a book that never lost anything."""
    held = read_meta(connection, _EPOCH)
    return 1 if held is None else int(held)


def start(connection: Connection, epoch: int, highest_terminal_no: int) -> None:
    """The book is of this epoch from now on."""
    write_meta(connection, _EPOCH, str(epoch))
    write_meta(connection, _TERMINAL_NO, str(highest_terminal_no + _TERMINALS))


def after_allotments(epoch: int, last: int) -> int:
    """The number behind which a voucher's next allotment comes; `last`: its highest so far."""
    return max(last, (epoch - 1) * _ALLOTMENTS)


def after_uses(epoch: int, last: int) -> int:
    """Likewise of the feed of uses."""
    return max(last, (epoch - 1) * _USES)


def after_terminals(connection: Connection, last: int) -> int:
    """Likewise of tills."""
    return max(last, int(read_meta(connection, _TERMINAL_NO) or 0))


def read_meta(connection: Connection, name: str) -> str | None:
    """What the book notes of itself under a name."""
    table = schema.meta.c
    found: str | None = connection.scalars(
        select(table.value).where(table.name == name)
    ).one_or_none()
    return found


def write_meta(connection: Connection, name: str, value: str) -> None:
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    made = dialect.insert(schema.meta)
    connection.execute(
        made.on_conflict_do_update(
            index_elements=[schema.meta.c.name], set_={"value": made.excluded.value}
        ),
        [{"name": name, "value": value}],
    )
