"""I did not buy this 这不是我买的: what a beneficiary says of one redemption, and the answer.

docs/identity.md §12. A dispute moves no money. It names a posting, so a shop's, a till's or (from
the signed record) a cashier's disputes can be counted by joining `postings`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, and_, insert, select, text, tuple_, update

from carepos import clock, ids, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos_ledger import holder_account, schema, uses
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem

Reason = Literal["not_me", "not_these_goods", "wrong_amount", "no_goods"]
REASONS: Final[tuple[str, ...]] = get_args(Reason)
ANSWERS: Final = ("upheld", "rejected")
DISPUTES_AT_ONCE: Final = 500
ALARM: Final = "disputed"


class Disputes:
    """Opened by beneficiaries, answered by operators. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def open(self, bucket: int, beneficiary: str, posting: str, reason: str) -> Done:
        """Once per redemption: said again, with whatever reason, nothing changes and it `exists`.

        Raises Problem `not_found` for what is no redemption of this beneficiary, or one of which
        nothing stands; Malformed for a reason that is not one of REASONS.
        """
        if reason not in REASONS:
            raise Malformed("must be one of the four reasons", field="reason")
        table = schema.disputes
        key = {"bucket": bucket, "posting": posting}

        def work(connection: Connection) -> Done:
            sale = connection.execute(
                select(schema.postings).where(
                    holder_account.of_holder(bucket, beneficiary),
                    schema.postings.c.posting == posting,
                )
            ).one_or_none()
            if sale is None:
                raise Problem("not_found", "no such redemption")
            if find(connection, table, key) is not None:
                return "exists"
            if not holder_account.stands(connection, bucket, posting):
                raise Problem("not_found", "it was taken back")
            at = clock.to_text(self._now())
            connection.execute(
                insert(table).values(
                    **key, beneficiary=beneficiary, reason=reason, state="open", opened_at=at
                )
            )
            attempts = schema.attempts.c
            record_sha256 = connection.scalars(
                select(attempts.record_sha256).where(
                    attempts.bucket == bucket, attempts.posting == posting
                )
            ).one()
            connection.execute(
                insert(schema.alarms).values(
                    at=at, kind=ALARM, terminal=sale.terminal, digest=record_sha256
                )
            )
            return "created"

        return act(self._database, work)

    def answer(self, n: int, state: str, sentence: str, *, operator: str) -> Done:
        """Uphold or reject it, for good. Raises Malformed, Problem `not_found`,
        `already_exists_differently`."""
        strict_json.integer(n, "dispute", low=1, high=2**31 - 1)
        if not isinstance(state, str) or state not in ANSWERS:
            raise Malformed("must be upheld or rejected", field="state")
        strict_json.text(sentence, "sentence", high=200)
        if not sentence.strip():
            raise Malformed("must say something", field="sentence")
        table = schema.disputes

        def work(connection: Connection) -> Done:
            held = find(connection, table, {"n": n}, for_update=True)
            if held is None:
                raise Problem("not_found", "no such dispute", field="dispute")
            if held.state != "open":
                if (held.state, held.answer) == (state, sentence):
                    return "exists"
                raise Problem(
                    "already_exists_differently", f"it was {held.state} before", field="state"
                )
            connection.execute(
                update(table)
                .where(table.c.n == n)
                .values(
                    state=state,
                    answer=sentence,
                    answered_at=clock.to_text(self._now()),
                    answered_by=operator,
                )
            )
            return "changed"

        return act(self._database, work)

    def listed(self, after: int = 0) -> list[dict[str, Any]]:
        """At most 500 disputes numbered above `after`, for operators; none comes in between later.

        Shop, till, amount and who acted come from the book as it is now.
        """
        strict_json.integer(after, "after", high=2**31 - 1)

        def work(connection: Connection) -> list[dict[str, Any]]:
            if not self._database.is_sqlite:
                # Numbers are given out before their transactions commit: wait for those under way.
                connection.execute(text("LOCK TABLE disputes IN SHARE MODE"))
            return _listed(connection, after)

        return act(self._database, work)


def _listed(connection: Connection, after: int) -> list[dict[str, Any]]:
    table, postings = schema.disputes.c, schema.postings.c
    people, acted = schema.beneficiaries.c, schema.acted.c
    rows = connection.execute(
        select(
            schema.disputes,
            postings.merchant,
            postings.store,
            postings.terminal,
            postings.programme,
            postings.sequence,
            postings.recorded_at,
            schema.terminals.c.terminal_no,
            schema.stores.c.name.label("store_name"),
            schema.programmes.c.currency,
            people.iss,
            people.sub,
            acted.way,
        )
        .join(
            schema.postings,
            and_(postings.bucket == table.bucket, postings.posting == table.posting),
        )
        .join(schema.programmes, schema.programmes.c.programme == postings.programme)
        .join(schema.terminals, schema.terminals.c.terminal == postings.terminal)
        .join(schema.stores, schema.stores.c.store == postings.store)
        .outerjoin(
            schema.beneficiaries,
            and_(people.bucket == table.bucket, people.beneficiary == table.beneficiary),
        )
        .outerjoin(schema.acted, and_(acted.bucket == table.bucket, acted.posting == table.posting))
        .where(table.n > after)
        .order_by(table.n)
        .limit(DISPUTES_AT_ONCE)
    ).all()
    amounts = uses.paid(
        connection,
        tuple_(postings.bucket, postings.posting).in_([(r.bucket, r.posting) for r in rows]),
    )
    returned = uses.taken_back(connection, [(row.bucket, row.posting) for row in rows])
    return [
        {
            "dispute": row.n,
            "state": row.state,
            "reason": row.reason,
            "opened_at": row.opened_at,
            "answered_at": row.answered_at,
            "answer": row.answer,
            "iss": row.iss,
            "sub": row.sub,
            "receipt_no": ids.receipt_no(row.terminal_no, row.sequence),
            "merchant": row.merchant,
            "store": row.store,
            "store_name": row.store_name,
            "terminal": row.terminal,
            "programme": row.programme,
            "currency": row.currency,
            "amount_minor": amounts.get((row.bucket, row.posting), 0),
            "recorded_at": row.recorded_at,
            "reversed": not holder_account.stands(connection, row.bucket, row.posting),
            "returned_minor": -returned.get((row.bucket, row.posting), 0),
            "acted": row.way,
        }
        for row in rows
    ]
