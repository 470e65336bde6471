"""Files that are whole or not there, and files that only one process may have open."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

_MADE_WITH: Final = 0o600
"""The mode that `tempfile` gives a file."""

_HELD: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK})
"""What systems answer when another process holds a lock."""


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a crash leaves the old file or the new one, never a part.

    Raises OSError; the old file is then untouched, or, when only the rename could not be made
    durable, the new one is there.
    """
    with _aside(path, data, mode) as written:
        written.replace(path)
    sync_folder(path.parent)


def create(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o600) -> None:
    """Make `path`, whole and durable, unless it is there: of two processes one makes it.

    `data` may come in parts. Raises FileExistsError, OSError; a crash leaves no part of it.
    """
    with _aside(path, data, mode) as written:
        try:
            os.link(written, path)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        except OSError as error:
            # A file system without links (FAT) has no such step: two processes could be told apart
            # only by the moment between these lines.
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
            written.replace(path)
    sync_folder(path.parent)


@contextmanager
def _aside(path: Path, data: bytes | Iterable[bytes], mode: int) -> Iterator[Path]:
    """`data` in a file beside `path`, on the disk; it is gone at the end unless it was renamed."""
    # A name of its own for every write: two threads may write the same file at once.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        if mode != _MADE_WITH:  # which file systems without modes (a USB stick's) may refuse
            aside.chmod(mode)
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def overwrite(path: Path) -> None:
    """Put zeros where the bytes of a secret lie that is about to be replaced or deleted, which by
    itself leaves them on the disk; durable when this returns. Raises OSError.

    What a disk keeps besides (spare blocks, a journal of its own) is out of reach.
    """
    with path.open("r+b") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(b"\0" * length)
        file.flush()
        os.fsync(file.fileno())


def private(path: Path) -> None:
    """Let only the owner read and write the file at `path`, made empty if there is none.

    For databases, which make their files as the umask says: what lies beside one (its write-ahead
    log) gets the mode that it has.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if os.name == "posix" and path.stat().st_mode & 0o077:
        path.chmod(0o600)
        for beside in path.parent.glob(f"{path.name}-*"):
            beside.chmod(0o600)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable. Windows can't open a folder and doesn't need it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(path: Path, *, wait: bool = False) -> BinaryIO:
    """Hold `path` for this process until the returned file is closed, or the process ends.

    Raises BlockingIOError when another process holds it; with `wait`, first waits until it lets go
    (on Windows at most 10 s). OSError where there are no locks.
    """
    handle = path.open("ab")
    try:
        if os.name == "nt":
            import msvcrt

            how = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined,unused-ignore]
            msvcrt.locking(handle.fileno(), how, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        handle.close()
        if error.errno not in _HELD:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise BlockingIOError(f"{path.name} is held by another process") from error
    return handle
