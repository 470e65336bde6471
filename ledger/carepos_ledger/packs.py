"""Offline packs: what a till is given so that it can verify and decide by itself.

Without an incarnation a pack is what every till of a store shares; with one it also holds the
households that shop there and what is set aside for that till (docs/offline.md §5). Its files are
kept until newer ones are asked for: a pack never changes while it is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, insert, select, tuple_

from carepos import clock, jws, pack, strict_json
from carepos.clock import Clock
from carepos.households import (
    MAX_CARDS,
    MAX_VOUCHERS,
    Household,
    HouseholdKey,
    PackedAllotment,
    PackedVoucher,
    write_segments,
)
from carepos.keys import digest
from carepos_ledger import allotments, schema
from carepos_ledger.allotments import Allotment, place, with_own
from carepos_ledger.allotting import CHUNK, Allotting
from carepos_ledger.book import (
    holding_from,
    newest_list_version,
    read_product_list,
    read_programmes,
)
from carepos_ledger.cards import TRIES
from carepos_ledger.database import Database, insert_or_ignore
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Holder, Terminal
from carepos_ledger.trust import Trust

KEPT = timedelta(hours=1)
"""How long the files of the pack before stay, for a till that is fetching them."""


class Packs:
    """Makes packs and hands out their files."""

    def __init__(
        self, database: Database, keyring: Keyring, trust: Trust, audience: str, now: Clock
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._trust = trust
        self._audience = audience
        self._now = now
        self._allotting = Allotting(database, now)

    def manifest(self, terminal: Terminal) -> tuple[str, str]:
        """(sha256, signed manifest) of what the tills of the caller's store share."""
        return self._signed(terminal, strict_json.canonical(self._shared(terminal)))

    def file(self, terminal: Terminal, sha256: str) -> bytes:
        """A file that a manifest or a pack named. Raises Problem not_found once it is gone."""
        files = schema.pack_files.c
        with self._database.read() as connection:
            kept = connection.scalars(
                select(files.data).where(
                    files.terminal == terminal.terminal, files.sha256 == sha256
                )
            ).one_or_none()
        if kept is not None:
            return bytes(kept)
        data = strict_json.canonical(self._shared(terminal))
        if digest(data) != sha256:
            raise Problem("not_found", "the pack has changed; ask for its manifest again")
        return data

    def make(self, terminal: Terminal, incarnation: str) -> tuple[str, str]:
        """(sha256, signed manifest) of a pack with the households at home in the caller's store,
        set aside for first, and those who have something there still. Asking again is harmless."""
        at_home = self._allotting.set_aside(terminal, incarnation)
        moved_on = self._allotting.moved_on(terminal, incarnation, at_home)
        packing = _Packing(self._database, self._keyring, terminal, incarnation)
        segments = packing.segments(at_home, moved_on)
        body = {
            **self._shared(terminal),
            "evidence_key": self._keyring.evidence_key.to_json(),
            "allotted": pack.allotted_to_json(packing.allotted),
            "households": {
                "incarnation": incarnation,
                "count": packing.count,
                "kinds": packing.kinds,
                "dates": packing.dates,
                "segments": [{"sha256": digest(each), "length": len(each)} for each in segments],
            },
        }
        data = strict_json.canonical(body)
        self._keep(terminal, [data, *segments])
        self._note(terminal, digest(data))
        return self._signed(terminal, data)

    def _shared(self, terminal: Terminal) -> dict[str, object]:
        """The same as long as nothing in it changed."""
        with self._database.read() as connection:
            programmes = [
                replace(each, stores=each.stores & {terminal.store})
                for each in read_programmes(connection)
            ]
            lists = [
                read_product_list(connection, name, newest_list_version(connection, name))
                for name in sorted({each.product_list for each in programmes})
            ]
        return {
            "v": 1,
            "terminal": terminal.terminal,
            "store": terminal.store,
            "audience": self._audience,
            "issuers": self._trust.believed_keys(),
            "revocations": self._trust.revocations().to_json(),
            "programmes": [each.to_json() for each in programmes],
            "product_lists": [each.to_json_object() for each in lists],
        }

    def _signed(self, terminal: Terminal, data: bytes) -> tuple[str, str]:
        sha256 = digest(data)
        payload = {
            "v": 1,
            "kind": "offline-pack",
            "terminal": terminal.terminal,
            "issued_at": clock.to_text(self._now()),
            "epoch": self._keyring.epoch,
            "file": {"sha256": sha256, "length": len(data)},
        }
        return sha256, jws.sign(payload, typ=jws.MANIFEST, key=self._keyring.signing)

    def _note(self, terminal: Terminal, sha256: str) -> None:
        """When it was made first: what a till that sells by it could know."""
        row = {
            "terminal": terminal.terminal,
            "sha256": sha256,
            "made_at": clock.to_text(self._now()),
        }
        with self._database.write() as connection:
            connection.execute(insert_or_ignore(connection, schema.pack_issues), [row])

    def _keep(self, terminal: Terminal, files: Sequence[bytes]) -> None:
        table, now = schema.pack_files, self._now()
        wanted = {digest(data): data for data in files}
        with self._database.write() as connection:
            connection.execute(
                delete(table).where(
                    table.c.terminal == terminal.terminal,
                    table.c.sha256.in_(sorted(wanted))
                    | (table.c.made_at < clock.to_text(now - KEPT)),
                )
            )
            connection.execute(
                insert(table),
                [
                    {
                        "terminal": terminal.terminal,
                        "sha256": sha256,
                        "made_at": clock.to_text(now),
                        "data": data,
                    }
                    for sha256, data in sorted(wanted.items())
                ],
            )


