"""Day close: what no settlement holds yet becomes one signed file per merchant and programme.

docs/protocol.md §12. One transaction per close: lock the programme's row, sweep, compute, sign,
store. What commits after the sweep's snapshot goes to the next batch; the primary key of
`batch_postings` is what makes it exactly once, also if the lock were wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, func, insert, select, text, tuple_
from sqlalchemy.exc import DBAPIError

from carepos import clock, ids, jws, money, settlement
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.keys import digest
from carepos.settlement import Manifest, SettlementLine
from carepos_ledger import accounts, restored_rows, schema
from carepos_ledger.book import TRIES, Reached, pass_by
from carepos_ledger.database import Database, is_conflict
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem

POINTS: Final = ("close_swept", "close_stored", "close_committed")

MAX_LISTED: Final = 200
"""Settlements in one answer to a till: with the largest manifests still less than it reads."""

_LOCK_WAIT_S: Final = 30
_SETTLED: Final = settlement.LINE_KINDS


@dataclass(frozen=True, slots=True)
class ClosedBatch:
    """One batch that a close made. `net_minor` is what the merchant is owed for it."""

    merchant: str
    programme: str
    batch_no: int
    rows: int
    net_minor: int
    currency: str

    def to_json(self) -> dict[str, object]:
        return {
            "merchant": self.merchant,
            "programme": self.programme,
            "batch_no": self.batch_no,
            "rows": self.rows,
            "net_minor": self.net_minor,
            "currency": self.currency,
        }


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch as it is listed; `manifest` is the signed text."""

    merchant: str
    programme: str
    batch_no: int
    closed_at: str
    manifest: str


_STORED = select(*(schema.batches.c[name] for name in StoredBatch.__dataclass_fields__))


