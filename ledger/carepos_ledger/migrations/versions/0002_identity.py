"""Who stands at the counter: issuers' key sets, withdrawn keys and tokens, cards, acting."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
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


def upgrade() -> None:
    for name in ("jwks_url", "asked_at", "problem"):
        op.add_column("issuers", _text(name, null=True))
    _keep_issuers_as_sets()
    op.create_table(
        "revocations",
        _text("iss"),
        sa.Column(
            "kind",
            sa.Text(),
            _check("revocations", "known", "kind IN ('key', 'token')"),
            nullable=False,
        ),
        _text("name"),
        _text("reason"),
        _text("at"),
        _text("until", null=True),
        sa.PrimaryKeyConstraint("iss", "kind", "name", name=op.f("pk_revocations")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cards",
        _bucket("cards"),
        _text("iss"),
        _text("jti_sha256"),
        _text("beneficiary"),
        _text("pin_verifier"),
        sa.Column(
            "wrong_tries",
            sa.Integer(),
            # Two checks of one table can't have one name.
            sa.CheckConstraint("wrong_tries BETWEEN 0 AND 5", name=op.f("ck_cards_wrong_tries")),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("bucket", "iss", "jti_sha256", name=op.f("pk_cards")),
        sa.UniqueConstraint("iss", "jti_sha256", name=op.f("uq_cards_iss_jti_sha256")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pin_visits",
        _bucket("pin_visits"),
        _text("iss"),
        _text("jti_sha256"),
        _text("terminal"),
        _text("proved_at"),
        sa.PrimaryKeyConstraint(
            "bucket", "iss", "jti_sha256", "terminal", name=op.f("pk_pin_visits")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "actors",
        _text("programme"),
        _text("actor_sha256"),
        sa.PrimaryKeyConstraint("programme", "actor_sha256", name=op.f("pk_actors")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "acted",
        _bucket("acted"),
        _text("posting"),
        _text("programme"),
        _text("beneficiary"),
        _text("actor_sha256"),
        sa.Column(
            "way",
            sa.Text(),
            _check("acted", "known", "way IN ('proxy', 'witness')"),
            nullable=False,
        ),
        _text("reason"),
        sa.Column(
            "amount_minor",
            _AMOUNT,
            _check("acted", "amount_minor", "amount_minor >= 0"),
            nullable=False,
        ),
        _text("recorded_at"),
        sa.Column(
            "reversed",
            sa.Integer(),
            _check("acted", "flag", "reversed IN (0, 1)"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("bucket", "posting", name=op.f("pk_acted")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_acted_bucket_beneficiary_programme"),
        "acted",
        ["bucket", "beneficiary", "programme"],
    )
    op.create_index(
        op.f("ix_acted_programme_actor_sha256_recorded_at"),
        "acted",
        ["programme", "actor_sha256", "recorded_at"],
    )


def downgrade() -> None:
    for table in ("acted", "actors", "pin_visits", "cards", "revocations"):
        op.drop_table(table)
    _change_issuers(lambda kept: kept["keys"])
    for name in ("jwks_url", "asked_at", "problem"):
        op.drop_column("issuers", name)


def _keep_issuers_as_sets() -> None:
    """`keys` was a list of JWKs; it becomes a set that knows its age and what is retiring."""
    _change_issuers(
        lambda keys: {
            "keys": keys,
            "retiring": {},
            "as_of": "1970-01-01T00:00:00.000Z",
            "left_out": 0,
        }
    )


def _change_issuers(change: Callable[[Any], Any]) -> None:
    issuers = sa.table("issuers", sa.column("iss", sa.Text), sa.column("keys", sa.Text))
    connection = op.get_bind()
    for iss, keys in connection.execute(sa.select(issuers.c.iss, issuers.c["keys"])).all():
        changed = json.dumps(change(json.loads(keys)))
        connection.execute(sa.update(issuers).where(issuers.c.iss == iss).values(keys=changed))
