"""What an issuer hands out: a care code of each kind of docs/identity.md §1.

Clock and randomness are passed in. What is made is read back by the verifier that tills use, so an
issuer never hands out what a till would refuse.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from carepos import clock, pin
from carepos.claims import LIFETIME_S, WITNESS, TokenClass, Way
from carepos.clock import Clock
from carepos.errors import Malformed, TokenRefused
from carepos.issuer_folder import IssuerSigner
from carepos.issuer_keys import IssuerKeys
from carepos.keys import b64, digest
from carepos.token import KEY_BINDING_TYP, TYP, TokenVerifier

Randomness = Callable[[int], bytes]

ONCE_S: Final = 300
CARD_S: Final = 365 * 86_400
JTI_BYTES: Final = 12
SUB_BYTES: Final = 16
CARD_SECRET_BYTES: Final = 16
NONCE_BYTES: Final = 12

# Numbers that name a person in China: a mobile phone, an identity card (GB 11643).
_PERSONAL = re.compile(r"(?:\+?86)?1[3-9][0-9]{9}|[0-9]{17}[0-9Xx]|[0-9]{15}")


@dataclass(frozen=True, slots=True, repr=False)
class Minted:
    """One care code: `code` is what is shown as a QR; of a wallet, `token` is what it stores.

    `jti_sha256` is how the ledger names it. `ledger_line` is what the issuer tells the ledger of a
    card: iss, jti_sha256, sub, pin_verifier; None for every other kind.
    """

    code: str
    token: str
    jti_sha256: str
    expires_at: datetime
    ledger_line: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "code": self.code,
            "token": self.token,
            "jti_sha256": self.jti_sha256,
            "expires_at": clock.to_text(self.expires_at),
            **({} if self.ledger_line is None else {"ledger_line": dict(self.ledger_line)}),
        }

    def __repr__(self) -> str:
        return "Minted(…)"


class Mint:
    """Makes codes of one issuer for one audience, signed with one key.

    Every method raises Malformed, whose field is the claim that could not be so.
    """

    def __init__(
        self,
        signer: IssuerSigner,
        *,
        iss: str,
        audience: str,
        now: Clock,
        randomness: Randomness = secrets.token_bytes,
    ) -> None:
        self._signer = signer
        self._iss = iss
        self._audience = audience
        self._now = now
        self._random = randomness

    def once(self, sub: str, *, amr: Sequence[str], lifetime_s: int = ONCE_S) -> Minted:
        """A care code for one visit; `amr` says how the person was checked just now."""
        return self._finish(self._claims(sub, "once", amr, lifetime_s))

    def acted(
        self,
        sub: str,
        *,
        actor: str,
        way: Way,
        reason: str,
        amr: Sequence[str],
        lifetime_s: int = ONCE_S,
    ) -> Minted:
        """A code for `sub` in the hand of `actor`, whom `amr` checked (docs/identity.md §8)."""
        _not_a_persons_number(actor, "act")
        methods = [each for each in amr if each != WITNESS]
        if way == "witness":
            methods.append(WITNESS)
        claims = self._claims(sub, "once", methods, lifetime_s)
        return self._finish({**claims, "act": {"sub": actor}, "care_reason": reason})

    def card(
        self,
        sub: str,
        *,
        pin_chosen: str,
        amr: Sequence[str] = ("carepos:card",),
        lifetime_s: int = CARD_S,
    ) -> Minted:
        """A printed card: `CPC1*` + secret + `*` + token, and the line for the ledger (§7).

        The PIN is used and forgotten.
        """
        claims = self._claims(sub, "card", amr, lifetime_s)
        secret = b64(self._random(CARD_SECRET_BYTES))
        jti = str(claims["jti"])
        proof = pin.proof(pin_chosen, iss=self._iss, jti=jti, card_secret=secret)
        line = {
            "iss": self._iss,
            "jti_sha256": digest(jti.encode("ascii")),
            "sub": sub,
            "pin_verifier": pin.verifier(proof),
        }
        return self._finish(claims, lambda token: f"CPC1*{secret}*{token}", line)

    def wallet(
        self,
        sub: str,
        *,
        holder: IssuerSigner,
        amr: Sequence[str] = ("otp",),
        lifetime_s: int = CARD_S,
    ) -> Minted:
        """A wallet's credential (`token`) and a fresh presentation of it (`code`), §6."""
        claims = {**self._claims(sub, "card", amr, lifetime_s), "cnf": {"jwk": holder.to_cnf()}}
        return self._finish(claims, lambda token: self.present(token, holder))

    def present(self, token: str, holder: IssuerSigner) -> str:
        """What a wallet shows: `<token>~<KB-JWT>`, fresh for 300 s from now."""
        return present(
            token,
            holder,
            audience=self._audience,
            nonce=b64(self._random(NONCE_BYTES)),
            at=self._now(),
        )

    def _claims(
        self, sub: str, token_class: TokenClass, amr: Sequence[str], lifetime_s: int
    ) -> dict[str, Any]:
        _not_a_persons_number(sub, "sub")
        if not 1 <= lifetime_s <= LIFETIME_S[token_class]:
            raise Malformed(
                f"a token of class {token_class} lives 1 to {LIFETIME_S[token_class]} s",
                field="exp",
            )
        issued = int(self._now().timestamp())
        return {
            "iss": self._iss,
            "aud": self._audience,
            "sub": sub,
            "jti": b64(self._random(JTI_BYTES)),
            "iat": issued,
            "nbf": issued,
            "exp": issued + lifetime_s,
            "amr": list(amr),
            "care_class": token_class,
        }

    def _finish(
        self,
        claims: Mapping[str, Any],
        shown: Callable[[str], str] = str,
        line: Mapping[str, str] | None = None,
    ) -> Minted:
        token = self._signer.sign(TYP, claims)
        code = shown(token)
        keys = IssuerKeys.of([self._signer.public], self._now())
        try:
            TokenVerifier({self._iss: keys}, self._audience).verify(code, self._now())
        except TokenRefused as refused:
            raise Malformed(refused.why, field=refused.claim) from None
        return Minted(
            code,
            token,
            digest(str(claims["jti"]).encode("ascii")),
            datetime.fromtimestamp(cast(int, claims["exp"]), UTC),
            line,
        )


def present(token: str, holder: IssuerSigner, *, audience: str, nonce: str, at: datetime) -> str:
    """A presentation of a wallet's credential, signed now by the holder's key (RFC 9901 §4.3)."""
    claims = {
        "iat": int(at.timestamp()),
        "aud": audience,
        "nonce": nonce,
        "sd_hash": digest(f"{token}~".encode("ascii")),
    }
    return f"{token}~{holder.sign(KEY_BINDING_TYP, claims, with_kid=False)}"


def random_sub(randomness: Randomness = secrets.token_bytes) -> str:
    """A `sub` of 128 random bits, 22 characters."""
    return b64(randomness(SUB_BYTES))


def _not_a_persons_number(text: str, claim: str) -> None:
    if _PERSONAL.fullmatch(text):
        raise Malformed(
            "looks like a person's phone or identity number: a sub is random, made at issue",
            field=claim,
        )
