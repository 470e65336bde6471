"""What acceptances are judged by besides vouchers and rules, and the list of those that a person
looks at: their SQL (docs/offline.md §8)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, tuple_

from carepos.acceptance import AcceptOffline
from carepos.token import IdentityToken
from carepos_ledger import allotments, schema
from carepos_ledger.shelf import Command, ListedException, Owner, Shelf


def read(connection: Connection, shelf: Shelf, batch: Sequence[Command]) -> None:
    """Put on the shelf what this batch's acceptances need; asks nothing where there are none."""
    accepted = [c for c in batch if isinstance(c.record.content, AcceptOffline)]
    shelf.acceptances = {(c.record.terminal, c.record.id): c for c in accepted}
    shelf.late_sales = {
        (c.record.terminal, c.record.id): c
        for c in batch
        if c.is_late and c.record.kind == "redeem"
    }
    if not accepted:
        return
    sales = list(shelf.late_sales.values())
    read_people(connection, shelf, sales)
    _read_freezes(connection, shelf, sales)
    _read_packs(connection, shelf, accepted)
    used = {
        (c.record.bucket, use.voucher)
        for c in accepted
        if isinstance(c.record.content, AcceptOffline)
        for use in c.record.content.allotment_use
    }
    tills = [c.record.terminal for c in accepted]
    shelf.freed |= allotments.read_freed(connection, used, tills)
    programmes = schema.programmes.c
    # Whoever pays from the loss reserve holds it until the transaction ends.
    for row in connection.execute(
        select(programmes.programme, programmes.loss_reserve_minor)
        .where(programmes.programme.in_(sorted({c.record.redeem.programme for c in sales})))
        .order_by(programmes.programme)
        .with_for_update()
    ):
        shelf.loss_reserve[row.programme] = row.loss_reserve_minor


def read_people(connection: Connection, shelf: Shelf, sales: Sequence[Command]) -> None:
    """Put on the shelf whose vouchers these late sales name, and what proves a card's PIN."""
    _read_verifiers(connection, shelf, sales)
    places = sorted(
        {(c.record.bucket, e.voucher) for c in sales for e in c.record.redeem.allocation}
    )
    if not places:
        return
    vouchers, people = schema.vouchers.c, schema.beneficiaries.c
    for row in connection.execute(
        select(vouchers.voucher, people.iss, people.sub, people.beneficiary)
        .join(
            schema.beneficiaries,
            (people.bucket == vouchers.bucket) & (people.beneficiary == vouchers.beneficiary),
        )
        .where(tuple_(vouchers.bucket, vouchers.voucher).in_(places))
    ):
        shelf.owners[row.voucher] = Owner(row.iss, row.sub, row.beneficiary)


def _read_verifiers(connection: Connection, shelf: Shelf, sales: Sequence[Command]) -> None:
    cards = sorted(
        {
            (c.record.bucket, c.identity.iss, c.identity.jti_sha256)
            for c in sales
            if isinstance(c.identity, IdentityToken) and c.identity.needs_pin
        }
    )
    if not cards:
        return
    table = schema.cards.c
    for row in connection.execute(
        select(table.iss, table.jti_sha256, table.pin_verifier).where(
            tuple_(table.bucket, table.iss, table.jti_sha256).in_(cards)
        )
    ):
        shelf.pin_verifiers[row.iss, row.jti_sha256] = row.pin_verifier


def _read_freezes(connection: Connection, shelf: Shelf, sales: Sequence[Command]) -> None:
    places = sorted(
        {(c.record.bucket, e.voucher) for c in sales for e in c.record.redeem.allocation}
    )
    table = schema.vouchers.c
    for row in connection.execute(
        select(table.voucher, table.frozen_at).where(
            tuple_(table.bucket, table.voucher).in_(places), table.frozen_at.is_not(None)
        )
    ):
        shelf.frozen_at[row.voucher] = row.frozen_at


def _read_packs(connection: Connection, shelf: Shelf, accepted: Sequence[Command]) -> None:
    """When the pack was made under which each sale went out of the door."""
    named = {}
    for command in accepted:
        content = command.record.content
        if isinstance(content, AcceptOffline):
            named[content.record_sha256] = (command.record.terminal, content.pack_sha256)
    table = schema.pack_issues.c
    made_at = {
        (row.terminal, row.sha256): row.made_at
        for row in connection.execute(
            select(schema.pack_issues).where(
                tuple_(table.terminal, table.sha256).in_(sorted(set(named.values())))
            )
        )
    }
    shelf.packs_made_at = {sale: made_at[pack] for sale, pack in named.items() if pack in made_at}


def write_exceptions(
    connection: Connection, exceptions: Sequence[ListedException], recorded_at: str
) -> None:
    """The list that a person works through; nothing of it is ever dropped."""
    if exceptions:
        connection.execute(
            insert(schema.exceptions),
            [
                {
                    "at": recorded_at,
                    "bucket": each.command.record.bucket,
                    "digest": each.command.record.digest,
                    "terminal": each.command.record.terminal,
                    "reason": each.reason,
                    "amount_minor": each.amount_minor,
                    "currency": each.currency,
                    "liability": each.liability,
                }
                for each in exceptions
            ],
        )
