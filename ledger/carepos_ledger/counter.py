"""What a till reads: vouchers of whoever stands there, an attempt's answers, its offline pack."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from carepos import clock, ids, jws, outcome, token
from carepos.claims import Acting
from carepos.clock import Clock
from carepos.errors import Refused
from carepos.lookup import MAX_VOUCHERS
from carepos.refusals import Refusal
from carepos.token import VISIT, IdentityToken
from carepos_ledger import allotments, schema
from carepos_ledger.acting import read_sums
from carepos_ledger.actions import act
from carepos_ledger.auth import Caller
from carepos_ledger.book import (
    bind_visit,
    holding_from,
    read_programmes,
    read_visits,
)
from carepos_ledger.cards import Cards
from carepos_ledger.database import Database
from carepos_ledger.intake import Intake
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem


class Counter:
    """The ledger's answers to reads."""

    def __init__(self, database: Database, keyring: Keyring, intake: Intake, now: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._intake = intake
        self._now = now
        self._cards = Cards(database, now)

    def look_up(self, caller: Caller, presented: str, pin_proof: str | None = None) -> str:
        """The signed lookup answer for a token; binds it to this terminal's visit.

        Raises Problem with a token_* code, terminal_suspended, or voucher_unknown for a token
        whose holder was issued nothing here.
        """
        if caller.terminal.status != "active":
            raise Problem(f"terminal_{caller.terminal.status}")
        now = self._now()
        try:
            identity = self._intake.verify_token(presented)
        except Refused as error:
            raise _refused(error.refusal) from None
        people = schema.beneficiaries.c
        with self._database.read() as connection:
            person = connection.execute(
                select(schema.beneficiaries).where(
                    people.iss == identity.iss, people.sub == identity.sub
                )
            ).one_or_none()
        if person is None:
            raise Problem("voucher_unknown", "nothing was issued to this holder", status=403)
        terminal = caller.terminal.terminal
        visit_until = self._open_visit(identity, person.bucket, terminal, now) + VISIT
        if identity.revoked:
            raise _refused(Refusal("token_revoked"))
        if identity.needs_pin:
            proved_at = self._cards.prove(
                identity, person.bucket, person.beneficiary, terminal, pin_proof
            )
            visit_until = proved_at + VISIT
        vouchers, rules = self._vouchers(person.bucket, person.beneficiary, terminal)
        payload = {
            "v": 1,
            "request": caller.request,
            "terminal": caller.terminal.terminal,
            "beneficiary": self._keyring.beneficiary_ref(
                caller.terminal.merchant, identity.iss, identity.sub
            ),
            "bucket": person.bucket,
            "as_of": clock.to_text(now),
            "visit_until": clock.to_text(visit_until),
            "rules": rules,
            "vouchers": vouchers,
        }
        if identity.acting is not None:
            payload["acted"] = self._acted(
                person.bucket, person.beneficiary, identity.acting, sorted(rules), now
            )
        return jws.sign(payload, typ=jws.LOOKUP, key=self._keyring.signing)

    def _open_visit(
        self, identity: IdentityToken, bucket: int, terminal: str, now: datetime
    ) -> datetime:
        """When the visit began: now, or at the token's first use here. Raises Problem."""
        visit = identity.visit_sha256
        if visit is None:
            return now
        key = (identity.iss, visit)

        def work(connection: Connection) -> tuple[Refusal | None, tuple[str, datetime] | None]:
            first = read_visits(connection, [(bucket, *key)]).get(key)
            refusal = token.visit_refusal(identity, first, terminal, now)
            if first is None and refusal is None:
                # Somebody else may have been first since it was read.
                first = bind_visit(connection, bucket, identity, terminal, now)
                refusal = token.visit_refusal(identity, first, terminal, now)
            return refusal, first

        refusal, first = act(self._database, work)
        if refusal is not None or first is None:
            raise _refused(refusal or Refusal("token_replayed"))
        return first[1]

    def _acted(
        self, bucket: int, beneficiary: str, acting: Acting, programmes: list[str], now: datetime
    ) -> dict[str, dict[str, int]]:
        """By programme: what was paid before in acted redemptions, within its window."""
        with self._database.read() as connection:
            return {
                each.programme: asdict(
                    read_sums(
                        connection,
                        each,
                        bucket=bucket,
                        beneficiary=beneficiary,
                        actor_sha256=acting.actor_sha256,
                        now=now,
                    )
                )
                for each in read_programmes(connection, programmes)
                if each.acting is not None
            }

    def _vouchers(
        self, bucket: int, beneficiary: str, terminal: str
    ) -> tuple[list[dict[str, object]], dict[str, int]]:
        table = schema.vouchers.c
        programmes = schema.programmes.c
        query = (
            select(schema.vouchers, programmes.currency, programmes.rules_version)
            .join(schema.programmes, programmes.programme == table.programme)
            .where(table.bucket == bucket, table.beneficiary == beneficiary)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
            opened = allotments.read_open(connection, [(bucket, row["voucher"]) for row in rows])
        shown = []
        for row in rows:
            own = allotments.newest_of(opened.get(row["voucher"], []), terminal)
            shown.append(allotments.with_own(holding_from(row).voucher, own))
        # A used-up voucher is still named, so that the till can say so.
        told = sorted(shown, key=allotments.place)[:MAX_VOUCHERS]
        versions = {row["programme"]: row["rules_version"] for row in rows}
        return [each.to_json() for each in told], {
            each.programme: versions[each.programme] for each in told
        }

    def attempt(self, caller: Caller, attempt_id: str) -> dict[str, Any]:
        """State and every outcome of one of the caller's own attempts, or a signed `not_found`."""
        terminal = caller.terminal.terminal
        bucket = ids.bucket_of(attempt_id)
        records = schema.records.c
        with self._database.read() as connection:
            state = connection.scalars(
                select(schema.attempts.c.state).where(
                    schema.attempts.c.bucket == bucket,
                    schema.attempts.c.terminal == terminal,
                    schema.attempts.c.id == attempt_id,
                )
            ).one_or_none()
            outcomes = connection.scalars(
                select(records.outcome)
                .where(
                    records.bucket == bucket,
                    records.terminal == terminal,
                    records.id == attempt_id,
                )
                .order_by(records.recorded_at, records.sequence)
            ).all()
        if outcomes:
            return {"state": state or "posted", "outcomes": list(outcomes)}
        body = outcome.not_found_payload(
            attempt_id,
            terminal,
            request=caller.request,
            recorded_at=self._now(),
            epoch=self._keyring.epoch,
        )
        return {"state": "not_found", "outcomes": [outcome.sign(body, self._keyring.signing)]}


def _refused(refusal: Refusal) -> Problem:
    return Problem(refusal.code, refusal.sentence("en"), status=403)
