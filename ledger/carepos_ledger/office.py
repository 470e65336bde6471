"""The office's books: who gives money and who is paid, and which vouchers the money becomes.

Its SQL is here, in `funding`, in `issuing` and in `programme_sums`.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from sqlalchemy import Connection, delete, select, update

from carepos import clock, ids, money, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.ids import RandomBytes
from carepos_ledger import funding, issuing, programme_sums, schema
from carepos_ledger.actions import Done, act, keep, need
from carepos_ledger.database import Database
from carepos_ledger.issuing import IssueRow, RowAnswer
from carepos_ledger.problems import Problem
from carepos_ledger.programme_sums import ProgrammeSums

_IMPORT_KEY_ID = re.compile(r"[0-9a-f]{16}")


class Office:
    """What operators book. Safe to call from several threads."""

    def __init__(
        self, database: Database, now: Clock, random_bytes: RandomBytes = secrets.token_bytes
    ) -> None:
        self._database = database
        self._now = now
        self._random_bytes = random_bytes

    # ── who takes part ─────────────────────────────────────────────────────────────────────────

    def put_funder(self, funder: str, name: str) -> Done:
        ids.name(funder, "funder")
        strict_json.text(name, "name", high=80)
        return act(
            self._database, lambda c: keep(c, schema.funders, {"funder": funder}, {"name": name})
        )

    def put_merchant(self, merchant: str, name: str) -> Done:
        ids.name(merchant, "merchant")
        strict_json.text(name, "name", high=80)
        return act(
            self._database,
            lambda c: keep(c, schema.merchants, {"merchant": merchant}, {"name": name}),
        )

    def put_store(self, store: str, merchant: str, name: str) -> Done:
        ids.name(store, "store")
        ids.name(merchant, "merchant")
        strict_json.text(name, "name", high=80)

        def work(connection: Connection) -> Done:
            need(connection, schema.merchants, "merchant", merchant)
            return keep(
                connection, schema.stores, {"store": store}, {"merchant": merchant, "name": name}
            )

        return act(self._database, work)

    # ── money ──────────────────────────────────────────────────────────────────────────────────

    def fund(self, programme: str, funder: str, amount_minor: int, reference: str) -> Done:
        """Money from a funder, known by its `reference` (the bank's, say): booked once."""
        ids.name(programme, "programme")
        ids.name(funder, "funder")
        ids.label(reference, "reference")
        strict_json.integer(amount_minor, "amount_minor", low=1, high=money.MAX_AMOUNT_MINOR)
        return act(
            self._database,
            lambda c: funding.fund(c, programme, funder, amount_minor, reference, now=self._now()),
        )

    def programme_sums(self, programme: str) -> ProgrammeSums:
        """Raises Problem `not_found`."""
        ids.name(programme, "programme")
        with self._database.read() as connection:
            return programme_sums.read_sums(connection, programme)

    # ── vouchers ───────────────────────────────────────────────────────────────────────────────

    def issue(self, programme: str, import_key_id: str, rows: list[Any]) -> list[RowAnswer]:
        """One chunk of 1 to 500 rows, in one transaction; an answer per row in order."""
        ids.name(programme, "programme")
        if not isinstance(import_key_id, str) or not _IMPORT_KEY_ID.fullmatch(import_key_id):
            raise Malformed("must be 16 lower-case hex digits", field="import_key_id")
        listed = strict_json.array(rows, "rows", low=1, high=issuing.MAX_ROWS)
        read = [IssueRow.from_json(row, f"rows[{n}]") for n, row in enumerate(listed, 1)]
        return act(
            self._database,
            lambda connection: issuing.issue(
                connection,
                programme,
                import_key_id,
                read,
                now=self._now(),
                random_bytes=self._random_bytes,
            ),
        )

    def reserve_for_losses(self, programme: str, amount_minor: int, reference: str) -> Done:
        """Set money of a programme aside for sales without the ledger that no voucher covers.

        Once per reference. Raises Problem `not_found`, `not_funded`, `already_exists_differently`.
        """
        ids.name(programme, "programme")
        strict_json.integer(amount_minor, "amount_minor", low=1, high=money.MAX_AMOUNT_MINOR)
        ids.label(reference, "reference")
        return act(
            self._database,
            lambda c: funding.reserve_for_losses(
                c, programme, amount_minor, reference, now=self._now()
            ),
        )

    def freeze(
        self,
        programme: str,
        *,
        frozen: bool,
        ref: str | None = None,
        voucher: str | None = None,
    ) -> Done:
        """Freeze or thaw one voucher, named by the ref it was issued under or by its id."""
        ids.name(programme, "programme")
        strict_json.boolean(frozen, "frozen")
        if (ref is None) == (voucher is None):
            raise Malformed("name one of ref and voucher", field="voucher")
        vouchers, issues = schema.vouchers, schema.issues.c
        if voucher is not None:
            key = vouchers.c.voucher == ids.reference(voucher, "voucher")
        else:
            key = vouchers.c.voucher.in_(
                select(issues.voucher).where(
                    issues.programme == programme, issues.ref == ids.digest_text(ref, "ref")
                )
            )

        def work(connection: Connection) -> Done:
            held = connection.execute(
                select(vouchers.c.bucket, vouchers.c.voucher, vouchers.c.frozen)
                .where(key, vouchers.c.programme == programme)
                .with_for_update()
            ).one_or_none()
            if held is None:
                raise Problem(
                    "not_found",
                    "no such voucher in this programme",
                    field="ref" if voucher is None else "voucher",
                )
            if bool(held.frozen) == frozen:
                return "exists"
            connection.execute(
                update(vouchers)
                .where(vouchers.c.bucket == held.bucket, vouchers.c.voucher == held.voucher)
                .values(
                    frozen=int(frozen), frozen_at=clock.to_text(self._now()) if frozen else None
                )
            )
            # A voucher that is freed is stopped by nobody, also if the office freezes it later.
            stops = schema.voucher_stops
            connection.execute(
                delete(stops).where(stops.c.bucket == held.bucket, stops.c.voucher == held.voucher)
            )
            return "changed"

        return act(self._database, work)