class Settlement:
    """Closes batches and hands out what was closed."""

    def __init__(
        self, database: Database, keyring: Keyring, now: Clock, reached: Reached = pass_by
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now
        self._reached = reached

    # ── closing ────────────────────────────────────────────────────────────────────────────────

    def close(self, merchant: str | None = None, programme: str | None = None) -> list[ClosedBatch]:
        """Close every merchant and programme with bookings that no batch holds, or only these.

        Repeating it makes nothing twice. Sales that two copies of a till made under one number go
        to batches one after another, a close for each. Each batch is durable by itself, so a close
        that was cut short is finished by the next. One that can't be closed keeps no other waiting:
        its Problem is raised when all others are closed. Raises Problem `not_found` for a name that
        is not known, `try_again` when other closes keep a programme busy, `internal` when a file
        can't be made of what is booked.
        """
        closed = []
        failed: list[Problem] = []
        for pair in self._waiting(merchant, programme):
            try:
                batch = self._close_pair(*pair)
            except Problem as problem:
                failed.append(Problem(problem.code, f"{', '.join(pair)}: {problem.detail}"))
            else:
                if batch is not None:
                    closed.append(batch)
        if failed:
            others = f"; {len(failed) - 1} more were not closed" if len(failed) > 1 else ""
            detail = f"{failed[0].detail}{others}; all others are closed ({len(closed)} files)"
            raise Problem(failed[0].code, detail)
        return closed

    def _waiting(self, merchant: str | None, programme: str | None) -> list[tuple[str, str]]:
        postings = schema.postings.c
        query = (
            select(postings.merchant, postings.programme)
            .distinct()
            .select_from(schema.postings.outerjoin(schema.batch_postings, _same_posting()))
            .where(postings.kind.in_(_SETTLED), schema.batch_postings.c.posting.is_(None))
        )
        with self._database.read() as connection:
            if merchant is not None:
                _need(connection, schema.merchants.c.merchant, merchant)
                query = query.where(postings.merchant == merchant)
            if programme is not None:
                _need(connection, schema.programmes.c.programme, programme)
                query = query.where(postings.programme == programme)
            # Sorted here: a database's collation may order names in its own way.
            return sorted((row.merchant, row.programme) for row in connection.execute(query))

    def _close_pair(self, merchant: str, programme: str) -> ClosedBatch | None:
        for _ in range(TRIES):
            try:
                with self._database.write() as connection:
                    batch = self._close_in(connection, merchant, programme)
                    self._reached("close_stored")
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
            else:
                self._reached("close_committed")
                return batch
        raise Problem("try_again", "other closes of this programme are being made")

    def _close_in(
        self, connection: Connection, merchant: str, programme: str
    ) -> ClosedBatch | None:
        currency = self._lock(connection, programme)
        restored_rows.place(connection, merchant, programme)
        # Before the sweep: what is booked later and not in the file is then after it by its time.
        closed_at = self._now()
        lines, keys = self._sweep(connection, merchant, programme, currency)
        self._reached("close_swept")
        if not lines:
            return None
        try:
            manifest, signed, file = self._make(
                connection, merchant, programme, currency, closed_at, lines
            )
        except Malformed as error:
            # What a till would refuse is not stored; the text names places, never values.
            raise Problem("internal", f"the batch can't be closed: {error}") from error
        store(connection, manifest, signed, file, keys)
        return ClosedBatch(
            merchant, programme, manifest.batch_no, manifest.rows, manifest.net_minor, currency
        )

    def _make(
        self,
        connection: Connection,
        merchant: str,
        programme: str,
        currency: str,
        closed_at: datetime,
        lines: list[SettlementLine],
    ) -> tuple[Manifest, str, bytes]:
        """The next batch's manifest, the same signed, and its file; both were read back."""
        batch_no, previous = follows(connection, merchant, programme)
        file = settlement.render_csv(lines)
        redeemed, undone = settlement.totals(lines)
        net_minor = redeemed.amount_minor + undone.amount_minor
        manifest = Manifest(
            merchant=merchant,
            programme=programme,
            currency=currency,
            batch_no=batch_no,
            closed_at=closed_at,
            epoch=self._keyring.epoch,
            sha256=digest(file),
            length=len(file),
            rows=len(lines),
            redeemed=redeemed,
            reversed=undone,
            funders=_funders_parts(connection, programme, currency, net_minor),
            previous=previous,
        )
        signed = jws.sign(manifest.to_json(), typ=jws.MANIFEST, key=self._keyring.signing)
        settlement.read_manifest(signed, self._keyring.keys.keys)
        return manifest, signed, file

    def _lock(self, connection: Connection, programme: str) -> str:
        """Let one close of this programme through at a time; the programme's currency.

        The row lock (on SQLite: the one writer) comes before the sweep, whose statement then sees
        everything that an earlier close committed. NO KEY UPDATE: postings never wait for it, but
        for a refund into an expired voucher, which gives to the programme.
        """
        if not self._database.is_sqlite:
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'"))
        table = schema.programmes
        query = (
            select(table.c.currency)
            .where(table.c.programme == programme)
            .with_for_update(key_share=True)
        )
        currency: str = connection.scalars(query).one()
        return currency

    def _sweep(
        self, connection: Connection, merchant: str, programme: str, currency: str
    ) -> tuple[list[SettlementLine], list[tuple[int, str]]]:
        """Every committed booking that no batch holds: its line, and its (bucket, posting); of
        those that a fork gave one number, those of one sale.

        One statement, so one snapshot: a reversal is never seen without the sale it undoes.
        """
        postings, entries = schema.postings.c, schema.entries.c
        owed = func.coalesce(func.sum(entries.amount), 0).label("amount_minor")
        told = (
            postings.bucket,
            postings.posting,
            postings.original,
            postings.kind,
            schema.terminals.c.terminal_no,
            postings.sequence,
            postings.incarnation,
            postings.terminal,
            postings.store,
            postings.occurred_at,
            postings.recorded_at,
        )
        query = (
            select(*told, owed)
            .select_from(
                schema.postings.join(
                    schema.terminals, schema.terminals.c.terminal == postings.terminal
                )
                .outerjoin(schema.batch_postings, _same_posting())
                .outerjoin(
                    schema.entries,
                    and_(
                        entries.bucket == postings.bucket,
                        entries.posting == postings.posting,
                        entries.account == accounts.PAYABLE,
                        entries.holder == postings.merchant,
                        entries.unit == currency,
                    ),
                )
            )
            .where(
                postings.merchant == merchant,
                postings.programme == programme,
                postings.kind.in_(_SETTLED),
                schema.batch_postings.c.posting.is_(None),
            )
            .group_by(*told)
        )
        lines, keys = [], []
        for row in _one_sale_a_number(connection.execute(query).all()):
            keys.append((row.bucket, row.posting))
            lines.append(_line(row, currency))
        return lines, keys

    # ── what was closed ────────────────────────────────────────────────────────────────────────

    def batches(self, merchant: str | None = None) -> list[StoredBatch]:
        """Batches by (merchant, programme, batch_no), of one merchant or of all."""
        query = _STORED
        if merchant is not None:
            query = query.where(schema.batches.c.merchant == merchant)
        with self._database.read() as connection:
            return _in_order(connection, query)

    def listed(self, merchant: str, after: tuple[str, int] | None = None) -> list[StoredBatch]:
        """A merchant's next MAX_LISTED batches in order, behind this (programme, batch_no)."""
        table = schema.batches.c
        names = select(table.programme, table.batch_no).where(table.merchant == merchant)
        with self._database.read() as connection:
            # Sorted here: a database's collation may order names in its own way.
            behind = sorted(
                name
                for name in map(tuple, connection.execute(names))
                if after is None or name > after
            )
            next_ones = tuple_(table.programme, table.batch_no).in_(behind[:MAX_LISTED])
            return _in_order(connection, _STORED.where(table.merchant == merchant, next_ones))

    def file(self, merchant: str, programme: str, batch_no: int) -> bytes:
        """The CSV. Raises Problem `not_found`."""
        table = schema.batches.c
        with self._database.read() as connection:
            found: bytes | None = connection.scalars(
                select(table.file).where(
                    table.merchant == merchant,
                    table.programme == programme,
                    table.batch_no == batch_no,
                )
            ).one_or_none()
        if found is None:
            raise Problem("not_found", "no such settlement")
        return bytes(found)


# ── the funders' parts ─────────────────────────────────────────────────────────────────────────


def parts_of(
    net_minor: int, weights: Mapping[str, int], assigned: Mapping[str, int]
) -> dict[str, int]:
    """Each funder's part of a batch, in order of name; the parts sum to `net_minor`.

    Cumulative largest remainder: of everything settled so far (`assigned`, and this batch), each
    funder bears what it put in (`weights`) says, rounded to a minor unit; the part is what is
    missing to that. So rounding never adds up, and who joins later bears its share of what was
    settled before, which others get back: a part may be negative.
    Raises ValueError when there is money to share and nobody put any in.
    """
    names = sorted(weights.keys() | assigned.keys())
    total = sum(assigned.values()) + net_minor
    shares = [0] * len(names)
    if total:
        sign = 1 if total > 0 else -1
        split = money.split(abs(total), [weights.get(name, 0) for name in names])
        shares = [sign * share for share in split]
    return {name: share - assigned.get(name, 0) for name, share in zip(names, shares, strict=True)}


def _funders_parts(
    connection: Connection, programme: str, currency: str, net_minor: int
) -> dict[str, int]:
    """Over all merchants of the programme: rounding must not add up from shop to shop either."""
    entries, shares = schema.entries.c, schema.batch_shares.c
    weights = {
        row.holder: -int(row.amount)
        for row in connection.execute(
            select(entries.holder, func.sum(entries.amount).label("amount"))
            .where(
                # Where funding books (`Office.fund`); else this would walk every entry there is.
                entries.bucket == ids.terminal_bucket(programme),
                entries.programme == programme,
                entries.account == accounts.FUNDER,
                entries.unit == currency,
            )
            .group_by(entries.holder)
        )
    }
    assigned = {
        row.funder: int(row.amount)
        for row in connection.execute(
            select(shares.funder, func.sum(shares.amount_minor).label("amount"))
            .where(shares.programme == programme)
            .group_by(shares.funder)
        )
    }
    return parts_of(net_minor, weights, assigned)


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


def _in_order(connection: Connection, query: Select[Any]) -> list[StoredBatch]:
    rows = [StoredBatch(*row) for row in connection.execute(query)]
    return sorted(rows, key=lambda each: (each.merchant, each.programme, each.batch_no))


def _same_posting() -> Any:
    held = schema.batch_postings.c
    return and_(held.bucket == schema.postings.c.bucket, held.posting == schema.postings.c.posting)


def _need(connection: Connection, column: Any, name: str) -> None:
    if connection.scalars(select(column).where(column == name)).one_or_none() is None:
        raise Problem("not_found", f"no such {column.name}", field=column.name)


def _one_sale_a_number(rows: Sequence[Any]) -> list[Any]:
    """Bookings as a file can hold them, which names each by its number. Of sales that two copies of
    a till made under one (docs/offline.md §9) it is the first that was recorded, with what took it
    back; the next batch has the next."""
    first: dict[tuple[str, str, int], str] = {}
    for row in sorted(rows, key=lambda row: (row.recorded_at, row.posting)):
        first.setdefault((row.terminal, row.incarnation, row.sequence), _sale_of(row))
    return [
        row for row in rows if first[row.terminal, row.incarnation, row.sequence] == _sale_of(row)
    ]


def _sale_of(row: Any) -> str:
    """The posting under whose number a booking stands: its own, or that of what it takes back."""
    posting: str = row.original if row.kind in ("reversal", "void") else row.posting
    return posting


def _line(row: Any, currency: str) -> SettlementLine:
    return SettlementLine(
        row.kind,
        row.terminal_no,
        row.sequence,
        row.incarnation,
        row.terminal,
        row.store,
        clock.from_text(row.occurred_at),
        clock.from_text(row.recorded_at),
        int(row.amount_minor),  # PostgreSQL sums BIGINT as NUMERIC
        currency,
    )


def follows(connection: Connection, merchant: str, programme: str) -> tuple[int, str]:
    """The next batch's number, and the digest of the manifest before it."""
    table = schema.batches.c
    last = connection.execute(
        select(table.batch_no, table.manifest)
        .where(table.merchant == merchant, table.programme == programme)
        .order_by(table.batch_no.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return 1, settlement.first_previous(merchant, programme)
    return last.batch_no + 1, jws.digest_of(last.manifest)


def store(
    connection: Connection,
    manifest: Manifest,
    signed: str,
    file: bytes,
    keys: Sequence[tuple[int, str]],
) -> None:
    of = {
        "merchant": manifest.merchant,
        "programme": manifest.programme,
        "batch_no": manifest.batch_no,
    }
    connection.execute(
        insert(schema.batches),
        [
            {
                **of,
                "closed_at": clock.to_text(manifest.closed_at),
                "manifest": signed,
                "file": file,
            }
        ],
    )
    if keys:
        connection.execute(
            insert(schema.batch_postings),
            [{**of, "bucket": bucket, "posting": posting} for bucket, posting in keys],
        )
    if manifest.funders:
        connection.execute(
            insert(schema.batch_shares),
            [
                {**of, "funder": funder, "amount_minor": part}
                for funder, part in manifest.funders.items()
            ],
        )


# ── what an operator and a till may ask ────────────────────────────────────────────────────────


def read_after(value: str) -> tuple[str, int]:
    """`programme:batch_no` of the query. Raises Malformed."""
    programme, _, number = value.partition(":")
    return ids.name(programme, "after"), read_batch_no(number, "after")


def read_batch_no(value: str, field: str) -> int:
    """A batch number as an address spells it. Raises Malformed."""
    if not (value.isascii() and value.isdigit()) or len(value) > 15 or value.startswith("0"):
        raise Malformed("must be a batch number", field=field)
    return int(value)
