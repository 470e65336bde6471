"""The held intake: what tills sent and only people can decide."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_REASONS = (
    "reason IN ('terminal_suspended', 'terminal_revoked', 'terminal_forked', 'token', 'malformed')"
)


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_held_records_{name}"))


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def upgrade() -> None:
    op.create_table(
        "held_records",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column(
            "bucket", sa.Integer(), _check("range", "bucket BETWEEN 0 AND 4095"), nullable=False
        ),
        *(_text(name) for name in ("digest", "terminal", "id", "kind", "incarnation")),
        sa.Column("sequence", _AMOUNT, nullable=False),
        _text("occurred_at"),
        _text("held_at"),
        sa.Column("late", sa.Integer(), _check("flag", "late IN (0, 1)"), nullable=False),
        sa.Column("reason", sa.Text(), _check("reason", _REASONS), nullable=False),
        sa.Column("jws", sa.LargeBinary(), nullable=True),
        *(_text(name, null=True) for name in ("proof", "beneficiary", "actor_sha256")),
        _text("outcome"),
        *(_text(name, null=True) for name in ("resolved_at", "operator")),
        sa.Column(
            "decision",
            sa.Text(),
            _check("decision", "decision IN ('post', 'refuse')"),
            nullable=True,
        ),
        _text("sentence", null=True),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_held_records")),
        sa.UniqueConstraint("bucket", "digest", name=op.f("uq_held_records_bucket_digest")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_held_records_terminal_resolved_at"), "held_records", ["terminal", "resolved_at"]
    )
    op.create_index(
        op.f("ix_held_records_bucket_beneficiary"), "held_records", ["bucket", "beneficiary"]
    )


def downgrade() -> None:
    """What is held undecided is lost with it."""
    op.drop_table("held_records")
