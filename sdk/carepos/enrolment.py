"""How a till comes to belong to a merchant, and which keys it believes from then on.

One activation code carries a one-time secret and the thumbprint of the ledger's root key, so that
the first contact already knows whom to trust (docs/protocol.md §9).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from carepos import clock, durable, ids, jws, strict_json
from carepos.client import Transport
from carepos.errors import EnrolmentFailed, Malformed, NotDecided, SignatureInvalid, Unreachable
from carepos.keys import Keys, KeySet, PublicKey, SigningKey, digest
from carepos.ledger_keys import LedgerKeys

MAX_FORMER = 1000

_CODE = re.compile(r"cp1\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class FormerKey:
    """A key that this terminal signed with before, and the ledger's word that it was its own."""

    key: PublicKey
    certificate: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a till was told when it enrolled; stored as `enrolment.json`, nothing in it secret.

    `key` is the one that the certificate names, `former` those before it, oldest first: records
    that they signed stay in the journal and must be readable.
    """

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
    key: PublicKey
    issued_at: datetime
    former: tuple[FormerKey, ...] = ()

    @property
    def terminal_keys(self) -> KeySet:
        """Every key that a record of this terminal may be signed with."""
        return KeySet([*(each.key for each in self.former), self.key])

    def with_key(self, certificate: object, key: PublicKey, believed: Keys) -> Enrolment:
        """This enrolment under another key of the terminal, whose certificate it is.

        `believed` finds the ledger's keys. Raises Malformed, SignatureInvalid.
        """
        if len(self.former) >= MAX_FORMER:
            # What can't be read again must not be written: the till would never open again.
            raise Malformed(f"had {MAX_FORMER} keys before: enrol a new till", field="former")
        fresh = read_certificate(certificate, self.url, self.ledger_keys, [key], believed)
        if fresh.terminal != self.terminal:
            raise Malformed("is another terminal's", field="certificate")
        return replace(fresh, former=(*self.former, FormerKey(self.key, self.certificate)))

    def save(self, path: Path) -> None:
        """Durably, in one step: a crash leaves the old file or the new one."""
        document: dict[str, object] = {
            "url": self.url,
            **self.ledger_keys.document(),
            "certificate": self.certificate,
        }
        if self.former:
            document["former"] = [
                {"key": each.key.to_jwk(), "certificate": each.certificate} for each in self.former
            ]
        durable.write(path, json.dumps(document, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, path: Path, *own: PublicKey) -> Enrolment:
        """Read and verify again. Raises EnrolmentFailed when it is absent or none of `own`'s."""
        try:
            document = strict_json.names_within(
                strict_json.read(path.read_bytes()),
                required={"url", "root", "keyset", "certificate"},
                optional={"former"},
                where=path.name,
            )
            root = PublicKey.from_jwk(document["root"])
            keys = LedgerKeys.read(document, root.kid)
            url = strict_json.text(document["url"], "url", high=500)
            found = read_certificate(document["certificate"], url, keys, own, keys.keys)
            former = strict_json.array(document.get("former", []), "former", high=MAX_FORMER)
            return replace(found, former=tuple(_former(each, found) for each in former))
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
        own = [key.public]
        return read_certificate(answer.get("certificate"), url, keys, own, keys.keys)
    except SignatureInvalid as error:
        raise EnrolmentFailed(
            f"{url} is not the ledger this code is for, or something stands between: {error}"
        ) from error
    except Malformed as error:
        raise EnrolmentFailed(f"{url} does not answer like a ledger: {error}") from error
    except NotDecided as error:
        asked = "; ask the programme's office for a new one (carepos ledger activate)"
        what_to_do = asked if error.code.startswith("activation_") else ""
        raise EnrolmentFailed(f"the ledger did not accept the code: {error}{what_to_do}") from error
    except Unreachable as error:
        raise EnrolmentFailed(f"{error}; is the address right? ({url})") from error


def _former(value: object, of: Enrolment) -> FormerKey:
    names = strict_json.exact_names(value, {"key", "certificate"}, where="former")
    key = PublicKey.from_jwk(names["key"])
    keys = of.ledger_keys
    told = read_certificate(names["certificate"], of.url, keys, [key], keys.keys)
    if told.terminal != of.terminal:
        raise Malformed("is another terminal's", field="former")
    return FormerKey(key, told.certificate)


def read_certificate(
    text: object, url: str, keys: LedgerKeys, own: Sequence[PublicKey], believed: Keys
) -> Enrolment:
    """The certificate of one of the keys in `own`; `believed` finds the key that signed it."""
    signed = jws.verify(text, typ=jws.CERTIFICATE, keys=believed)
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
    key = next((each for each in own if each.kid == names["key"]), None)
    if key is None:
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
        key=key,
        issued_at=clock.from_text(names["issued_at"], "certificate.issued_at"),
    )


class EnrolmentFile:
    """A running till's `enrolment.json`: each change is on the disk before it counts.

    Only the process that holds the journal changes it.
    """

    def __init__(self, path: Path, enrolled: Enrolment) -> None:
        self._path = path
        self._changing = threading.Lock()
        self.enrolled = enrolled

    @property
    def folder(self) -> Path:
        return self._path.parent

    def change(self, make: Callable[[Enrolment], Enrolment]) -> None:
        """Keep what `make` makes of the present one. Raises what it raises, and OSError."""
        with self._changing:
            changed = make(self.enrolled)
            changed.save(self._path)
            self.enrolled = changed

    def ledger_keys(self) -> LedgerKeys:
        return self.enrolled.ledger_keys

    def keep_ledger_keys(self, keys: LedgerKeys) -> None:
        self.change(lambda held: replace(held, ledger_keys=keys))
