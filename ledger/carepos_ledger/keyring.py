"""The ledger's own secrets: root key, signing key, and the secret behind beneficiaries' pseudonyms.

Files of one folder, each 0600. The root key signs the key set and nothing else; it may be taken
off the machine once the key set is made, and is needed again to `rotate` the signing key.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carepos import durable, jws, strict_json
from carepos.errors import Malformed
from carepos.evidence import EvidenceKey
from carepos.ids import RandomBytes
from carepos.keys import PublicKey, SigningKey, b64, read_secret, secret_text, write_secret
from carepos.ledger_keys import MAX_KEYS, LedgerKeys

_ROOT, _SIGNING, _PSEUDONYM = "root.key", "signing.key", "pseudonym.secret"
_EVIDENCE = "evidence.key"
_KEYSET = "keyset.json"
_NEXT, _LOCK = "signing.key.next", "keys.lock"

Reached = Callable[[str], None]
"""Told the name of each point of a rotation; tests stop there."""

POINTS = ("key_made", "set_written", "old_overwritten")


def pass_by(_: str) -> None:
    """The default for `Reached`."""


def refuse_keys(folder: Path) -> None:
    """Raises FileExistsError when `folder` holds a key of a ledger."""
    for name in (_ROOT, _SIGNING, _PSEUDONYM, _EVIDENCE, _KEYSET):
        if (folder / name).exists():
            raise FileExistsError(errno.EEXIST, "a ledger's key is there", str(folder / name))


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """What a running ledger signs and derives with. repr() shows no secret."""

    ledger: str
    epoch: int
    signing: SigningKey
    root: PublicKey
    keyset: str
    keys: LedgerKeys
    _ref_secret: bytes
    evidence: X25519PrivateKey

    @classmethod
    def create(cls, folder: Path, random_bytes: RandomBytes = os.urandom) -> Keyring:
        """New keys in `folder`. Raises FileExistsError rather than replace a key."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        refuse_keys(folder)
        root, signing = SigningKey(random_bytes(32)), SigningKey(random_bytes(32))
        root.save(folder / _ROOT)
        signing.save(folder / _SIGNING)
        write_secret(folder / _PSEUDONYM, random_bytes(32))
        write_secret(folder / _EVIDENCE, random_bytes(32))
        payload: dict[str, object] = {
            "v": 1,
            "ledger": f"ledger-{root.kid[:8].lower().replace('_', 'x').replace('-', 'x')}",
            "version": 1,
            "epoch": 1,
            "keys": [signing.public.to_jwk()],
        }
        _write_key_set(folder, root, payload)
        return cls.load(folder)

    @classmethod
    def rotate(
        cls, folder: Path, root_file: Path | None = None, *, reached: Reached = pass_by
    ) -> Keyring:
        """A new signing key in a key set of the next version; the keys before it stay in the set.

        `root_file`: where the root key is, when it is not in the folder. A server that is running
        signs with the old key until it is started again. Repeating it after a crash finishes what
        was begun: the new key is in the set before anything is signed with it, and the set never
        lacks the key that signs. Raises FileNotFoundError when there is no root key or no ledger,
        Malformed for another ledger's root key or a set that is full, BlockingIOError when another
        process rotates.
        """
        with closing(durable.lock(folder / _LOCK)):
            held = cls.load(folder)
            root = cls.check_root(folder, root_file)
            following = folder / _NEXT
            if not following.exists():
                if len(held.keys.keys) >= MAX_KEYS:
                    raise Malformed(f"holds {MAX_KEYS} keys, as many as it may", field=_KEYSET)
                secret = secret_text(SigningKey.generate().secret())
                durable.write(following, secret, mode=0o600)
            reached("key_made")
            signing = SigningKey.load(following)
            if signing.kid not in {key.kid for key in held.keys.keys}:
                payload: dict[str, object] = {
                    "v": 1,
                    "ledger": held.ledger,
                    "version": held.keys.version + 1,
                    "epoch": held.epoch,
                    "keys": [*(key.to_jwk() for key in held.keys.keys), signing.public.to_jwk()],
                }
                _write_key_set(folder, root, payload)
            reached("set_written")
            # Old signatures stay good, so whoever finds the old key could go on making them.
            durable.overwrite(folder / _SIGNING)
            reached("old_overwritten")
            following.replace(folder / _SIGNING)
            durable.sync_folder(folder)
            return cls.load(folder)

    @classmethod
    def check_root(cls, folder: Path, root_file: Path | None = None) -> SigningKey:
        """This ledger's root key. Raises FileNotFoundError, Malformed for another's."""
        root = SigningKey.load(root_file or folder / _ROOT)
        if root.public != cls.load(folder).root:
            raise Malformed("is not the root key of this ledger", field="root key")
        return root

    @classmethod
    def start_epoch(cls, folder: Path, epoch: int, root_file: Path | None = None) -> Keyring:
        """The same keys in a key set of the next version and of this epoch.

        Repeating it changes nothing. Raises as `rotate`.
        """
        with closing(durable.lock(folder / _LOCK)):
            held = cls.load(folder)
            if held.epoch < epoch:
                payload: dict[str, object] = {
                    "v": 1,
                    "ledger": held.ledger,
                    "version": held.keys.version + 1,
                    "epoch": epoch,
                    "keys": [key.to_jwk() for key in held.keys.keys],
                }
                _write_key_set(folder, cls.check_root(folder, root_file), payload)
            return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Keyring:
        """Raises FileNotFoundError when there are no keys, Malformed when they don't fit."""
        try:
            document = strict_json.read_object((folder / _KEYSET).read_bytes())
            root = PublicKey.from_jwk(document.get("root"))
            keys = LedgerKeys.read(document, root.kid)
        except Malformed as error:
            raise Malformed(f"{_KEYSET} holds no key set ({error}): restore its copy") from None
        signing = _load_signing(folder)
        if signing.kid not in {key.kid for key in keys.keys}:
            raise Malformed(f"{_SIGNING} is not in {_KEYSET}: restore the copies of both")
        return cls(
            keys.ledger,
            keys.epoch,
            signing,
            root,
            keys.keyset,
            keys,
            read_secret(folder / _PSEUDONYM),
            _evidence(folder),
        )

    @property
    def evidence_key(self) -> EvidenceKey:
        """What tills seal tokens to."""
        return EvidenceKey(self.evidence.public_key().public_bytes_raw())

    def beneficiary_ref(self, merchant: str, iss: str, sub: str) -> str:
        """A family's reference at one merchant (docs/protocol.md §8): 22 characters."""
        message = f"carepos/beneficiary-ref/v1|{merchant}|{iss}|{sub}".encode()
        return b64(hmac.digest(self._ref_secret, message, hashlib.sha256))[:22]

    def __repr__(self) -> str:
        return f"Keyring({self.ledger})"


def _load_signing(folder: Path) -> SigningKey:
    try:
        return SigningKey.load(folder / _SIGNING)
    except Malformed:
        if not (folder / _NEXT).exists():
            raise
        return SigningKey.load(folder / _NEXT)  # the old one is overwritten, not yet replaced


def _write_key_set(folder: Path, root: SigningKey, payload: dict[str, object]) -> None:
    document = {
        "root": root.public.to_jwk(),
        "keyset": jws.sign(payload, typ=jws.KEYSET, key=root),
    }
    durable.write(folder / _KEYSET, json.dumps(document, indent=2).encode() + b"\n")


def _evidence(folder: Path) -> X25519PrivateKey:
    """The key that opens evidence; a ledger founded before there was one gets it now."""
    if not (folder / _EVIDENCE).exists():
        with suppress(FileExistsError):  # another server was first
            write_secret(folder / _EVIDENCE, os.urandom(32))
    return X25519PrivateKey.from_private_bytes(read_secret(folder / _EVIDENCE))
