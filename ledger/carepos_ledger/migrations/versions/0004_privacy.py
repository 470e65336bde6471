"""Erasing people: money that goes back, a record that it was done, lists that were forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KINDS = "kind IN ('fund', 'issue', 'redeem', 'reversal')"
_KINDS_NOW = "kind IN ('fund', 'issue', 'redeem', 'reversal', 'forfeit')"
_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("programmes", sa.Column("list_forgotten_at", sa.Text(), nullable=True))
    op.create_table(
        "erasures",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("erased", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_erasures")),
        sqlite_strict=True,
    )
    _allow_kinds(_KINDS_NOW)


def downgrade() -> None:
    """Raises for a ledger that has forfeited anything: its money would not add up."""
    _allow_kinds(_KINDS)
    op.drop_table("erasures")
    op.drop_column("programmes", "list_forgotten_at")


def _allow_kinds(condition: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_postings_known"), "postings", type_="check")
        op.create_check_constraint(op.f("ck_postings_known"), "postings", condition)
        return
    # SQLite changes no CHECK: out, the table anew, and in again.
    op.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM postings")
    op.drop_table("postings")
    op.create_table(
        "postings",
        sa.Column(
            "bucket",
            sa.Integer(),
            sa.CheckConstraint("bucket BETWEEN 0 AND 4095", name=op.f("ck_postings_range")),
            nullable=False,
        ),
        sa.Column("posting", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Text(),
            sa.CheckConstraint(condition, name=op.f("ck_postings_known")),
            nullable=False,
        ),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=True),
        sa.Column("store", sa.Text(), nullable=True),
        sa.Column("terminal", sa.Text(), nullable=True),
        sa.Column("incarnation", sa.Text(), nullable=True),
        sa.Column("sequence", _AMOUNT, nullable=True),
        sa.Column("occurred_at", sa.Text(), nullable=True),
        sa.Column("recorded_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "posting", name=op.f("pk_postings")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO postings SELECT * FROM kept")
    op.execute("DROP TABLE kept")
    op.create_index(
        op.f("ix_postings_merchant_programme_posting"),
        "postings",
        ["merchant", "programme", "posting"],
    )
