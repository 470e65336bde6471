"""An issuer's keys: what a JWK must be, what a set of them must be, and when one replaces another.

docs/identity.md §3. Pure: bytes in, keys out; fetching is `key_source`'s, keeping `key_store`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from carepos import clock, strict_json
from carepos.errors import Malformed
from carepos.keys import b64, digest, unb64

VerifyingKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey

MAX_SET_BYTES: Final = 64 * 1024
MAX_KEYS: Final = 20
RETIRING: Final = timedelta(hours=24)
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
RSA_EXPONENT: Final = 65_537

# Ed25519's field and curve (RFC 8032 §5.1), and the y of its points of small order: under such a
# "key" one signature fits many messages. The library takes them, and any 32 bytes besides.
_ED_P: Final = 2**255 - 19
_ED_D: Final = -121665 * pow(121666, -1, _ED_P) % _ED_P
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _ED_P - 1,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    }
)
_P256_P: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1

_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "OKP": ("crv", "x"),
    "EC": ("crv", "x", "y"),
    "RSA": ("e", "n"),
}
_ALGORITHMS: Final[Mapping[str, frozenset[str]]] = {
    "OKP": frozenset({"EdDSA", "Ed25519"}),
    "EC": frozenset({"ES256"}),
    "RSA": frozenset({"RS256"}),
}


class SetRefused(Malformed):
    """A set of keys that must not replace the one held. The message says why."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One public key that tokens of an issuer may be signed with.

    `jwk` has exactly the members that make the key, its `kid` and, if the issuer pinned one, its
    `alg`. `algorithms` are the `alg` values a header may name for it.
    """

    kid: str
    jwk: Mapping[str, str]
    algorithms: frozenset[str]
    key: VerifyingKey

    @property
    def thumbprint(self) -> str:
        """RFC 7638: what people compare to know that a key is the one that was meant."""
        return _thumbprint({name: self.jwk[name] for name in ("kty", *_MEMBERS[self.jwk["kty"]])})

    @classmethod
    def from_jwk(cls, jwk: object) -> IssuerKey:
        """Raises Malformed for anything but a public signing key of docs/identity.md §3."""
        if not isinstance(jwk, dict):
            raise Malformed("must be an object", field="jwk")
        if found := sorted(_PRIVATE & jwk.keys()):
            raise Malformed(f"holds a private key ({found[0]})", field="jwk")
        kty = jwk.get("kty")
        if not isinstance(kty, str) or kty not in _MEMBERS:
            raise Malformed("kty must be OKP, EC or RSA", field="jwk.kty")
        members = {"kty": kty}
        for name in _MEMBERS[kty]:
            members[name] = strict_json.text(jwk.get(name), f"jwk.{name}", high=700)
        key = _key(members)
        _check_purpose(jwk)
        algorithms = _ALGORITHMS[kty]
        if "alg" in jwk:
            pinned = jwk["alg"]
            if not isinstance(pinned, str) or pinned not in algorithms:
                raise Malformed("alg does not fit the key", field="jwk.alg")
            algorithms = frozenset({pinned})
        kid = jwk.get("kid", _thumbprint(members))
        kept = {**members, "kid": kid_text(kid)}
        if len(algorithms) == 1 and kty == "OKP":
            kept["alg"] = next(iter(algorithms))
        return cls(kept["kid"], kept, algorithms, key)


def _thumbprint(members: Mapping[str, str]) -> str:
    return digest(strict_json.canonical(dict(members)))


def _material(key: IssuerKey) -> dict[str, str]:
    """What makes it this key: neither what it is called nor the alg that it is pinned to."""
    return {name: value for name, value in key.jwk.items() if name not in ("kid", "alg")}


def kid_text(value: object) -> str:
    """`value` if it may name an issuer's key: 1 to 64 printable ASCII characters."""
    text = strict_json.text(value, "kid", high=64)
    if not text.isascii():
        raise Malformed("must be ASCII", field="kid")
    return text


def issuer_text(value: object) -> str:
    """`value` if it may name an issuer: 1 to 200 printable ASCII characters."""
    text = strict_json.text(value, "iss")
    if not text.isascii():
        raise Malformed("must be ASCII", field="iss")
    return text


def holder_key(jwk: object) -> IssuerKey:
    """The key of a `cnf`: Ed25519 or P-256, exactly its required members (RFC 7800 §3.2)."""
    key = IssuerKey.from_jwk(jwk)
    kty = key.jwk["kty"]
    if kty == "RSA":
        raise Malformed("must be Ed25519 or P-256", field="cnf.jwk")
    if not isinstance(jwk, dict) or jwk.keys() != {"kty", *_MEMBERS[kty]}:
        # The message names no member: it came in a token.
        raise Malformed("must have its required members and nothing else", field="cnf.jwk")
    return key


