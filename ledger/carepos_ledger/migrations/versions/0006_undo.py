"""Void and refund: what they take back, and how far each terminal's chain is decided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KINDS = "kind IN ('fund', 'issue', 'redeem', 'reversal', 'forfeit')"
_KINDS_NOW = (
    "kind IN ('fund', 'issue', 'redeem', 'reversal', 'void', 'refund', 'forfeit', "
    "'allot', 'release')"
)
_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_ORIGINALS = """
    UPDATE postings SET original = (
      SELECT sale.posting FROM postings AS sale
      WHERE sale.bucket = postings.bucket AND sale.kind = 'redeem'
        AND sale.terminal = postings.terminal AND sale.incarnation = postings.incarnation
        AND sale.sequence = postings.sequence
    ) WHERE kind = 'reversal'
"""
_BUCKETS = """
    UPDATE terminal_notes SET bucket = (
      SELECT decided.bucket FROM decided WHERE decided.digest = terminal_notes.digest
    )
"""


def upgrade() -> None:
    _allow_kinds(_KINDS_NOW, original=True)
    op.execute(_ORIGINALS)
    op.create_index(op.f("ix_postings_bucket_original"), "postings", ["bucket", "original"])
    op.add_column("terminal_notes", sa.Column("bucket", sa.Integer(), nullable=True))
    # Found by digest alone this once: with an index, or it would take the square of the records.
    op.execute("CREATE TEMPORARY TABLE decided AS SELECT digest, bucket FROM records")
    op.execute("CREATE UNIQUE INDEX decided_digest ON decided (digest)")
    op.execute(_BUCKETS)
    op.execute("DROP TABLE decided")
    op.create_table(
        "returned_lines",
        sa.Column(
            "bucket",
            sa.Integer(),
            sa.CheckConstraint("bucket BETWEEN 0 AND 4095", name=op.f("ck_returned_lines_range")),
            nullable=False,
        ),
        sa.Column("original", sa.Text(), nullable=False),
        sa.Column("posting", sa.Text(), nullable=False),
        sa.Column("line", _AMOUNT, nullable=False),
        sa.Column(
            "quantity",
            _AMOUNT,
            sa.CheckConstraint("quantity >= 1", name=op.f("ck_returned_lines_quantity")),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint(
            "bucket", "original", "posting", "line", name=op.f("pk_returned_lines")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "terminal_progress",
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("decided_to", _AMOUNT, nullable=False),
        sa.PrimaryKeyConstraint("terminal", "incarnation", name=op.f("pk_terminal_progress")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Raises for a ledger that has voided or refunded anything: its money would not add up."""
    op.drop_table("terminal_progress")
    op.drop_table("returned_lines")
    op.drop_column("terminal_notes", "bucket")
    op.drop_index(op.f("ix_postings_bucket_original"), "postings")
    _allow_kinds(_KINDS, original=False)


def _allow_kinds(condition: str, *, original: bool) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_postings_known"), "postings", type_="check")
        op.create_check_constraint(op.f("ck_postings_known"), "postings", condition)
        if original:
            op.add_column("postings", sa.Column("original", sa.Text(), nullable=True))
        else:
            op.drop_column("postings", "original")
        return
    # SQLite changes no CHECK: out, the table anew, and in again.
    names = (
        "bucket, posting, kind, programme, merchant, store, terminal, incarnation, sequence, "
        "occurred_at, recorded_at"
    )
    op.execute(f"CREATE TEMPORARY TABLE kept AS SELECT {names} FROM postings")  # noqa: S608
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
        *([sa.Column("original", sa.Text(), nullable=True)] if original else []),
        sa.PrimaryKeyConstraint("bucket", "posting", name=op.f("pk_postings")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO postings ({names}) SELECT {names} FROM kept")  # noqa: S608  no input
    op.execute("DROP TABLE kept")
    op.create_index(
        op.f("ix_postings_merchant_programme_posting"),
        "postings",
        ["merchant", "programme", "posting"],
    )
