"""Identity tokens: does the code in front of us prove a beneficiary, here and now?

Profile: docs/protocol.md §8. Signature and registered claims go through PyJWT; what stands before
(form, size, header) and after (types, lifetimes, class, assurance) is ours, because PyJWT by
itself takes other spellings of one token, duplicate names and lifetimes without end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import jwt

from carepos import strict_json
from carepos.errors import Malformed, Refused
from carepos.keys import KeySet, PublicKey, SigningKey, digest, unb64
from carepos.refusals import Refusal
from carepos.voucher import Programme

TokenClass = Literal["once", "card"]

TYP = "care+jwt"
MAX_CHARACTERS = 2048
LIFETIME_S: Mapping[str, int] = {"once": 900, "card": 400 * 86_400}
CLOCK_LEEWAY_S = 60
VISIT = timedelta(minutes=15)

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_AMR = re.compile(r"[a-z0-9:]{1,40}")
_SCANNER_PREFIX = re.compile(r"\A(?:\][A-Za-z][0-9A-Za-z])?(?:\\000026)?")


@dataclass(frozen=True, slots=True, repr=False)
class IdentityToken:
    """A verified token. repr() shows none of it (INV-10)."""

    iss: str
    sub: str
    jti: str
    token_class: TokenClass
    amr: frozenset[str]
    issued_at: datetime
    expires_at: datetime
    token_sha256: str

    @property
    def jti_sha256(self) -> str:
        """How a token is remembered: never by its bytes, which have more than one spelling."""
        return digest(self.jti.encode("ascii"))

    def __repr__(self) -> str:
        return "IdentityToken(…)"


class TokenVerifier:
    """Checks tokens of the issuers it was given; holds no state about tokens seen.

    `issuers` maps `iss` to the keys believed for it. Works offline.
    """

    def __init__(self, issuers: Mapping[str, KeySet], audience: str) -> None:
        self._issuers = issuers
        self._audience = audience
        # PyJWT's own form of each key, made once: making it costs as much as a signature check.
        self._jwks: dict[str, jwt.PyJWK] = {}

    def verify(self, scanned: str, now: datetime) -> IdentityToken:
        """The token in `scanned` (scanner prefixes allowed). Raises Refused with a token_* code."""
        text = strip_scanner_prefix(scanned)
        header, unverified = self._form(text)
        iss = unverified.get("iss")
        keys = self._issuers.get(iss) if isinstance(iss, str) else None
        if keys is None:
            raise Refused(Refusal("token_issuer"))
        key = self._key(keys, header)
        claims = self._decode(text, key)
        return _profile(claims, text, now)

    def _form(self, text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Header and claims of a well-spelled token, before any cryptography."""
        try:
            if len(text) > MAX_CHARACTERS or _FORM.fullmatch(text) is None:
                raise Malformed("not a compact JWT")
            header_text, payload_text, signature_text = text.split(".")
            unb64(signature_text)
            header = strict_json.read_object(unb64(header_text))
            claims = strict_json.read_object(unb64(payload_text))
        except Malformed:
            raise Refused(Refusal("token_malformed")) from None
        if header.get("typ") != TYP:
            raise Refused(Refusal("token_type"))
        if header.keys() != {"alg", "kid", "typ"} or header["alg"] != "EdDSA":
            raise Refused(Refusal("token_malformed"))
        return header, claims

    def _key(self, keys: KeySet, header: Mapping[str, Any]) -> PublicKey:
        try:
            return keys.get(header["kid"])
        except (Malformed, TypeError):
            raise Refused(Refusal("token_signature")) from None

    def _jwk(self, key: PublicKey) -> jwt.PyJWK:
        if key.kid not in self._jwks:
            self._jwks[key.kid] = jwt.PyJWK(key.to_jwk(), algorithm="EdDSA")
        return self._jwks[key.kid]

    def _decode(self, text: str, key: PublicKey) -> Mapping[str, Any]:
        try:
            return cast(
                Mapping[str, Any],
                jwt.decode(
                    text,
                    self._jwk(key),
                    algorithms=["EdDSA"],
                    audience=self._audience,
                    # Times are ours to judge: with the clock passed in, and typed exactly.
                    options={
                        "verify_exp": False,
                        "verify_nbf": False,
                        "verify_iat": False,
                        "strict_aud": True,
                    },
                ),
            )
        except jwt.InvalidSignatureError:
            code = "token_signature"
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
            code = "token_audience"
        except jwt.PyJWTError:
            code = "token_malformed"
        raise Refused(Refusal(code))


