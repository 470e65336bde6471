"""How a till comes to belong to a merchant, and which keys it believes from then on.

One activation code carries a one-time secret and the thumbprint of the ledger's root key, so that
the first contact already knows whom to trust (docs/protocol.md §9).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carepos import durable, ids, jws, strict_json
from carepos.client import Transport
from carepos.errors import EnrolmentFailed, Malformed, NotDecided, SignatureInvalid, Unreachable
from carepos.keys import KeySet, PublicKey, SigningKey, digest

_CODE = re.compile(r"cp1\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """The ledger's keys as its root signed them; `version` only grows, old keys stay."""

    ledger: str
    version: int
    epoch: int
    keys: KeySet
    keyset: str
    root: PublicKey

    @classmethod
    def read(cls, document: Mapping[str, Any], root_thumbprint: str) -> LedgerKeys:
        """From the answer of /.well-known/jwks.json. Raises Malformed, SignatureInvalid.

        `keys` beside the signed set is for others' libraries and is not looked at.
        """
        root = PublicKey.from_jwk(document.get("root"))
        if root.kid != root_thumbprint:
            raise SignatureInvalid("the root key is not the one in the activation code")
        signed = jws.verify(document.get("keyset"), typ=jws.KEYSET, keys=KeySet([root]))
        names = strict_json.exact_names(
            signed.payload, {"v", "ledger", "version", "epoch", "keys"}, where="keyset"
        )
        if strict_json.integer(names["v"], "keyset.v") != 1:
            raise Malformed("must be 1", field="keyset.v")
        listed = strict_json.array(names["keys"], "keyset.keys", low=1, high=40)
        return cls(
            strict_json.text(names["ledger"], "keyset.ledger", high=60),
            strict_json.integer(names["version"], "keyset.version", low=1),
            strict_json.integer(names["epoch"], "keyset.epoch", low=1),
            KeySet(PublicKey.from_jwk(jwk) for jwk in listed),
            signed.jws,
            root,
        )


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a till was told when it enrolled; stored as `enrolment.json`, nothing in it secret."""

    url: str
    ledger_keys: LedgerKeys
    certificate: str
    terminal: str
    terminal_no: int
    merchant: str
    merchant_name: str
    store: str
    store_name: str
    audience: str

    def save(self, path: Path) -> None:
        """Durably, in one step: a crash leaves the old file or the new one."""
        document = {
            "url": self.url,
            "root": self.ledger_keys.root.to_jwk(),
            "keyset": self.ledger_keys.keyset,
            "certificate": self.certificate,
        }
        durable.write(path, json.dumps(document, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, path: Path, key: PublicKey) -> Enrolment:
        """Read and verify again. Raises EnrolmentFailed when it is absent or not this key's."""
        try:
            document = strict_json.exact_names(
                strict_json.read(path.read_bytes()),
                {"url", "root", "keyset", "certificate"},
                where=path.name,
            )
            root = PublicKey.from_jwk(document["root"])
            keys = LedgerKeys.read(document, root.kid)
            url = strict_json.text(document["url"], "url", high=500)
            return _read_certificate(document["certificate"], url, keys, key)
        except FileNotFoundError:
            raise EnrolmentFailed(
                f"{path} is not there: enrol this till first (carepos till enrol)"
            ) from None
        except Malformed as error:
            raise EnrolmentFailed(f"{path.name} can't be used: {error}") from error


def enrol(url: str, activation: str, key: SigningKey, transport: Transport) -> Enrolment:
    """Enrol `key` at the ledger behind `url`. Repeating it with the same code and key is harmless.

    Raises EnrolmentFailed with what to do.
    """
    code = activation.strip()
    match = _CODE.fullmatch(code)
    if match is None:
        raise EnrolmentFailed("this is not an activation code (cp1.….…); copy it whole, or scan it")
    try:
        document, _ = transport.json("GET", "/.well-known/jwks.json")
        keys = LedgerKeys.read(document, match[2])
        proof = {"v": 1, "activation_sha256": digest(code.encode("ascii"))}
        answer, _ = transport.json(
            "POST",
            "/v1/terminals",
            body={
                "activation": code,
                "public_key": key.public.to_jwk(),
                "proof": jws.sign(proof, typ=jws.PROOF, key=key),
            },
            expected=(200, 201),
        )
        return _read_certificate(answer.get("certificate"), url, keys, key.public)
    except SignatureInvalid as error:
        raise EnrolmentFailed(
            f"{url} is not the ledger this code is for, or something stands between: {error}"
        ) from error
    except Malformed as error:
        raise EnrolmentFailed(f"{url} does not answer like a ledger: {error}") from error
    except NotDecided as error:
        raise EnrolmentFailed(f"the ledger did not accept the code: {error}") from error
    except Unreachable as error:
        raise EnrolmentFailed(f"{error}; is the address right? ({url})") from error


def _read_certificate(text: object, url: str, keys: LedgerKeys, key: PublicKey) -> Enrolment:
    signed = jws.verify(text, typ=jws.CERTIFICATE, keys=keys.keys)
    names = strict_json.exact_names(
        signed.payload,
        {
            "v", "ledger", "terminal", "terminal_no", "merchant", "merchant_name",
            "store", "store_name", "key", "audience", "issued_at",
        },
        where="certificate",
    )  # fmt: skip
    if names["ledger"] != keys.ledger:
        raise Malformed("is another ledger's", field="certificate")
    if names["key"] != key.kid:
        raise Malformed("is for another key", field="certificate")
    return Enrolment(
        url=url,
        ledger_keys=keys,
        certificate=signed.jws,
        terminal=ids.name(names["terminal"], "certificate.terminal"),
        terminal_no=strict_json.integer(names["terminal_no"], "certificate.terminal_no", low=1),
        merchant=ids.name(names["merchant"], "certificate.merchant"),
        merchant_name=strict_json.text(names["merchant_name"], "certificate.merchant_name"),
        store=ids.name(names["store"], "certificate.store"),
        store_name=strict_json.text(names["store_name"], "certificate.store_name"),
        audience=strict_json.text(names["audience"], "certificate.audience"),
    )
