"""The pairing secret: what a register must show, so that no web page and no other user can act.

It stands in `pairing.secret`, which only the user who runs the plugin can read; whoever sets up the
register copies it there. Every call carries it in the header `X-CarePOS-Pairing`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from carepos.errors import Malformed
from carepos.ids import RandomBytes
from carepos.keys import b64, read_secret, write_secret

FILE: Final = "pairing.secret"
HEADER: Final = "X-CarePOS-Pairing"
DEVICE_FILE: Final = "device.secret"

_MAKES: Final = {FILE: "carepos till enrol again", DEVICE_FILE: "carepos till device"}


def make(folder: Path, random_bytes: RandomBytes = os.urandom, *, file: str = FILE) -> bool:
    """Write a new secret unless there is one; whether it was written."""
    try:
        write_secret(folder / file, random_bytes(32))
    except FileExistsError:
        return False
    return True


def read(folder: Path, file: str = FILE) -> str:
    """The secret as it stands in the header: 43 characters.

    Raises Malformed when it is damaged or others can read it, FileNotFoundError.
    """
    path = folder / file
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Malformed(
            f"{file} can be read by others on this computer, so they could act as whoever shows "
            f"it: chmod 600 {file}, or delete it and type {_MAKES[file]} for a new one"
        )
    return b64(read_secret(path))