@dataclass(slots=True)
class _Packing:
    """Households on their way into segments; `kinds` and `dates` grow as they are met, `allotted`
    sums up what their allotments hold, by currency."""

    database: Database
    keyring: Keyring
    terminal: Terminal
    incarnation: str
    count: int = 0
    kinds: list[dict[str, object]] = field(default_factory=list)
    dates: list[list[str]] = field(default_factory=list)
    allotted: dict[str, int] = field(default_factory=dict)

    def segments(self, at_home: Sequence[Holder], moved_on: Sequence[Holder]) -> list[bytes]:
        """Of whoever has moved on only what is set aside is told: the rest is another store's."""
        entries: dict[str, str] = {}
        for households, is_home in ((at_home, True), (moved_on, False)):
            for at in range(0, len(households), CHUNK):
                entries |= self._entries(households[at : at + CHUNK], is_home=is_home)
        self.count = len(entries)
        return write_segments(entries)

    def _entries(self, households: Sequence[Holder], *, is_home: bool) -> dict[str, str]:
        """The sealed entries of these households, by tag, as of one moment."""
        people, vouchers = schema.beneficiaries, schema.vouchers
        held = tuple_(vouchers.c.bucket, vouchers.c.beneficiary).in_(list(households))
        with self.database.read() as connection:
            names = connection.execute(
                select(people).where(
                    tuple_(people.c.bucket, people.c.beneficiary).in_(list(households))
                )
            ).all()
            rows = (
                connection.execute(
                    select(vouchers, schema.programmes.c.currency)
                    .join(schema.programmes, schema.programmes.c.programme == vouchers.c.programme)
                    .where(held)
                    .order_by(vouchers.c.bucket, vouchers.c.expires_at, vouchers.c.voucher)
                )
                .mappings()
                .all()
            )
            opened = allotments.read_open(
                connection, [(row["bucket"], row["voucher"]) for row in rows]
            )
            cards = _unlocked_cards(connection, households)
        by_holder: dict[str, list[tuple[Any, list[Allotment]]]] = {}
        for row in rows:
            own = [
                each
                for each in opened.get(row["voucher"], [])
                if each.is_for(self.terminal.terminal, self.incarnation)
            ]
            if is_home or own:
                by_holder.setdefault(row["beneficiary"], []).append((row, own))
        packed: dict[str, list[PackedVoucher]] = {}
        for beneficiary, found in by_holder.items():
            found.sort(key=lambda each: place(with_own(holding_from(each[0]).voucher, each[1])))
            packed[beneficiary] = [
                self._voucher(row, own, is_home=is_home) for row, own in found[:MAX_VOUCHERS]
            ]
        made = {}
        for person in names:
            key = HouseholdKey.of(
                person.iss,
                person.sub,
                terminal=self.terminal.terminal,
                incarnation=self.incarnation,
            )
            household = Household(
                self.keyring.beneficiary_ref(self.terminal.merchant, person.iss, person.sub),
                person.bucket,
                tuple(packed.get(person.beneficiary, ())),
                dict(sorted(cards.get(person.beneficiary, {}).items())[:MAX_CARDS]),
            )
            made[key.tag] = key.seal(household)
        return made

    def _voucher(self, row: Any, own: Sequence[Allotment], *, is_home: bool) -> PackedVoucher:
        voucher = holding_from(row).voucher
        told = voucher.to_json()
        own_names = ("voucher", "frozen", "available_minor", "available_quantity")
        kind: dict[str, object] = {k: v for k, v in told.items() if k not in own_names}
        if left := sum(each.left_minor for each in own):
            currency = str(row["currency"])
            self.allotted[currency] = self.allotted.get(currency, 0) + left
        return PackedVoucher(
            voucher.voucher,
            _place(self.kinds, kind),
            voucher.available_minor if is_home else 0,
            voucher.available_quantity if is_home else 0,
            voucher.frozen,
            tuple(
                PackedAllotment(
                    each.number,
                    each.amount_minor,
                    each.quantity,
                    _place(
                        self.dates,
                        [clock.to_text(each.spend_until), clock.to_text(each.reclaim_after)],
                    ),
                )
                for each in own
            ),
        )


def _place(listed: list[Any], value: Any) -> int:
    """Where `value` stands in a list of what many share; at its end if it is new."""
    if value not in listed:
        listed.append(value)
    return listed.index(value)


def _unlocked_cards(connection: Any, households: Sequence[Holder]) -> dict[str, dict[str, str]]:
    """By beneficiary: what the PINs of printed cards are checked against."""
    table = schema.cards.c
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(
        select(schema.cards).where(
            tuple_(table.bucket, table.beneficiary).in_(list(households)),
            table.wrong_tries < TRIES,
        )
    ):
        cards = found.setdefault(row.beneficiary, {})
        cards[row.jti_sha256[:8]] = row.pin_verifier[:22]
    return found
