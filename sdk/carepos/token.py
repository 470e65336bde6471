"""Identity tokens: does the code in front of us prove a beneficiary, here and now?

Profile and order of the checks: docs/identity.md. The signature is PyJWT's algorithms'; what stands
before it (form, sizes, header) is `compact`'s, what stands behind it (claims) `claims`'s, because
`jwt.decode` by itself takes other spellings of one token, duplicate names and lives without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from carepos import claims as profile
from carepos import compact, issuer_keys, presentation, revocation
from carepos.claims import ALGORITHMS, Acting, Claims, TokenClass
from carepos.errors import Malformed, TokenRefused
from carepos.issuer_keys import IssuerKey, IssuerKeys, VerifyingKey
from carepos.keys import SigningKey, digest
from carepos.presentation import Presentation
from carepos.refusals import Refusal
from carepos.revocation import Revocations
from carepos.voucher import Programme

TYP: Final = "care+jwt"
KEY_BINDING_TYP: Final = "kb+jwt"
CLOCK_LEEWAY_S: Final = 60
FRESH_S: Final = 300
VISIT: Final = timedelta(minutes=15)

# These four and no other, whatever PyJWT learns later. Which of them a key allows is the key's.
_SIGNATURES: Final[Mapping[str, Algorithm]] = {
    "EdDSA": OKPAlgorithm(),
    "Ed25519": OKPAlgorithm(),  # RFC 9864's name for the same signature
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
}


@dataclass(frozen=True, slots=True, repr=False)
class IdentityToken:
    """A verified token. repr() shows none of it (INV-10).

    `amr` are the methods that were proved, `pop` among them when a wallet's key was. `nonce` is the
    presentation's; `stale` says that it is too old to open a visit.
    """

    iss: str
    sub: str
    jti: str
    token_class: TokenClass
    amr: frozenset[str]
    issued_at: datetime
    expires_at: datetime
    token_sha256: str
    acting: Acting | None = None
    nonce: str | None = None
    stale: bool = False
    revoked: bool = False

    @property
    def jti_sha256(self) -> str:
        """How a token is remembered: never by its bytes, which have more than one spelling."""
        return digest(self.jti.encode("ascii"))

    @property
    def visit_sha256(self) -> str | None:
        """What its first use is remembered by; None for a printed card, which opens no visit."""
        if self.nonce is not None:
            return digest(f"{self.jti}~{self.nonce}".encode("ascii"))
        return self.jti_sha256 if self.token_class == "once" else None

    @property
    def needs_pin(self) -> bool:
        """Whether it is a printed card: a bearer of 400 days, worth nothing without its PIN."""
        return self.token_class == "card" and self.nonce is None

    def __repr__(self) -> str:
        return "IdentityToken(…)"


class TokenVerifier:
    """Checks tokens of the issuers it was given; holds no state about tokens seen.

    `issuers` maps `iss` to the keys believed for it. Works offline.
    """

    def __init__(
        self,
        issuers: Mapping[str, IssuerKeys],
        audience: str,
        revoked: Revocations = revocation.NONE,
    ) -> None:
        self._issuers = issuers
        self._audience = audience
        self._revoked = revoked

    def verify(self, scanned: str | Presentation, now: datetime) -> IdentityToken:
        """The token in `scanned`, good here and now by itself: rows 1 to 10 and 13 of
        docs/identity.md §4. Whether it was used before is for whoever remembers visits.

        `now` is aware. Raises TokenRefused, which names the claim and the rule and never a value;
        ValueError for a naive `now`, by which a token of hours ago could be good.
        """
        identity = self.examine(scanned, now)
        if identity.stale:
            raise _no("holder_unproven", "key binding", f"is older than {FRESH_S} s")
        if identity.revoked:
            raise _no("token_revoked", "jti", "it, or the key that signed it, is withdrawn")
        return identity

    def examine(self, scanned: str | Presentation, now: datetime) -> IdentityToken:
        """As `verify`, but a stale presentation and a withdrawn token come back, marked as such:
        for a till and a ledger, which must know the visit before they judge these two."""
        if now.utcoffset() is None:
            raise ValueError("now must be aware: datetime.now(UTC)")
        try:
            held = scanned if isinstance(scanned, Presentation) else presentation.read(scanned)
            parts = compact.read(held.token)
        except Malformed as error:
            raise _no("token_malformed", error.field or "token", str(error)) from None
        header, unverified = parts.header, parts.claims
        _check_header(header)
        iss = unverified.get("iss")
        keys = self._issuers.get(iss) if isinstance(iss, str) else None
        if keys is None:
            raise _no("token_issuer", "iss", "is no issuer that is known here")
        key = _key(keys, header, now)
        if not signature_verifies(parts.signed, parts.signature, key.key, header["alg"]):
            raise _no("token_signature", "signature", "does not verify")
        if unverified.get("aud") != self._audience:
            raise _no("token_audience", "aud", "is not this platform's redemption audience")
        found = profile.read(unverified)
        _check_time(found, now)
        nonce, stale = self._holder(held, found, now)
        return IdentityToken(
            iss=str(iss),
            sub=found.sub,
            jti=found.jti,
            token_class=found.token_class,
            amr=found.amr if nonce is None else found.amr | {"pop"},
            issued_at=datetime.fromtimestamp(found.issued_at_s, UTC),
            expires_at=datetime.fromtimestamp(found.expires_at_s, UTC),
            token_sha256=held.sha256,
            acting=found.acting,
            nonce=nonce,
            stale=stale,
            revoked=self._revoked.covers(str(iss), key.kid, found.jti),
        )

    def _holder(self, held: Presentation, found: Claims, now: datetime) -> tuple[str | None, bool]:
        """(nonce, stale) of the wallet's fresh signature, where the token asks for one."""
        if found.holder_key is None:
            if held.key_binding is not None:
                raise _no("token_malformed", "cnf", "is missing, and a holder's signature is there")
            return None, False
        if held.key_binding is None:
            raise _no("holder_unproven", "cnf", "asks for a fresh signature of the holder's key")
        return _verify_key_binding(held, held.key_binding, found.holder_key, self._audience, now)


