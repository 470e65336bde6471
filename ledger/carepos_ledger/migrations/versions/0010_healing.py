"""What a ledger that lost data is brought back by tills and from merchants' folders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _AMOUNT, nullable=False)


def _bucket(table: str) -> sa.Column[int]:
    return sa.Column(
        "bucket",
        sa.Integer(),
        sa.CheckConstraint("bucket BETWEEN 0 AND 4095", name=op.f(f"ck_{table}_range")),
        nullable=False,
    )


def _state(table: str, *states: str) -> sa.Column[str]:
    listed = ", ".join(f"'{each}'" for each in states)
    return sa.Column(
        "state",
        sa.Text(),
        sa.CheckConstraint(f"state IN ({listed})", name=op.f(f"ck_{table}_known")),
        nullable=False,
    )


def upgrade() -> None:
    op.create_table(
        "heal_evidence",
        sa.Column("n", sa.Integer(), nullable=False),
        _bucket("heal_evidence"),
        _text("digest"),
        _text("terminal"),
        _text("incarnation"),
        _number("sequence"),
        _text("id"),
        _text("kind"),
        _text("result"),
        _text("recorded_at"),
        _number("epoch"),
        _number("amount_minor"),
        _text("currency", null=True),
        sa.Column("record", sa.LargeBinary()),
        _text("outcome", null=True),
        _state("heal_evidence", "staged", "placed", "excepted", "closed"),
        _number("tried"),
        _text("reason", null=True),
        _text("offered_at"),
        _text("closed_at", null=True),
        _text("closed_by", null=True),
        _text("note", null=True),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_heal_evidence")),
        sa.UniqueConstraint("digest", "result", name=op.f("uq_heal_evidence_digest_result")),
        sqlite_strict=True,
    )
    for columns in (("terminal", "incarnation", "sequence"), ("state", "tried", "recorded_at")):
        name = op.f(f"ix_heal_evidence_{'_'.join(columns)}")
        op.create_index(name, "heal_evidence", list(columns))
    op.create_table(
        "heal_reports",
        _text("terminal"),
        _number("epoch"),
        _text("incarnation"),
        sa.Column(
            "complete",
            sa.Integer(),
            sa.CheckConstraint("complete IN (0, 1)", name=op.f("ck_heal_reports_flag")),
            nullable=False,
        ),
        _text("heard_at"),
        sa.PrimaryKeyConstraint("terminal", "epoch", name=op.f("pk_heal_reports")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "heal_files",
        _text("terminal"),
        _text("sha256"),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("terminal", "sha256", name=op.f("pk_heal_files")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "heal_allotments",
        _bucket("heal_allotments"),
        _text("voucher"),
        _number("allotment"),
        _text("terminal"),
        _text("incarnation"),
        _number("amount_minor"),
        _number("quantity"),
        _text("spend_until"),
        _text("reclaim_after"),
        _state("heal_allotments", "staged", "placed", "excepted"),
        sa.PrimaryKeyConstraint("bucket", "voucher", "allotment", name=op.f("pk_heal_allotments")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "heal_rows",
        _text("terminal"),
        _text("incarnation"),
        _number("sequence"),
        _text("kind"),
        _text("merchant"),
        _text("programme"),
        _number("batch_no"),
        _number("amount_minor"),
        sa.PrimaryKeyConstraint(
            "terminal", "incarnation", "sequence", "kind", name=op.f("pk_heal_rows")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_heal_rows_merchant_programme"), "heal_rows", ["merchant", "programme"])


def downgrade() -> None:
    for name in ("heal_rows", "heal_allotments", "heal_files", "heal_reports", "heal_evidence"):
        op.drop_table(name)
