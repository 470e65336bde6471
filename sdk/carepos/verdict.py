"""Why a code is or is not good, in one sentence for an issuer's developer.

The judge is the one tills use: `TokenVerifier` for rows 1 to 10 of docs/identity.md §4, and what
`token` says of visit and programme for the rest. Here stand only the words: the claim, the rule,
and what to do; never a value of `sub`, `jti`, `act` or `nonce` (INV-10).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from carepos import compact, other_codes, pin, presentation, token
from carepos.claims import LIFETIME_S
from carepos.elapsed import length, relative
from carepos.errors import Malformed, TokenRefused
from carepos.issuer_keys import IssuerKeys
from carepos.refusals import Refusal
from carepos.revocation import NONE, Revocations
from carepos.token import IdentityToken, TokenVerifier
from carepos.voucher import Programme


@dataclass(frozen=True, slots=True)
class Remedy:
    """For one code: claim and rule where the refusal itself names none, and what to do."""

    claim: str
    rule: str
    remedy: str


REMEDIES: Final[Mapping[str, Remedy]] = {
    "token_malformed": Remedy(
        "token",
        "is not of the form of docs/identity.md §2",
        "make this claim as docs/identity.md §2 says; carepos token mint makes codes to compare",
    ),
    "token_type": Remedy(
        "typ",
        "is not care+jwt",
        "put typ care+jwt in the header; an ID token or access token is no care code",
    ),
    "token_issuer": Remedy(
        "iss",
        "is not the programme's issuer",
        "compare iss letter for letter with what readers were told, a closing slash counts; if it "
        "is right, the ledger's operator has to be told of this issuer",
    ),
    "token_signature": Remedy(
        "signature",
        "does not verify",
        "sign with the key that is published under this kid, and change nothing afterwards",
    ),
    "token_audience": Remedy(
        "aud",
        "is not this platform's redemption audience",
        "put the platform's redemption audience in aud, as one text and not a list",
    ),
    "token_expired": Remedy(
        "exp",
        "has passed",
        "show a fresh code; if it was fresh, compare the issuer's clock and time zone",
    ),
    "token_not_yet_valid": Remedy(
        "nbf",
        "has not come yet",
        "set the issuer's clock by NTP: iat and nbf may be 60 s ahead and no more",
    ),
    "holder_unproven": Remedy(
        "cnf",
        "asks for a fresh signature of the holder's key",
        "let the wallet make a new presentation: <token>~<KB-JWT>, signed within the last 300 s",
    ),
    "token_replayed": Remedy(
        "jti",
        "was used before: its visit of 15 minutes, at one till, is over",
        "mint a new token with a jti of its own for each showing",
    ),
    "token_revoked": Remedy(
        "jti",
        "or its kid was withdrawn",
        "issue a new code or card, with a key that is not withdrawn; withdrawing is for ever",
    ),
    "token_assurance": Remedy(
        "amr",
        "and care_class are not what the programme asks for",
        "check the person in a way the programme takes, and name it in amr",
    ),
    "acting_not_allowed": Remedy(
        "act",
        "the programme allows nobody to act for a beneficiary in this way",
        "let the beneficiary show a code of their own, or ask the programme's office",
    ),
    "pin_required": Remedy(
        "care_class",
        "is card: a printed card is worth nothing without its PIN, and the ledger must know it",
        "enter the PIN, and tell the ledger the card's line (carepos token mint card prints it)",
    ),
    "pin_wrong": Remedy(
        "jti",
        "names a card whose PIN verifier is of another PIN, secret, iss or jti",
        "compare the line told to the ledger with this very card; five wrong PINs lock it",
    ),
    "pin_locked": Remedy(
        "jti",
        "names a card that five wrong PINs in a row have locked",
        "let an operator of the ledger unlock it, or issue a new card",
    ),
}

_CLAIM_REMEDIES: Final[Mapping[tuple[str, str], str]] = {
    ("token_signature", "kid"): "publish the key under this kid in the issuer's JWKS and have the "
    "readers' sets renewed, or sign with a key that is published",
    ("token_signature", "alg"): "use the alg of the published key: EdDSA, ES256 or RS256 by its "
    "kind, and the one that its JWK pins",
    ("token_malformed", "cnf"): "put the holder's public key in cnf as {\"jwk\"} of a card, and "
    "show a holder's signature only beside it",
    ("token_malformed", "token"): "scan or copy the code whole; it is three parts of base64url "
    "with dots between",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `code` is None for a good one; `unchecked` says what was not looked at.

    `look` is what was held up instead, where the till says that (docs/identity.md §10).
    """

    code: str | None
    claim: str
    rule: str
    remedy: str
    about: str = ""
    unchecked: tuple[str, ...] = ()
    look: other_codes.Kind | None = None

    @property
    def good(self) -> bool:
        return self.code is None

    def sentence(self) -> str:
        """One line: the claim and the rule, what to do."""
        if self.code is None:
            return f"good 有效: {self.about}."
        more = f" ({self.about})" if self.about else ""
        return f"refused 拒绝 {self.code}: {self.claim} {self.rule}{more}; to do: {self.remedy}."

    def to_json(self) -> dict[str, object]:
        cashier = None if self.code is None else _read_by_cashiers(self.code, self.look)
        return {
            "good": self.good,
            "code": self.code,
            "claim": self.claim or None,
            "rule": self.rule or None,
            "about": self.about or None,
            "to_do": self.remedy or None,
            "looks_like": None if self.look is None else self.look.looks_like,
            "cashier": cashier,
            "not_checked": list(self.unchecked),
        }