def _profile(claims: Mapping[str, Any], text: str, now: datetime) -> IdentityToken:
    """The claims as the profile wants them, at `now`. Raises Refused."""
    try:
        sub = _identifier(claims.get("sub"))
        jti = _identifier(claims.get("jti"))
        issued, not_before, expires = (
            strict_json.integer(claims.get(name), name, low=1, high=253_402_300_799)
            for name in ("iat", "nbf", "exp")
        )
        amr = frozenset(
            _amr(value) for value in strict_json.array(claims.get("amr"), "amr", low=1, high=8)
        )
        token_class = claims.get("care_class")
        if not isinstance(token_class, str) or token_class not in LIFETIME_S:
            raise Malformed("no such class")
        if claims.keys() & {"act", "cnf"}:
            # They narrow who may present a token; not understanding them must not widen it.
            raise Malformed("acting for another and holder keys are not understood yet")
        if not 0 < expires - issued <= LIFETIME_S[token_class]:
            raise Malformed("lives too long")
    except Malformed:
        raise Refused(Refusal("token_malformed")) from None
    at = now.timestamp()
    if at >= expires:
        raise Refused(Refusal("token_expired"))
    if at < max(not_before, issued) - CLOCK_LEEWAY_S:
        raise Refused(Refusal("token_not_yet_valid"))
    return IdentityToken(
        iss=str(claims["iss"]),
        sub=sub,
        jti=jti,
        token_class=cast(TokenClass, token_class),
        amr=amr,
        issued_at=datetime.fromtimestamp(issued, UTC),
        expires_at=datetime.fromtimestamp(expires, UTC),
        token_sha256=token_sha256(text),
    )


def check_assurance(token: IdentityToken, programme: Programme) -> Refusal | None:
    """Whether this way of proving who one is suffices for the programme (RFC 8176 `amr`)."""
    if token.iss != programme.issuer:
        return Refusal("token_issuer")
    if token.token_class not in programme.classes:
        return Refusal("token_assurance")
    if programme.amr_any and not programme.amr_any & token.amr:
        return Refusal("token_assurance")
    return None


def strip_scanner_prefix(scanned: str) -> str:
    """The code itself: without white space, AIM identifiers (`]Q1`) and ECI marks (`\\000026`)."""
    return _SCANNER_PREFIX.sub("", scanned.strip())


def token_sha256(text: str) -> str:
    """Digest of the token's bytes, the only trace of it in a record."""
    return digest(strip_scanner_prefix(text).encode("utf-8", "replace"))


def mint(
    key: SigningKey,
    *,
    iss: str,
    aud: str,
    sub: str,
    jti: str,
    issued_at: datetime,
    lifetime_s: int = 600,
    token_class: TokenClass = "once",
    amr: tuple[str, ...] = ("face",),
) -> str:
    """A token as an issuer makes it; for issuers' examples, demos and tests."""
    issued = int(issued_at.timestamp())
    claims = {
        "iss": iss,
        "aud": aud,
        "sub": sub,
        "jti": jti,
        "iat": issued,
        "nbf": issued,
        "exp": issued + lifetime_s,
        "amr": list(amr),
        "care_class": token_class,
    }
    return jwt.encode(
        claims, key.private_key(), algorithm="EdDSA", headers={"kid": key.kid, "typ": TYP}
    )


def _identifier(value: object) -> str:
    if not isinstance(value, str) or _IDENTIFIER.fullmatch(value) is None:
        raise Malformed("not an identifier")
    return value


def _amr(value: object) -> str:
    if not isinstance(value, str) or _AMR.fullmatch(value) is None:
        raise Malformed("not an authentication method")
    return value
