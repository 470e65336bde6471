"""An issuer's folder: its private keys, who it is, and the public sets it hands out.

    issuer.json    {"iss", "audience", "keys", "signs"}: the kids that are published, and of them
                   the one that new tokens are signed with; "dropped", if any were: the kids that
                   were published, and are never given to another key
    <kid>.key      a private key, PKCS#8 PEM, 0600: Ed25519, P-256 or RSA (docs/identity.md §2)
    jwks.json      the public keys, as they are published (RFC 7517 §5)
    issuers.json   the same, as an integrator's own verifier reads them (`issuers_file`)

A key is published before it signs, and stays published as long as a token it signed may be good: a
rotation is `add_key`, a wait of a day, `sign_with`, and, once the longest token is over, `drop`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from carepos import durable, strict_json
from carepos.errors import Malformed
from carepos.issuer_keys import MAX_KEYS, RSA_EXPONENT, IssuerKey, public_numbers

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
RSA_BITS: Final = 2048
ABOUT: Final = "issuer.json"
JWKS: Final = "jwks.json"
ISSUERS: Final = "issuers.json"
MAX_DROPPED: Final = 10_000

_KID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBERED = re.compile(r"k([0-9]{1,6})")


class IssuerSigner:
    """A private key that signs tokens. Its secret is never in repr(), and stored only by `save`."""

    __slots__ = ("_key", "alg", "kid", "public")

    def __init__(self, key: PrivateKey, kid: str) -> None:
        """Raises Malformed for a kid or a key that docs/identity.md §3 does not take."""
        self._key = key
        self.kid = _kid(kid)
        self.alg = _algorithm(key)
        self.public = IssuerKey.from_jwk({**public_numbers(key.public_key()), "kid": kid})

    @classmethod
    def generate(cls, alg: str, kid: str) -> IssuerSigner:
        """A new key for `alg`: EdDSA, ES256 or RS256 (2 048 bits)."""
        key: PrivateKey
        if alg == "EdDSA":
            key = Ed25519PrivateKey.generate()
        elif alg == "ES256":
            key = ec.generate_private_key(ec.SECP256R1())
        elif alg == "RS256":
            key = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
        else:
            raise Malformed(f"must be {', '.join(ALGORITHMS)}", field="alg")
        return cls(key, kid)

    @classmethod
    def load(cls, path: Path, kid: str | None = None) -> IssuerSigner:
        """The key in a PEM file; its kid is the file's name. Raises Malformed, OSError."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError):
            # The library's own words can quote the file.
            raise Malformed(
                "holds no private key in PEM without a password", field=str(path)
            ) from None
        if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
            raise Malformed("must be an Ed25519, P-256 or RSA key", field=str(path))
        return cls(key, path.stem if kid is None else kid)

    def save(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read. FileExistsError if there."""
        durable.create(
            path, self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

    def to_jwk(self) -> dict[str, str]:
        """The public key as it is published: with kid, alg and use."""
        return {**self.public.jwk, "alg": self.alg, "use": "sig"}

    def to_cnf(self) -> dict[str, str]:
        """The public key as a `cnf` holds it: exactly its required members (RFC 7800)."""
        return {
            name: value for name, value in self.public.jwk.items() if name not in ("kid", "alg")
        }

    def sign(self, typ: str, claims: Mapping[str, Any], *, with_kid: bool = True) -> str:
        """A compact JWS of `claims`, without a space too many."""
        headers = {"typ": typ, **({"kid": self.kid} if with_kid else {})}
        return jwt.encode(dict(claims), self._key, algorithm=self.alg, headers=headers)

    def __repr__(self) -> str:
        return f"IssuerSigner({self.kid})"


def _kid(value: str) -> str:
    if _KID.fullmatch(value) is None:
        raise Malformed(
            "a kid made here is 1 to 64 of A-Z a-z 0-9 . _ - and no more, for it names a file",
            field="kid",
        )
    return value


def _algorithm(key: PrivateKey) -> str:
    if isinstance(key, Ed25519PrivateKey):
        return "EdDSA"
    if isinstance(key, RSAPrivateKey):
        return "RS256"
    if isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    raise Malformed("an EC key must be on P-256", field="key")


@dataclass(frozen=True, slots=True)
class IssuerFolder:
    """What stands in the folder. `signers` by kid; `signs` names the one for new tokens.

    `dropped` are kids of before: readers may hold, or have withdrawn for ever, what they named.
    """

    path: Path
    iss: str
    audience: str
    signs: str
    signers: Mapping[str, IssuerSigner]
    dropped: tuple[str, ...] = ()

    @classmethod
    def create(
        cls, path: Path, *, iss: str, audience: str, alg: str = "EdDSA", kid: str | None = None
    ) -> IssuerFolder:
        """Found an issuer with its first key, `k1`. Raises Malformed, FileExistsError."""
        for name, text in (("iss", iss), ("audience", audience)):
            if not strict_json.text(text, name).isascii():
                raise Malformed("must be ASCII", field=name)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (path / ABOUT).exists():
            raise FileExistsError(17, "an issuer is there already", str(path / ABOUT))
        signer = IssuerSigner.generate(alg, kid or _next_kid(path, ()))
        signer.save(path / f"{signer.kid}.key")
        return cls(path, iss, audience, signer.kid, {signer.kid: signer}).write()

    @classmethod
    def load(cls, path: Path) -> IssuerFolder:
        """Raises Malformed for anything that is not as it must be, FileNotFoundError."""
        about = strict_json.names_within(
            strict_json.read((path / ABOUT).read_bytes()),
            required={"iss", "audience", "keys", "signs"},
            optional={"dropped"},
            where=ABOUT,
        )
        iss, audience, signs = (strict_json.text(about[n], n) for n in ("iss", "audience", "signs"))
        listed = strict_json.array(about["keys"], "keys", low=1, high=MAX_KEYS)
        kids = [_kid(strict_json.text(kid, "keys")) for kid in listed]
        gone = strict_json.array(about.get("dropped", []), "dropped", high=MAX_DROPPED)
        if signs not in kids:
            raise Malformed("signs must be one of keys", field=ABOUT)
        signers = {kid: IssuerSigner.load(path / f"{kid}.key", kid) for kid in kids}
        dropped = tuple(_kid(strict_json.text(kid, "dropped")) for kid in gone)
        return cls(path, iss, audience, signs, signers, dropped)

    @property
    def signer(self) -> IssuerSigner:
        return self.signers[self.signs]

    def get(self, kid: str | None) -> IssuerSigner:
        """The key of this kid, or the one that signs. Raises Malformed."""
        if kid is None:
            return self.signer
        if kid not in self.signers:
            raise Malformed(f"no such key here, there are {', '.join(self.signers)}", field="kid")
        return self.signers[kid]

    def next_kid(self) -> str:
        """`k1`, `k2`, …: short, and never one that is or was here."""
        return _next_kid(self.path, (*self.signers, *self.dropped))

    def add_key(self, alg: str = "EdDSA", kid: str | None = None) -> IssuerFolder:
        """Publish another key. It signs nothing yet: readers have to learn of it first."""
        if len(self.signers) >= MAX_KEYS:
            raise Malformed(f"a set has at most {MAX_KEYS} keys: drop one", field="keys")
        if kid in self.dropped:
            # Its readers refuse a set in which a kid they know names another key; withdrawn is
            # for ever.
            raise Malformed("named another key before: take a new one", field="kid")
        signer = IssuerSigner.generate(alg, kid or self.next_kid())
        signer.save(self.path / f"{signer.kid}.key")
        return replace(self, signers={**self.signers, signer.kid: signer}).write()

    def sign_with(self, kid: str) -> IssuerFolder:
        """Sign new tokens with another of the keys. Raises Malformed."""
        self.get(kid)
        return replace(self, signs=kid).write()

    def drop(self, kid: str) -> IssuerFolder:
        """Publish a key no more, and delete it; again, what a crash left of it.

        Raises Malformed for the one that signs.
        """
        made = self
        if kid not in self.dropped:
            self.get(kid)
            if kid == self.signs:
                raise Malformed("signs the new tokens: let another sign first", field="kid")
            signers = {name: signer for name, signer in self.signers.items() if name != kid}
            made = replace(self, signers=signers, dropped=(*self.dropped, kid)).write()
        key_file = self.path / f"{kid}.key"
        if key_file.exists():
            # Readers believe it for a day more, also when somebody else signs with it.
            durable.overwrite(key_file)
            key_file.unlink()
        durable.sync_folder(self.path)
        return made

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key set (RFC 7517 §5)."""
        return {"keys": [signer.to_jwk() for signer in self.signers.values()]}

    def write(self) -> IssuerFolder:
        """Write what is not secret: who the issuer is, which key signs, the public sets."""
        about = {
            "iss": self.iss,
            "audience": self.audience,
            "keys": list(self.signers),
            "signs": self.signs,
            **({"dropped": list(self.dropped)} if self.dropped else {}),
        }
        believed = {"issuers": [{"iss": self.iss, **self.jwks()}]}
        # issuer.json last: a running issuer looks at it to see that something changed.
        for name, document in ((JWKS, self.jwks()), (ISSUERS, believed), (ABOUT, about)):
            text = json.dumps(document, indent=2, ensure_ascii=True)
            durable.write(self.path / name, text.encode() + b"\n")
        return self


def _next_kid(folder: Path, taken: Iterable[str]) -> str:
    # A key's file without its name in issuer.json was left by a crash: its name is not used again.
    names = [*taken, *(file.stem for file in folder.glob("k*.key"))]
    numbers = [int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name))]
    return f"k{max(numbers, default=0) + 1}"