# Looks that tell an issuer's developer more than the rule that failed: those of things that are no
# token at all, or were one before a keyboard or a scanner had it.
_SAYS_MORE: Final = other_codes.BY_LOOK.keys() - {"other_token", "unknown"}


@dataclass(frozen=True, slots=True)
class Question:
    """By what a code is judged. Only `issuers`, `audience` and `at` are needed.

    `first_use` is when it was used first, at the till that asks now. `pin_verifier` is what the
    ledger was told of the card, `pin_entered` what the holder typed.
    """

    issuers: Mapping[str, IssuerKeys]
    audience: str
    at: datetime
    revocations: Revocations = NONE
    programme: Programme | None = None
    first_use: datetime | None = None
    pin_entered: str | None = None
    pin_verifier: str | None = None

    def __repr__(self) -> str:
        return "Question(…)"


def refused(code: str, claim: str | None = None, rule: str | None = None) -> Verdict:
    """The words for a refusal that somebody else has found. Raises KeyError for other codes."""
    known = REMEDIES[code]
    named = known.claim if claim is None else claim
    remedy = _CLAIM_REMEDIES.get((code, named), known.remedy)
    why = known.rule
    if rule is not None:
        # A form that fails names its place once more, and is said as "not …".
        why = rule.removeprefix(f"{named}: ")
        why = f"is {why}" if why.startswith("not ") else why
    return Verdict(code, named, why, remedy)


def _read_by_cashiers(code: str, look: other_codes.Kind | None) -> dict[str, str]:
    if look is not None:
        return {"en": look.en, "zh": look.zh}
    return {language: Refusal(code).sentence(language) for language in ("en", "zh")}


def judge(scanned: str, question: Question) -> Verdict:
    """Good or not, by the first row of docs/identity.md §4 that fails."""
    try:
        verifier = TokenVerifier(question.issuers, question.audience, question.revocations)
        identity = verifier.examine(scanned, question.at)
    except TokenRefused as found:
        made = refused(found.code, found.claim, found.why)
        looks_like = other_codes.look_of_refused(found.code, found.claim, scanned)
        if looks_like is not None:
            made = replace(made, look=other_codes.BY_LOOK[looks_like])
        if looks_like in _SAYS_MORE:
            said = other_codes.sentence(looks_like, "en").rstrip(".")
            made = replace(made, remedy=f"{said[:1].lower()}{said[1:]}")
        return _with(made, _about_refused(found, scanned, question))
    late = _later_rows(scanned, identity, question)
    if late is not None:
        return late
    return Verdict(
        None, "", "", "", _about_good(identity, question), tuple(_unchecked(identity, question))
    )


