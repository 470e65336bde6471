"""The tables of the first version.

Written out in full and never changed: what a ledger was made with must not move with `schema.py`.
A test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_AMOUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _bucket(table: str) -> sa.CheckConstraint:
    return _check(table, "range", "bucket BETWEEN 0 AND 4095")


def _counter(table: str, column: str) -> sa.CheckConstraint:
    return _check(table, column, f"{column} >= 0")


def upgrade() -> None:
    op.create_table(
        "alarms",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_alarms")),
        sqlite_strict=True,
    )
    op.create_table(
        "attempts",
        sa.Column("bucket", sa.Integer(), _bucket("attempts"), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Text(),
            _check("attempts", "known", "state IN ('posted', 'refused', 'reversed')"),
            nullable=False,
        ),
        sa.Column("content_sha256", sa.Text(), nullable=True),
        sa.Column("record_sha256", sa.Text(), nullable=False),
        sa.Column("posting", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("bucket", "terminal", "id", name=op.f("pk_attempts")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batch_postings",
        sa.Column("bucket", sa.Integer(), _bucket("batch_postings"), nullable=False),
        sa.Column("posting", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("batch_no", _AMOUNT, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "posting", name=op.f("pk_batch_postings")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_batch_postings_merchant_programme_batch_no"),
        "batch_postings",
        ["merchant", "programme", "batch_no"],
    )
    op.create_table(
        "batch_shares",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("batch_no", _AMOUNT, nullable=False),
        sa.Column("funder", sa.Text(), nullable=False),
        sa.Column("amount_minor", _AMOUNT, nullable=False),
        sa.PrimaryKeyConstraint(
            "merchant", "programme", "batch_no", "funder", name=op.f("pk_batch_shares")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "beneficiaries",
        sa.Column("bucket", sa.Integer(), _bucket("beneficiaries"), nullable=False),
        sa.Column("beneficiary", sa.Text(), nullable=False),
        sa.Column("iss", sa.Text(), nullable=False),
        sa.Column("sub", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "beneficiary", name=op.f("pk_beneficiaries")),
        sa.UniqueConstraint("iss", "sub", name=op.f("uq_beneficiaries_iss_sub")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "enrolments",
        sa.Column("iss", sa.Text(), nullable=False),
        sa.Column("import_key_id", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Integer(), _bucket("enrolments"), nullable=False),
        sa.Column("beneficiary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("iss", "import_key_id", "ref", name=op.f("pk_enrolments")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "entries",
        sa.Column("bucket", sa.Integer(), _bucket("entries"), nullable=False),
        sa.Column("posting", sa.Text(), nullable=False),
        sa.Column("n", _AMOUNT, nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("amount", _AMOUNT, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "posting", "n", name=op.f("pk_entries")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "funders",
        sa.Column("funder", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("funder", name=op.f("pk_funders")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "issuers",
        sa.Column("iss", sa.Text(), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("iss", name=op.f("pk_issuers")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "lines",
        sa.Column("bucket", sa.Integer(), _bucket("lines"), nullable=False),
        sa.Column("posting", sa.Text(), nullable=False),
        sa.Column("line", _AMOUNT, nullable=False),
        sa.Column("voucher", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("quantity", _AMOUNT, nullable=False),
        sa.Column("programme_minor", _AMOUNT, nullable=False),
        sa.Column("beneficiary_minor", _AMOUNT, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "posting", "line", "voucher", name=op.f("pk_lines")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "merchants",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", name=op.f("pk_merchants")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "operators",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_operators")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_operators_secret_sha256")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "postings",
        sa.Column("bucket", sa.Integer(), _bucket("postings"), nullable=False),
        sa.Column("posting", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Text(),
            _check("postings", "known", "kind IN ('fund', 'issue', 'redeem', 'reversal')"),
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
    op.create_index(
        op.f("ix_postings_merchant_programme_posting"),
        "postings",
        ["merchant", "programme", "posting"],
    )
    op.create_table(
        "product_lists",
        sa.Column("product_list", sa.Text(), nullable=False),
        sa.Column("version", _AMOUNT, nullable=False),
        sa.Column("entries", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("product_list", "version", name=op.f("pk_product_lists")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "programmes",
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("rules_version", _AMOUNT, nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("import_key_id", sa.Text(), nullable=True),
        sa.Column(
            "unreserved_minor", _AMOUNT, _counter("programmes", "unreserved_minor"), nullable=False
        ),
        sa.Column(
            "loss_reserve_minor",
            _AMOUNT,
            _counter("programmes", "loss_reserve_minor"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("programme", name=op.f("pk_programmes")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "record_bytes",
        sa.Column("bucket", sa.Integer(), _bucket("record_bytes"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("jws", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "digest", name=op.f("pk_record_bytes")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "records",
        sa.Column("bucket", sa.Integer(), _bucket("records"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("sequence", _AMOUNT, nullable=False),
        sa.Column("occurred_at", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "digest", name=op.f("pk_records")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_records_bucket_terminal_id"), "records", ["bucket", "terminal", "id"])
    op.create_table(
        "terminal_notes",
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("sequence", _AMOUNT, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("prev", sa.Text(), nullable=False),
        sa.Column("noted_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "terminal", "incarnation", "sequence", name=op.f("pk_terminal_notes")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "visits",
        sa.Column("bucket", sa.Integer(), _bucket("visits"), nullable=False),
        sa.Column("iss", sa.Text(), nullable=False),
        sa.Column("jti_sha256", sa.Text(), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("first_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "iss", "jti_sha256", name=op.f("pk_visits")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "vouchers",
        sa.Column("bucket", sa.Integer(), _bucket("vouchers"), nullable=False),
        sa.Column("voucher", sa.Text(), nullable=False),
        sa.Column("beneficiary", sa.Text(), nullable=False),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Text(),
            _check("vouchers", "known", "kind IN ('value', 'item', 'fixed_price')"),
            nullable=False,
        ),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("categories", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=False),
        sa.Column(
            "frozen", sa.Integer(), _check("vouchers", "flag", "frozen IN (0, 1)"), nullable=False
        ),
        sa.Column("terms", sa.Text(), nullable=True),
        sa.Column(
            "available_minor", _AMOUNT, _counter("vouchers", "available_minor"), nullable=False
        ),
        sa.Column("saved_minor", _AMOUNT, _counter("vouchers", "saved_minor"), nullable=False),
        sa.Column(
            "available_quantity",
            _AMOUNT,
            _counter("vouchers", "available_quantity"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("bucket", "voucher", name=op.f("pk_vouchers")),
        sa.UniqueConstraint("voucher", name=op.f("uq_vouchers_voucher")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_vouchers_bucket_beneficiary"), "vouchers", ["bucket", "beneficiary"])
    op.create_table(
        "batches",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("batch_no", _AMOUNT, nullable=False),
        sa.Column("closed_at", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("file", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "programme", "batch_no", name=op.f("pk_batches")),
        sa.ForeignKeyConstraint(
            ["merchant"], ["merchants.merchant"], name=op.f("fk_batches_merchant")
        ),
        sa.ForeignKeyConstraint(
            ["programme"], ["programmes.programme"], name=op.f("fk_batches_programme")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "issues",
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Integer(), _bucket("issues"), nullable=False),
        sa.Column("voucher", sa.Text(), nullable=False),
        sa.Column("terms_sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("programme", "ref", name=op.f("pk_issues")),
        sa.ForeignKeyConstraint(
            ["programme"], ["programmes.programme"], name=op.f("fk_issues_programme")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "stores",
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("store", name=op.f("pk_stores")),
        sa.ForeignKeyConstraint(
            ["merchant"], ["merchants.merchant"], name=op.f("fk_stores_merchant")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "activations",
        sa.Column("code_sha256", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("code_sha256", name=op.f("pk_activations")),
        sa.ForeignKeyConstraint(["store"], ["stores.store"], name=op.f("fk_activations_store")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "programme_stores",
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("programme", "store", name=op.f("pk_programme_stores")),
        sa.ForeignKeyConstraint(
            ["programme"], ["programmes.programme"], name=op.f("fk_programme_stores_programme")
        ),
        sa.ForeignKeyConstraint(
            ["store"], ["stores.store"], name=op.f("fk_programme_stores_store")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "terminals",
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("terminal_no", sa.Integer(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Text(),
            _check("terminals", "known", "status IN ('active', 'suspended', 'revoked', 'forked')"),
            nullable=False,
        ),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("terminal", name=op.f("pk_terminals")),
        sa.ForeignKeyConstraint(["store"], ["stores.store"], name=op.f("fk_terminals_store")),
        sa.UniqueConstraint("kid", name=op.f("uq_terminals_kid")),
        sa.UniqueConstraint("terminal_no", name=op.f("uq_terminals_terminal_no")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """A ledger does not go back: its first version holds nothing worth keeping to go back to."""
    op.drop_table("terminals")
    op.drop_table("programme_stores")
    op.drop_table("activations")
    op.drop_table("stores")
    op.drop_table("issues")
    op.drop_table("batches")
    op.drop_table("vouchers")
    op.drop_table("visits")
    op.drop_table("terminal_notes")
    op.drop_table("records")
    op.drop_table("record_bytes")
    op.drop_table("programmes")
    op.drop_table("product_lists")
    op.drop_table("postings")
    op.drop_table("operators")
    op.drop_table("meta")
    op.drop_table("merchants")
    op.drop_table("lines")
    op.drop_table("issuers")
    op.drop_table("funders")
    op.drop_table("entries")
    op.drop_table("enrolments")
    op.drop_table("beneficiaries")
    op.drop_table("batch_shares")
    op.drop_table("batch_postings")
    op.drop_table("attempts")
    op.drop_table("alarms")
