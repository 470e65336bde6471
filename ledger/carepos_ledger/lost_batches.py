"""Settlement batches that a lost part of the book had closed, from their published files.

The same number, the same bytes; and the bookings in it are paid, whenever this ledger holds them
again: no close takes them a second time (docs/offline.md §12).
"""

from __future__ import annotations

from sqlalchemy import Connection, insert

from carepos import clock, settlement
from carepos.settlement import Batch
from carepos_ledger import restored_rows, schema
from carepos_ledger import settlement as closing
from carepos_ledger.actions import Done, act, find, need
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem


class LostBatches:
    """Restores batches. Safe to call from several threads."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def restore(self, manifest: object, file: bytes) -> tuple[Done, Batch]:
        """`exists` when it is held as it is.

        Raises Malformed for files that are not this ledger's, Problem out_of_order for one that is
        not the next, already_exists_differently where another one has its number, not_found for a
        merchant or programme that is not there.
        """
        batch = settlement.read_batch(file, manifest, self._keyring.keys.keys)
        done = act(self._database, lambda c: self._restore(c, batch, file))
        return done, batch

    def _restore(self, connection: Connection, batch: Batch, file: bytes) -> Done:
        told = batch.manifest
        need(connection, schema.merchants, "merchant", told.merchant)
        # As a close does: one at a time.
        if (
            find(connection, schema.programmes, {"programme": told.programme}, for_update=True)
            is None
        ):
            raise Problem("not_found", "no such programme", field="programme")
        of = {
            "merchant": told.merchant,
            "programme": told.programme,
            "batch_no": told.batch_no,
        }
        held = find(connection, schema.batches, of)
        if held is not None:
            if held.manifest == batch.manifest_jws:
                return "exists"
            raise Problem(
                "already_exists_differently",
                f"batch {told.batch_no} was closed again as another one",
                field="batch_no",
            )
        expected, previous = closing.follows(connection, told.merchant, told.programme)
        if (told.batch_no, told.previous) != (expected, previous):
            why = (
                f"batch {expected} comes first"
                if told.batch_no > expected
                else "it names another file before it"
            )
            raise Problem("out_of_order", f"is not the next one: {why}", field="batch_no")
        closing.store(connection, told, batch.manifest_jws, file, [])
        connection.execute(
            insert(schema.heal_rows),
            [
                {
                    **of,
                    "terminal": line.terminal,
                    "incarnation": line.incarnation,
                    "sequence": line.sequence,
                    "kind": line.kind,
                    "occurred_at": clock.to_text(line.occurred_at),
                    "amount_minor": line.amount_minor,
                }
                for line in batch.lines
            ],
        )
        restored_rows.place(connection, told.merchant, told.programme)
        return "created"
