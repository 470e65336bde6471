"""What beneficiaries see and say on their own pages: numbered uses, sessions, stops, disputes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _bucket(table: str) -> sa.Column[int]:
    return sa.Column(
        "bucket", sa.Integer(), _check(table, "range", "bucket BETWEEN 0 AND 4095"), nullable=False
    )


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _AMOUNT, nullable=False)


def upgrade() -> None:
    op.create_table(
        "uses",
        _number("n"),
        _bucket("uses"),
        _text("posting"),
        sa.PrimaryKeyConstraint("bucket", "posting", name=op.f("pk_uses")),
        sa.UniqueConstraint("n", name=op.f("uq_uses_n")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "holder_marks",
        _bucket("holder_marks"),
        _text("beneficiary"),
        _number("seen_n"),
        sa.PrimaryKeyConstraint("bucket", "beneficiary", name=op.f("pk_holder_marks")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "holder_sessions",
        _text("session_sha256"),
        _bucket("holder_sessions"),
        _text("beneficiary"),
        _text("opened_at"),
        _number("new_after"),
        sa.Column(
            "has_left",
            sa.Integer(),
            _check("holder_sessions", "flag", "has_left IN (0, 1)"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("session_sha256", name=op.f("pk_holder_sessions")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "voucher_stops",
        _bucket("voucher_stops"),
        _text("voucher"),
        _text("stopped_at"),
        sa.PrimaryKeyConstraint("bucket", "voucher", name=op.f("pk_voucher_stops")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "disputes",
        sa.Column("n", sa.Integer(), nullable=False),
        _bucket("disputes"),
        _text("posting"),
        _text("beneficiary"),
        sa.Column(
            "reason",
            sa.Text(),
            _check(
                "disputes",
                "reason",
                "reason IN ('not_me', 'not_these_goods', 'wrong_amount', 'no_goods')",
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Text(),
            _check("disputes", "state", "state IN ('open', 'upheld', 'rejected')"),
            nullable=False,
        ),
        _text("opened_at"),
        _text("answered_at", null=True),
        _text("answered_by", null=True),
        _text("answer", null=True),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_disputes")),
        sa.UniqueConstraint("bucket", "posting", name=op.f("uq_disputes_bucket_posting")),
        sqlite_strict=True,
    )


def downgrade() -> None:
    for table in ("disputes", "voucher_stops", "holder_sessions", "holder_marks", "uses"):
        op.drop_table(table)
