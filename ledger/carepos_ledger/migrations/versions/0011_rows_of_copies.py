"""Rows of restored batches: a till and its copy may have sold under one number."""

from __future__ import annotations

import csv
import io
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BATCH = ("merchant", "programme", "batch_no")
_NUMBER = ("terminal", "incarnation", "sequence", "kind")


def upgrade() -> None:
    """What waits keeps waiting: its time stands in the file of its batch."""
    waiting = _taken()
    op.create_table(
        "heal_rows",
        *_columns(*_BATCH, *_NUMBER, "occurred_at", "amount_minor"),
        sa.PrimaryKeyConstraint(*_BATCH, *_NUMBER, name=op.f("pk_heal_rows")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    times = {batch: _times(batch) for batch in {_batch(row) for row in waiting}}
    _put([{**row, "occurred_at": times[_batch(row)][_number(row)]} for row in waiting])


def downgrade() -> None:
    """Of two that one number was given, one is lost with it."""
    waiting = {_number(row): row for row in _taken()}
    op.create_table(
        "heal_rows",
        *_columns(*_NUMBER, *_BATCH, "amount_minor"),
        sa.PrimaryKeyConstraint(*_NUMBER, name=op.f("pk_heal_rows")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_heal_rows_merchant_programme"), "heal_rows", ["merchant", "programme"])
    names = (*_NUMBER, *_BATCH, "amount_minor")
    _put([{name: row[name] for name in names} for row in waiting.values()])


def _taken() -> list[dict[str, Any]]:
    rows = [
        dict(row) for row in op.get_bind().execute(sa.text("SELECT * FROM heal_rows")).mappings()
    ]
    op.drop_table("heal_rows")
    return rows


def _put(rows: list[dict[str, Any]]) -> None:
    if rows:
        table = sa.table("heal_rows", *(sa.column(name) for name in rows[0]))
        op.get_bind().execute(sa.insert(table), rows)


def _batch(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _BATCH)


def _number(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _NUMBER)


def _times(batch: tuple[Any, ...]) -> dict[tuple[Any, ...], str]:
    """When what the rows of a batch stand for was written, by number."""
    file = op.get_bind().scalar(
        sa.text(
            "SELECT file FROM batches WHERE merchant = :merchant AND programme = :programme "
            "AND batch_no = :batch_no"
        ),
        dict(zip(_BATCH, batch, strict=True)),
    )
    found = {}
    for line in csv.DictReader(io.StringIO(bytes(file).decode("utf-8"))):
        sequence = int(line["receipt_no"].split("-")[1])
        place = (line["terminal"], line["incarnation"], sequence, line["kind"])
        found[place] = line["occurred_at"]
    return found


def _columns(*names: str) -> list[sa.Column[Any]]:
    numbers = ("batch_no", "sequence", "amount_minor")
    return [
        sa.Column(name, _AMOUNT if name in numbers else sa.Text(), nullable=False) for name in names
    ]
