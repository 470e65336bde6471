"""Allotments: where households shop, what is set aside for which till, the packs that say so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _bucket(table: str) -> sa.Column[int]:
    return sa.Column(
        "bucket", sa.Integer(), _check(table, "range", "bucket BETWEEN 0 AND 4095"), nullable=False
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _counter(table: str, name: str) -> sa.Column[int]:
    return sa.Column(name, _AMOUNT, _check(table, name, f"{name} >= 0"), nullable=False)


def _flag(table: str, name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), _check(table, "flag", f"{name} IN (0, 1)"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "homes",
        _bucket("homes"),
        _text("beneficiary"),
        _text("store"),
        _flag("homes", "pinned"),
        sa.PrimaryKeyConstraint("bucket", "beneficiary", name=op.f("pk_homes")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_homes_store"), "homes", ["store"])
    counters = ("amount_minor", "quantity", "left_minor", "left_quantity")
    op.create_table(
        "allotments",
        _bucket("allotments"),
        _text("voucher"),
        sa.Column("allotment", _AMOUNT, nullable=False),
        _text("terminal"),
        _text("incarnation"),
        *(_counter("allotments", name) for name in counters),
        _text("spend_until"),
        _text("reclaim_after"),
        _flag("allotments", "closed"),
        sa.PrimaryKeyConstraint("bucket", "voucher", "allotment", name=op.f("pk_allotments")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_allotments_terminal_incarnation"), "allotments", ["terminal", "incarnation"]
    )
    op.create_table(
        "pack_files",
        _text("terminal"),
        _text("sha256"),
        _text("made_at"),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("terminal", "sha256", name=op.f("pk_pack_files")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Raises for a ledger that has set anything aside: its money would not add up."""
    op.drop_table("pack_files")
    op.drop_table("allotments")
    op.drop_table("homes")
