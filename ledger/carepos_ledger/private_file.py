"""Files only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_OPEN_PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def write_private_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Puts `data` at `path` with mode 0600: temporary file, fsync, rename, fsync of the folder.

    After a crash at any point `path` holds either what it held before or all of `data`.
    Raises FileExistsError if `path` exists and `replace` is false; other OSErrors as they come.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN_PLAIN
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            # A link fails where the name is taken; a rename would overwrite it.
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows opens no folders; its rename is journalled by the file system.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
