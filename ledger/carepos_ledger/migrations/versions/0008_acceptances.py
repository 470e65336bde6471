"""Sales made without the ledger: what their tills could know, and those a person looks at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def upgrade() -> None:
    op.add_column("vouchers", sa.Column("frozen_at", sa.Text(), nullable=True))
    op.create_table(
        "pack_issues",
        _text("terminal"),
        _text("sha256"),
        _text("made_at"),
        sa.PrimaryKeyConstraint("terminal", "sha256", name=op.f("pk_pack_issues")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "exceptions",
        sa.Column("n", sa.Integer(), nullable=False),
        _text("at"),
        sa.Column(
            "bucket",
            sa.Integer(),
            sa.CheckConstraint("bucket BETWEEN 0 AND 4095", name=op.f("ck_exceptions_range")),
            nullable=False,
        ),
        _text("digest"),
        _text("terminal"),
        _text("reason"),
        sa.Column("amount_minor", _AMOUNT, nullable=False),
        _text("currency"),
        sa.Column(
            "liability",
            sa.Text(),
            sa.CheckConstraint(
                "liability IN ('programme', 'merchant')", name=op.f("ck_exceptions_known")
            ),
            nullable=False,
        ),
        _text("closed_at", null=True),
        _text("closed_by", null=True),
        _text("note", null=True),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_exceptions")),
        sa.UniqueConstraint("bucket", "digest", name=op.f("uq_exceptions_bucket_digest")),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("exceptions")
    op.drop_table("pack_issues")
    op.drop_column("vouchers", "frozen_at")
