"""Is this ID token the provider's, for us, from this very sign-in? (OpenID Connect Core §3.1.3.7)

Pure: the token, what is expected of it and the clock in; a person or a Problem out. `at_hash` and
`c_hash` are not looked at: no access token is used. An encrypted ID token is refused.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import jwt

from carepos import strict_json
from carepos.claims import LAST_SECOND
from carepos.errors import Malformed
from carepos.issuer_keys import IssuerKey, IssuerKeys
from carepos.keys import unb64
from sample_issuer.problems import Problem

MAX_CHARACTERS: Final = 16_384
LEEWAY_S: Final = 60
MAX_AGE_S: Final = 600
"""An ID token is handed on at once; one of ten minutes ago was found somewhere."""

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Only signatures with public keys. `none`, and HS256 with the client's secret, which OpenID allows,
# are no algorithms here.
_PYJWS: Final = jwt.PyJWS(algorithms=["RS256", "ES256", "EdDSA"])


@dataclass(frozen=True, slots=True)
class Expected:
    """What was registered with the provider. `trusted_audiences` may stand in `aud` beside us."""

    issuer: str
    client_id: str
    trusted_audiences: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True, repr=False)
class Person:
    """Who signed in: the provider's `sub`, and how it says it checked them (may be empty)."""

    sub: str
    amr: tuple[str, ...]

    def __repr__(self) -> str:
        return "Person(…)"


def kid_of(text: str) -> str | None:
    """The `kid` its header names, before anything is believed. Raises Problem."""
    header, _ = _parts(text)
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise Problem("id_token_malformed", "must be a text", "kid")
    return kid


def verify(text: str, expected: Expected, keys: IssuerKeys, *, nonce: str, now: datetime) -> Person:
    """The person, by the rules of OpenID Connect Core §3.1.3.7, in this order: form, alg, key and
    signature (6–8), iss (2), aud (3), azp (4, 5), exp (9), iat (10), nonce (11).

    Raises Problem `id_token_*`, which names the claim and the rule and never a value.
    """
    header, claims = _parts(text)
    _check_signature(text, header, keys, now)
    if claims.get("iss") != expected.issuer:
        raise Problem("id_token_issuer", "is not the provider's", "iss")
    _check_audience(claims, expected)
    _check_time(claims, now)
    shown = claims.get("nonce")
    if not isinstance(shown, str) or not hmac.compare_digest(shown.encode(), nonce.encode()):
        raise Problem("id_token_nonce", "is not the one of this sign-in", "nonce")
    sub = claims.get("sub")
    if not isinstance(sub, str) or not 1 <= len(sub) <= 255:
        raise Problem("id_token_malformed", "must be 1 to 255 characters", "sub")
    return Person(sub, _methods(claims))


def _parts(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if len(text) > MAX_CHARACTERS:
        raise Problem("id_token_malformed", f"over {MAX_CHARACTERS} characters")
    if _FORM.fullmatch(text) is None:
        # `alg: none` has an empty third part, an encrypted one has five parts.
        raise Problem("id_token_malformed", "not a signed JWT of three parts")
    header, claims, _ = text.split(".")
    try:
        return (
            strict_json.read_object(unb64(header, "header")),
            strict_json.read_object(unb64(claims, "claims")),
        )
    except Malformed as error:
        raise Problem("id_token_malformed", str(error)) from None


def _check_signature(text: str, header: Mapping[str, Any], keys: IssuerKeys, now: datetime) -> None:
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in ("RS256", "ES256", "EdDSA"):
        raise Problem("id_token_alg", "must be RS256, ES256 or EdDSA", "alg")
    if "crit" in header:
        raise Problem("id_token_malformed", "asks for an extension that is not known", "crit")
    key = _key(header, keys, now)
    if key is None:
        raise Problem("id_token_signature", "names no key of the provider", "kid")
    if alg not in key.algorithms:
        raise Problem("id_token_alg", "is not what this key may be used with", "alg")
    try:
        _PYJWS.decode_complete(text, key.key, algorithms=[alg])
    except Exception:  # noqa: BLE001
        # Whatever the library says, it means one thing; its words can quote the token.
        raise Problem("id_token_signature", "does not verify", "signature") from None


def _key(header: Mapping[str, Any], keys: IssuerKeys, now: datetime) -> IssuerKey | None:
    kid = header.get("kid")
    if kid is None:
        # OpenID Connect Core §10.1: a kid may be missing only where there is one key.
        only = list(keys)
        return only[0] if len(only) == 1 else None
    return keys.get(kid, now) if isinstance(kid, str) else None


def _check_audience(claims: Mapping[str, Any], expected: Expected) -> None:
    aud = claims.get("aud")
    listed = [aud] if isinstance(aud, str) else aud
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise Problem("id_token_malformed", "must be a text or a list of texts", "aud")
    if expected.client_id not in listed:
        raise Problem("id_token_audience", "does not name this client", "aud")
    if set(listed) - {expected.client_id} - expected.trusted_audiences:
        raise Problem("id_token_audience", "names others that are not trusted", "aud")
    if len(listed) > 1 and "azp" not in claims:
        raise Problem("id_token_azp", "is missing, and aud names several", "azp")
    if "azp" in claims and claims["azp"] != expected.client_id:
        raise Problem("id_token_azp", "is another client", "azp")


def _check_time(claims: Mapping[str, Any], now: datetime) -> None:
    issued, expires = (_second(claims, name) for name in ("iat", "exp"))
    at = now.timestamp()
    if at >= expires + LEEWAY_S:
        raise Problem("id_token_expired", "has passed", "exp")
    if at < issued - LEEWAY_S:
        raise Problem("id_token_not_yet_valid", "has not come yet", "iat")
    if at > issued + MAX_AGE_S:
        raise Problem("id_token_stale", f"is more than {MAX_AGE_S} s ago", "iat")
    if "nbf" in claims and at < _second(claims, "nbf") - LEEWAY_S:
        raise Problem("id_token_not_yet_valid", "has not come yet", "nbf")


def _second(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 1 <= value <= LAST_SECOND:
        raise Problem("id_token_malformed", "must be a whole number of seconds", name)
    return value


def _methods(claims: Mapping[str, Any]) -> tuple[str, ...]:
    amr = claims.get("amr", [])
    if not isinstance(amr, list) or not all(isinstance(each, str) for each in amr[:32]):
        raise Problem("id_token_malformed", "must be a list of texts", "amr")
    return tuple(amr[:32])
