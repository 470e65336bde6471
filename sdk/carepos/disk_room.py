"""Room on the till's disk: a reserve that is let go when a write finds none, and a word before.

A disk that is full must stop new sales before goods leave, and must not stop what ends them: taking
a sale back, writing the day's report. So a few MiB are held by a file that is really allocated.
When a write finds no room, the file is let go: there is room then for what ends the day, and no new
sale is taken until there is room for the reserve again.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from carepos import durable

FILE: Final = "reserve.bin"
MIB: Final = 2**20
RESERVE_BYTES: Final = 4 * MIB
LEAST_BYTES: Final = 4 * MIB
"""Room beside the reserve below which no new sale is taken: some hundred of them would fit."""
WARN_BYTES: Final = 256 * MIB
"""Weeks of a busy shop."""

State = Literal["fine", "low", "full", "failed"]


@dataclass(frozen=True, slots=True)
class Room:
    """How much is free beside the reserve. `low`: somebody should make room; `full`: no new sale is
    taken, and what is open can still be ended; `failed`: a write failed, and nothing is written
    before a restart."""

    state: State
    free_bytes: int
    has_reserve: bool


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class DiskRoom:
    """The room for one till's folder. `free` tells the bytes that are free on its disk."""

    def __init__(self, folder: Path, *, free: Callable[[Path], int] = _free) -> None:
        self._folder = folder
        self._free = free
        self._file = folder / FILE

    def room(self) -> Room:
        """As it is now. A disk that does not say how full it is, is taken for one with room."""
        has_reserve = self._has_reserve()
        try:
            free = self._free(self._folder)
        except OSError:
            return Room("fine", 0, has_reserve)
        if free < LEAST_BYTES or (not has_reserve and free < RESERVE_BYTES + LEAST_BYTES):
            return Room("full", free, has_reserve)
        return Room("low" if free < WARN_BYTES else "fine", free, has_reserve)

    def refill(self) -> bool:
        """Make the reserve where it is not and there is room for it; whether it is there now."""
        if self._has_reserve():
            return True
        with suppress(OSError):
            if self._free(self._folder) < RESERVE_BYTES + LEAST_BYTES:
                return False
            # Random bytes: a file system that packs or leaves holes would hold nothing for zeros.
            durable.write(self._file, os.urandom(RESERVE_BYTES), mode=0o600)
        return self._has_reserve()

    def failed(self, error: Exception) -> None:
        """A write failed: where it was for want of room, let the reserve go."""
        if _is_full(error) or self._is_short():
            self._release()

    def release_if_short(self) -> bool:
        """Whether the reserve was let go, because there is hardly any room beside it."""
        if not self._has_reserve() or not self._is_short():
            return False
        self._release()
        return not self._has_reserve()

    def _release(self) -> None:
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
            durable.sync_folder(self._folder)

    def _is_short(self) -> bool:
        try:
            return self._free(self._folder) < LEAST_BYTES
        except OSError:
            return False

    def _has_reserve(self) -> bool:
        try:
            return self._file.stat().st_size >= RESERVE_BYTES
        except OSError:
            return False


def found_no_room(error: Exception) -> bool:
    """Whether SQLite failed for want of room while it wrote, which it undoes like any other write.
    Not where a disk says so only when it is to make the bytes durable: what it holds then is not
    known."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return found_no_room(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
