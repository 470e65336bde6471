"""What the claims of an identity token must be (docs/identity.md §2), and of a KB-JWT (§6).

Names, types and lifetimes; the clock is `token`'s. A refusal names the claim and the rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, cast

from carepos import strict_json
from carepos.errors import Malformed, TokenRefused
from carepos.issuer_keys import IssuerKey, holder_key
from carepos.keys import digest
from carepos.refusals import Refusal

TokenClass = Literal["once", "card"]
Way = Literal["proxy", "witness"]

ALGORITHMS: Final = frozenset({"EdDSA", "Ed25519", "ES256", "RS256"})
LIFETIME_S: Final[Mapping[str, int]] = {"once": 900, "card": 400 * 86_400}
REASONS: Final = frozenset({"unreadable", "phone_lost", "card_lost", "frail", "minor", "other"})
WITNESS: Final = "carepos:witness"
LAST_SECOND: Final = 253_402_300_799  # of the year 9999

_IDENTIFIER = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_AMR = re.compile(r"[a-z0-9:]{1,40}")
METHOD_FORM: Final = "a method is 1 to 40 of the characters a-z 0-9 :"
_ISS = re.compile(r"[\x20-\x7e]{1,200}")
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")


@dataclass(frozen=True, slots=True)
class Acting:
    """Who presents for the beneficiary: a proxy who came instead, or a witness beside them.

    `actor_sha256` is how an actor is remembered: SHA-256 of `iss` + `|` + `act.sub`.
    """

    actor_sha256: str
    way: Way
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Claims:
    """The claims of one token, typed."""

    sub: str
    jti: str
    issued_at_s: int
    not_before_s: int
    expires_at_s: int
    amr: frozenset[str]
    token_class: TokenClass
    holder_key: IssuerKey | None
    acting: Acting | None


def read(claims: Mapping[str, Any]) -> Claims:
    """Raises TokenRefused (token_malformed) naming the first claim that is not as it must be."""
    iss = claims["iss"]
    if _ISS.fullmatch(iss) is None:
        _bad("iss", "must be 1 to 200 printable ASCII characters")
    sub, jti = (_matching(_IDENTIFIER, claims, name) for name in ("sub", "jti"))
    issued, not_before, expires = (_second(claims, name) for name in ("iat", "nbf", "exp"))
    amr = _methods(claims)
    token_class = claims.get("care_class")
    if not isinstance(token_class, str) or token_class not in LIFETIME_S:
        _bad("care_class", "must be once or card")
    if expires <= issued:
        _bad("exp", "must be after iat")
    if expires - issued > LIFETIME_S[token_class]:
        _bad("exp", f"a token of class {token_class} lives at most {LIFETIME_S[token_class]} s")
    return Claims(
        sub=sub,
        jti=jti,
        issued_at_s=issued,
        not_before_s=not_before,
        expires_at_s=expires,
        amr=amr,
        token_class=cast(TokenClass, token_class),
        holder_key=_confirmation(claims, token_class),
        acting=_acting(claims, token_class, iss, amr),
    )


def read_key_binding(claims: Mapping[str, Any], audience: str, sd_hash: str) -> tuple[int, str]:
    """(iat, nonce) of a KB-JWT for this audience and token. Raises TokenRefused."""
    try:
        if claims.keys() != {"iat", "aud", "nonce", "sd_hash"}:
            raise Malformed("its claims are not exactly iat, aud, nonce and sd_hash")
        signed_at_s = strict_json.integer(claims["iat"], "iat", low=1, high=LAST_SECOND)
        nonce = claims["nonce"]
        if not isinstance(nonce, str) or _NONCE.fullmatch(nonce) is None:
            raise Malformed("must be 16 to 64 characters of base64url", field="nonce")
        if claims["aud"] != audience:
            raise Malformed("is not this platform's redemption audience", field="aud")
        if claims["sd_hash"] != sd_hash:
            raise Malformed("is another token's", field="sd_hash")
    except Malformed as error:
        raise TokenRefused(
            Refusal("holder_unproven"), claim="key binding", why=str(error)
        ) from None
    return signed_at_s, nonce


def _bad(claim: str, why: str) -> NoReturn:
    raise TokenRefused(Refusal("token_malformed"), claim=claim, why=why)


def _matching(pattern: re.Pattern[str], claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        _bad(name, "must be 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
    return value


def _second(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 1 <= value <= LAST_SECOND:
        _bad(name, "must be a whole number of seconds, a NumericDate within the year 9999")
    return value


def is_method(value: object) -> bool:
    """Whether an `amr` can name this: what no token can say, no programme should ask for."""
    return isinstance(value, str) and _AMR.fullmatch(value) is not None


def _methods(claims: Mapping[str, Any]) -> frozenset[str]:
    listed = claims.get("amr")
    if not isinstance(listed, list) or not 1 <= len(listed) <= 8:
        _bad("amr", "must be a list of 1 to 8 methods")
    if not all(is_method(each) for each in listed):
        _bad("amr", METHOD_FORM)
    methods = frozenset(listed)
    if len(methods) < len(listed):
        _bad("amr", "names a method twice")
    return methods


def _confirmation(claims: Mapping[str, Any], token_class: str) -> IssuerKey | None:
    if "cnf" not in claims:
        return None
    if token_class != "card":
        _bad("cnf", "stands only in a token of class card")
    confirmed = claims["cnf"]
    if not isinstance(confirmed, dict) or confirmed.keys() != {"jwk"}:
        _bad("cnf", "must have jwk and nothing else")
    try:
        return holder_key(confirmed["jwk"])
    except Malformed as error:
        _bad("cnf", str(error))


def _acting(
    claims: Mapping[str, Any], token_class: str, iss: str, amr: frozenset[str]
) -> Acting | None:
    if "act" not in claims:
        if "care_reason" in claims:
            _bad("care_reason", "stands only beside act")
        if WITNESS in amr:
            _bad("act", "must say who vouched")
        return None
    if token_class != "once":
        _bad("act", "stands only in a token of class once")
    act = claims["act"]
    if not isinstance(act, dict) or act.keys() not in ({"sub"}, {"iss", "sub"}):
        _bad("act", "must have sub, and may have iss, and nothing else")
    actor = act["sub"]
    if not isinstance(actor, str) or _IDENTIFIER.fullmatch(actor) is None:
        _bad("act", "its sub must be 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
    actor_iss = act.get("iss", iss)
    if not isinstance(actor_iss, str) or _ISS.fullmatch(actor_iss) is None:
        _bad("act", "its iss must be 1 to 200 printable ASCII characters")
    reason = claims.get("care_reason")
    if not isinstance(reason, str) or reason not in REASONS:
        _bad("care_reason", "must say why, in one of the profile's words")
    way: Way = "witness" if WITNESS in amr else "proxy"
    return Acting(digest(f"{actor_iss}|{actor}".encode("ascii")), way, reason)
