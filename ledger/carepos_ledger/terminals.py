"""The tills: activation codes, enrolment, which may still redeem, and what to look at of theirs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, insert, select, text, update

from carepos import clock, ids, jws, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.ids import RandomBytes
from carepos.keys import KeySet, PublicKey, b64, digest
from carepos_ledger import alarm_hints, epochs, evidence_rows, schema, terminal_keys
from carepos_ledger.actions import Done, act, find, need
from carepos_ledger.database import Database
from carepos_ledger.key_rules import ENROLLED
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem

MAX_VALID_S: Final = 30 * 86_400
MIN_VALID_S: Final = 60
ALARMS_AT_ONCE: Final = 500

_ACTIVATION = re.compile(r"cp1\.[A-Za-z0-9_-]{22}\.([A-Za-z0-9_-]{43})")
# What an operator may make of a till. Revoked is for ever, and all that becomes of a forked one:
# the same machine enrols anew, with a new key.
_STATUS_AFTER: Final[Mapping[str, frozenset[str]]] = {
    "active": frozenset({"suspended", "revoked"}),
    "suspended": frozenset({"active", "revoked"}),
    "forked": frozenset({"revoked"}),
    "revoked": frozenset(),
}


class Activation(NamedTuple):
    """A one-time code; the ledger keeps its digest only, so it is shown here or never, and not by
    repr()."""

    code: str
    expires_at: datetime

    def __repr__(self) -> str:
        return "Activation(…)"


class Terminals:
    """The tills of one ledger. Safe to call from several threads."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        now: Clock,
        audience: str,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now
        self._audience = audience
        self._random_bytes = random_bytes

    def new_activation(self, store: str, valid_s: int) -> Activation:
        """A code with which one till of `store` may enrol within `valid_s` seconds."""
        ids.name(store, "store")
        strict_json.integer(valid_s, "valid_s", low=MIN_VALID_S, high=MAX_VALID_S)
        now = self._now()
        made = Activation(
            f"cp1.{b64(self._random_bytes(16))}.{self._keyring.root.kid}",
            now + timedelta(seconds=valid_s),
        )

        def work(connection: Connection) -> Activation:
            need(connection, schema.stores, "store", store)
            code_sha256 = digest(made.code.encode("ascii"))
            # It is there already only when this is the repetition after a lost COMMIT.
            if find(connection, schema.activations, {"code_sha256": code_sha256}) is None:
                connection.execute(
                    insert(schema.activations).values(
                        code_sha256=code_sha256,
                        store=store,
                        made_at=clock.to_text(now),
                        expires_at=clock.to_text(made.expires_at),
                    )
                )
            return made

        return act(self._database, work)

    def enrol(self, activation: object, public_key: object, proof: object) -> str:
        """The terminal's certificate (docs/protocol.md §9), again for the same code and key.

        Raises Problem activation_unknown, activation_used or activation_expired, and for a key
        that is another till's; Malformed, SignatureInvalid for a proof that is none.
        """
        match = _ACTIVATION.fullmatch(activation) if isinstance(activation, str) else None
        if match is None:
            raise Malformed("must be an activation code", field="activation")
        code_sha256 = digest(match[0].encode("ascii"))
        key = PublicKey.from_jwk(public_key)
        proven = jws.verify(proof, typ=jws.PROOF, keys=KeySet([key])).payload
        names = strict_json.exact_names(proven, {"v", "activation_sha256"}, where="proof")
        if strict_json.integer(names["v"], "proof.v") != 1:
            raise Malformed("must be 1", field="proof.v")
        if names["activation_sha256"] != code_sha256:
            raise Malformed("is for another code", field="proof.activation_sha256")
        if match[1] != self._keyring.root.kid:
            raise Problem("activation_unknown", "it is another ledger's")
        return act(self._database, lambda connection: self._enrol(connection, code_sha256, key))

    def _enrol(self, connection: Connection, code_sha256: str, key: PublicKey) -> str:
        codes, terminals, keys = schema.activations, schema.terminals, schema.terminal_keys
        code = find(connection, codes, {"code_sha256": code_sha256}, for_update=True)
        if code is None:
            raise Problem("activation_unknown")
        if code.terminal is not None:
            owner = find(connection, keys, {"kid": key.kid, "terminal": code.terminal})
            if owner is None or owner.first_sequence != ENROLLED[1]:
                raise Problem("activation_used")
            return self._certificate(connection, code.terminal, key.kid)
        now = self._now()
        if now >= clock.from_text(code.expires_at):
            raise Problem("activation_expired")
        if find(connection, keys, {"kid": key.kid}) is not None:
            raise Problem(
                "already_exists_differently",
                "this key is enrolled already; a till that enrols anew makes a new key",
                field="public_key",
            )
        if not self._database.is_sqlite:
            # Terminal numbers are handed out one after another; a room full of tills that enrol
            # at once must wait for each other instead of losing races.
            connection.execute(text("LOCK TABLE terminals IN SHARE ROW EXCLUSIVE MODE"))
        last = connection.scalar(select(func.max(terminals.c.terminal_no))) or 0
        terminal_no = 1 + epochs.after_terminals(connection, last)
        merchant = connection.scalars(
            select(schema.stores.c.merchant).where(schema.stores.c.store == code.store)
        ).one()
        terminal = f"t-{self._random_bytes(8).hex()}"
        connection.execute(
            insert(terminals).values(
                terminal=terminal,
                terminal_no=terminal_no,
                store=code.store,
                merchant=merchant,
                status="active",
            )
        )
        terminal_keys.enrol(connection, terminal, key, clock.to_text(now))
        connection.execute(
            update(codes).where(codes.c.code_sha256 == code_sha256).values(terminal=terminal)
        )
        return self._certificate(connection, terminal, key.kid)

    def certificate(self, terminal: str, kid: str) -> str:
        """The certificate of one of a terminal's keys: the same as long as nothing in it changed,
        signed by the ledger's newest key."""
        with self._database.read() as connection:
            return self._certificate(connection, terminal, kid)

    def _certificate(self, connection: Connection, terminal: str, kid: str) -> str:
        tills, stores, merchants = schema.terminals, schema.stores, schema.merchants
        keys = schema.terminal_keys
        row = connection.execute(
            select(
                tills.c.terminal_no,
                tills.c.merchant,
                merchants.c.name.label("merchant_name"),
                tills.c.store,
                stores.c.name.label("store_name"),
                keys.c.since,
            )
            .join(keys, keys.c.terminal == tills.c.terminal)
            .join(stores, stores.c.store == tills.c.store)
            .join(merchants, merchants.c.merchant == tills.c.merchant)
            .where(keys.c.terminal == terminal, keys.c.kid == kid)
        ).one()
        payload = {
            "v": 1,
            "ledger": self._keyring.ledger,
            "terminal": terminal,
            "terminal_no": row.terminal_no,
            "merchant": row.merchant,
            "merchant_name": row.merchant_name,
            "store": row.store,
            "store_name": row.store_name,
            "key": kid,
            "audience": self._audience,
            "issued_at": row.since,
        }
        return jws.sign(payload, typ=jws.CERTIFICATE, key=self._keyring.signing)

    def set_status(self, terminal: str, status: str) -> Done:
        """Suspend, let in again, or revoke for ever."""
        ids.name(terminal, "terminal")
        if status not in ("active", "suspended", "revoked"):
            raise Malformed("must be active, suspended or revoked", field="status")
        table = schema.terminals

        def work(connection: Connection) -> Done:
            held = find(connection, table, {"terminal": terminal}, for_update=True)
            if held is None:
                raise Problem("not_found", "no such terminal", field="terminal")
            if held.status == status:
                return "exists"
            if status not in _STATUS_AFTER[held.status]:
                raise Problem(
                    "already_exists_differently",
                    f"a till that is {held.status} can't become {status}; enrol it anew",
                    field="status",
                )
            connection.execute(
                update(table).where(table.c.terminal == terminal).values(status=status)
            )
            return "changed"

        return act(self._database, work)

    def listed(self) -> list[dict[str, object]]:
        """Every till, by number, with the thumbprint of the key in use (`kid`), since when it is
        known, and whether another one waits."""
        table = schema.terminals.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(
                    table.terminal_no,
                    table.terminal,
                    table.merchant,
                    table.store,
                    table.status,
                ).order_by(table.terminal_no)
            ).mappings()
            keys = terminal_keys.in_use(connection)
            return [
                {
                    **row,
                    "kid": keys[row["terminal"]].kid,
                    "key_since": keys[row["terminal"]].since,
                    "key_changing": keys[row["terminal"]].changing,
                }
                for row in rows
            ]

    def alarms(self, after: int) -> list[dict[str, object]]:
        """At most 500 alarms numbered above `after`, oldest first, each with a `hint` what to do,
        and whether it is `over`; none comes in between later.

        Only of `data_lost` the book itself knows when that is: once a heal answered it.
        """
        strict_json.integer(after, "after", high=2**31 - 1)
        table = schema.alarms

        def work(connection: Connection) -> list[dict[str, object]]:
            if not self._database.is_sqlite:
                # Numbers are given out before their transactions commit. Wait for those under
                # way: whoever reads on from the last number would pass over them.
                connection.execute(text("LOCK TABLE alarms IN SHARE MODE"))
            rows = connection.execute(
                select(table).where(table.c.n > after).order_by(table.c.n).limit(ALARMS_AT_ONCE)
            )
            is_lost = evidence_rows.unseen_loss(connection) > 0
            return [
                {
                    **row,
                    "hint": alarm_hints.hint(row["kind"]),
                    "over": row["kind"] == "data_lost" and not is_lost,
                }
                for row in rows.mappings()
            ]

        return act(self._database, work)
