"""A code taken apart, for an issuer's developer: what it says, never whether it is good.

Values of `sub`, `jti`, `act`, `nonce`, of a card's secret and of claims that are not of the profile
are masked: they name a person or open a door (INV-10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from carepos import compact, presentation
from carepos.claims import LAST_SECOND, WITNESS
from carepos.elapsed import relative
from carepos.keys import digest
from carepos.token import KEY_BINDING_TYP, TYP

NOT_JUDGED: Final = "Nothing was verified: this is what the code says, not whether it is good."

_TIMES: Final = frozenset({"iat", "nbf", "exp"})
_ORDER: Final = ("iss", "aud", "sub", "jti", "iat", "nbf", "exp", "amr", "care_class", "act",
                 "care_reason", "cnf")  # fmt: skip
_KEY_KINDS: Final[Mapping[str, str]] = {
    "EdDSA": "an Ed25519 key",
    "Ed25519": "an Ed25519 key",
    "ES256": "a P-256 key",
    "RS256": "an RSA key of 2048 to 4096 bits",
}


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One code. `header`, `claims` and `binding` are (name, what may be shown of it)."""

    kind: str
    characters: int
    header: tuple[tuple[str, str], ...]
    claims: tuple[tuple[str, str], ...]
    binding: tuple[tuple[str, str], ...]
    key: str

    def to_text(self) -> str:
        lines = [f"{self.kind}, {self.characters} characters"]
        for title, rows in (
            ("header 头部", self.header),
            ("claims 内容", self.claims),
            ("holder's signature 持有人签名", self.binding),
        ):
            if rows:
                lines += [title, *(f"  {name:<12}{shown}" for name, shown in rows)]
        return "\n".join([*lines, f"key needed 所需密钥: {self.key}", NOT_JUDGED]) + "\n"

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "characters": self.characters,
            "header": dict(self.header),
            "claims": dict(self.claims),
            "holder_signature": dict(self.binding),
            "key_needed": self.key,
            "verified": False,
        }


def dissect(scanned: str, now: datetime) -> Anatomy:
    """What `scanned` says; `now` is only for "3 minutes ago".

    Raises Malformed when it has not the form of a token.
    """
    held = presentation.read(scanned)
    parts = compact.read(held.token)
    binding: tuple[tuple[str, str], ...] = ()
    if held.key_binding is not None:
        bound = compact.read(held.key_binding)
        expected = digest(f"{held.token}~".encode("ascii"))
        binding = (
            *_header(bound.header, KEY_BINDING_TYP),
            *(_binding_claim(name, value, expected, now) for name, value in bound.claims.items()),
        )
    listed = [name for name in _ORDER if name in parts.claims]
    listed += [name for name in parts.claims if name not in _ORDER]
    return Anatomy(
        _kind(parts.claims, parts.header, held.card_secret, held.key_binding),
        len(held.text) if held.card_secret is None else len(held.text) + 28,
        _header(parts.header, TYP),
        tuple((_printable(name), _claim(name, parts.claims[name], now)) for name in listed),
        binding,
        _key(parts.header, parts.claims),
    )


def _kind(
    claims: Mapping[str, Any], header: Mapping[str, Any], secret: str | None, binding: str | None
) -> str:
    if header.get("typ") != TYP:
        return "no care code: a JWT of another type"
    token_class = claims.get("care_class")
    if token_class == "once":
        kind = "class once, for one visit"
        if "act" in claims:
            amr = claims.get("amr")
            witness = isinstance(amr, list) and WITNESS in amr
            return f"{kind}, {'with a witness' if witness else 'in the hand of a proxy'}"
        return kind
    if token_class == "card":
        if "cnf" in claims:
            shown = "and a presentation" if binding is not None else "without a presentation"
            return f"class card, a wallet's credential {shown}"
        return "class card, printed" + (
            ", with its secret (22 characters, not shown)"
            if secret is not None
            else ", scanned without its secret"
        )
    return "a care code without a class that is known"


def _header(header: Mapping[str, Any], typ: str) -> tuple[tuple[str, str], ...]:
    rows = []
    for name, value in header.items():
        shown = _text(value)
        if name == "typ" and value != typ:
            shown += f" (must be {typ})"
        rows.append((_printable(name), shown))
    return tuple(sorted(rows))


def _claim(name: str, value: object, now: datetime) -> str:
    if name in _TIMES:
        return _time(name, value, now)
    if name in ("iss", "aud", "care_class", "care_reason"):
        return _text(value)
    if name == "amr" and isinstance(value, list):
        return ", ".join(_text(each) for each in value[:9])
    if name == "act" and isinstance(value, dict):
        inner = ", ".join(f"{_printable(n)}: {_masked(v)}" for n, v in list(value.items())[:4])
        return f"{{{inner}}}"
    if name == "cnf" and isinstance(value, dict):
        return _confirmation(value)
    if name in ("sub", "jti", "act", "cnf", "amr"):
        return _masked(value)
    return f"{_masked(value)}; readers ignore this claim: leave it out, the code gets smaller"


def _confirmation(value: Mapping[str, Any]) -> str:
    jwk = value.get("jwk")
    if not isinstance(jwk, dict):
        return "no jwk in it"
    return f"the holder's key, {_text(jwk.get('kty'))} {_text(jwk.get('crv'))}"


def _binding_claim(name: str, value: object, expected: str, now: datetime) -> tuple[str, str]:
    if name == "iat":
        return name, _time(name, value, now)
    if name == "aud":
        return name, _text(value)
    if name == "sd_hash":
        return name, "of this token" if value == expected else "of another token"
    return _printable(name), _masked(value)


def _time(name: str, value: object, now: datetime) -> str:
    if type(value) is not int or not 1 <= value <= LAST_SECOND:
        return "no whole number of seconds"
    instant = datetime.fromtimestamp(value, UTC)
    said = relative(instant, now)
    if name == "exp":
        said = f"expires {said}" if instant > now else f"expired {said}"
    return f"{instant.year:04d}-{instant:%m-%dT%H:%M:%SZ} ({said})"


def _key(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    kind = _KEY_KINDS.get(alg) if isinstance(alg := header.get("alg"), str) else None
    if kind is None:
        return "none, its alg is not one of EdDSA, Ed25519, ES256, RS256"
    return f"{kind}, {_text(header.get('kid'))} of {_text(claims.get('iss'))}"


def _masked(value: object) -> str:
    if isinstance(value, str):
        return f"({len(value)} characters, not shown)"
    return f"({_type(value)}, not shown)"


def _text(value: object) -> str:
    return _printable(value) if isinstance(value, str) else f"({_type(value)})"


def _printable(text: str) -> str:
    """Text from outside: bounded, and nothing a terminal would obey."""
    kept = "".join(each if each.isprintable() else "?" for each in text[:200])
    return kept or "(empty)"


def _type(value: object) -> str:
    return {
        dict: "an object", list: "a list", bool: "true or false", int: "a number",
        type(None): "nothing",
    }.get(type(value), "a text")  # fmt: skip
