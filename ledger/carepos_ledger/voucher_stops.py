"""Stop this voucher 停用此券: a beneficiary freezes their own (docs/identity.md §12).

Only an operator frees it again: whoever holds a stolen phone must not be able to.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, and_, insert, select, update

from carepos import clock
from carepos.clock import Clock
from carepos_ledger import schema
from carepos_ledger.actions import Done, act
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem

STOPS_AT_ONCE: Final = 500
ALARM: Final = "voucher_stopped"


class VoucherStops:
    """Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def stop(self, bucket: int, beneficiary: str, voucher: str) -> Done:
        """Freeze one of this beneficiary's vouchers. A frozen one stays as it is: `exists`.

        Raises Problem `not_found` for one that is not theirs.
        """
        vouchers, stops = schema.vouchers, schema.voucher_stops

        def work(connection: Connection) -> Done:
            # The row that a redemption locks too: what is posted after this sees it frozen.
            held = connection.execute(
                select(vouchers.c.frozen)
                .where(
                    vouchers.c.bucket == bucket,
                    vouchers.c.voucher == voucher,
                    vouchers.c.beneficiary == beneficiary,
                )
                .with_for_update()
            ).one_or_none()
            if held is None:
                raise Problem("not_found", "no such voucher")
            if held.frozen:
                return "exists"
            key, at = {"bucket": bucket, "voucher": voucher}, clock.to_text(self._now())
            connection.execute(
                update(vouchers)
                .where(vouchers.c.bucket == bucket, vouchers.c.voucher == voucher)
                .values(frozen=1, frozen_at=at)
            )
            connection.execute(insert(stops).values(**key, stopped_at=at))
            connection.execute(
                insert(schema.alarms).values(at=at, kind=ALARM, terminal="", digest="")
            )
            return "changed"

        return act(self._database, work)

    def listed(self) -> list[dict[str, Any]]:
        """The oldest 500 that no operator has freed."""
        vouchers, stops = schema.vouchers.c, schema.voucher_stops.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(vouchers.programme, vouchers.voucher, stops.stopped_at)
                .join(
                    schema.vouchers,
                    and_(vouchers.bucket == stops.bucket, vouchers.voucher == stops.voucher),
                )
                .order_by(stops.stopped_at, vouchers.voucher)
                .limit(STOPS_AT_ONCE)
            )
            return [dict(row) for row in rows.mappings()]
