"""Public JOSE vectors against our verifier: `python -m tests.jose_vectors WYCHEPROOF COOKBOOK`.

The two are checkouts of https://github.com/C2SP/wycheproof and https://github.com/ietf-jose/cookbook
(the examples of RFC 7520, 7797 and 8037). Nothing of them is kept here; the table of
docs/jose-vectors.md says what came of them, and what the examples of the RFCs themselves
(`vectors/jose_rfc`) give, which a test repeats. Ends with 1 where an invalid signature is taken or
a valid one is refused for another reason than the profile's.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carepos import compact, strict_json, token
from carepos.errors import Malformed, Refused
from carepos.issuer_keys import IssuerKey, IssuerKeys
from carepos.keys import b64, unb64
from carepos.token import TokenVerifier
from tests.vectors import jose_rfc

Json = dict[str, Any]
TAKEN = "verifies"
PAGE = Path(__file__).parents[1] / "docs" / "jose-vectors.md"


def signature_of(signed: bytes, signature: bytes, jwk: object, alg: object) -> str:
    """What the signature step says: TAKEN, or which of its rules does not hold."""
    try:
        key = IssuerKey.from_jwk(jwk)
    except Malformed:
        return "key is not the profile's"
    if not isinstance(alg, str) or alg not in key.algorithms:
        return "alg is not the key's"
    good = token.signature_verifies(signed, signature, key.key, alg)
    return TAKEN if good else "signature does not verify"


def jws(text: object, jwk: object) -> str:
    """The signature step for a compact JWS of any payload; its form and names are ours."""
    if not isinstance(text, str) or text.count(".") != 2:
        return "form"
    head, body, signature = text.split(".")
    try:
        header = strict_json.read_object(unb64(head), max_depth=compact.MAX_DEPTH)
        unb64(body)
        raw = unb64(signature)
    except Malformed:
        return "form"
    if not header.keys() <= {"alg", "kid", "typ"}:
        return "header has other names"
    return signature_of(f"{head}.{body}".encode(), raw, jwk, header.get("alg"))


def as_token(text: Any, jwk: object, iss: str = "joe") -> str | None:
    """What the verifier says of it, held up at a till that believes this key if it can."""
    now = datetime.fromtimestamp(1_300_819_000, UTC)
    try:
        held = {iss: IssuerKeys.of([IssuerKey.from_jwk(jwk)], now)}
    except Malformed:
        held = {}
    try:
        TokenVerifier(held, "urn:carepos:redeem").verify(text, now)
    except Refused as refused:
        return refused.code
    return None


@dataclass
class Row:
    """One file of vectors. `valid` and `invalid` count what we said of such."""

    source: str
    valid: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def add(self, valid: bool, said: str) -> None:
        (self.valid if valid else self.invalid)[said] += 1

    @property
    def is_right(self) -> bool:
        taken = self.invalid[TAKEN] + self.tokens["accepted"]
        return not taken and not self.valid["signature does not verify"]

    def markdown(self) -> str:
        why = [f"{n} {said}" for said, n in sorted(self.valid.items()) if said != TAKEN]
        counts = f"{self.valid[TAKEN]} of {self.valid.total()}"
        taken = f"{self.invalid[TAKEN]} of {self.invalid.total()}"
        return f"| {self.source} | {counts} | {', '.join(why) or '–'} | {taken} |"


def _load(path: Path) -> Json:
    content: Json = json.loads(path.read_text("utf-8"))
    return content


RAW = {
    "ed25519_test": "EdDSA",
    "ecdsa_secp256r1_sha256_p1363_test": "ES256",
    "rsa_signature_2048_sha256_test": "RS256",
    "rsa_signature_3072_sha256_test": "RS256",
    "rsa_signature_4096_sha256_test": "RS256",
}


def _public_jwk(group: Json) -> Json:
    """The key of a group of raw signatures; some of P-256 have it only as a point."""
    found: Json = group.get("publicKeyJwk") or group.get("keyJwk") or {}
    if not found:
        point = bytes.fromhex(group["publicKey"]["uncompressed"])
        found = {"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
    return {name: found[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in found}


def wycheproof(folder: Path) -> Iterator[Row]:
    vectors = folder / "testvectors_v1"
    for name, alg in RAW.items():
        row = Row(f"Wycheproof `{name}`")
        for group in _load(vectors / f"{name}.json")["testGroups"]:
            jwk = _public_jwk(group)
            for each in group["tests"]:
                message, signature = bytes.fromhex(each["msg"]), bytes.fromhex(each["sig"])
                row.add(each["result"] == "valid", signature_of(message, signature, jwk, alg))
        yield row
    for name in ("json_web_signature_test", "json_web_key_test"):
        row = Row(f"Wycheproof `{name}`")
        for group in _load(vectors / f"{name}.json")["testGroups"]:
            jwk = group.get("public") or group["private"]
            for each in group["tests"]:
                row.add(each["result"] == "valid", jws(each["jws"], jwk))
                row.tokens[as_token(each["jws"], jwk) or "accepted"] += 1
        yield row


def cookbook(folder: Path) -> Iterator[Row]:
    row = Row("JOSE cookbook: RFC 7520 §4, RFC 7797, RFC 8037")
    for path in sorted(path for path in folder.glob("*/*.json") if path.parent.name in COOKBOOK):
        content = _load(path)
        made = content["output"].get("compact") if "signing" in content else None
        if made is None:  # a form of RFC 7515 §7.2 only, or an encryption
            continue
        key = content["input"]["key"]
        public = {name: value for name, value in key.items() if name not in _PRIVATE}
        row.add(valid=True, said=jws(made, public))
        row.tokens[as_token(made, public) or "accepted"] += 1
    yield row


COOKBOOK = ("jws", "rfc7797", "curve25519")
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi")


def rfc() -> Row:
    row = Row("RFC 7515 A, 7519, 7797, 8037 A (here)")
    for each in jose_rfc.EXAMPLES:
        row.add(each.verifies, jws(each.text, each.jwk))
    return row


def rfc_table() -> str:
    """The examples of the RFCs, one by one."""
    lines = ["| example | | its signature here | as a code at a till |", "|---|---|---|---|"]
    for each in jose_rfc.EXAMPLES:
        said = jws(each.text, each.jwk)
        lines.append(f"| {each.source} | {each.what} | {said} | `{each.code}`: {each.why} |")
    return "\n".join(lines)


def main(wycheproof_folder: str, cookbook_folder: str) -> int:
    rows = [*wycheproof(Path(wycheproof_folder)), *cookbook(Path(cookbook_folder)), rfc()]
    print("| vectors | valid ones that verify | the others, and why | invalid ones that verify |")
    print("|---|---|---|---|")
    for row in rows:
        print(row.markdown())
    tokens = sum((row.tokens for row in rows), Counter[str]())
    print("\nAs codes at a till:", dict(sorted(tokens.items())))
    return 0 if all(row.is_right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
