"""The import key: private, 32 bytes, made once, shown nowhere."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from carepos_ledger.import_key import (
    ImportKey,
    ImportKeyRefused,
    load_import_key,
    load_or_create_import_key,
)


def refusal(path: Path) -> str:
    with pytest.raises(ImportKeyRefused) as caught:
        load_or_create_import_key(path)
    return caught.value.code


def test_made_on_demand(tmp_path: Path) -> None:
    """The first use makes 32 random bytes with mode 0600; later uses find the same key."""
    path = tmp_path / "import.key"
    with pytest.raises(FileNotFoundError):
        load_import_key(path)
    key = load_or_create_import_key(path)
    assert path.read_bytes() == key.secret
    assert len(key.secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_import_key(path) == load_import_key(path) == key
    assert list(tmp_path.iterdir()) == [path]
    assert load_or_create_import_key(tmp_path / "other.key") != key


def test_made_once_by_many(tmp_path: Path) -> None:
    """Commands that start together end up with one key."""
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(load_or_create_import_key, [tmp_path / "import.key"] * 32))
    assert len(set(keys)) == 1


def test_key_id() -> None:
    """The key's id is the first 16 hex digits of SHA-256("carepos/import-key/v1|" + key)."""
    digest = hashlib.sha256(b"carepos/import-key/v1|" + b"k" * 32).hexdigest()
    assert ImportKey(b"k" * 32).key_id == digest[:16]


def test_secret_is_not_shown() -> None:
    """The key's repr holds nothing of it."""
    assert repr(ImportKey(b"k" * 32)) == "ImportKey()"


@pytest.mark.parametrize("length", [0, 31, 33, 4096])
def test_wrong_length(tmp_path: Path, length: int) -> None:
    """A file of any other length is no key and is left as it is."""
    path = tmp_path / "import.key"
    path.touch(mode=0o600)
    path.write_bytes(b"k" * length)
    assert refusal(path) == "key_wrong_length"
    assert path.stat().st_size == length


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_open_to_others(tmp_path: Path, mode: int) -> None:
    """A key that others may read or change is refused."""
    path = tmp_path / "import.key"
    load_or_create_import_key(path)
    path.chmod(mode)
    assert refusal(path) == "key_not_private"


def test_not_a_file(tmp_path: Path) -> None:
    """A folder is no key, nor is a link to one."""
    (tmp_path / "folder").mkdir(mode=0o700)
    assert refusal(tmp_path / "folder") == "key_not_a_file"
    load_or_create_import_key(tmp_path / "import.key")
    (tmp_path / "link").symlink_to(tmp_path / "import.key")
    assert refusal(tmp_path / "link") == "key_unreadable"
