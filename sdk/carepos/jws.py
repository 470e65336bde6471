"""The one signature format: compact JWS, EdDSA over Ed25519, read as docs/protocol.md §2 says.

By hand over `cryptography`, because PyJWT's PyJWS accepts padding, duplicate header names, `zip`
and Ed448, and walks long inputs byte by byte. Identity tokens, a foreign format, go through PyJWT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from carepos import strict_json
from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import Keys, KeySet, SigningKey, b64, digest, unb64

MAX_PAYLOAD_BYTES = 12_288
MAX_JWS_BYTES = 16_384

RECORD = "carepos-record+jws"
OUTCOME = "carepos-outcome+jws"
LOOKUP = "carepos-lookup+jws"
SALE = "carepos-sale+jws"
MANIFEST = "carepos-manifest+jws"
KEYSET = "carepos-keyset+jws"
CERTIFICATE = "carepos-certificate+jws"
PROOF = "carepos-proof+jws"
TIME = "carepos-time+jws"
RESET = "carepos-reset+jws"

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")


@dataclass(frozen=True, slots=True)
class Signed:
    """A verified signed thing: its text, who signed, its digest and its parsed payload."""

    jws: str
    kid: str
    digest: str
    payload: dict[str, Any]


def sign(payload: object, *, typ: str, key: SigningKey) -> str:
    """`payload` (a JSON object) as compact JWS. Raises Malformed when it is over 12 KiB."""
    body = strict_json.canonical(payload)
    if len(body) > MAX_PAYLOAD_BYTES:
        raise Malformed(f"payload over {MAX_PAYLOAD_BYTES} bytes")
    header = strict_json.canonical({"alg": "EdDSA", "kid": key.kid, "typ": typ})
    signing_input = f"{b64(header)}.{b64(body)}"
    return f"{signing_input}.{b64(key.sign(signing_input.encode('ascii')))}"


def header_kid(jws: object, *, typ: str) -> str:
    """The kid a well-formed JWS names, before any cryptography. Raises Malformed."""
    return _parts(jws, typ)[1]


def digest_of(jws: str) -> str:
    """Digest of a signed thing: SHA-256 of its signing input."""
    return digest(jws.rsplit(".", 1)[0].encode("ascii"))


def verify(jws: object, *, typ: str, keys: Keys) -> Signed:
    """The verified content of `jws`.

    `keys` finds the key by kid and raises SignatureInvalid for one it doesn't believe.
    Raises Malformed for any other form, SignatureInvalid when it doesn't verify.
    """
    text, kid, payload_bytes, signature = _parts(jws, typ)
    key = keys.get(kid) if isinstance(keys, KeySet) else keys(kid)
    if key.kid != kid:
        raise SignatureInvalid("key and kid differ")
    signing_input = text.rsplit(".", 1)[0].encode("ascii")
    key.verify(signature, signing_input)
    return Signed(text, kid, digest(signing_input), strict_json.read_object(payload_bytes))


def identified(jws: object, *, typ: str, sha256: str) -> Signed:
    """The content of the `jws` that has this digest: whoever vouches for that vouches for it.

    Its own signature is not looked at, so the digest must come from something verified.
    Raises Malformed for any other form, and for another thing.
    """
    text, kid, payload_bytes, _ = _parts(jws, typ)
    if digest_of(text) != sha256:
        raise Malformed("is another one than was named", field="jws")
    return Signed(text, kid, sha256, strict_json.read_object(payload_bytes))


def peek(jws: object, *, typ: str) -> tuple[str, dict[str, Any]]:
    """(digest, payload) of what has the form of a signed thing, whoever signed it: to sort by and
    to count, never to decide by. Raises Malformed for any other form."""
    text, _, payload_bytes, _ = _parts(jws, typ)
    return digest_of(text), strict_json.read_object(payload_bytes)


def _parts(jws: object, typ: str) -> tuple[str, str, bytes, bytes]:
    """(text, kid, payload bytes, signature) of a JWS whose form and header are right."""
    if not isinstance(jws, str):
        raise Malformed("must be a string", field="jws")
    if len(jws) > MAX_JWS_BYTES:
        raise Malformed(f"over {MAX_JWS_BYTES} bytes", field="jws")
    if _FORM.fullmatch(jws) is None:
        raise Malformed("not a compact JWS with an Ed25519 signature", field="jws")
    header_text, payload_text, signature_text = jws.split(".")
    payload = unb64(payload_text, "jws")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Malformed(f"payload over {MAX_PAYLOAD_BYTES} bytes", field="jws")
    header = strict_json.exact_names(
        strict_json.read(unb64(header_text, "jws")), {"alg", "kid", "typ"}, where="jws header"
    )
    if header["alg"] != "EdDSA":
        raise Malformed("alg must be EdDSA", field="jws header")
    if header["typ"] != typ:
        raise Malformed(f"typ must be {typ}", field="jws header")
    kid = strict_json.text(header["kid"], "jws header", low=43, high=43)
    return jws, kid, payload, unb64(signature_text, "jws")
