"""Who asks: read tokens of docs/protocol.md section 9, written a second time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.second_attempts import Terminal
from tests.second_problems import Problem
from tests.second_rules import text
from tests.second_signing import Bad, Json, PublicKey, digest, unread, utc

if TYPE_CHECKING:
    from tests.second_ledger import SecondLedger

TIME = "carepos-time+jws"


def reader(
    ledger: SecondLedger, bearer: str, method: str, path: str, body: bytes
) -> tuple[Terminal, str, str]:
    """The terminal that signed a read token, the token's `jti`, and the key's `kid`."""
    claims, kid = _claims(ledger, bearer, (method, path, body), ledger.by_kid)
    terminal = ledger.terminals.get(str(claims["iss"]))
    if terminal is None or kid not in terminal.order.reading:
        raise Problem("unauthorised")
    if terminal.status in ("revoked", "forked"):
        raise Problem("unauthorised")
    _in_time(ledger, claims)
    return terminal, str(claims["jti"]), kid


def caller(
    ledger: SecondLedger, bearer: str, path: str, body: bytes, keys: Sequence[PublicKey]
) -> str:
    """The name of the terminal that asks, by one of these keys, whatever its standing."""
    by_kid = {key.kid: key for key in keys}

    def known(kid: str) -> PublicKey:
        if kid not in by_kid:
            raise Bad("signature_invalid")
        return by_kid[kid]

    claims, _ = _claims(ledger, bearer, ("POST", path, body), known)
    _in_time(ledger, claims)
    return str(claims["iss"])


def _claims(
    ledger: SecondLedger,
    bearer: str,
    asked: tuple[str, str, bytes],
    by_kid: Callable[[str], PublicKey],
) -> tuple[Json, str]:
    """The claims of a read token for this request, and its `kid`."""
    method, path, body = asked
    if not bearer.startswith("Bearer "):
        raise Problem("unauthorised")
    try:
        thing = unread(bearer.removeprefix("Bearer "), "carepos-read+jwt")
        claims = thing.read(by_kid(thing.kid))
    except Bad as bad:
        raise Problem("unauthorised") from bad
    wanted = {"iss": claims.get("iss"), "aud": ledger.ledger, "htm": method, "htu": path}
    if body:
        wanted["body_sha256"] = digest(body)
    times: Json = {"iat": claims.get("iat"), "jti": claims.get("jti")}
    if claims != {**wanted, **times}:
        raise Problem("unauthorised")
    if type(times["iat"]) is not int or not text(r"[A-Za-z0-9_-]{22}")(times["jti"]):
        raise Problem("unauthorised")
    return claims, thing.kid


def _in_time(ledger: SecondLedger, claims: Json) -> None:
    if abs(claims["iat"] - ledger.now().timestamp()) > 60:
        at = {"v": 1, "server_time": utc(ledger.now()), "request": claims["jti"]}
        raise Problem("clock_skew", server_time=ledger.key.sign(TIME, at))