def _no(code: str, claim: str, why: str) -> TokenRefused:
    return TokenRefused(Refusal(code), claim=claim, why=why)


def _check_header(header: Mapping[str, Any]) -> None:
    if header.get("typ") != TYP:
        raise _no("token_type", "typ", f"is not {TYP}")
    if header.keys() != {"alg", "kid", "typ"}:
        raise _no("token_malformed", "header", "has other names than alg, kid and typ")
    alg, kid = header["alg"], header["kid"]
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise _no("token_malformed", "alg", "is not EdDSA, Ed25519, ES256 or RS256")
    try:
        issuer_keys.kid_text(kid)
    except Malformed:
        raise _no("token_malformed", "kid", "is not 1 to 64 printable characters") from None


def _key(keys: IssuerKeys, header: Mapping[str, Any], now: datetime) -> IssuerKey:
    key = keys.get(header["kid"], now)
    if key is None:
        raise _no("token_signature", "kid", "names no key that is believed for this issuer")
    if header["alg"] not in key.algorithms:
        raise _no("token_signature", "alg", "is not what this key may be used with")
    return key


def signature_verifies(signed: bytes, signature: bytes, key: VerifyingKey, alg: str) -> bool:
    """Whether `key` made this signature by `alg`, which the caller has held against the key."""
    try:
        return _SIGNATURES[alg].verify(signed, key, signature)
    except Exception:  # noqa: BLE001
        # Whatever a library says of bytes from outside, here it means one thing. Nothing of theirs
        # may leave: their messages and causes can quote the token (INV-10).
        return False


def _check_time(found: Claims, now: datetime) -> None:
    at = now.timestamp()
    if at >= found.expires_at_s:
        raise _no("token_expired", "exp", "has passed")
    if at < max(found.not_before_s, found.issued_at_s) - CLOCK_LEEWAY_S:
        raise _no("token_not_yet_valid", "nbf", "has not come yet")


