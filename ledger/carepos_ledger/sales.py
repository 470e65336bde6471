"""A sale as any till of its merchant may see it to refund it: `POST /v1/sales/find`.

docs/offline.md §3. Found by what stands on the receipt. What is of another merchant, was not booked
or is past its retention is told from what never was by nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, func, select, tuple_

from carepos import ids, jws
from carepos.errors import Malformed
from carepos.slip import receipt_code
from carepos_ledger import schema, undo_rows
from carepos_ledger.auth import Caller
from carepos_ledger.book import read_posted
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem

_CODE: Final = re.compile(r"[A-Z2-7]{16}")


class Found(NamedTuple):
    """The signed answer, and the sale's own record, whose digest is signed in it: a large one would
    not fit inside."""

    sale: str
    record: str

    def to_json(self) -> dict[str, object]:
        return {"sale": self.sale, "record": self.record}


class Sales:
    """Finds sales. Safe to call from several threads."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def find(self, caller: Caller, receipt_no: object, code: object) -> Found:
        """The booked sale of the caller's merchant under this number.

        `code` (16 characters, or None) tells sales of two journals of one till apart, and must
        fit where it is given. Raises Malformed, Problem `not_found`.
        """
        terminal_no, sequence = ids.parse_receipt_no(receipt_no)
        if code is not None and (not isinstance(code, str) or not _CODE.fullmatch(code)):
            raise Malformed("must be the 16 characters of the receipt's code", field="code")
        with self._database.read() as connection:
            found = [
                row
                for row in _booked(connection, caller.terminal.merchant, terminal_no, sequence)
                if code is None or receipt_code(row.digest) == code
            ]
            # Past its retention a sale can't be shown, but still makes another one ambiguous.
            if len(found) != 1 or found[0].jws is None:
                raise Problem("not_found", "no such sale")
            return self._answer(connection, caller, found[0])

    def _answer(self, connection: Connection, caller: Caller, sale: Row[Any]) -> Found:
        place = (sale.bucket, sale.digest)
        [posted] = read_posted(connection, {place})
        refunded = undo_rows.read_refunded(connection, [place]).get(sale.digest, {})
        payload = {
            "v": 1,
            "request": caller.request,
            "terminal": caller.terminal.terminal,
            "original": {"terminal": sale.terminal, "id": sale.id},
            "record_sha256": sale.digest,
            "recorded_at": sale.recorded_at,
            "refunded": [
                {"line": line, "quantity": quantity} for line, quantity in sorted(refunded.items())
            ],
            "undone": not posted.left(),
            "vouchers": _vouchers(connection, *place),
        }
        signed = jws.sign(payload, typ=jws.SALE, key=self._keyring.signing)
        return Found(signed, sale.jws.decode("ascii"))


def _booked(
    connection: Connection, merchant: str, terminal_no: int, sequence: int
) -> list[Row[Any]]:
    """Redemptions under this number: one for each journal of the till that made one. `jws` is None
    for one whose signed bytes are past their retention."""
    terminals, notes = schema.terminals.c, schema.terminal_notes.c
    terminal = connection.scalars(
        select(terminals.terminal).where(terminals.terminal_no == terminal_no)
    ).one_or_none()
    if terminal is None:
        return []
    places = [
        (terminal, incarnation, sequence) for incarnation in _incarnations(connection, terminal)
    ]
    postings, records, kept = schema.postings.c, schema.records.c, schema.record_bytes.c
    return list(
        connection.execute(
            select(
                records.bucket, records.digest, kept.jws, records.terminal, records.id,
                postings.recorded_at,
            )
            .select_from(schema.terminal_notes)
            .join(
                schema.postings,
                (postings.bucket == notes.bucket) & (postings.posting == notes.digest),
            )
            .join(
                schema.records,
                (records.bucket == notes.bucket) & (records.digest == notes.digest),
            )
            .outerjoin(
                schema.record_bytes, (kept.bucket == notes.bucket) & (kept.digest == notes.digest)
            )
            .where(
                tuple_(notes.terminal, notes.incarnation, notes.sequence).in_(places),
                postings.kind == "redeem",
                postings.merchant == merchant,
            )
        )
    )  # fmt: skip


def _incarnations(connection: Connection, terminal: str) -> Iterator[str]:
    """Each journal of a terminal, from one to the next by the key: not through all its numbers."""
    notes = schema.terminal_notes.c
    last = ""
    while True:
        last = connection.scalar(
            select(func.min(notes.incarnation)).where(
                notes.terminal == terminal, notes.incarnation > last
            )
        )
        if last is None:
            return
        yield last


def _vouchers(connection: Connection, bucket: int, posting: str) -> list[dict[str, object]]:
    """What a refund must know of the sale's vouchers: not what they hold, which only whoever stands
    there may show."""
    vouchers, lines = schema.vouchers.c, schema.lines.c
    rows = connection.execute(
        select(vouchers.voucher, vouchers.label, vouchers.terms)
        .where(
            vouchers.bucket == bucket,
            vouchers.voucher.in_(
                select(lines.voucher).where(lines.bucket == bucket, lines.posting == posting)
            ),
        )
        .order_by(vouchers.voucher)
    )
    return [
        {
            "voucher": row.voucher,
            "label": row.label,
            "terms": None if row.terms is None else json.loads(row.terms),
        }
        for row in rows
    ]
