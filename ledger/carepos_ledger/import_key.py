"""The import key: what turns an ID number into a beneficiary's `ref`.

Whoever holds it can find out whose ref is whose by trying ID numbers, so it stays with the
office that imports and never travels to the ledger; only its `key_id` does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from carepos.errors import CareposError
from carepos_ledger.private_file import write_private_file

KEY_BYTES = 32


class ImportKeyRefused(CareposError):
    """A key file that must not be used. `code` is stable, the message says what to do.

    Codes: `key_wrong_length`, `key_not_private`, `key_not_a_file`, `key_unreadable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ImportKey:
    """32 secret bytes, shown nowhere. Raises ImportKeyRefused (`key_wrong_length`)."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ImportKeyRefused(
                "key_wrong_length",
                f"an import key has {KEY_BYTES} bytes, this one {len(self.secret)}: "
                "restore it from its backup; a new key would issue everything again",
            )

    @property
    def key_id(self) -> str:
        """16 hex digits that name the key without giving it away; kept with the programme."""
        return hashlib.sha256(b"carepos/import-key/v1|" + self.secret).hexdigest()[:16]

    def ref(self, id_number: str) -> str:
        """The beneficiary's ref: base64url, unpadded, of HMAC-SHA256(key, normalised number)."""
        digest = hmac.digest(self.secret, id_number.encode("ascii"), "sha256")
        return base64.urlsafe_b64encode(digest)[:-1].decode("ascii")


def load_import_key(path: Path) -> ImportKey:
    """The key in the file at `path`. Raises ImportKeyRefused, FileNotFoundError if none."""
    # Looked at through one descriptor: what is judged is what is read.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImportKeyRefused("key_unreadable", f"cannot be opened: {error.strerror}") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ImportKeyRefused("key_not_a_file", "the import key must be an ordinary file")
        if os.name == "posix" and about.st_mode & 0o077:
            raise ImportKeyRefused(
                "key_not_private",
                f"mode {stat.S_IMODE(about.st_mode):04o}: others may read or change the import "
                "key; if none of them did, run chmod 600 on it",
            )
        return ImportKey(os.read(descriptor, KEY_BYTES + 1))
    finally:
        os.close(descriptor)


def load_or_create_import_key(
    path: Path, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> ImportKey:
    """The key at `path`, made there first (mode 0600) if there is none.

    Two commands that start together end up with one key. Raises ImportKeyRefused; OSError if
    the folder can't be written.
    """
    with contextlib.suppress(FileNotFoundError):
        return load_import_key(path)
    with contextlib.suppress(FileExistsError):
        write_private_file(path, ImportKey(random_bytes(KEY_BYTES)).secret, replace=False)
    return load_import_key(path)
