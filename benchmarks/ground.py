"""The ground that ledger rows stand on: a programme, families with tokens, signed records ready."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from carepos import Line, clock, ids, jws, record, token
from carepos.basket import Entry
from carepos.keys import SigningKey, digest
from carepos.record import Record, Redeem
from carepos_ledger import app, migrations
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.settings import Settings

ISSUER = "https://issuer.bench"
MILK = "06913046198782"


@dataclass(frozen=True, slots=True)
class Family:
    sub: str
    bucket: int
    voucher: str


@dataclass(slots=True)
class Ground:
    """An empty day: everything is issued, nothing redeemed. `records()` makes the next sales."""

    settings: Settings
    issuer: SigningKey
    terminal_key: SigningKey
    terminal: str
    merchant: str
    keyring: Keyring
    families: list[Family]
    sequence: int = 0
    prev: str = ""
    incarnation: str = "0" * 32

    def records(self, count: int) -> list[tuple[Record, str]]:
        """Signed redemptions of 1.00 each with their tokens, spread over the families."""
        now = datetime.now(UTC)
        made = []
        for n in range(count):
            family = self.families[n % len(self.families)]
            care_code = token.mint(
                self.issuer,
                iss=ISSUER,
                aud=self.settings.audience,
                sub=family.sub,
                jti=f"{self.sequence}",
                issued_at=now,
                lifetime_s=900,
            )
            self.sequence += 1
            content = Redeem(
                checkout=f"B-{self.sequence}",
                cashier="c01",
                programme="bench",
                rules_version=2,
                currency="CNY",
                beneficiary=self.keyring.beneficiary_ref(self.merchant, ISSUER, family.sub),
                token_sha256=token.token_sha256(care_code),
                basket=(Line(MILK, 1, "piece", 100),),
                allocation=(Entry(1, family.voucher, 0, 100, 0),),
            )
            written = record.make(
                content,
                attempt_id=ids.new_attempt_id(family.bucket, now),
                terminal=self.terminal,
                incarnation=self.incarnation,
                sequence=self.sequence,
                prev=self.prev or record.first_prev(self.incarnation),
                occurred_at=now,
                key=self.terminal_key,
            )
            self.prev = written.digest
            made.append((written, care_code))
        return made

    def bodies(self, count: int, per_body: int = 1) -> list[bytes]:
        """Request bodies for POST /v1/records."""
        items = [{"record": r.jws, "token": t} for r, t in self.records(count)]
        return [
            json.dumps({"items": items[at : at + per_body]}).encode()
            for at in range(0, count, per_body)
        ]


@contextmanager
def prepared(folder: Path, database_url: str | None, families: int = 500) -> Iterator[Ground]:
    """A ledger's folder and database, set up and closed again, ready for whoever opens it."""
    settings = Settings(
        folder, database_url or f"sqlite:///{folder / 'ledger.db'}", host="127.0.0.1"
    )
    Keyring.create(folder)
    database = Database(settings.database)
    migrations.upgrade(database)
    database.close()
    ledger = app.build(settings)
    try:
        yield _set_up(ledger, settings, families)
    finally:
        ledger.close()


def _set_up(ledger: app.Ledger, settings: Settings, families: int) -> Ground:
    office, programmes, terminals = ledger.office, ledger.programmes, ledger.terminals
    issuer, key = SigningKey.generate(), SigningKey.generate()
    now = datetime.now(UTC)
    starts, ends = clock.to_text(now - timedelta(days=1)), clock.to_text(now + timedelta(days=30))
    ledger.issuers.put(ISSUER, [issuer.public.to_jwk()])
    programmes.put_product_list("all", 1, {MILK: "dairy"})
    programmes.put_programme(
        {
            "programme": "bench", "name": "bench", "currency": "CNY", "starts_at": starts,
            "ends_at": ends, "paused": False, "product_list": "all", "issuer": ISSUER,
            "classes": ["once"], "amr_any": [], "limit_per_redemption_minor": None,
            "top_up_allowed": True, "undo_window_s": 0, "quotas": [],
        }
    )  # fmt: skip
    office.put_funder("f", "f")
    office.fund("bench", "f", 10**11, "r")
    office.put_merchant("m", "m")
    office.put_store("s", "m", "s")
    programmes.admit_store("bench", "s")
    rows = [
        {
            "ref": digest(str(n).encode()), "kind": "value", "label": "", "categories": [],
            "starts_at": starts, "expires_at": ends, "amount_minor": 10**6,
        }
        for n in range(families)
    ]  # fmt: skip
    for at in range(0, families, 500):
        office.issue("bench", "0" * 16, rows[at : at + 500])
    code = terminals.new_activation("s", 3600).code
    proof = {"v": 1, "activation_sha256": digest(code.encode())}
    proven = jws.sign(proof, typ=jws.PROOF, key=key)
    certificate = terminals.enrol(code, key.public.to_jwk(), proven)
    terminal = jws.verify(certificate, typ=jws.CERTIFICATE, keys=ledger.keyring.keys.keys).payload[
        "terminal"
    ]
    with ledger.database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT b.sub, v.bucket, v.voucher FROM vouchers v JOIN beneficiaries b "
            "ON b.bucket = v.bucket AND b.beneficiary = v.beneficiary ORDER BY v.voucher"
        ).all()
    return Ground(
        settings, issuer, key, terminal, "m", ledger.keyring,
        [Family(sub, bucket, voucher) for sub, bucket, voucher in found],
    )  # fmt: skip
