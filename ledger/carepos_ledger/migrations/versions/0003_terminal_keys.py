"""A terminal may have several keys, one after another."""

from __future__ import annotations

import base64
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def upgrade() -> None:
    held = _rows("terminals")
    _make_terminals()
    op.create_table(
        "terminal_keys",
        _text("kid"),
        _text("terminal"),
        _text("x"),
        _text("since"),
        _text("first_incarnation", null=True),
        sa.Column("first_sequence", _AMOUNT, nullable=True),
        _text("until_incarnation", null=True),
        sa.Column("until_sequence", _AMOUNT, nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_terminal_keys")),
        sa.ForeignKeyConstraint(
            ["terminal"], ["terminals.terminal"], name=op.f("fk_terminal_keys_terminal")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_terminal_keys_terminal"), "terminal_keys", ["terminal"])
    kept = ("terminal", "terminal_no", "store", "merchant", "status")
    _insert("terminals", [{name: row[name] for name in kept} for row in held])
    _insert(
        "terminal_keys",
        [
            {
                "kid": row["kid"],
                "terminal": row["terminal"],
                "x": row["x"],
                "since": _issued_at(row["certificate"]),
                "first_incarnation": "",
                "first_sequence": 0,
                "until_incarnation": None,
                "until_sequence": None,
            }
            for row in held
        ],
    )


def downgrade() -> None:
    if _rows("terminals"):
        # What software of before would have to be told is not kept: the signed certificates.
        raise RuntimeError("there are terminals: restore a backup of the database from before")
    op.drop_table("terminal_keys")
    _make_terminals(
        _text("kid"),
        _text("x"),
        after=(
            _text("certificate"),
            sa.UniqueConstraint("kid", name=op.f("uq_terminals_kid")),
        ),
    )


def _make_terminals(*before: sa.Column[str], after: tuple[sa.schema.SchemaItem, ...] = ()) -> None:
    """The table anew: neither database can take a column out of its middle and leave no trace."""
    op.drop_table("terminals")
    op.create_table(
        "terminals",
        _text("terminal"),
        sa.Column("terminal_no", sa.Integer(), nullable=False),
        _text("store"),
        _text("merchant"),
        *before,
        sa.Column(
            "status",
            sa.Text(),
            sa.CheckConstraint(
                "status IN ('active', 'suspended', 'revoked', 'forked')",
                name=op.f("ck_terminals_known"),
            ),
            nullable=False,
        ),
        *after,
        sa.PrimaryKeyConstraint("terminal", name=op.f("pk_terminals")),
        sa.ForeignKeyConstraint(["store"], ["stores.store"], name=op.f("fk_terminals_store")),
        sa.UniqueConstraint("terminal_no", name=op.f("uq_terminals_terminal_no")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _rows(table: str) -> list[dict[str, Any]]:
    found = op.get_bind().execute(sa.select(sa.text("*")).select_from(sa.table(table)))
    return [dict(row) for row in found.mappings()]


def _insert(table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in rows[0]]
        op.get_bind().execute(sa.insert(sa.table(table, *columns)), rows)


def _issued_at(certificate: str) -> str:
    payload = certificate.split(".")[1]
    told = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(told["issued_at"])