def _later_rows(scanned: str, identity: IdentityToken, question: Question) -> Verdict | None:
    """Rows 11 to 16, as far as the question gives what they need."""
    programme, at = question.programme, question.at
    if programme is not None and token.issuer_refusal(identity, programme) is not None:
        return _with(refused("token_issuer"), f"the programme takes {programme.issuer}")
    first = None if question.first_use is None else ("here", question.first_use)
    visit = token.visit_refusal(identity, first, "here", at)
    if visit is not None and visit.code == "holder_unproven":
        rule = f"is stale: its iat is more than {token.FRESH_S} s ago"
        return refused("holder_unproven", "key binding", rule)
    if visit is not None and first is not None:
        return _with(refused(visit.code), f"first used {relative(first[1], at)}")
    if identity.revoked:
        return refused("token_revoked")
    proved = False
    if identity.needs_pin and question.pin_entered is not None:
        wrong = _pin_refusal(scanned, identity, question)
        if wrong is not None:
            return wrong
        proved = True
    if programme is not None:
        unfit = token.fitness_refusal(identity, programme, pin_proved=proved)
        if unfit is not None:
            return _unfit(unfit.code, identity, programme)
    return None


def _pin_refusal(scanned: str, identity: IdentityToken, question: Question) -> Verdict | None:
    secret = presentation.read(scanned).card_secret
    if secret is None:
        return refused("token_malformed", "card", "was scanned without the card's secret")
    if question.pin_verifier is None:
        return refused("pin_required")
    try:
        proof = pin.proof(
            question.pin_entered, iss=identity.iss, jti=identity.jti, card_secret=secret
        )
    except Malformed:
        return refused("pin_wrong", "pin", "must be 4 to 8 digits")
    return None if pin.matches(proof, question.pin_verifier) else refused("pin_wrong")


def _unfit(code: str, identity: IdentityToken, programme: Programme) -> Verdict:
    if code == "token_assurance" and identity.token_class not in programme.classes:
        return _with(
            refused(code, "care_class", "is not what the programme takes"),
            f"it takes {_listed(programme.classes)}",
        )
    if code == "token_assurance":
        return _with(
            refused(code, "amr", "names no method that the programme takes"),
            f"it takes {_listed(programme.amr_any)}",
        )
    return refused(code)


def _about_refused(found: TokenRefused, scanned: str, question: Question) -> str:
    """What helps beside the rule. From the code itself only times, and those once it is genuine."""
    if found.claim == "iss" and found.code == "token_issuer":
        return f"known here: {_listed(question.issuers)}"
    if found.claim == "kid" and found.code == "token_signature":
        claims = _claims(scanned)
        keys = question.issuers[claims["iss"]]
        return f"held for this issuer: {_listed(key.kid for key in keys)}"
    if found.code == "token_audience":
        return f"expected: {question.audience}"
    if found.code in ("token_expired", "token_not_yet_valid"):
        claims = _claims(scanned)
        if found.code == "token_expired":
            return f"expired {_since(claims['exp'], question.at)}"
        return f"valid {_since(max(claims['nbf'], claims['iat']), question.at)}"
    return ""


def _since(second: int, at: datetime) -> str:
    return relative(datetime.fromtimestamp(second, UTC), at)


def _claims(scanned: str) -> Mapping[str, Any]:
    return compact.read(presentation.read(scanned).token).claims


def _about_good(identity: IdentityToken, question: Question) -> str:
    left = length(int((identity.expires_at - question.at).total_seconds()))
    said = f"class {identity.token_class} of {identity.iss}, by {_listed(identity.amr)}"
    if identity.acting is not None:
        said += f", in the hand of a {identity.acting.way} ({identity.acting.reason})"
    if identity.needs_pin:
        said += ", its PIN " + ("proved" if question.pin_entered is not None else "still needed")
    whole = LIFETIME_S[identity.token_class]
    return f"{said}; it expires in {left}, of at most {length(whole)}"


def _unchecked(identity: IdentityToken, question: Question) -> Iterable[str]:
    if question.programme is None:
        yield "the programme's rules: issuer, class, amr, acting (--programme)"
    if identity.visit_sha256 is not None and question.first_use is None:
        yield "whether it was used before (the ledger knows; --first-use)"
    if identity.needs_pin and question.pin_entered is None:
        yield "the card's PIN (--pin with --card-line)"
    if question.revocations is NONE:
        yield "whether it was withdrawn (--revocations)"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "nothing"


def _with(verdict: Verdict, about: str) -> Verdict:
    return replace(verdict, about=about)
