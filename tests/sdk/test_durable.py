"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from carepos import durable


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    """Several threads that write the same file at once all succeed, and one of them wins whole."""
    path = tmp_path / "pack.json"
    contents = [bytes([n]) * 50_000 for n in range(8)]
    failures: list[BaseException] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(20):
                durable.write(path, data)
        except BaseException as error:  # noqa: BLE001  whatever it is, the test shows it
            failures.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert path.read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["pack.json"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fails, the old content stays and nothing lies beside it."""
    path = tmp_path / "file"
    durable.write(path, b"old")

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        durable.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_of_those_that_create_one_file_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The others are told, with the file's own name, and nothing of theirs lies beside it; also
    where the file system has no links."""

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", "aside")

    if not links:
        monkeypatch.setattr("os.link", no_links)
    path = tmp_path / "next.key"
    durable.create(path, b"first")
    with pytest.raises(FileExistsError) as there:
        durable.create(path, b"second")
    assert there.value.filename == str(path)
    assert path.read_bytes() == b"first" and path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["next.key"]


def test_a_create_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, or a crash, before the file is whole: it can be made again."""

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", broken)
        with pytest.raises(OSError, match="No space"):
            durable.create(tmp_path / "k1.key", b"secret")
    assert list(tmp_path.iterdir()) == []
    durable.create(tmp_path / "k1.key", b"secret")


def test_a_file_is_private_when_it_should_be(tmp_path: Path) -> None:
    """The mode asked for is the mode that the file has."""
    durable.write(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """A second holder is refused until the first lets go."""
    held = durable.lock(tmp_path / "journal.lock")
    with pytest.raises(BlockingIOError):
        durable.lock(tmp_path / "journal.lock")
    held.close()
    durable.lock(tmp_path / "journal.lock").close()


def test_a_lock_that_the_system_can_not_give_is_not_called_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without locks (a network drive) is told as what it is: nobody looks for another
    process that isn't there."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OSError, match="No locks available") as refused:
        durable.lock(tmp_path / "journal.lock")
    assert refused.value.errno == errno.ENOLCK
    assert refused.value.filename == str(tmp_path / "journal.lock")


def test_a_rename_that_is_not_durable_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When only the folder can't be synced, the new file is there whole, and the caller hears of
    it."""
    path = tmp_path / "file"
    durable.write(path, b"old")

    def broken(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "sync_folder", broken)
    with pytest.raises(OSError, match="Input/output"):
        durable.write(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_database_is_its_owners_from_the_first_byte(tmp_path: Path) -> None:
    """Made 0600 whatever the umask says; one that others could read is closed to them, with what
    lies beside it, and keeps its content."""
    path, beside = tmp_path / "journal.db", tmp_path / "journal.db-wal"
    before = os.umask(0)
    try:
        durable.private(path)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"" and path.stat().st_mode & 0o777 == 0o600
    for file in (path, beside):
        file.write_bytes(b"kept")
        file.chmod(0o644)
    durable.private(path)
    for file in (path, beside):
        assert file.read_bytes() == b"kept" and file.stat().st_mode & 0o777 == 0o600
