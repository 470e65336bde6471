"""Who is calling: a terminal with a short-lived read token (docs/protocol.md §9), an operator."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jwt

from carepos import clock, ids, jws, strict_json
from carepos.client import READ_TYP
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.keys import PublicKey, digest, unb64
from carepos_ledger import terminal_keys
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Terminal

LIFE_S = 60
MAX_CHARACTERS = 2048

_SECRET = re.compile(r"Bearer ([\x21-\x7e]{1,200})")
_BEARER = re.compile(r"Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86})")


class Caller(NamedTuple):
    """An authenticated terminal, and the `jti` that its answer is bound to."""

    terminal: Terminal
    request: str


class Authenticator:
    """Checks read tokens. One for the whole ledger; holds no state."""

    def __init__(self, database: Database, keyring: Keyring, now: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now

    def __call__(
        self,
        authorization: str | None,
        method: str,
        target: str,
        body: bytes | None,
        find: Callable[[str], Terminal] | None = None,
    ) -> Caller:
        """The terminal that made this read, which `find` brings by the kid; without one, those
        that may read. Raises Problem unauthorised or clock_skew, and what `find` raises."""
        match = _BEARER.fullmatch(authorization or "")
        if match is None or len(match[1]) > MAX_CHARACTERS:
            raise Problem("unauthorised", "send a read token as Authorization: Bearer")
        try:
            header, claims = _form(match[1])
            terminal = (find or self._terminal)(header["kid"])
            key = PublicKey(unb64(terminal.x))
            jwt.decode(
                match[1],
                jwt.PyJWK(key.to_jwk(), algorithm="EdDSA"),
                algorithms=["EdDSA"],
                options={"verify_aud": False, "verify_iat": False},
            )
            request = ids.reference(claims["jti"], "jti")
            issued_at_s = strict_json.integer(claims["iat"], "iat", high=253_402_300_799)
            expected: dict[str, Any] = {
                "iss": terminal.terminal,
                "aud": self._keyring.ledger,
                "htm": method,
                "htu": target,
            }
            if body is not None:
                expected["body_sha256"] = digest(body)
            strict_json.exact_names(claims, expected.keys() | {"jti", "iat"}, where="read token")
            for name, value in expected.items():
                if not hmac.compare_digest(str(claims[name]).encode(), value.encode()):
                    raise Malformed("is not this request's", field=name)
        except Malformed as error:
            raise Problem("unauthorised", str(error), field=error.field) from None
        except jwt.PyJWTError:
            raise Problem("unauthorised", "the read token does not verify") from None
        self._check_time(issued_at_s, request)
        return Caller(terminal, request)

    def _terminal(self, kid: str) -> Terminal:
        terminal = terminal_keys.find(self._database, kid)
        if (
            terminal is None
            or terminal.status in ("revoked", "forked")
            # Its place was taken: only records from before may still come.
            or terminal.key.until is not None
        ):
            raise Problem("unauthorised", "no terminal of this ledger")
        return terminal

    def _check_time(self, issued_at_s: int, request: str) -> None:
        now = self._now()
        if abs(now.astimezone(UTC).timestamp() - issued_at_s) <= LIFE_S:
            return
        raise Problem(
            "clock_skew",
            "the till's clock is more than a minute off; server_time is the signed time",
            extra={"server_time": self._signed_time(now, request)},
        )

    def _signed_time(self, now: datetime, request: str) -> str:
        payload = {"v": 1, "server_time": clock.to_text(now), "request": request}
        return jws.sign(payload, typ=jws.TIME, key=self._keyring.signing)


def require_operator(operator_named: Callable[[str], str | None], authorization: str | None) -> str:
    """The name of the operator whose secret this is. Raises Problem `unauthorised`."""
    match = _SECRET.fullmatch(authorization or "")
    name = operator_named(match[1]) if match else None
    if name is None:
        raise Problem("unauthorised", "send an operator's secret as Authorization: Bearer")
    return name


def _form(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims of a well-spelled read token, before any cryptography."""
    header_text, claims_text, signature_text = text.split(".")
    unb64(signature_text)
    header = strict_json.exact_names(
        strict_json.read(unb64(header_text)), {"alg", "kid", "typ"}, where="read token header"
    )
    if header["alg"] != "EdDSA" or header["typ"] != READ_TYP:
        raise Malformed("not a read token", field="typ")
    strict_json.text(header["kid"], "kid", low=43, high=43)
    claims = strict_json.names_within(
        strict_json.read(unb64(claims_text)),
        required={"iss", "aud", "htm", "htu", "iat", "jti"},
        optional={"body_sha256"},
        where="read token",
    )
    return header, claims
