"""Printed cards: what proves a card's PIN, and how many tries are left (docs/identity.md §7).

Counting and answer are one transaction, so tries at many shops at once are counted one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from carepos import clock, ids, pin, strict_json
from carepos.clock import Clock
from carepos.token import IdentityToken
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem

TRIES: Final = 5

CardVisit = tuple[str, str, str]
"""(iss, jti_sha256, terminal) of a PIN visit."""


class Cards:
    """Cards as issuers told them, and their PIN visits. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def put(self, iss: str, jti_sha256: str, sub: str, pin_verifier: str) -> Done:
        """Know a card; another verifier for the same card is a new PIN, with all its tries."""
        ids.digest_text(jti_sha256, "jti_sha256")
        ids.digest_text(pin_verifier, "pin_verifier")
        strict_json.text(sub, "sub", high=64)
        table = schema.cards

        def work(connection: Connection) -> Done:
            person = find(connection, schema.beneficiaries, {"iss": iss, "sub": sub})
            if person is None:
                raise Problem("not_found", "nothing was issued to this holder", field="sub")
            key = {"bucket": person.bucket, "iss": iss, "jti_sha256": jti_sha256}
            held = find(connection, table, {"iss": iss, "jti_sha256": jti_sha256}, for_update=True)
            if held is None:
                connection.execute(
                    insert(table).values(
                        **key,
                        beneficiary=person.beneficiary,
                        pin_verifier=pin_verifier,
                        wrong_tries=0,
                    )
                )
                return "created"
            if held.beneficiary != person.beneficiary:
                raise Problem("already_exists_differently", "is another holder's", field="sub")
            if held.pin_verifier == pin_verifier:
                return "exists"
            self._set(connection, key, pin_verifier=pin_verifier, wrong_tries=0)
            _end_visits(connection, key)
            return "changed"

        return act(self._database, work)

    def unlock(self, iss: str, jti_sha256: str) -> Done:
        """Give a card its tries back. Raises Problem `not_found`."""
        ids.digest_text(jti_sha256, "jti_sha256")

        def work(connection: Connection) -> Done:
            key = {"iss": iss, "jti_sha256": jti_sha256}
            held = find(connection, schema.cards, key, for_update=True)
            if held is None:
                raise Problem("not_found", "no such card", field="jti_sha256")
            if held.wrong_tries == 0:
                return "exists"
            self._set(connection, {**key, "bucket": held.bucket}, wrong_tries=0)
            return "changed"

        return act(self._database, work)

    def prove(
        self,
        identity: IdentityToken,
        bucket: int,
        beneficiary: str,
        terminal: str,
        proof: str | None,
    ) -> None:
        """Open a PIN visit for a card at this terminal, or count a wrong try.

        Raises Problem pin_required, pin_wrong (with `tries_left`), pin_locked; Malformed.
        """
        key = {"bucket": bucket, "iss": identity.iss, "jti_sha256": identity.jti_sha256}
        if proof is not None:
            pin.verifier(proof)  # its form, before anything is counted

        def work(connection: Connection) -> Problem | None:
            held = find(connection, schema.cards, key, for_update=True)
            if held is None or held.beneficiary != beneficiary:
                return _refused("pin_required", "no PIN was set for this card")
            if held.wrong_tries >= TRIES:
                return _refused("pin_locked", "an operator can unlock it")
            if proof is None:
                return _refused("pin_required", "send pin_proof beside the token")
            if pin.matches(proof, held.pin_verifier):
                self._set(connection, key, wrong_tries=0)
                self._open_visit(connection, key, terminal)
                return None
            self._set(connection, key, wrong_tries=held.wrong_tries + 1)
            left = TRIES - held.wrong_tries - 1
            if left == 0:
                return _refused("pin_locked", "that was the last try")
            return _refused("pin_wrong", f"{left} tries left", {"tries_left": left})

        # The refusal leaves after COMMIT: raised inside, it would take the count back.
        refusal = act(self._database, work)
        if refusal is not None:
            raise refusal

    def _set(self, connection: Connection, key: dict[str, Any], **values: object) -> None:
        table = schema.cards
        connection.execute(
            update(table).where(*(table.c[n] == v for n, v in key.items())).values(**values)
        )

    def _open_visit(self, connection: Connection, key: dict[str, Any], terminal: str) -> None:
        table = schema.pin_visits
        place = {**key, "terminal": terminal}
        connection.execute(delete(table).where(*(table.c[n] == v for n, v in place.items())))
        connection.execute(insert(table).values(**place, proved_at=clock.to_text(self._now())))


def _end_visits(connection: Connection, key: dict[str, Any]) -> None:
    table = schema.pin_visits
    connection.execute(delete(table).where(*(table.c[n] == v for n, v in key.items())))


def _refused(code: str, detail: str, extra: dict[str, Any] | None = None) -> Problem:
    return Problem(code, detail, status=403, extra=extra)


def read_pin_visits(
    connection: Connection, keys: Iterable[tuple[int, str, str, str]]
) -> dict[CardVisit, datetime]:
    """When the PIN of these (bucket, iss, jti_sha256, terminal) was proved last, if it was."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    table = schema.pin_visits.c
    rows = connection.execute(
        select(table.iss, table.jti_sha256, table.terminal, table.proved_at).where(
            tuple_(table.bucket, table.iss, table.jti_sha256, table.terminal).in_(wanted)
        )
    )
    return {(row.iss, row.jti_sha256, row.terminal): clock.from_text(row.proved_at) for row in rows}
