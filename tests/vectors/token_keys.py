"""Fixed keys of the identity vectors: RSA primes as data, the others grown from their names.

Secrets of nobody: they sign test vectors and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from tests.vectors.second import b64, jcs

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def seed(name: str) -> bytes:
    return hashlib.sha256(f"carepos identity vectors|{name}".encode()).digest()


def _rsa_key(first: str, second: str) -> rsa.RSAPrivateKey:
    p, q, e = int(first, 16), int(second, 16), 65_537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public
    ).private_key()


RSA_2048 = _rsa_key(
    (
        "f6108eb79529f65c822a8c82699756e42a1c8b2bb20c05e655701983181935397c29434061b08db9b18414b8"
        "cf8fae37ce9bfab55e54e916e42944760f3426c48f16e6f31a6e2dd714c88a5f6a04f9a0be79444eb2c85490"
        "1de7aedfa963c567be7e2e74cb0ebabfab1e162c99ff735d6c4e8a1a9deebf8dd9a54b1bafc5a269"
    ),
    (
        "d7bdf1f83cbff1a76691b45ddbe2b1476fb2dde5f7e6fb439dea6c18dc2581e0297884d4945845bf64ca3fee"
        "c366c32da9900f68dc6ca936ed5758c94493fac231304fe4bebf490c97c85b41a0ff861753918c0f97036fd9"
        "3ec0ee6ebf790505d543bbdb102dfec82ccf0ab3cabf7eaa311369e0f24ec1e50fab426f4284c03f"
    ),
)
RSA_4096 = _rsa_key(
    (
        "d887506d6c68b883f0e67a43e8a1bb44e3ac8d9065d2c79d87fb54a4683f65bb84894775282dd0614e6e7646"
        "3498e77c179e798ba72a792a964cedd527601d3da8c7e056dc686b61aaada0c1369cd71569122ab7403e6f4b"
        "f842c9119cc2fa8e057fcea705c04f5a818c49573155d6c96fae06311fc6e4154763e8305cc3cf292c45518d"
        "523893d71bc805432b5220f3c9510a931b2d93d0f0e7725316853e831a3ff93180b8f47937b0d66a34adaf04"
        "11ef5deb1355119baf568b51dbe6ed3efa5f2ba834bf3c9f6ce12ed0451336adf470787236a067ac9eaf5d9a"
        "0d498b5876e87d7ce013721010a2dde451f43404877a45742c06ee142dc3c5d2de005adf"
    ),
    (
        "be44c517202e174c4ffc8e384998a56dd489fccc8a1a92fe4fe5e5f13f071f8e5656e7f20b3c76c68fb4602f"
        "75f93c15306034a9e62207b80b5e02f0ee0de90f6af10719a39617f107521c4406a11c76ade532e9520e3eb3"
        "03616f40b598c1862b17189cfa569212fd2e71b92eaa69b28cf681c2c0ecbd194564db1efc867838ce62f47c"
        "ab81e8fd6e4c8eef7eac1c9105fd3f03a1d5d90e8b58d7f52a98d181798c840564385b929384851a436e47e7"
        "3d1c8c2cb6a69ad758b162e0a9f2fd0ec5fb165a2aa74eb9a9777b2d18eb89987f66ed9c85ca379b934bbac6"
        "68aa48d26270cc6be8f0e62140f0409a2cdb4c58b0449ac6b5b9ede901b7166306a40689"
    ),
)
RSA_OTHER = _rsa_key(
    (
        "d7e7911c8a803ac4d3ba72914b371af7e4500283a5bb3fc6af775dcf40f646e3ad478adae8791681e8685695"
        "9f65eedfdd7dd4314f9d1ca925f6bfeda4d84493e0bd0aeff04302efd57a459697d37ac2049aec88d2253fa6"
        "97b927a6459db7aeec2293275c3977d185e79eaf0bd82d721b5ac2a6b3c4623af5575a8233e2dfc3"
    ),
    (
        "cd06686040499e20e695d819785676963798a775cd44ae307b1bf8748120d44e166a54a98fd69ee87b6c1443"
        "2f0eee6b28a4e212342b68ba286180b2263c0699967e4be36978eba2fec88934c3dc87d57465f68ba8939fb1"
        "788caed0ca383633c8a920ee49bb59405ad69eff209d1f6f3b0097aa5e68ddb1917fc88b8b790087"
    ),
)


def ed_key(name: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed(name))


def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(seed(name), "big") >> 1, ec.SECP256R1())


def number(value: int, length: int | None = None) -> str:
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def jwk(private: Private, **more: Any) -> dict[str, Any]:
    """The public JWK of a key, with `more` members."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        raw = private.public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), **more}
    if isinstance(private, ec.EllipticCurvePrivateKey):
        at = private.public_key().public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": number(at.x, 32), "y": number(at.y, 32), **more}
    n = private.public_key().public_numbers().n
    return {"kty": "RSA", "n": number(n), "e": "AQAB", **more}


def thumbprint(private: Private) -> str:
    """RFC 7638."""
    return b64(hashlib.sha256(jcs(jwk(private))).digest())


def raw_signature(private: Private, data: bytes) -> bytes:
    """The signature of a JWS, always the same bytes: ECDSA by RFC 6979."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(data)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        asn1 = private.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = utils.decode_dss_signature(asn1)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return private.sign(data, padding.PKCS1v15(), hashes.SHA256())


def compact(header: bytes, claims: bytes, private: Private) -> str:
    """A compact JWS of these bytes, whatever they are."""
    signed = f"{b64(header)}.{b64(claims)}"
    return f"{signed}.{b64(raw_signature(private, signed.encode()))}"


def said(names: Mapping[str, Any]) -> bytes:
    """As JSON, but for a name whose value is `...`: it is left out."""
    return jcs({name: value for name, value in names.items() if value is not ...})


@dataclass(frozen=True)
class Signer:
    """An issuer's key with the name and the algorithm that its tokens give."""

    private: Private
    kid: str
    alg: str

    def token(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """A token of these claims, with what `header` changes in it."""
        head = {"alg": self.alg, "kid": self.kid, "typ": "care+jwt", **(header or {})}
        return compact(said(head), said(claims), self.private)