def _key(members: Mapping[str, str]) -> VerifyingKey:
    """The key of these members, on its curve and of a size that is neither weak nor a burden."""
    try:
        match members["kty"], members.get("crv"):
            case "OKP", "Ed25519":
                raw = unb64(members["x"], "jwk.x")
                key = Ed25519PublicKey.from_public_bytes(raw)
                _check_edwards_point(raw)
                return key
            case "EC", "P-256":
                x, y = (unb64(members[name], f"jwk.{name}") for name in ("x", "y"))
                if len(x) != 32 or len(y) != 32:
                    raise Malformed("a coordinate has 32 bytes", field="jwk")
                at = int.from_bytes(x, "big"), int.from_bytes(y, "big")
                if max(at) >= _P256_P:
                    raise Malformed("a coordinate is below the field's prime", field="jwk")
                return EllipticCurvePublicNumbers(*at, SECP256R1()).public_key()
            case "RSA", None:
                return _rsa_key(members)
    except ValueError:
        raise Malformed("not a point of the curve, or of another length", field="jwk") from None
    raise Malformed("crv must be Ed25519 or P-256", field="jwk.crv")


def _check_edwards_point(raw: bytes) -> None:
    """Raises Malformed unless these are the bytes of a point (RFC 8032 §5.1.3) of large order."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _ED_P:
        raise Malformed("is a second spelling of a point", field="jwk.x")
    if y in _SMALL_ORDER_Y:
        raise Malformed("is a point of small order", field="jwk.x")
    # x² = u / v has a root exactly when u · v is a square (Euler); neither is 0 here.
    u, v = y * y - 1, _ED_D * y * y + 1
    if pow(u * v, (_ED_P - 1) // 2, _ED_P) != 1:
        raise Malformed("is no point of the curve", field="jwk.x")


def _rsa_key(members: Mapping[str, str]) -> RSAPublicKey:
    modulus, exponent = (unb64(members[name], f"jwk.{name}") for name in ("n", "e"))
    if modulus[:1] == b"\0" or exponent[:1] == b"\0":
        raise Malformed("a number has no leading zero bytes", field="jwk")
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    if e != RSA_EXPONENT:
        raise Malformed(f"the exponent must be {RSA_EXPONENT}", field="jwk.e")
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS or n % 2 == 0:
        raise Malformed(f"must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits", field="jwk.n")
    return RSAPublicNumbers(e, n).public_key()


def _check_purpose(jwk: Mapping[str, Any]) -> None:
    if jwk.get("use", "sig") != "sig":
        raise Malformed("is not for signatures", field="jwk.use")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise Malformed("may not verify", field="jwk.key_ops")


@dataclass(frozen=True, slots=True)
class IssuerKeys:
    """The keys believed for one issuer.

    `retiring` maps the kid of a key that the issuer's newest set no longer has to the instant
    until which it is still believed; `left_out` counts keys of that set that are not for us.
    """

    keys: Mapping[str, IssuerKey]
    retiring: Mapping[str, datetime]
    as_of: datetime
    left_out: int = 0

    @classmethod
    def of(
        cls,
        keys: Iterable[IssuerKey],
        as_of: datetime,
        left_out: int = 0,
        *,
        most: int = MAX_KEYS,
    ) -> IssuerKeys:
        """A first set. Raises SetRefused when it is empty, too large or names two keys alike."""
        listed = list(keys)
        by_kid = {key.kid: key for key in listed}
        if not listed:
            raise SetRefused("no key in it can be used", field="keys")
        if len(listed) > most:
            raise SetRefused(f"more than {most} keys", field="keys")
        if len(by_kid) < len(listed):
            raise SetRefused("two keys have one kid", field="keys")
        return cls(by_kid, {}, as_of, left_out)

    @classmethod
    def from_jwks(cls, document: bytes, as_of: datetime) -> IssuerKeys:
        """From a JWKS document (RFC 7517 §5) as an issuer publishes it.

        Keys for other purposes or of other kinds are left out. Raises SetRefused.
        """
        if len(document) > MAX_SET_BYTES:
            raise SetRefused(f"over {MAX_SET_BYTES} bytes", field="keys")
        try:
            listed = strict_json.array(
                strict_json.read_object(document).get("keys"), "keys", high=200
            )
            # Whoever publishes a private key has lost it, and perhaps all that stand beside it.
            if any(isinstance(jwk, dict) and _PRIVATE & jwk.keys() for jwk in listed):
                raise Malformed("a private key is published in it", field="keys")
        except Malformed as error:
            raise SetRefused(str(error)) from None
        usable = []
        for jwk in listed:
            try:
                usable.append(IssuerKey.from_jwk(jwk))
            except Malformed:
                continue
        return cls.of(usable, as_of, len(listed) - len(usable))

    def get(self, kid: str, now: datetime) -> IssuerKey | None:
        """The key of this kid, if it is believed now."""
        until = self.retiring.get(kid)
        return None if until is not None and now >= until else self.keys.get(kid)

    def replaced_by(
        self,
        newer: IssuerKeys,
        *,
        confirmed: bool = False,
        now: datetime | None = None,
        remembered: timedelta = timedelta(0),
    ) -> IssuerKeys:
        """What is held once `newer` has arrived: its keys, and for a day those it no longer has.

        `now` is for whoever dates sets by a clock of their own: a set that is held as of a later
        instant was dated by a clock that went wrong, and makes no other one older. `remembered`:
        how much longer than that day a key is kept for whoever asks `get` about an earlier time.
        Raises SetRefused when `newer` is older, when it shares with this one no key that is not
        retiring (unless a person `confirmed` it), or when it gives a known kid another key. Its
        message then names the thumbprints that a person would have to compare.
        """
        misdated = now is not None and now < self.as_of
        if newer.as_of < self.as_of and not misdated:
            raise SetRefused("is older than the set that is held", field="keys")
        held = {k: v for k, v in self.keys.items() if self.get(k, newer.as_of) is not None}
        shared = held.keys() & newer.keys.keys()
        if not confirmed:
            if any(_material(held[kid]) != _material(newer.keys[kid]) for kid in shared):
                raise SetRefused(f"a known kid names another key {newer._named()}", field="keys")
            # What only has keys that were on their way out is a set from before.
            if not shared - self.retiring.keys():
                raise SetRefused(
                    f"shares no key with the set that is held {newer._named()}", field="keys"
                )
        until = newer.as_of + RETIRING
        known = {
            kid: key
            for kid, key in self.keys.items()
            if kid in held or self.retiring[kid] + remembered > newer.as_of
        }
        going = [] if confirmed else [kid for kid in known if kid not in newer.keys]
        # However often an issuer rotates: those that went last, and no more than a set may have.
        going.sort(key=lambda kid: self.retiring.get(kid, until))
        # Never longer than a day from now, whatever a wrong clock once promised.
        retiring = {kid: min(self.retiring.get(kid, until), until) for kid in going[-MAX_KEYS:]}
        kept = {kid: known[kid] for kid in retiring}
        return replace(newer, keys={**kept, **newer.keys}, retiring=retiring)

    def confirmed_by(self, thumbprints: Iterable[str]) -> None:
        """Raises SetRefused unless these are exactly the keys that a person has compared."""
        if {key.thumbprint for key in self} != set(thumbprints):
            raise SetRefused(f"has other keys than those confirmed {self._named()}", field="keys")

    def _named(self) -> str:
        return f"(it has {', '.join(sorted(key.thumbprint for key in self))})"

    def __iter__(self) -> Iterator[IssuerKey]:
        return iter(self.keys.values())

    def to_json(self) -> dict[str, Any]:
        """How a set is kept: everything that `from_json` needs to make it again."""
        return {
            "keys": [dict(key.jwk) for key in self],
            "retiring": {kid: clock.to_text(until) for kid, until in self.retiring.items()},
            "as_of": clock.to_text(self.as_of),
            "left_out": self.left_out,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "issuer") -> IssuerKeys:
        """Raises Malformed."""
        names = strict_json.exact_names(
            value, {"keys", "retiring", "as_of", "left_out"}, where=where
        )
        listed = strict_json.array(names["keys"], f"{where}.keys", high=2 * MAX_KEYS)
        by_kid = {key.kid: key for key in map(IssuerKey.from_jwk, listed)}
        if len(by_kid) < len(listed):
            raise Malformed("two keys have one kid", field=f"{where}.keys")
        retiring = strict_json.mapping(names["retiring"], f"{where}.retiring", high=MAX_KEYS)
        return cls(
            by_kid,
            {kid: clock.from_text(at, f"{where}.retiring") for kid, at in retiring.items()},
            clock.from_text(names["as_of"], f"{where}.as_of"),
            strict_json.integer(names["left_out"], f"{where}.left_out", high=200),
        )


def public_numbers(key: VerifyingKey) -> dict[str, str]:
    """The JWK members of a key, for whoever publishes one."""
    if isinstance(key, Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_bytes_raw())}
    if isinstance(key, EllipticCurvePublicKey):
        numbers = key.public_numbers()
        x, y = (b64(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    rsa = key.public_numbers()
    n, e = (b64(n.to_bytes((n.bit_length() + 7) // 8, "big")) for n in (rsa.n, rsa.e))
    return {"kty": "RSA", "e": e, "n": n}