def _verify_key_binding(
    held: Presentation, text: str, holder: IssuerKey, audience: str, now: datetime
) -> tuple[str, bool]:
    """(nonce, stale) of an SD-JWT+KB without disclosures (RFC 9901 §4.3)."""
    try:
        parts = compact.read(text)
    except Malformed as error:
        raise _no("holder_unproven", "key binding", str(error)) from None
    header = parts.header
    if header.keys() != {"alg", "typ"} or header["typ"] != KEY_BINDING_TYP:
        raise _no("holder_unproven", "key binding", f"its header is not alg and {KEY_BINDING_TYP}")
    alg = header["alg"]
    if not isinstance(alg, str) or alg not in holder.algorithms:
        raise _no("holder_unproven", "key binding", "its alg is not what the holder's key allows")
    if not signature_verifies(parts.signed, parts.signature, holder.key, alg):
        raise _no("holder_unproven", "key binding", "its signature does not verify")
    signed_at_s, nonce = profile.read_key_binding(
        parts.claims, audience, digest(f"{held.token}~".encode("ascii"))
    )
    at = now.timestamp()
    if at < signed_at_s - CLOCK_LEEWAY_S:
        raise _no("holder_unproven", "key binding", "its iat has not come yet")
    return nonce, at > signed_at_s + FRESH_S


# ── what a programme and the visit say of it ───────────────────────────────────────────────────


def issuer_refusal(identity: IdentityToken, programme: Programme) -> Refusal | None:
    """Row 11: whether the programme takes tokens of this issuer at all."""
    return None if identity.iss == programme.issuer else Refusal("token_issuer")


def visit_refusal(
    identity: IdentityToken, first: tuple[str, datetime] | None, terminal: str, now: datetime
) -> Refusal | None:
    """Row 12: whether `terminal` may use it now. `first` is who used it first and when, if any."""
    if identity.visit_sha256 is None:
        return None
    if first is None:
        return Refusal("holder_unproven") if identity.stale else None
    if first[0] != terminal or now - first[1] > VISIT:
        return Refusal("token_replayed")
    return None


def fitness_refusal(
    identity: IdentityToken, programme: Programme, *, pin_proved: bool
) -> Refusal | None:
    """Rows 13 to 16: withdrawn, assurance (RFC 8176 `amr`), acting for another, the card's PIN."""
    if identity.revoked:
        return Refusal("token_revoked")
    methods = identity.amr | {"pin"} if pin_proved else identity.amr
    if identity.token_class not in programme.classes:
        return Refusal("token_assurance")
    if programme.amr_any and not programme.amr_any & (methods | _promised(identity)):
        return Refusal("token_assurance")
    if identity.acting is not None and not programme.allows(identity.acting.way):
        return Refusal("acting_not_allowed")
    if identity.needs_pin and not pin_proved:
        return Refusal("pin_required")
    return None


def _promised(identity: IdentityToken) -> frozenset[str]:
    """A card that still lacks its PIN is told so (row 16), not that cards are not enough."""
    return frozenset({"pin"}) if identity.needs_pin else frozenset()


def token_sha256(text: str) -> str:
    """Digest of a presentation's bytes, the only trace of it in a record."""
    return presentation.read(text).sha256


# ── minting, for issuers' examples, demos and tests ────────────────────────────────────────────


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
    **more: object,
) -> str:
    """A token as an issuer makes it. `more` are further claims: `cnf`, `act`, `care_reason`."""
    issued = int(issued_at.timestamp())
    body = {
        "iss": iss,
        "aud": aud,
        "sub": sub,
        "jti": jti,
        "iat": issued,
        "nbf": issued,
        "exp": issued + lifetime_s,
        "amr": list(amr),
        "care_class": token_class,
        **more,
    }
    return jwt.encode(
        body, key.private_key(), algorithm="EdDSA", headers={"kid": key.kid, "typ": TYP}
    )


def present(token_text: str, holder: SigningKey, *, aud: str, nonce: str, at: datetime) -> str:
    """A wallet's presentation of a token with `cnf`: `<token>~<KB-JWT>`, signed now."""
    body = {
        "iat": int(at.timestamp()),
        "aud": aud,
        "nonce": nonce,
        "sd_hash": digest(f"{token_text}~".encode("ascii")),
    }
    binding = jwt.encode(
        body, holder.private_key(), algorithm="EdDSA", headers={"typ": KEY_BINDING_TYP}
    )
    return f"{token_text}~{binding}"
