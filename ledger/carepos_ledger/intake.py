"""From an envelope off the wire to a verified command: everything that needs no lock.

Runs in the request's own thread, so that signatures are checked side by side; the one thread that
posts then only decides and writes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from carepos import presentation, record, strict_json, unknown_key
from carepos.clock import Clock
from carepos.errors import Malformed, Refused, SignatureInvalid, TokenRefused
from carepos.evidence import open_sealed
from carepos.keys import PublicKey, digest, unb64
from carepos.presentation import Presentation
from carepos.refusals import Refusal
from carepos.token import IdentityToken, TokenVerifier
from carepos_ledger import key_rules, schema, terminal_keys
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Terminal
from carepos_ledger.trust import Trust

MAX_ITEMS = 500
MAX_TOKEN_CHARACTERS = 4096


Learn = Callable[[str], bool]
"""Whether asking this issuer about a key that is not known brought other keys (`Issuers.learn`)."""


class Intake:
    """Verifies envelopes and tokens against what the ledger knows."""

    def __init__(
        self,
        database: Database,
        audience: str,
        now: Clock,
        evidence: X25519PrivateKey,
        learn: Learn = lambda _: False,
    ) -> None:
        self._evidence = evidence
        self.trust = Trust(database, audience, now)
        self._database = database
        self._now = now
        self._learn = learn

    def items(self, body: dict[str, Any]) -> list[Command | Problem]:
        """One command or problem per envelope, in order. Raises Malformed for the whole body."""
        names = strict_json.exact_names(body, {"items"}, where="body")
        envelopes = strict_json.array(names["items"], "items", low=1, high=MAX_ITEMS)
        terminals: dict[str, Terminal | None] = {}
        verifier = _Verifier(self.trust)
        return [self._item(each, terminals, verifier) for each in envelopes]

    def _item(
        self,
        envelope: object,
        terminals: dict[str, Terminal | None],
        verifier: _Verifier,
    ) -> Command | Problem:
        try:
            names = strict_json.names_within(
                envelope, required={"record"}, optional={"token", "evidence"}, where="item"
            )
            found: list[Terminal] = []

            def key_of(kid: str) -> PublicKey:
                if kid not in terminals:
                    terminals[kid] = terminal_keys.find(self._database, kid)
                terminal = terminals[kid]
                if terminal is None:
                    raise SignatureInvalid("signed by a key that is not enrolled here")
                found.append(terminal)
                return PublicKey(unb64(terminal.x))

            read = record.read(names["record"], keys=key_of)
            if read.terminal != found[0].terminal:
                raise SignatureInvalid("the record names another terminal")
            if key_rules.is_closed(found[0].key, read) and not self._is_stored(read):
                raise SignatureInvalid("another key has taken this one's place")
            if "evidence" in names:
                return self._late(names, read, found[0], verifier)
            identity = self._identity(names.get("token"), read, verifier)
            return Command(read, found[0], identity)
        except Malformed as error:
            return Problem.of(error)

    def _late(
        self,
        names: dict[str, Any],
        read: record.Record,
        terminal: Terminal,
        verifier: _Verifier,
    ) -> Command:
        """A record whose token was sealed: it is judged by the time at which it was held up."""
        if "token" in names:
            raise Malformed("stands instead of the token", field="evidence")
        sealed = open_sealed(
            names["evidence"],
            private=self._evidence,
            terminal=read.terminal,
            attempt_id=read.id,
        )
        if read.kind != "redeem":
            return Command(read, terminal, None, is_late=True)
        if digest(sealed.text.encode("ascii")) != read.redeem.token_sha256:
            raise Malformed("holds another token than the record names", field="evidence")
        try:
            identity: IdentityToken | Refusal = self._verify(
                sealed.text, verifier, read.occurred_at
            )
        except Refused as error:
            identity = error.refusal
        return Command(read, terminal, identity, is_late=True, pin_proof=sealed.pin_proof)

    def _is_stored(self, read: record.Record) -> bool:
        """Whether it was decided or held while its key still counted: it keeps its outcome."""
        with self._database.read() as connection:
            return any(
                connection.scalars(
                    select(table.c.digest).where(
                        table.c.bucket == read.bucket, table.c.digest == read.digest
                    )
                ).first()
                for table in (schema.records, schema.held_records)
            )

    def _identity(
        self, token: object, read: record.Record, verifier: _Verifier
    ) -> IdentityToken | Refusal | None:
        if token is None or read.kind != "redeem":
            return None
        text = strict_json.text(token, "token", high=MAX_TOKEN_CHARACTERS)
        if digest(text.encode("utf-8", "replace")) != read.redeem.token_sha256:
            # Nothing signed names this token: it must not decide the fate of the record.
            return None
        try:
            return self._verify(text, verifier, self._now())
        except Refused as error:
            return error.refusal

    def verify_token(self, text: str) -> IdentityToken:
        """Raises Refused with a token_* code."""
        return self._verify(text, _Verifier(self.trust), self._now())

    def _verify(self, text: str, verifier: _Verifier, at: datetime) -> IdentityToken:
        """A key that is not known may be new: the issuer is asked, and the token judged again."""
        held = _presented(text)
        try:
            return verifier.get().examine(held, at)
        except TokenRefused as refused:
            iss = unknown_key.issuer_named(text) if unknown_key.is_meant(refused) else None
            if iss is None or not self._learn(iss):
                raise
        verifier.forget()
        return verifier.get().examine(held, at)


def _presented(text: str) -> Presentation:
    try:
        held = presentation.read(text)
        if held.text != text:
            # Tills take off what a scanner or a card puts around it: a card's secret that
            # arrives here was sent by a till that must be told.
            raise Malformed("stands among other things", field="token")
    except Malformed as error:
        raise TokenRefused(
            Refusal("token_malformed"), claim=error.field or "token", why=str(error)
        ) from None
    return held


class _Verifier:
    """The verifier over today's issuers, made at most once per request and after a rotation."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._made: TokenVerifier | None = None

    def get(self) -> TokenVerifier:
        if self._made is None:
            self._made = self._trust.verifier()
        return self._made

    def forget(self) -> None:
        self._made = None
